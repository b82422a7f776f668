//! Gradients of a batch in micro-batches.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;

use crate::image_views::ImageViews;

/// The batch in `accumulate` micro-batches, of equal size where that divides it.
pub(super) fn micro_batches(batch: &[ImageViews], accumulate: usize) -> std::slice::Chunks<'_, ImageViews> {
    batch.chunks(batch.len().div_ceil(accumulate.max(1)).max(1))
}

/// The mean of `count` losses, without its graph, and its gradients; `None` without a loss.
///
/// Each loss is computed when the graph of the one before is gone, so memory is that of one micro-batch.
pub(super) fn mean_gradients<M: Module>(
    network: &M,
    count: usize,
    losses: impl Iterator<Item = Tensor<1>>,
) -> Option<(Tensor<1>, GradientsParams)> {
    let mut accumulator = GradientsAccumulator::new();
    let mut mean: Option<Tensor<1>> = None;
    for loss in losses {
        let share = loss.div_scalar(count as f64);
        let gradients = GradientsParams::from_grads(share.backward(), network);
        accumulator.accumulate(network, gradients);
        let share = share.inner();
        mean = Some(match mean {
            Some(sum) => sum + share,
            None => share,
        });
    }
    mean.map(|mean| (mean, accumulator.grads()))
}
