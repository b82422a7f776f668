//! How a training run ended.

use serde::{Deserialize, Serialize};

/// The outcome of a training loop that returned without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainEnd {
    /// Every step was done.
    Finished,
    /// An interrupt was requested; a checkpoint of this state was written.
    Interrupted {
        /// Steps done.
        step: u64,
    },
}
