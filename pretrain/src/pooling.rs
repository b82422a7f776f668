//! BYOL's pooling: the mean of the whole feature map.

use burn::tensor::Tensor;

/// `[N, C, H, W]` to `[N, C]`.
pub fn pool(features: Tensor<4>) -> Tensor<2> {
    features.flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2)
}
