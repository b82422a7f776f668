//! Optimisers and learning-rate schedules.

mod compat;
pub mod optimizer;
mod reduce;
pub mod schedule;

pub use compat::Compat;
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerKind};
pub use reduce::{same_everywhere, sum_gradients};
pub use schedule::{WarmupCosine, WarmupMultiStep};
