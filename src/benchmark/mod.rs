//! The benchmark: inits × label fractions × seeds, resumable, one report.

pub mod plan;
pub mod plots;
pub mod report;
pub mod run;
