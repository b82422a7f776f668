//! The benchmark: inits × label fractions × seeds, resumable, one report.
//!
//! A plan becomes cells (`graph`), each a job (`job`) in a process of its own (`process`), run in the order of their
//! needs (`runner`); markers (`record`) become results (`results`) and a report (`report`).
//!
//! ```
//! use scrl_benchmark::graph::{Graph, SweepResult};
//! use scrl_benchmark::{ResolvedPlan, run};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
//! write("scrl.toml", "method = \"scrl\"\nmodel = { arch = \"resnet18\" }\n\
//!     schedule = { epochs = 1, batch_size = 4, base_lr = 0.1 }")?;
//! write("transfer.toml", "iterations = 2\n[model.backbone]\narch = \"resnet18\"")?;
//! write("plan.toml", "inits = [\"random\", \"scrl\"]\nlabel_fractions = [0.5, 1.0]\nseeds = [0, 1]\n\
//!     transfer = \"transfer.toml\"\npretrain = { scrl = \"scrl.toml\" }\n\
//!     data.synth = { width = 64, height = 64, train = 8, val = 4, unlabelled = 8, class_images = 1 }")?;
//!
//! // The layout of the data is looked up; the images are not.
//! for split in ["train", "val"] {
//!     std::fs::create_dir_all(folder.path().join("data").join(split))?;
//!     std::fs::create_dir_all(folder.path().join("data/annotations"))?;
//!     write(&format!("data/annotations/instances_{split}.json"), "{}")?;
//! }
//!
//! let plan = ResolvedPlan::load(&folder.path().join("plan.toml"), &[])?;
//! let sources = run::sources(&plan, folder.path())?;
//! let graph = Graph { plan: &plan, arms: &plan.arms, sources: &sources, out: folder.path() };
//! let cells = graph.cells(&SweepResult::default())?;
//! let fine_tunings = cells.iter().filter(|cell| cell.id.starts_with("transfer/")).count();
//! assert_eq!(fine_tunings, 8, "two inits, two shares of the labels, two seeds");
//! // `Benchmark { plan: &plan, .. }.run(&mut observer)` runs each cell in a process of its own and writes the report.
//! # Ok(())
//! # }
//! ```

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
