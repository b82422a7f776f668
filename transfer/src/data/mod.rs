//! Detection data: sources, decoding to network inputs, batches.

pub mod batch;
pub mod coco;
pub mod dataset;
pub(crate) mod file_names;
pub mod loader;
pub mod mapper;
pub mod source;
pub mod survey;
pub(crate) mod text;
pub mod union;
pub mod voc;

pub use batch::{Batch, BatchPlan, collate, collate_over};
pub use dataset::{AnnotatedObject, Category, DetectionDataset, DetectionImage, DetectionObject, DroppedBox};
pub use loader::{TrainingLoader, TrainingLoaderOptions};
pub use mapper::{Interpolation, Mapper, Preprocessing, Sample};
pub use source::{DataSource, Labels};
pub use survey::{Survey, survey};
