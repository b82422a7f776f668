//! What can go wrong in pretraining.

use std::path::PathBuf;

use scrl_core::{checkpoint::CheckpointError, data::DataError, engine::RunError};

/// Errors of pretraining; each names the thing and the fix.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PretrainError {
    #[error("invalid setting `{key}` = {value}: {reason}")]
    Config { key: &'static str, value: String, reason: String },
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(
        "the data has {images} images, fewer than one batch of {batch_size}; add images or lower schedule.batch_size"
    )]
    TooFewImages { images: usize, batch_size: usize },
    #[error(
        "method `{method}` needs class labels, but `{path}` is not a folder of class folders; \
         put every image into a folder named after its class or choose method = \"scrl\""
    )]
    NoLabels { method: &'static str, path: PathBuf },
    #[error(
        "the loss became {value} at step {step}; its batch is {saved}: run it again by `scrl replay`, look at the images \
         that it names, then start a new run with a lower schedule.base_lr or a longer schedule.warmup_epochs"
    )]
    NonFinite { step: u64, value: f64, saved: String },
    #[error(
        "the saved batch of step {step} does not belong to the run: {problem}; pass the run that it lies in by --run"
    )]
    OtherBatch { step: u64, problem: String },
    #[error(
        "the checkpoint belongs to another configuration: {difference}; resume with the settings of the run's \
         config.toml or start a new run"
    )]
    OtherConfig { difference: String },
    #[error(
        "`{path}` holds a {found} backbone, the config asks for {expected}; change model.arch and model.width or pass other weights"
    )]
    OtherArch { path: PathBuf, found: String, expected: String },
}
