//! Checkpoints and weight files.

mod error;
mod metadata;
mod numpy_pickle;
mod pytorch;
mod safetensors;
pub mod state;
pub mod weights;

pub use error::CheckpointError;
