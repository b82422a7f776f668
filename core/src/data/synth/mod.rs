//! Procedural scenes: textured objects of eight classes on textured backgrounds, with exact boxes.
//!
//! Everything is drawn from [`crate::random::stream`] and computed with additions, multiplications, divisions and
//! square roots, which every platform rounds alike; so a seed stands for the same bytes everywhere.

mod annotations;
mod config;
mod layout;
mod paint;
mod raster;
mod scene;
mod shapes;
#[cfg(test)]
mod tests;
mod texture;
mod write;

pub use config::{SynthConfig, SynthError};
pub use layout::MIN_VISIBLE;
pub use scene::{Scene, SceneObject, Split, render_scene};
pub use shapes::ShapeClass;
pub use write::{ClassCount, SynthSummary, is_complete, overwrite, read_summary, write};
