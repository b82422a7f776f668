//! The benchmark: inits × label fractions × seeds, resumable, one report.
//!
//! A plan becomes cells (`graph`), each a job (`job`) in a process of its own (`process`), run in the order of their
//! needs (`runner`); markers (`record`) become results (`results`) and a report (`report`).

pub mod budget;
mod error;
pub mod estimate;
pub mod events;
pub mod graph;
mod host;
pub mod job;
pub mod observer;
pub mod plan;
pub mod process;
pub mod record;
pub mod report;
pub mod results;
pub mod run;
pub mod runner;
pub mod statistics;
pub mod sweep;
pub mod words;

pub use error::BenchmarkError;
pub use host::Host;
pub use plan::ResolvedPlan;
pub use run::{Benchmark, BenchmarkEnd};
