//! Gradients of a batch in micro-batches, which the processes of a group share.
//!
//! One rule holds for all means: a process takes the mean over what is its own, times its share of the group's count. The sum
//! over the ranks is then the mean that one process would take.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use scrl_core::data::sampler::shares;
use scrl_core::solver::sum_gradients;
use scrl_ops::Group;

use crate::image_views::ImageViews;

/// How a batch is shared out: to micro-batches, one after the other, and these to the processes of a group.
#[derive(Clone, Debug)]
pub(super) struct Sharing {
    pub(super) accumulate: usize,
    pub(super) group: Group,
}

/// The part of a micro-batch that this process has.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) images: &'a [ImageViews],
    /// What this process counts of it, over what the group does.
    pub(super) share: f64,
}

impl Sharing {
    /// One process.
    pub(super) fn alone(accumulate: usize) -> Self {
        Self { accumulate, group: Group::alone() }
    }

    /// The micro-batches of `batch`, the images that this process has of the group's. A micro-batch of which no process `count`s
    /// anything is left out.
    pub(super) fn parts<'a>(
        &self,
        batch: &'a [ImageViews],
        count: impl Fn(&ImageViews) -> usize,
    ) -> Vec<Part<'a>> {
        let total = self.group.sum(batch.len());
        let mut rest = batch;
        let mut part = |length: usize| {
            let (part, after) = rest.split_at(length.min(rest.len()));
            rest = after;
            part
        };
        let parts: Vec<_> =
            shares(total, self.accumulate, &self.group).into_iter().map(|share| part(share.len())).collect();
        let own: Vec<f64> =
            parts.iter().map(|images| images.iter().map(&count).sum::<usize>() as f64).collect();
        let mut totals = own.clone();
        self.group.sum_f64(&mut totals);
        let counted = parts.into_iter().zip(own).zip(totals).filter(|(_, total)| *total > 0.0);
        counted.map(|((images, own), total)| Part { images, share: own / total }).collect()
    }

    /// The mean of `count` losses, without its graph, and its gradients; `None` without a loss. `losses` are the shares that this
    /// process has of them, and so is the mean; the gradients are those of all.
    ///
    /// Each loss is computed when the graph of the one before is gone, so memory is that of one micro-batch.
    pub(super) fn mean_gradients<M: Module>(
        &self,
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
        mean.map(|mean| (mean, sum_gradients(network, accumulator.grads(), &self.group)))
    }
}

impl Part<'_> {
    /// What a mean over this part contributes to the group's.
    pub(super) fn weighed(self, mean: Tensor<1>) -> Tensor<1> {
        if self.share == 1.0 { mean } else { mean.mul_scalar(self.share) }
    }
}
