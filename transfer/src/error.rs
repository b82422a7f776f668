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
    /// A setting that no run can use.
    #[error("{key} is {value}, but must be {expected}")]
    Config {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: String,
    },
    /// A detector that cannot be built.
    #[error("model: {0}")]
    Model(#[from] DetectorConfigError),
    /// Images or annotations that cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(
        "training and evaluation data have different classes ({train} and {val}); use splits of one data set"
    )]
    /// Training and validation data of different classes.
    Classes {
        /// The classes of the training data.
        train: String,
        /// Those of the validation data.
        val: String,
    },
    /// No training image has an object.
    #[error("the training data `{0}` has no object to learn from")]
    NoObjects(String),
    #[error(
        "checkpoint `{path}` holds a {} backbone of width {}, the config asks for {} of width {}; set model.arch = \
         \"{}\" and model.width = {}, or pass another checkpoint",
        found.arch, found.width, expected.arch, expected.width, found.arch, found.width
    )]
    /// A backbone of another network than the config's.
    Backbone {
        /// The file or folder.
        path: PathBuf,
        /// The network in the file.
        found: ResNetConfig,
        /// The network of the config.
        expected: ResNetConfig,
    },
    /// A detector's file that does not fit.
    #[error("`{path}` is not a detector of this config: {reason}")]
    Detector {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, or what the system said.
        reason: String,
    },
    #[error(
        "the run in `{path}` was started with another config or other classes; resume it with its own config.toml, or start a new run"
    )]
    /// A checkpoint of a run with other settings.
    OtherRun {
        /// The file or folder.
        path: PathBuf,
    },
    #[error(
        "the loss is not finite at iteration {iteration} ({losses}), images: {images}; lower solver.lr, lengthen \
         solver.warmup_iterations, or look at these images' boxes"
    )]
    /// A loss that is NaN or infinite.
    NonFinite {
        /// The iteration, from 0.
        iteration: u64,
        /// The losses by name.
        losses: String,
        /// The images of the batch.
        images: String,
    },
    /// An evaluation that failed.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    /// A run folder that cannot be used.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Weights or a checkpoint that cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file that cannot be written.
    #[error("`{path}` cannot be written: {source}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
