//! Errors of checkpoints and weight files.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::engine::disk_advice;

/// Why a checkpoint or a weight file could not be written or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The system refused a write; the checkpoint that was there before is untouched.
    #[error("cannot write `{path}`: {source}{advice}", advice = disk_advice(source))]
    Write {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system refused a read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no checkpoint.
    #[error("no checkpoint at `{path}`; check the path, or start the run without --resume")]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// There is no complete checkpoint.
    #[error("checkpoint `{path}` is incomplete: {problem}; resume from another checkpoint of the run")]
    Incomplete {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        problem: String,
    },
    /// A file's content is not what was written.
    #[error(
        "checkpoint file `{path}` is damaged: its sha256 differs from the manifest's; resume from another checkpoint"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A file that cannot be understood.
    #[error("cannot understand `{path}`: {problem}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Weights of a training that diverged.
    #[error(
        "`{path}`: tensor `{tensor}` has {count} values of {total} that are NaN or infinite; a training that diverged \
         gives such weights: lower its learning rate, or go on from an earlier checkpoint"
    )]
    NonFinite {
        /// The file.
        path: PathBuf,
        /// Key of the first such tensor.
        tensor: String,
        /// Its values that are not finite.
        count: usize,
        /// All its values.
        total: usize,
    },
    /// Tensors that do not make up the network.
    #[error("`{path}` does not fit a {arch} of width {width}: {problem}; `scrl convert` lists every key")]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// torchvision's name of the network.
        arch: &'static str,
        /// Its width factor.
        width: f64,
        /// Which keys do not fit.
        problem: String,
    },
    /// A network of another depth or width than its metadata or the caller says.
    #[error("{expectation} {expected}, but the tensors of `{path}` are a {found}; {fix}")]
    OtherArch {
        /// The file.
        path: PathBuf,
        /// Who expects it, for example "its metadata promises a".
        expectation: &'static str,
        /// The network that is expected.
        expected: String,
        /// The network that the file holds.
        found: String,
        /// What to do.
        fix: &'static str,
    },
}

impl CheckpointError {
    pub(super) fn write(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| CheckpointError::Write { path, source }
    }

    pub(super) fn read(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| CheckpointError::Read { path, source }
    }

    pub(super) fn format(path: &Path, problem: impl ToString) -> Self {
        CheckpointError::Format { path: path.to_path_buf(), problem: problem.to_string() }
    }
}
