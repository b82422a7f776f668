//! Procedural scenes: textured objects of eight classes on textured backgrounds, with exact boxes.
//!
//! ```
//! use scrl_synth::{SynthConfig, write};
//!
//! let folder = tempfile::tempdir()?;
//! let config = SynthConfig { train: 4, val: 2, unlabelled: 3, class_images: 1, ..SynthConfig::default() };
//! let summary = write(&config, &folder.path().join("scenes"))?;
//! assert_eq!(summary.images, 4 + 2 + 3 + 8, "eight classes have an image each");
//! assert!(folder.path().join("scenes/annotations/instances_train.json").is_file());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Everything is drawn from [`scrl_core::random::stream`] and computed with additions, multiplications, divisions and
//! square roots, which every platform rounds alike; so a seed stands for the same bytes everywhere.

mod annotations;
mod config;
mod layout;
mod paint;
mod raster;
mod scene;
mod shapes;
mod split;
#[cfg(test)]
mod tests;
mod texture;
mod write;

pub use config::{SynthConfig, SynthError};
pub use layout::MIN_VISIBLE;
pub use scene::{Scene, SceneObject, render_scene};
pub use shapes::ShapeClass;
pub use split::Split;
pub use write::{ClassCount, SynthSummary, is_complete, overwrite, read_summary, write};
