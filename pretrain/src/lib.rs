//! Self-supervised pretraining by SCRL (Roh et al., CVPR 2021, arXiv 2103.06122) with its baselines: BYOL and
//! supervised classification, and DenseCL (Wang et al., CVPR 2021, arXiv 2011.09157), on one data path.
//!
//! A pretraining on a folder of images, here sixteen small generated ones:
//!
//! ```
//! use std::path::Path;
//!
//! use burn::tensor::Device;
//! use scrl_core::config;
//! use scrl_core::data::ImageFolder;
//! use scrl_core::engine::{Monitor, OpenMode, RunDir, TrainEnd};
//! use scrl_pretrain::{PretrainConfig, Pretraining};
//! use scrl_synth::SynthConfig;
//!
//! let folder = tempfile::tempdir()?;
//! let scenes = folder.path().join("scenes");
//! let images = SynthConfig { train: 0, val: 0, class_images: 0, unlabelled: 16, ..SynthConfig::default() };
//! scrl_synth::write(&images, &scenes)?;
//!
//! let recipe = r#"
//!     method = "scrl"
//!     model = { arch = "resnet18", width = 0.125 }
//!     augment = { view_size = 32 }
//!     boxes = { count = 2, min_size = 8 }
//!     heads = { hidden = 16, output = 8, pool_level = "c4" }
//!     schedule = { epochs = 1, batch_size = 8, base_lr = 0.5 }
//! "#;
//! let settings: PretrainConfig = config::parse(recipe, Path::new("recipe.toml"), &[])?;
//! let data = ImageFolder::scan(&[scenes.join("unlabelled")])?;
//! let run = RunDir::open(&folder.path().join("run"), OpenMode::New)?;
//! let end = Pretraining::new(&settings, &data, &run).run(&Device::default(), &mut Monitor::silent())?;
//! assert_eq!(end, TrainEnd::Finished);
//! assert!(run.weights().join("backbone.safetensors").is_file());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
