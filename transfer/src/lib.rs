//! Faster R-CNN/FPN and RetinaNet on COCO and VOC data: training from random or pretrained weights, evaluation, pictures.
//!
//! [`Transfer`] is the whole of a transfer run; [`inference`] runs and measures a trained detector on any data set. A narrow detector,
//! trained for two iterations on generated scenes:
//!
//! ```
//! use std::path::Path;
//!
//! use burn::tensor::Device;
//! use scrl_core::config;
//! use scrl_core::engine::{Monitor, OpenMode, RunDir};
//! use scrl_synth::SynthConfig;
//! use scrl_transfer::{DataSource, InitWeights, Transfer, TransferConfig, TransferOutcome};
//!
//! let folder = tempfile::tempdir()?;
//! let scenes = folder.path().join("scenes");
//! let counts = SynthConfig { train: 4, val: 2, class_images: 0, unlabelled: 0, ..SynthConfig::default() };
//! scrl_synth::write(&counts, &scenes)?;
//!
//! let recipe = r#"
//!     iterations = 2
//!     batch_size = 2
//!     min_sizes = [64]
//!     max_size = 64
//!     test_min_size = 64
//!     test_max_size = 64
//!     model = { arch = "resnet18", width = 0.125, fpn_channels = 16, box_head_dim = 32 }
//! "#;
//! let mut settings: TransferConfig = config::parse(recipe, Path::new("recipe.toml"), &[])?;
//! let [train, val] = DataSource::detect(&scenes, [None, None])?;
//! (settings.data.train, settings.data.val) = (Some(train), Some(val));
//! let run = RunDir::open(&folder.path().join("run"), OpenMode::New)?;
//! let device = Device::default();
//! let outcome = Transfer::new(&settings, &InitWeights::Random, &run).run(&device, &mut Monitor::silent())?;
//! let TransferOutcome::Finished(report) = outcome else { unreachable!("nobody interrupts it") };
//! assert_eq!((report.train_images, report.val_images), (4, 2));
//! assert!(run.weights().join("detector.safetensors").is_file());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod config;
pub mod data;
pub mod detection;
pub mod error;
pub mod evaluation;
pub mod inference;
pub mod mask;
#[cfg(test)]
mod test_data;
pub mod train;
pub mod visualize;
pub mod weights;

pub use config::{DataConfig, Milestone, Protocol, SolverConfig, TransferConfig};
pub use data::DataSource;
pub use error::TransferError;
pub use evaluation::{DetectionMetrics, EvaluationError, ImageDetections};
pub use train::{Transfer, TransferOutcome, TransferReport};
pub use weights::{
    DetectorMetadata, InitWeights, LoadedDetector, load_detector, load_state_dict, save_detector,
};
