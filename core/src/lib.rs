//! Shared by pretraining and transfer: backbone, images, data, solver, checkpoints, run engine, config.
//!
//! A backbone, its feature maps, and its weights in a file:
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use scrl_core::models::{Arch, Level, ResNetConfig, parameters};
//! use scrl_core::random::stream;
//!
//! let device = Device::default();
//! let config = ResNetConfig { width: 0.125, ..ResNetConfig::new(Arch::ResNet18) };
//! let backbone = config.init(&mut stream(0, &[]), &device);
//! let features = backbone.forward_to(Level::C4, Tensor::zeros([2, 3, 64, 96], &device));
//! assert_eq!(features.at(Level::C4).dims(), [2, config.channels()[2], 4, 6]);
//!
//! let tensors = parameters::collect(&backbone);
//! assert!(tensors.contains_key("layer1.0.conv1.weight"), "torchvision's keys");
//! ```

pub mod checkpoint;
pub mod config;
pub mod data;
pub mod draw;
pub mod engine;
pub mod models;
pub mod packed;
pub mod random;
pub mod solver;
pub mod structures;
pub mod transforms;
