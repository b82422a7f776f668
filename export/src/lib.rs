//! ONNX export of backbones, pyramids and detectors, and its proof by ONNX Runtime.
//!
//! [`export_backbone`], [`export_pyramid`] and [`export_detector`] write a file; [`validate_backbone`],
//! [`validate_pyramid`] and [`validate_detector`] run it in ONNX Runtime and compare it with the model. [`OnnxDetector`]
//! runs an exported detector, [`inspect`] describes any file. [`graph`] builds the files, [`runtime`] finds ONNX Runtime.

pub mod backbone;
pub mod detector;
pub mod detector_runtime;
mod error;
pub mod graph;
pub mod inspect;
pub mod layers;
mod part;
pub mod pyramid;
pub mod runtime;
pub mod validation;

pub use backbone::{BackboneOutput, ExportOptions, ExportReport, export_backbone};
pub use detector::{DetectorInfo, DetectorOptions, InputKind, export_detector};
pub use detector_runtime::{ImageBatch, OnnxDetector};
pub use error::ExportError;
pub use inspect::file_sha256;
pub use pyramid::{export_pyramid, validate_pyramid};
pub use validation::backbone::{ValidationInputs, ValidationReport, validate_backbone};
pub use validation::detector::{DetectorInputs, DetectorReport, DetectorTolerance, validate_detector};
