//! Optimisers and learning-rate schedules.

mod compat;
pub mod optimizer;
pub mod schedule;

pub use compat::Compat;
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerKind};
pub use schedule::{WarmupCosine, WarmupMultiStep};
