//! Learning rates tried on a part of the training images; the test images take no part.
//!
//! First every pretraining's rate, each judged by a fine-tuning with the recipe's own rate; then every fine-tuning's,
//! from the pretraining that was chosen. One seed, all labels but those that judge.

use std::path::{Path, PathBuf};

use crate::error::{Context, Result};
use scrl_transfer::data::DetectionDataset;
use scrl_transfer::{DataSource, TransferConfig};
use serde::Serialize;
use serde_json::{Value, json};

use super::graph::{Cell, Graph, SweepResult};
use super::plan::{Arm, TransferArm};
use super::record::CellState;
use super::record::{Record, write_file};

/// The figure that judges.
const METRIC: &str = "AP";

/// One rate that was tried.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// Name of the fine-tuning in the plan.
    pub dataset: String,
    /// Name of the init.
    pub init: String,
    /// `base_lr` or `transfer_lr`.
    pub key: String,
    /// The learning rate.
    pub value: f64,
    /// AP on the held-out training images, in `[0, 1]`.
    #[serde(rename = "holdout_AP")]
    pub holdout_ap: Option<f64>,
    /// Whether this learning rate is used.
    pub chosen: bool,
}

/// A trial with the cell that judges it.
struct Attempt {
    trial: Trial,
    cell: String,
}

/// Cells of one round and what each is for.
pub struct Round {
    /// The cells to run.
    pub cells: Vec<Cell>,
    attempts: Vec<Attempt>,
}

/// Pretraining rates, judged on the first data set.
///
/// # Errors
/// When the training images cannot be split.
pub fn pretraining_round(graph: &Graph, rates: &[f64], holdout: f64) -> Result<Round> {
    let mut round = Round { cells: Vec::new(), attempts: Vec::new() };
    let Some(transfer) = graph.plan.transfers.first().filter(|_| !rates.is_empty()) else { return Ok(round) };
    let settings = held_out(graph, transfer, holdout)?;
    let seed = graph.plan.plan.seeds[0];
    for arm in graph.arms {
        for &rate in rates {
            let Some(pretrained) = graph.pretrain(arm, seed, Some(rate)) else { continue };
            let id = format!("sweep/{}-{}-base_lr{rate}", transfer.name, arm.name);
            round.add(graph, transfer, arm, settings.clone(), Some(&pretrained), id, ("base_lr", rate));
            round.cells.push(pretrained);
        }
    }
    Ok(round)
}

/// Fine-tuning rates of every data set and init.
///
/// # Errors
/// When the training images cannot be split.
pub fn transfer_round(graph: &Graph, rates: &[f64], holdout: f64, chosen: &SweepResult) -> Result<Round> {
    let mut round = Round { cells: Vec::new(), attempts: Vec::new() };
    if rates.is_empty() {
        return Ok(round);
    }
    let seed = graph.plan.plan.seeds[0];
    let pretrain = |arm: &Arm| graph.pretrain(arm, seed, chosen.base_lr.get(&arm.name).copied());
    // One pretraining of an init serves every data set.
    let pretrained: Vec<_> = graph.arms.iter().map(pretrain).collect();
    for transfer in &graph.plan.transfers {
        let settings = held_out(graph, transfer, holdout)?;
        for (arm, pretrained) in graph.arms.iter().zip(&pretrained) {
            for &rate in rates {
                let mut settings = settings.clone();
                settings.solver.lr = rate;
                let id = format!("sweep/{}-{}-transfer_lr{rate}", transfer.name, arm.name);
                round.add(graph, transfer, arm, settings, pretrained.as_ref(), id, ("transfer_lr", rate));
            }
        }
    }
    round.cells.extend(pretrained.into_iter().flatten());
    Ok(round)
}

impl Round {
    fn add(
        &mut self,
        graph: &Graph,
        transfer: &TransferArm,
        arm: &Arm,
        settings: TransferConfig,
        pretrained: Option<&Cell>,
        id: String,
        (key, value): (&str, f64),
    ) {
        let seed = graph.plan.plan.seeds[0];
        let cell = graph.transfer_cell(transfer, arm, settings, seed, pretrained, id.clone());
        self.cells.push(cell);
        let trial = Trial {
            dataset: transfer.name.clone(),
            init: arm.name.clone(),
            key: key.into(),
            value,
            holdout_ap: None,
            chosen: false,
        };
        self.attempts.push(Attempt { trial, cell: id });
    }

    /// The trials with their figures; of each init the best is chosen, the first of equals. An init whose trials all
    /// failed keeps its recipe's rate.
    pub fn judge(self, states: &[CellState], chosen: &mut SweepResult) -> Vec<Trial> {
        let measured = |id: &str| {
            let at = self.cells.iter().position(|cell| cell.id == id)?;
            match &states[at] {
                CellState::Done(done) => match &done.record {
                    Record::Transfer(record) => record.metrics.get(METRIC).copied().flatten(),
                    _ => None,
                },
                _ => None,
            }
        };
        let mut trials: Vec<Trial> = self
            .attempts
            .iter()
            .map(|attempt| Trial { holdout_ap: measured(&attempt.cell), ..attempt.trial.clone() })
            .collect();
        choose(&mut trials);
        for trial in trials.iter().filter(|trial| trial.chosen) {
            if trial.key == "base_lr" {
                chosen.base_lr.insert(trial.init.clone(), trial.value);
            } else {
                chosen.transfer_lr.insert((trial.dataset.clone(), trial.init.clone()), trial.value);
            }
        }
        trials
    }
}

/// Marks the best trial of every data set and init.
fn choose(trials: &mut [Trial]) {
    for index in 0..trials.len() {
        let one = &trials[index];
        let rivals =
            trials.iter().enumerate().filter(|(_, t)| (&t.dataset, &t.init) == (&one.dataset, &one.init));
        let beaten = |(at, rival): (usize, &Trial)| match (rival.holdout_ap, one.holdout_ap) {
            (Some(theirs), Some(ours)) => theirs > ours || (theirs == ours && at < index),
            (_, None) => true,
            (None, _) => false,
        };
        let best = !rivals.into_iter().any(beaten);
        trials[index].chosen = best;
    }
}

/// A recipe whose training and evaluation images both come from the training split; written to `OUT/sweep`.
fn held_out(graph: &Graph, transfer: &TransferArm, share: f64) -> Result<TransferConfig> {
    let mut settings = graph.with_data(transfer)?;
    let source = settings.data.train.as_ref();
    let source = source.with_context(|| format!("`{}` names no training images", transfer.name))?;
    let all = source.load(settings.model.labels())?;
    // The images that rank first are held out; the seed is none of the benchmark's, so no subset is favoured.
    let judged = all.subset(share, u64::MAX);
    let ids: std::collections::HashSet<u64> = judged.images.iter().map(|image| image.id).collect();
    let mut rest = all.clone();
    rest.images.retain(|image| !ids.contains(&image.id));
    let write = |name: &str, part: &DetectionDataset| -> Result<DataSource> {
        let path = graph.out.join("sweep").join(format!("{}-{name}.json", transfer.name));
        let text = serde_json::to_vec(&instances(part)?)?;
        if std::fs::read(&path).ok().as_deref() != Some(&text) {
            write_file(&path, &text)?;
        }
        Ok(DataSource::Coco { annotations: path, images: PathBuf::from("/") })
    };
    settings.data.train = Some(write("train", &rest)?);
    settings.data.val = Some(write("holdout", &judged)?);
    Ok(settings)
}

/// COCO's instances form, images by their full paths. Difficult objects become ordinary ones.
fn instances(dataset: &DetectionDataset) -> Result<Value> {
    let mut annotations = Vec::new();
    for image in &dataset.images {
        for object in &image.objects {
            let b = object.bbox;
            let mut annotation = json!({
                "id": annotations.len() + 1,
                "image_id": image.id,
                "category_id": dataset.categories[object.category].id,
                "bbox": [b.x1, b.y1, b.x2 - b.x1, b.y2 - b.y1],
                "area": object.area,
                "iscrowd": u8::from(object.crowd),
            });
            if let Some(mask) = &object.mask {
                annotation["segmentation"] = serde_json::to_value(&**mask)?;
            }
            annotations.push(annotation);
        }
    }
    let absolute = |path: &Path| {
        std::path::absolute(path).with_context(|| format!("`{}` has no absolute path", path.display()))
    };
    let images = dataset.images.iter().map(|image| {
        let file = absolute(&image.path)?;
        Ok(json!({"id": image.id, "file_name": file, "width": image.width, "height": image.height}))
    });
    let categories = dataset.categories.iter().map(|c| json!({"id": c.id, "name": c.name}));
    Ok(json!({
        "images": images.collect::<Result<Vec<_>>>()?,
        "annotations": annotations,
        "categories": categories.collect::<Vec<_>>(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(init: &str, value: f64, holdout_ap: Option<f64>) -> Trial {
        Trial {
            dataset: "d".into(),
            init: init.into(),
            key: "base_lr".into(),
            value,
            holdout_ap,
            chosen: false,
        }
    }

    #[test]
    fn of_every_init_the_best_rate_is_chosen_and_of_equals_the_first() {
        let mut trials = vec![
            trial("scrl", 0.1, Some(0.2)),
            trial("scrl", 0.2, Some(0.3)),
            trial("scrl", 0.4, Some(0.3)),
            trial("byol", 0.1, None),
            trial("byol", 0.2, Some(0.0)),
            trial("none", 0.1, None),
        ];
        choose(&mut trials);
        let chosen: Vec<_> = trials.iter().filter(|t| t.chosen).map(|t| (t.init.as_str(), t.value)).collect();
        assert_eq!(chosen, [("scrl", 0.2), ("byol", 0.2)]);
    }
}
