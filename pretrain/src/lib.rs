//! Self-supervised pretraining by SCRL (Roh et al., CVPR 2021, arXiv 2103.06122) with its baselines: BYOL and
//! supervised classification, on one data path.

pub mod augment;
pub mod box_generator;
pub mod config;
pub mod ema;
pub mod error;
pub mod heads;
pub mod health;
pub mod image_views;
mod in_place;
pub mod init_weights;
pub mod inspection;
pub mod loss;
pub mod methods;
pub mod metrics;
pub mod pooling;
pub mod probe;
pub mod replay;
pub mod schedule;
pub mod train;

pub use config::{MethodKind, PretrainConfig};
pub use error::PretrainError;
pub use train::Pretraining;
