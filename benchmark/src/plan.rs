//! What a benchmark compares, as read from TOML.

mod checks;
mod lengths;
mod load;
mod recipe;

use std::collections::BTreeMap;
use std::path::PathBuf;

use scrl_core::models::Precision;
use scrl_synth::SynthConfig;
use serde::{Deserialize, Serialize};

pub use lengths::{LengthArm, length_arms, length_name};
pub use load::{Arm, ResolvedPlan, Source, TransferArm};
pub use recipe::Recipe;

/// The init that needs neither a recipe nor a file.
pub const RANDOM: &str = "random";

/// A benchmark plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchmarkPlan {
    /// How the detector's backbone starts: `random`, or names of `[pretrain]` or `[weights]`.
    pub inits: Vec<String>,
    /// Shares of the labelled training images, each in `(0, 1]`; the images of a smaller one are among those of a
    /// larger one, and every init of a seed gets the same.
    pub label_fractions: Vec<f64>,
    /// Each seeds a pretraining, the choice of labelled images and a fine-tuning.
    pub seeds: Vec<u64>,
    /// Pretrainings of each init, shared by the seeds in turn; one a seed by default.
    #[serde(default)]
    pub pretrain_seeds: Option<usize>,
    /// The images.
    pub data: DataPlan,
    /// The images that SCRL and BYOL see.
    #[serde(default)]
    pub pretrain_images: PretrainImages,
    /// Recipes of pretrainings by the name of their init; an entry that `inits` does not name is not used.
    #[serde(default)]
    pub pretrain: BTreeMap<String, Recipe>,
    /// Weight files by the name of their init, in any form that `scrl transfer --init` reads.
    #[serde(default)]
    pub weights: BTreeMap<String, PathBuf>,
    /// The recipe of every fine-tuning, on the plan's detection data.
    #[serde(default)]
    pub transfer: Option<Recipe>,
    /// Several data sets or protocols, in place of `transfer`.
    #[serde(default)]
    pub transfers: BTreeMap<String, TransferPlan>,
    /// The numbers that all networks compute with; by default each goes by its recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// What all pretrainings have in common; by default each goes by its recipe.
    #[serde(default)]
    pub budget: Option<Budget>,
    /// The init whose recipe sets the budget; `scrl` or else the first pretrained one by default.
    #[serde(default)]
    pub budget_reference: Option<String>,
    /// Shorter and longer pretrainings of some inits, for the curve over pretraining length.
    #[serde(default)]
    pub lengths: Option<LengthsPlan>,
    /// Learning rates to choose from; without it each recipe's own is used.
    #[serde(default)]
    pub sweep: Option<SweepPlan>,
    /// Which results become ONNX files.
    #[serde(default)]
    pub export: ExportPlan,
    /// How results are presented.
    #[serde(default)]
    pub report: ReportPlan,
}

/// Where the images come from: procedural scenes or the user's folders.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum DataPlan {
    /// Scenes written once to `OUT/data`.
    Synth(SynthConfig),
    /// Existing folders, relative to where the command runs.
    Folders(FolderPlan),
}

/// The user's folders.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderPlan {
    /// Images for SCRL and BYOL, read recursively.
    #[serde(default)]
    pub unlabelled: Vec<PathBuf>,
    /// Class folders for supervised pretraining.
    #[serde(default)]
    pub classes: Option<PathBuf>,
    /// A COCO or VOC folder for transfer.
    #[serde(default)]
    pub detection: Option<PathBuf>,
}

/// The images of self-supervised pretraining.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PretrainImages {
    /// The unlabelled ones.
    #[default]
    Unlabelled,
    /// Those that supervised pretraining sees, without their labels.
    Classes,
}

/// What equal pretrainings have in common. Schedules keep their form: warm-up is the same share of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Budget {
    /// Passes over the images.
    Epochs,
    /// Optimiser updates of the reference's batch size, rounded to whole epochs.
    Steps,
    /// Multiplications: forward and backward passes of all networks through views of their size, rounded to whole
    /// epochs. An SCRL or BYOL image costs 8 passes (2 views, online network forward and backward, target forward), a
    /// supervised one 3.
    Compute,
}

/// One data set with its recipe.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferPlan {
    /// Relative to the plan's file.
    pub recipe: PathBuf,
    /// Settings that replace the recipe's, as on the command line.
    #[serde(default)]
    pub set: Vec<String>,
    /// A COCO or VOC folder; the plan's detection data by default.
    #[serde(default)]
    pub data: Option<PathBuf>,
    /// In place of the plan's.
    #[serde(default)]
    pub label_fractions: Option<Vec<f64>>,
}

/// Pretrainings of other lengths, each with its own complete schedule, compared at one share of the labels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LengthsPlan {
    /// Names of pretrained inits.
    pub inits: Vec<String>,
    /// Epochs of each, beside the init's own; warm-up is the same share of every length.
    pub epochs: Vec<u64>,
    /// One of the label fractions of the fine-tuning.
    pub label_fraction: f64,
    /// Name of the fine-tuning; the first by default.
    #[serde(default)]
    pub transfer: Option<String>,
}

/// Learning rates to try on a part of the training data before the benchmark begins.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepPlan {
    /// `schedule.base_lr` of every pretraining.
    #[serde(default)]
    pub base_lr: Vec<f64>,
    /// `solver.lr` of every fine-tuning.
    #[serde(default)]
    pub transfer_lr: Vec<f64>,
    /// Share of the training images that judges and is not trained on meanwhile.
    #[serde(default = "holdout")]
    pub holdout: f64,
}

fn holdout() -> f64 {
    0.2
}

/// Export to ONNX, validated by ONNX Runtime.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExportPlan {
    /// Every pretrained backbone.
    pub enabled: bool,
    /// Of every init and data set the first seed's detector with most labels.
    pub detectors: bool,
    /// Real images used for validation beside random inputs.
    pub images: usize,
}

impl Default for ExportPlan {
    fn default() -> Self {
        Self { enabled: true, detectors: false, images: 4 }
    }
}

/// What the report shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReportPlan {
    /// Heading of the report.
    pub title: String,
    /// The figure of curves and sentences: a name of the results, such as `AP` or `AP50`.
    pub metric: String,
    /// The init that is compared with all others; the first that SCRL pretrained, else the last, by default.
    pub subject: Option<String>,
    /// Test images whose detections are drawn for every init; 0 for none.
    pub images: usize,
    /// Detections below this score are not drawn.
    pub min_score: f32,
    /// Images whose box-similarity maps are drawn for every pretrained init; 0 for none.
    pub similarity_images: usize,
}

impl Default for ReportPlan {
    fn default() -> Self {
        Self {
            title: "Does pretraining help detection?".into(),
            metric: "AP".into(),
            subject: None,
            images: 4,
            min_score: 0.3,
            similarity_images: 3,
        }
    }
}
