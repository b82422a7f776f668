//! ONNX export of backbones and its proof by ONNX Runtime.
//!
//! [`backbone::export_backbone`] writes a file, [`validate::validate_backbone`] runs it in ONNX Runtime and compares
//! it with the model. [`graph`] builds the files, [`runtime`] finds ONNX Runtime.

pub mod backbone;
mod error;
pub mod graph;
pub mod layers;
pub mod runtime;
pub mod validate;

pub use backbone::{BackboneOutput, ExportOptions, ExportReport, export_backbone};
pub use error::ExportError;
pub use validate::{ValidationInputs, ValidationReport, validate_backbone};
