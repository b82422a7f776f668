//! Optimisers and learning-rate schedules.

pub mod optimizer;
pub mod schedule;

pub use optimizer::{Optimizer, OptimizerConfig, OptimizerKind};
pub use schedule::{WarmupCosine, WarmupMultiStep};
