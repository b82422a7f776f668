//! What a run says of its steps: the `train` events and the summary at the end.

use burn::tensor::Tensor;
use scrl_core::engine::{Events, Pace, Throughput, format_duration};
use serde_json::{Map, Value, json};

use super::{Cursor, Plan};
use crate::error::PretrainError;
use crate::methods::{Sample, StepReport, StepSettings};
use crate::metrics::TOP_K;
use crate::probe::ProbeHits;

/// Steps over which images per second are averaged.
const RATE_WINDOW: usize = 20;

/// What happened since the last `train` event, and how long the steps have waited for data.
pub(super) struct Window {
    pub(super) pace: Pace,
    loss: f64,
    steps: usize,
    images: usize,
    boxes: usize,
    without_boxes: usize,
    /// Images whose label is among the 1 and among the 5 largest logits, where that is known.
    hits: Option<[f64; 2]>,
    /// The same of an online probe, whose rows are views.
    probe_hits: Option<[f64; 2]>,
    probe_rows: usize,
    throughput: Throughput,
    images_so_far: usize,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            pace: Pace::new(),
            loss: 0.0,
            steps: 0,
            images: 0,
            boxes: 0,
            without_boxes: 0,
            hits: None,
            probe_hits: None,
            probe_rows: 0,
            throughput: Throughput::new(RATE_WINDOW),
            images_so_far: 0,
        }
    }

    /// Counts a step whose loss has been read as `loss`.
    pub(super) fn add(&mut self, report: &StepReport, loss: f64, batch: &[Sample]) {
        self.loss += loss;
        self.steps += 1;
        self.images += batch.len();
        self.images_so_far += batch.len();
        self.boxes += report.boxes;
        self.without_boxes += report.without_boxes;
        if let Some(hits) = &report.hits {
            add(self.hits.get_or_insert_default(), hits);
        }
        self.throughput.record(batch.len());
    }

    /// Counts what an online probe made of a step.
    pub(super) fn add_probe(&mut self, probe: &ProbeHits) {
        add(self.probe_hits.get_or_insert_default(), &probe.hits);
        self.probe_rows += probe.rows;
    }

    /// Writes one event, starts a new window and returns the line for the progress bar.
    pub(super) fn log(
        &mut self,
        events: &mut Events,
        plan: &Plan,
        cursor: &mut Cursor,
        step: StepSettings,
        grad_norm: Option<f64>,
    ) -> Result<String, PretrainError> {
        cursor.images_without_boxes += self.without_boxes as u64;
        self.without_boxes = 0;
        if self.steps == 0 {
            return Ok(String::new());
        }
        let loss = self.loss / self.steps as f64;
        let rate = self.throughput.images_per_second().unwrap_or(0.0);
        let waiting = self.pace.lap();
        let mut fields = Map::new();
        fields.insert("loss".into(), json!(loss));
        fields.insert("lr".into(), json!(step.lr));
        if let Some(norm) = grad_norm {
            fields.insert("grad_norm".into(), json!(norm));
        }
        fields.insert("images_per_second".into(), json!(rate));
        fields.insert("data_wait".into(), json!(waiting));
        if plan.ema_base.is_some() {
            fields.insert("ema_momentum".into(), json!(step.ema_momentum));
        }
        let accuracies = [
            ("train", self.hits.take(), self.images),
            ("probe", self.probe_hits.take(), std::mem::take(&mut self.probe_rows)),
        ];
        let mut accuracy = String::new();
        for (whose, hits, rows) in accuracies {
            let Some(hits) = hits else { continue };
            for (k, hits) in TOP_K.into_iter().zip(hits) {
                fields.insert(format!("{whose}_top{k}"), json!(100.0 * hits / rows.max(1) as f64));
            }
            accuracy += &format!(", {whose} top-1 {:.1} %", 100.0 * hits[0] / rows.max(1) as f64);
        }
        fields.insert("boxes".into(), json!(self.boxes as f64 / self.images.max(1) as f64));
        fields.insert("images_without_boxes".into(), Value::from(cursor.images_without_boxes));
        fields.insert("skipped_batches".into(), Value::from(cursor.skipped_batches));
        let epoch = cursor.step as f64 / plan.batches_per_epoch as f64;
        events.record("train", cursor.step, epoch, fields)?;
        (self.loss, self.steps, self.images, self.boxes) = (0.0, 0, 0, 0);
        let gradient = grad_norm.map_or(String::new(), |norm| format!(", gradient {norm:.3}"));
        Ok(format!(
            "epoch {epoch:.2}, loss {loss:.4}{accuracy}, lr {:.4}{gradient}, {rate:.1} images/s, {:.0} % waiting for data",
            step.lr,
            100.0 * waiting
        ))
    }

    /// The speed since the start or the resume, for people.
    pub(super) fn summary(&self) -> String {
        let elapsed = self.pace.elapsed();
        format!(
            "{} images in {}: {:.1} images/s, {:.0} % of the time waiting for data",
            self.images_so_far,
            format_duration(elapsed),
            self.images_so_far as f64 / elapsed.as_secs_f64().max(1e-9),
            100.0 * self.pace.waiting_share()
        )
    }
}

/// Adds hits on the device, `[2]`, to sums.
fn add(sums: &mut [f64; 2], hits: &Tensor<1>) {
    sums.iter_mut().zip(hits.clone().into_data().iter::<f64>()).for_each(|(sum, hits)| *sum += hits);
}
