//! The benchmark: inits × label fractions × seeds, resumable, one report.
//!
//! A plan becomes cells (`graph`), each a job (`job`) in a process of its own (`process`), run in the order of their
//! needs (`runner`); markers (`record`) become results (`results`) and a report (`report`).

pub mod board;
pub mod budget;
pub mod estimate;
pub mod events;
pub mod graph;
pub mod job;
pub mod plan;
pub mod process;
pub mod record;
pub mod report;
pub mod results;
pub mod run;
pub mod runner;
pub mod statistics;
pub mod sweep;
