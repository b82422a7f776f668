//! Operators of detection and convolution with hand-written backward passes, as Burn backend extensions.
//!
//! Every operator has a reference composed of Burn's own operators; it is the path of every backend
//! without a kernel of its own and what ONNX capture records. The `flex` (CPU) backend has kernels.

mod batch_norm;
mod conv2d;
#[cfg(feature = "flex")]
mod cpu;
mod linear;
#[cfg(feature = "flex")]
mod matrix;
mod max_pool;
mod nms;
mod roi_align;
mod update;
mod vectorized;

pub use batch_norm::{BatchNormOptions, BatchNormOutput, batch_norm_inference, batch_norm_train};
pub use conv2d::{Conv2dOptions, conv2d};
pub use linear::linear;
#[cfg(feature = "flex")]
pub use matrix::cpu_products;
pub use max_pool::{MaxPool2dOptions, max_pool2d};
pub use nms::{batched_nms, nms};
pub use roi_align::{ImageBox, RoiAlignOps, RoiAlignOptions, roi_align, roi_align_reference};
pub use update::{GradientStep, GradientStepOptions, TrustRatio, gradient_step, moving_average};
pub use vectorized::vectorized;
