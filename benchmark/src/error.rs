//! What can go wrong with a benchmark. A cell that fails is none of it: the results name it.

use std::error::Error;

use scrl_core::config::ConfigError;

/// Why a benchmark, or the work of one of its cells, stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchmarkError {
    /// A plan or recipe with a key or value that cannot be used.
    #[error("{0}")]
    Config(#[source] ConfigError),
    /// A plan, option or folder that cannot be used as it is; the message says what to do.
    #[error("{0}")]
    Refused(String),
    /// Something failed on the way: what was being done, and why it failed.
    #[error("{doing}")]
    Failed {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The work itself failed.
    #[error(transparent)]
    Work(Box<dyn Error + Send + Sync>),
}

/// Of this crate.
pub type Result<T, E = BenchmarkError> = std::result::Result<T, E>;

impl From<ConfigError> for BenchmarkError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

/// The errors of the crates that do the work.
macro_rules! work {
    ($($kind:ty),* $(,)?) => {
        $(impl From<$kind> for BenchmarkError {
            fn from(error: $kind) -> Self {
                Self::Work(Box::new(error))
            }
        })*
    };
}

work!(
    scrl_core::checkpoint::CheckpointError,
    scrl_core::data::DataError,
    scrl_core::engine::RunError,
    scrl_core::transforms::ImageError,
    scrl_export::ExportError,
    scrl_figures::FigureError,
    scrl_pretrain::PretrainError,
    scrl_synth::SynthError,
    scrl_transfer::TransferError,
    scrl_transfer::EvaluationError,
    serde_json::Error,
    std::io::Error,
);

/// Says what was being done when something failed.
pub(crate) trait Context<T> {
    /// With a text that is at hand.
    fn context(self, doing: impl Into<String>) -> Result<T>;
    /// With a text that is made only for an error.
    fn with_context(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl Into<String>) -> Result<T> {
        self.with_context(|| doing.into())
    }

    fn with_context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| BenchmarkError::Failed { doing: doing(), source: source.into() })
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, doing: impl Into<String>) -> Result<T> {
        self.with_context(|| doing.into())
    }

    fn with_context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.ok_or_else(|| BenchmarkError::Refused(doing()))
    }
}

/// Returns a refusal with a formatted message.
macro_rules! bail {
    ($($message:tt)*) => { return Err($crate::BenchmarkError::Refused(format!($($message)*))) };
}

/// Returns a refusal unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => { if !$condition { $crate::error::bail!($($message)*) } };
}

pub(crate) use {bail, ensure};
