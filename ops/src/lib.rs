//! Operators of detection and convolution with hand-written backward passes, as Burn backend extensions.
//!
//! Every operator has a reference composed of Burn's own operators; it is the path of every backend
//! without a kernel of its own and what ONNX capture records. The `flex` (CPU) backend has kernels; GPUs have some (`cube`).
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use scrl_ops::{Conv2dOptions, conv2d, nms};
//!
//! let device = Device::default();
//! let images = Tensor::<4>::ones([1, 2, 5, 5], &device);
//! let weight = Tensor::<4>::ones([3, 2, 3, 3], &device);
//! assert_eq!(conv2d(images, weight, None, Conv2dOptions::default()).dims(), [1, 3, 3, 3]);
//!
//! let boxes = [[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]];
//! assert_eq!(nms(&boxes, &[0.9, 0.8, 0.7], 0.5), [0, 2]);
//! ```

mod batch_norm;
mod cast;
mod conv2d;
mod conv_transpose2d;
#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod group;
mod linear;
#[cfg(feature = "flex")]
mod matrix;
mod max_pool;
mod nms;
mod roi_align;
mod update;
mod upsample;
mod vectorized;
#[cfg(not(feature = "flex"))]
mod without_kernels;

pub use batch_norm::{BatchNormOptions, BatchNormOutput, batch_norm_inference, batch_norm_train};
pub use cast::cast;
pub use conv_transpose2d::{
    beside_each_other, conv_transpose2d, conv_transpose2d_relu, conv_transpose2d_relu_apart,
};
pub use conv2d::{Conv2dOptions, Normalization, conv2d, conv2d_batch_norm, conv2d_relu, conv2d_shared};
pub use group::{Collective, Group, threads};
pub use linear::linear;
#[cfg(feature = "flex")]
pub use matrix::{KeptWeights, bf16_products, cpu_products, keep_weights};
pub use max_pool::{MaxPool2dOptions, max_pool2d};
pub use nms::{batched_nms, nms};
pub use roi_align::{ImageBox, RoiAlignOps, RoiAlignOptions, roi_align, roi_align_reference};
pub use update::{GradientStep, GradientStepOptions, TrustRatio, gradient_step, moving_average};
pub use upsample::add_upsampled;
#[doc(hidden)]
pub use vectorized::vectorized;
#[cfg(not(feature = "flex"))]
pub use without_kernels::{KeptWeights, bf16_products, keep_weights};
