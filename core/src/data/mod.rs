//! Datasets and the loader.

pub mod error;
pub mod image_folder;
pub mod loader;
pub mod sampler;

pub use error::DataError;
pub use image_folder::{FolderSurvey, ImageFile, ImageFolder};
pub use loader::{BatchIter, LoaderOptions, load_batches};
