//! What a run says of its steps: the `train` events and the summary at the end.
//!
//! Losses and hits stay on the device until an event or a checkpoint needs them; then those of all steps are read at once.

use burn::tensor::Tensor;
use scrl_core::engine::{Events, Pace, Throughput, format_duration};
use scrl_ops::Group;
use serde_json::{Map, Value, json};

use super::state::Cursor;
use crate::error::PretrainError;
use crate::methods::{StepReport, StepSettings};
use crate::metrics::TOP_K;
use crate::probe::ProbeHits;

/// Steps over which images per second are averaged.
const RATE_WINDOW: usize = 20;
/// Steps after which losses are read even if nothing is reported: a run whose loss is NaN must not go on for hours.
const MOST_UNREAD: usize = 100;

/// What happened since the last `train` event, and how long the steps have waited for data.
pub(super) struct StepLog {
    pub(super) pace: Pace,
    unread: Vec<UnreadStep>,
    loss: f64,
    steps: usize,
    images: usize,
    regions: usize,
    /// Images whose label is among the 1 and among the 5 largest logits, where that is known.
    hits: Option<[f64; 2]>,
    /// The same of an online probe, whose rows are views.
    probe_hits: Option<[f64; 2]>,
    probe_rows: usize,
    throughput: Throughput,
    images_so_far: usize,
    batches_per_epoch: usize,
    group: Group,
}

/// A step whose values are still on the device.
struct UnreadStep {
    place: StepPlace,
    loss: Tensor<1>,
    hits: Option<Tensor<1>>,
    probe_hits: Option<Tensor<1>>,
}

/// Which step it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepPlace {
    pub(super) step: u64,
    pub(super) epoch: u64,
    pub(super) batch: usize,
}

impl From<&Cursor> for StepPlace {
    fn from(cursor: &Cursor) -> Self {
        Self { step: cursor.step, epoch: cursor.epoch, batch: cursor.batch }
    }
}

/// The first step whose loss is NaN or infinite.
pub(super) struct NonFiniteLoss {
    pub(super) place: StepPlace,
    pub(super) loss: f64,
}

impl StepLog {
    pub(super) fn new(batches_per_epoch: usize, group: Group) -> Self {
        Self {
            pace: Pace::new(),
            unread: Vec::new(),
            loss: 0.0,
            steps: 0,
            images: 0,
            regions: 0,
            hits: None,
            probe_hits: None,
            probe_rows: 0,
            throughput: Throughput::new(RATE_WINDOW),
            images_so_far: 0,
            batches_per_epoch,
            group,
        }
    }

    /// Counts the step at `place`, of so many images and regions of all processes, without reading from the device.
    pub(super) fn add(
        &mut self,
        place: StepPlace,
        images: usize,
        regions: usize,
        report: &StepReport,
        probe: Option<ProbeHits>,
    ) {
        self.steps += 1;
        self.images += images;
        self.images_so_far += images;
        self.regions += regions;
        self.probe_rows += probe.as_ref().map_or(0, |probe| probe.rows);
        self.unread.push(UnreadStep {
            place,
            loss: report.loss.clone(),
            hits: report.hits.clone(),
            probe_hits: probe.map(|probe| probe.hits),
        });
        self.throughput.record(images);
    }

    /// Whether so many steps are unread that they should be.
    pub(super) fn is_full(&self) -> bool {
        self.unread.len() >= MOST_UNREAD
    }

    /// Reads the steps since the last call, all in one transfer. All processes call it after the same steps.
    pub(super) fn read(&mut self) -> Result<(), NonFiniteLoss> {
        let unread = std::mem::take(&mut self.unread);
        if unread.is_empty() {
            return Ok(());
        }
        let values = |step: &UnreadStep| {
            let hits = [&step.hits, &step.probe_hits].into_iter().flatten().cloned();
            std::iter::once(step.loss.clone()).chain(hits).collect::<Vec<_>>()
        };
        let values = Tensor::cat(unread.iter().flat_map(values).collect(), 0).into_data();
        let mut values: Vec<f64> = values.iter::<f64>().collect();
        self.sum(&unread, &mut values);
        let mut values = values.into_iter();
        for UnreadStep { place, hits, probe_hits, .. } in unread {
            let mut next = || values.next().unwrap_or(f64::NAN);
            let loss = next();
            if !loss.is_finite() {
                return Err(NonFiniteLoss { place, loss });
            }
            self.loss += loss;
            for (sums, known) in [(&mut self.hits, hits), (&mut self.probe_hits, probe_hits)] {
                if known.is_some() {
                    sums.get_or_insert_default().iter_mut().for_each(|sum| *sum += next());
                }
            }
        }
        Ok(())
    }

    /// Sums the values of the steps over the processes. Probes are the same on each, and so are their hits.
    fn sum(&self, unread: &[UnreadStep], values: &mut [f64]) {
        if self.group.is_alone() {
            return;
        }
        let mut first = 0;
        for step in unread {
            let own = 1 + step.hits.as_ref().map_or(0, |hits| hits.dims()[0]);
            let probe = step.probe_hits.as_ref().map_or(0, |hits| hits.dims()[0]);
            if !self.group.is_root() {
                values[first + own..first + own + probe].fill(0.0);
            }
            first += own + probe;
        }
        self.group.sum_f64(values);
    }

    /// Writes one event of the steps that were [read](Self::read), starts anew and returns the line for the progress bar.
    pub(super) fn report(
        &mut self,
        events: &mut Events,
        cursor: &Cursor,
        settings: StepSettings,
        has_target: bool,
        grad_norm: Option<f64>,
    ) -> Result<String, PretrainError> {
        if self.steps == 0 {
            return Ok(String::new());
        }
        let loss = self.loss / self.steps as f64;
        let rate = self.throughput.images_per_second().unwrap_or(0.0);
        let waiting = self.pace.lap();
        let mut fields = Map::new();
        fields.insert("loss".into(), json!(loss));
        fields.insert("lr".into(), json!(settings.lr));
        if let Some(norm) = grad_norm {
            fields.insert("grad_norm".into(), json!(norm));
        }
        fields.insert("images_per_second".into(), json!(rate));
        fields.insert("data_wait".into(), json!(waiting));
        if has_target {
            fields.insert("ema_momentum".into(), json!(settings.ema_momentum));
        }
        let accuracy = self.accuracies(&mut fields);
        fields.insert("boxes".into(), json!(self.regions as f64 / self.images.max(1) as f64));
        fields.insert("images_without_boxes".into(), Value::from(cursor.images_without_boxes));
        fields.insert("skipped_batches".into(), Value::from(cursor.skipped_batches));
        let epoch = cursor.step as f64 / self.batches_per_epoch as f64;
        events.record("train", cursor.step, epoch, fields)?;
        (self.loss, self.steps, self.images, self.regions) = (0.0, 0, 0, 0);
        let gradient = grad_norm.map_or(String::new(), |norm| format!(", gradient {norm:.3}"));
        Ok(format!(
            "epoch {epoch:.2}, loss {loss:.4}{accuracy}, lr {:.4}{gradient}, {rate:.1} images/s, {:.0} % waiting for data",
            settings.lr,
            100.0 * waiting
        ))
    }

    /// Adds the accuracies that are known to an event; returns them for the progress bar.
    fn accuracies(&mut self, fields: &mut Map<String, Value>) -> String {
        let known = [
            ("train", self.hits.take(), self.images),
            ("probe", self.probe_hits.take(), std::mem::take(&mut self.probe_rows)),
        ];
        let mut line = String::new();
        for (whose, hits, rows) in known {
            let Some(hits) = hits else { continue };
            for (k, hits) in TOP_K.into_iter().zip(hits) {
                fields.insert(format!("{whose}_top{k}"), json!(100.0 * hits / rows.max(1) as f64));
            }
            line += &format!(", {whose} top-1 {:.1} %", 100.0 * hits[0] / rows.max(1) as f64);
        }
        line
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
