//! What can go wrong in pretraining.

use std::path::PathBuf;

use scrl_core::checkpoint::CheckpointError;
use scrl_core::config::{ChangedSettings, SettingError};
use scrl_core::data::DataError;
use scrl_core::engine::RunError;

/// Errors of pretraining; each names the thing and the fix.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PretrainError {
    /// A setting that cannot work.
    #[error("{0}")]
    Setting(
        #[source]
        #[from]
        SettingError,
    ),
    /// Images or folders that cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A run folder that cannot be used.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Weights or a checkpoint that cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(
        "the data has {images} images, fewer than one batch of {batch_size}; add images or lower schedule.batch_size"
    )]
    /// Fewer images than one update needs.
    TooFewImages {
        /// Images found.
        images: usize,
        /// Images per update.
        batch_size: usize,
    },
    #[error(
        "after step {step} the processes have different weights, so a machine or the network between them computes wrongly; \
         the last checkpoint is from before: leave that machine out and continue with --resume"
    )]
    /// Weights that are not the same on every process.
    ProcessesDiffer {
        /// Steps done.
        step: u64,
    },
    #[error(
        "a batch of {batch_size} images in {accumulate} micro-batches does not give each of {processes} processes an image of \
         every micro-batch; start fewer processes, raise schedule.batch_size or lower schedule.accumulate"
    )]
    /// More processes than images in a micro-batch.
    TooManyProcesses {
        /// Processes of the group.
        processes: usize,
        /// Images per update.
        batch_size: usize,
        /// Micro-batches per update.
        accumulate: usize,
    },
    #[error(
        "method `{method}` needs class labels, but `{path}` is not a folder of class folders; \
         put every image into a folder named after its class or choose method = \"scrl\""
    )]
    /// A method that needs labels, and images that have none.
    NoLabels {
        /// The method.
        method: &'static str,
        /// The file or folder.
        path: PathBuf,
    },
    #[error(
        "the loss became {value} at step {step}; its batch is {saved}: run it again by `scrl replay`, look at the images \
         that it names, then start a new run with a lower schedule.base_lr or a longer schedule.warmup_epochs"
    )]
    /// A loss that is NaN or infinite.
    NonFinite {
        /// The step.
        step: u64,
        /// The loss.
        value: f64,
        /// Where the batch was saved.
        saved: String,
    },
    /// Initial weights with which the networks compute nothing.
    #[error("with the initial weights the {space} are NaN or infinite; pass other weights to --init")]
    UselessInit {
        /// `features` or `projections`.
        space: &'static str,
    },
    /// Networks whose features are NaN or infinite.
    #[error(
        "the {space} are NaN or infinite after step {step}: the run has diverged; a checkpoint of before is kept. Start a \
         new run with a lower schedule.base_lr or a longer schedule.warmup_epochs"
    )]
    Diverged {
        /// Steps done.
        step: u64,
        /// `features`, `projections`, or which weights.
        space: String,
    },
    #[error(
        "the saved batch of step {step} does not belong to the run: {problem}; pass the run that it lies in by --run"
    )]
    /// A saved batch that does not fit the run.
    OtherBatch {
        /// The step.
        step: u64,
        /// What differs.
        problem: String,
    },
    /// A resume with other settings than the run was started with.
    #[error("{0}")]
    Changed(
        #[source]
        #[from]
        ChangedSettings,
    ),
    /// A checkpoint that its own settings do not fit.
    #[error(
        "the checkpoint does not fit this run: {difference}; resume with the run's config.toml, or start a new run"
    )]
    OtherConfig {
        /// What differs.
        difference: String,
    },
    #[error(
        "`{path}` holds a {found} backbone, the config asks for {expected}; change model.arch and model.width or pass other weights"
    )]
    /// Initial weights of another network than the config's.
    OtherArch {
        /// The file or folder.
        path: PathBuf,
        /// The network in the file.
        found: String,
        /// The network of the config.
        expected: String,
    },
}
