use std::path::PathBuf;

use scrl_core::transforms::ImageError;

use crate::runtime::RuntimeError;
use crate::validation::backbone::ValidationReport;
use crate::validation::detector::DetectorReport;

/// Why an export or its validation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// ONNX Runtime is missing or refuses the file.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A file could not be written or read.
    #[error("cannot {action} `{path}`: {source}; check the folder, its permissions and the free space")]
    Io {
        /// "write" or "read".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A validation image could not be decoded.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A weight or running statistic is infinite or not a number.
    #[error("`{name}` holds a value that is not finite; the training diverged, export an earlier checkpoint")]
    NotFinite {
        /// Module path.
        name: String,
    },
    /// A weight does not fit into 16 bits.
    #[error("`{name}` holds a value outside the range of 16-bit floats; export without --fp16")]
    HalfRange {
        /// Module path.
        name: String,
    },
    /// The protobuf format ends at 2 GiB.
    #[error("the model has {bytes} bytes of weights, an ONNX file holds 2147483647; export a narrower model")]
    TooLarge {
        /// Size of all initialisers.
        bytes: u64,
    },
    /// Model, configuration and metadata describe different networks.
    #[error("the model is {found}, its metadata says {expected}; load both from the same checkpoint")]
    Architecture {
        /// What the model or its configuration is.
        found: String,
        /// What the metadata says.
        expected: String,
    },
    /// An operator set that the exporter does not write.
    #[error("opset {found} is not supported; choose one from {} to {}", lowest, highest)]
    Opset {
        /// The version asked for.
        found: i64,
        /// The oldest supported.
        lowest: i64,
        /// The newest supported.
        highest: i64,
    },
    /// A file's metadata is not what was exported.
    #[error("`{path}` has the metadata {key} = {found:?} instead of {expected:?}; export the model again")]
    Metadata {
        /// The ONNX file.
        path: PathBuf,
        /// The key of the property.
        key: String,
        /// What the file says; `None` when it says nothing.
        found: Option<String>,
        /// What was exported.
        expected: String,
    },
    /// ONNX Runtime failed while it ran the model.
    #[error("ONNX Runtime cannot run `{path}` on case {case}: {reason}; export the model again")]
    Run {
        /// The ONNX file.
        path: PathBuf,
        /// Name of the validation case.
        case: String,
        /// ONNX Runtime's message.
        reason: String,
    },
    /// ONNX Runtime computes something else than the model.
    #[error("`{path}` does not reproduce the model: {}; do not use the file, export the model again", report.summary())]
    Mismatch {
        /// The ONNX file.
        path: PathBuf,
        /// Every comparison.
        report: Box<ValidationReport>,
    },
    /// ONNX Runtime finds something else than the model.
    #[error("`{path}` does not reproduce the detector: {}; do not use the file, export the detector again", report.summary())]
    DetectorMismatch {
        /// The ONNX file.
        path: PathBuf,
        /// Every comparison.
        report: Box<DetectorReport>,
    },
    /// A file that is broken or something else.
    #[error("`{path}` is not an ONNX model: {reason}; check the path, or export the model again")]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A model that is not a detector of `scrl export detector`.
    #[error("`{path}` is not an exported detector: {reason}; write one with `scrl export detector`")]
    NotDetector {
        /// The ONNX file.
        path: PathBuf,
        /// What it is or lacks.
        reason: String,
    },
}
