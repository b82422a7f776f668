use std::path::PathBuf;

/// Why there is no ONNX Runtime, or why it refuses a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// `ORT_DYLIB_PATH` names a library that cannot be used.
    #[error(
        "cannot use the ONNX Runtime library `{path}` that ORT_DYLIB_PATH names: {reason}; set ORT_DYLIB_PATH to \
         another libonnxruntime, or unset it to have one found"
    )]
    Variable {
        /// The value of the variable.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Every place was searched in vain.
    #[error(
        "no usable ONNX Runtime found: {}; run `pip install \"onnxruntime>=1.{}\"`, or set ORT_DYLIB_PATH to a \
         libonnxruntime of that version or newer",
        attempts.join("; "),
        ort::MINOR_VERSION
    )]
    NotFound {
        /// One line a place: what was tried and what was wrong.
        attempts: Vec<String>,
    },
    /// The library loads but does not start.
    #[error("cannot start ONNX Runtime: {reason}; set ORT_DYLIB_PATH to another libonnxruntime")]
    Environment {
        /// ONNX Runtime's message.
        reason: String,
    },
    /// A file is not a model that ONNX Runtime can run.
    #[error("ONNX Runtime cannot open `{path}`: {reason}; check the path, or export the model again")]
    Session {
        /// The file.
        path: PathBuf,
        /// ONNX Runtime's message.
        reason: String,
    },
}
