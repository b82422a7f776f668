//! Faster R-CNN/FPN on COCO and VOC data: training from random or pretrained weights, evaluation, pictures.
//!
//! [`train::train`] is the whole of a transfer run; [`evaluate`] measures a trained detector on any data set.

pub mod config;
pub mod data;
pub mod detection;
pub mod error;
pub mod evaluate;
pub mod evaluation;
#[cfg(test)]
mod test_data;
pub mod train;
pub mod visualize;
pub mod weights;

pub use config::{DataConfig, Milestone, Protocol, SolverConfig, TransferConfig};
pub use data::DataSource;
pub use error::TransferError;
pub use evaluation::{DetectionMetrics, EvaluationError, ImageDetections};
pub use train::{TransferOutcome, TransferReport, train};
pub use weights::{
    DetectorMetadata, InitWeights, LoadedDetector, load_detector, load_state_dict, save_detector,
};
