//! Proof that an exported file computes in ONNX Runtime what the model computes here.

pub mod backbone;
pub mod detector;
