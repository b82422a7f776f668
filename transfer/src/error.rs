//! What can go wrong in a transfer run.

use std::path::PathBuf;

use scrl_core::checkpoint::CheckpointError;
use scrl_core::config::{ChangedSettings, SettingError};
use scrl_core::data::error::DataError;
use scrl_core::engine::RunError;
use scrl_core::models::ResNetConfig;

use crate::evaluation::EvaluationError;

/// Why a transfer run or an evaluation stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// A setting that no run can use.
    #[error("{0}")]
    Setting(
        #[source]
        #[from]
        SettingError,
    ),
    /// Images or annotations that cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Data with classes that the detector does not have.
    #[error(
        "`{data}` has the classes {unknown}, which the detector does not know; it knows {known}. Classes are matched by name: \
         correct the names, or train on data that have all classes"
    )]
    Classes {
        /// The data set.
        data: String,
        /// Its classes that the detector lacks.
        unknown: String,
        /// The detector's classes.
        known: String,
    },
    /// No training image has an object.
    #[error("the training data `{0}` has no object to learn from")]
    NoObjects(String),
    /// Data without masks for a detector that gives them.
    #[error(
        "no object of `{data}` has a mask, which Mask R-CNN learns from; give annotations with `segmentation`, or set \
         model.architecture = \"faster_rcnn\""
    )]
    NoMasks {
        /// The data set.
        data: String,
    },
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
    /// A resume with other settings than the run was started with.
    #[error("{0}")]
    Changed(
        #[source]
        #[from]
        ChangedSettings,
    ),
    /// A checkpoint that its run's configuration does not fit.
    #[error("the checkpoint was not made with `{path}`, the config of its run; start a new run")]
    OtherRun {
        /// The run's configuration.
        path: PathBuf,
    },
    #[error(
        "after iteration {iteration} the processes have different weights, so a machine or the network between them computes \
         wrongly; the last checkpoint is from before: leave that machine out and continue with --resume"
    )]
    /// Weights that are not the same on every process.
    ProcessesDiffer {
        /// Iterations done.
        iteration: u64,
    },
    #[error(
        "a batch of {batch_size} images does not give each of {processes} processes an image; start fewer processes or raise \
         batch_size"
    )]
    /// More processes than images in a batch.
    TooManyProcesses {
        /// Processes of the group.
        processes: usize,
        /// Images per update.
        batch_size: usize,
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
