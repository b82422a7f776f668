//! What surrounds a training loop: run directory, events, progress, interrupts.

pub mod atomic;
pub mod data_list;
mod error;
pub mod events;
pub mod meters;
pub mod monitor;
pub mod run;
pub mod run_dir;
mod tensorboard;

pub use data_list::DataList;
pub use error::RunError;
pub(crate) use error::disk_advice;
pub use events::Events;
pub use meters::{Pace, Throughput, format_duration};
pub use monitor::{Interrupt, Monitor, Progress};
pub use run::TrainEnd;
pub use run_dir::{OpenMode, RunDir};
