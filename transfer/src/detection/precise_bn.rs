//! Precise batch norm: running statistics of the weights as they are, instead of a moving average over the weights
//! of the last steps.

use burn::module::Module;
use burn::tensor::Tensor;

use super::backbone::BackboneWithFpn;

/// Replaces each training batch norm's running statistics by the averages, over the batches, of the batch means and of the
/// unbiased batch variances (fvcore's `update_bn_stats`, which is detectron2's precise BN).
///
/// `batches` are normalised and padded training images, `[N, 3, H, W]`, on an autodiff device; detectron2 takes 200. They are
/// normalised by their own statistics, as in training. Frozen batch norms and all weights keep their values, and so does
/// everything when there is no batch.
///
/// # Errors
/// The first error of `batches`; the running statistics are then those of the batches before it.
///
/// # Panics
/// When a batch is not on an autodiff device, where batch norms do not train.
pub fn precise_bn<E>(
    backbone: &BackboneWithFpn,
    batches: impl IntoIterator<Item = Result<Tensor<4>, E>>,
) -> Result<(), E> {
    // Its running statistics are the given one's own; its weights are out of any graph.
    let mut measured = backbone.clone().no_grad();
    for (done, images) in batches.into_iter().enumerate() {
        let images = images?;
        assert!(images.device().is_autodiff(), "batch norms train only on an autodiff device");
        // A moving average in which batch k weighs 1/k is the plain average of the batches so far.
        let momentum = 1.0 / (done + 1) as f64;
        measured.batch_norms_mut().for_each(|norm| norm.momentum = momentum);
        measured.forward(images);
    }
    Ok(())
}
