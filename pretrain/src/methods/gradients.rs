//! Gradients of a batch in micro-batches.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;

/// The mean of `count` losses and its gradients, or nothing without a loss.
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
