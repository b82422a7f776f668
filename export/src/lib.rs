//! ONNX export of backbones, pyramids and detectors, and its proof by ONNX Runtime.
//!
//! [`export_backbone`], [`export_pyramid`] and [`export_detector`] write a file; [`validate_backbone`],
//! [`validate_pyramid`] and [`validate_detector`] run it in ONNX Runtime and compare it with the model. [`OnnxDetector`]
//! runs an exported detector, [`inspect`] describes any file. [`runtime`] finds ONNX Runtime.
//!
//! A backbone with random weights as a file, and the proof where this machine has ONNX Runtime:
//!
//! ```
//! use burn::tensor::Device;
//! use scrl_core::checkpoint::weights::BackboneMetadata;
//! use scrl_core::models::{Arch, ResNetConfig};
//! use scrl_core::random::stream;
//! use scrl_export::{BackboneOutput, ExportOptions, ValidationInputs, export_backbone, validate_backbone};
//!
//! let config = ResNetConfig { width: 0.125, ..ResNetConfig::new(Arch::ResNet18) };
//! let model = config.init(&mut stream(0, &[]), &Device::default());
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("backbone.onnx");
//! let metadata = BackboneMetadata { method: "random".into(), ..BackboneMetadata::unknown(config) };
//! let options = ExportOptions::default();
//! let report = export_backbone(&model, &config, &metadata, BackboneOutput::C5, &path, &options)?;
//! assert_eq!(report.outputs, ["c5"]);
//! match validate_backbone(&path, &model, &metadata, &ValidationInputs::new(64)) {
//!     Ok(report) => assert!(report.max_abs_error < 1e-3),
//!     Err(error) => println!("not validated: {error}"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod backbone;
pub mod detector;
mod detector_runtime;
mod error;
mod graph;
pub mod inspect;
mod layers;
mod part;
mod proven;
mod pyramid;
pub mod runtime;
pub mod validation;

pub use backbone::{BackboneOutput, ExportOptions, ExportReport, export_backbone};
pub use detector::{DetectorInfo, DetectorOptions, InputKind, export_detector};
pub use detector_runtime::{ImageBatch, OnnxDetector};
pub use error::ExportError;
pub use inspect::file_sha256;
pub use proven::proven;
pub use pyramid::{export_pyramid, validate_pyramid};
pub use validation::backbone::{ValidationInputs, ValidationReport, validate_backbone};
pub use validation::detector::{DetectorInputs, DetectorReport, DetectorTolerance, validate_detector};
