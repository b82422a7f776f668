//! What can go wrong in a transfer run.

use std::path::PathBuf;

use scrl_core::checkpoint::CheckpointError;
use scrl_core::data::error::DataError;
use scrl_core::engine::RunError;
use scrl_core::models::ResNetConfig;

use crate::detection::DetectorConfigError;
use crate::evaluation::EvaluationError;

/// Why a transfer run or an evaluation stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    #[error("{key} is {value}, but must be {expected}")]
    Config { key: &'static str, value: String, expected: String },
    #[error("model: {0}")]
    Model(#[from] DetectorConfigError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(
        "training and evaluation data have different classes ({train} and {val}); use splits of one data set"
    )]
    Classes { train: String, val: String },
    #[error("the training data `{0}` has no object to learn from")]
    NoObjects(String),
    #[error(
        "checkpoint `{path}` holds a {} backbone of width {}, the config asks for {} of width {}; set model.arch = \
         \"{}\" and model.width = {}, or pass another checkpoint",
        found.arch, found.width, expected.arch, expected.width, found.arch, found.width
    )]
    Backbone { path: PathBuf, found: ResNetConfig, expected: ResNetConfig },
    #[error("`{path}` is not a detector of this config: {reason}")]
    Detector { path: PathBuf, reason: String },
    #[error(
        "the run in `{path}` was started with another config or other classes; resume it with its own config.toml, or start a new run"
    )]
    OtherRun { path: PathBuf },
    #[error(
        "the loss is not finite at iteration {iteration} ({losses}), images: {images}; lower solver.lr, lengthen \
         solver.warmup_iterations, or look at these images' boxes"
    )]
    NonFinite { iteration: u64, losses: String, images: String },
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("`{path}` cannot be written: {source}")]
    Write { path: PathBuf, source: std::io::Error },
}
