//! Datasets and the loader.

pub mod coco;
pub mod detection;
pub mod error;
pub mod image_folder;
pub mod loader;
pub mod sampler;
pub mod synth;

pub use detection::{Category, DetectionDataset, DetectionImage, DetectionObject, DroppedBox};
pub use error::DataError;
pub use image_folder::{ImageFolder, Sample};
pub use loader::{BatchIter, LoaderOptions, load_batches};
