//! Errors of a run directory.

use std::path::PathBuf;

use thiserror::Error;

/// Why a run directory cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// A new run was asked for where something lies already.
    #[error(
        "run directory `{path}` is not empty; continue it with --resume, start over with --overwrite, or choose another --out"
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A run to resume is not there.
    #[error(
        "run directory `{path}` does not exist, so there is nothing to resume; drop --resume or check --out"
    )]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// The path is a file.
    #[error("`{path}` is not a directory; choose another --out")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// A directory that no run made is never cleared.
    #[error("`{path}` holds files but no run, so --overwrite will not clear it; choose another --out")]
    NotARun {
        /// The directory.
        path: PathBuf,
    },
    /// Another process holds the lock.
    #[error(
        "run directory `{path}` is in use by another process{holder}; wait for it to end or choose another --out"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// ` (pid N)` where known.
        holder: String,
    },
    /// A resume on other data than the run was started on.
    #[error(
        "the data are not those that the run in `{path}` was started on: {difference}; give it the same data, or start a new \
         run"
    )]
    OtherData {
        /// The run's directory.
        path: PathBuf,
        /// What differs.
        difference: String,
    },
    /// A field of an event uses a name that every event has.
    #[error("event field `{name}` is reserved; give it another name")]
    ReservedField {
        /// The field.
        name: String,
    },
    /// The system refused.
    #[error("cannot {action} `{path}`: {source}{advice}", advice = disk_advice(source))]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl RunError {
    /// A mapper from `io::Error` for an action on a path.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| RunError::Io { action, path, source }
    }
}

/// What to do about a failed write, as a clause to append; empty where the error says enough.
pub(crate) fn disk_advice(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "; free some disk space, then continue with --resume"
        }
        std::io::ErrorKind::PermissionDenied => "; check the permissions of the folder",
        std::io::ErrorKind::ReadOnlyFilesystem => "; choose an --out on a writable disk",
        _ => "",
    }
}
