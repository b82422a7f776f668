//! How the values of a channel lie in memory and how the channels are shared out to the threads.

use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::ops::Range;

/// Values of neighbouring planes that a task takes from each image, so that memory is read in long runs.
const RUN: usize = 2048;
/// Values below which a task costs more to start than to do.
const TASK: usize = 16 * 1024;
/// Values of a task above which neighbouring planes are left to others: several tensors are to stay in cache.
const CACHED: usize = 128 * 1024;

/// A tensor `[images, channels, plane]`; `plane` is the product of all further axes.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) images: usize,
    pub(super) channels: usize,
    pub(super) plane: usize,
}

impl Layout {
    pub(super) fn of(tensor: &FlexTensor) -> Self {
        let shape = tensor.layout().shape();
        Self { images: shape[0], channels: shape[1], plane: shape.iter().skip(2).product() }
    }

    /// Where a plane lies.
    pub(super) fn plane(self, image: usize, channel: usize) -> Range<usize> {
        let start = (image * self.channels + channel) * self.plane;
        start..start + self.plane
    }

    /// Where the values of neighbouring channels of an image lie if planes are single values.
    pub(super) fn row(self, image: usize, channels: &Range<usize>) -> Range<usize> {
        let start = image * self.channels;
        start + channels.start..start + channels.end
    }

    /// Values of a channel.
    pub(super) fn count(self) -> f64 {
        (self.images * self.plane) as f64
    }

    /// Neighbouring channels that a task takes.
    fn group(self) -> usize {
        let channel = (self.images * self.plane).max(1);
        let wanted = RUN.div_ceil(self.plane.max(1)).max(TASK.div_ceil(channel));
        wanted.min(CACHED / channel).max(1)
    }

    /// Calls `task` for groups of neighbouring channels with the places of their results.
    pub(super) fn for_each_group<R: Send + Clone>(
        self,
        initial: R,
        task: impl Fn(Range<usize>, &mut [R]) + Sync + Send,
    ) -> Vec<R> {
        let mut results = vec![initial; self.channels];
        let group = self.group();
        results.par_chunks_mut(group).enumerate().for_each(|(index, results)| {
            let channels = index * group..index * group + results.len();
            task(channels, results);
        });
        results
    }
}
