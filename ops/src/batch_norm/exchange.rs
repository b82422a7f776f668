//! Statistics of several processes.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{Device, Tensor, TensorData};

use crate::Group;

/// With whom a normalisation shares its statistics.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    group: Group,
    /// This batch's values of a channel over those of all batches; none if this batch is not part of the statistics.
    share: Option<f64>,
}

/// Mean and biased variance of the channels over several batches.
pub(super) struct GroupStatistics {
    pub(super) mean: Tensor<1>,
    pub(super) variance: Tensor<1>,
    /// Values of a channel in all batches.
    pub(super) count: f64,
}

impl GroupStatistics {
    /// From mean and biased variance of each rank's batch, of `count` values a channel; 0 for a batch that does not count.
    ///
    /// With `n`, `m` and `v` of a rank, the sums of `n`, `n·m` and `n·(v + m²)` are exchanged, in 64 bits.
    pub(super) fn exchanged(group: &Group, [mean, variance]: [Tensor<1>; 2], count: f64) -> Self {
        let (channels, device) = (mean.dims()[0], mean.device());
        let local = Tensor::cat(vec![mean, variance], 0).into_data().convert::<f32>();
        let local = local.try_to_vec::<f32>().expect("numbers of 32 bits");
        let mut sums = vec![count; 2 * channels + 1];
        for channel in 0..channels {
            let [mean, variance] = [channel, channels + channel].map(|index| f64::from(local[index]));
            // A batch that does not count may hold anything.
            let weighted = |value: f64| if count == 0.0 { 0.0 } else { count * value };
            sums[channel] = weighted(mean);
            sums[channels + channel] = weighted(variance + mean * mean);
        }
        group.sum_f64(&mut sums);
        let count = sums[2 * channels];
        let mean = |channel: usize| sums[channel] / count;
        // Rounding may leave a trace below zero; a result that is not a number stays so.
        let variance = |channel: usize| {
            let variance = sums[channels + channel] / count - mean(channel).powi(2);
            if variance < 0.0 { 0.0 } else { variance }
        };
        let mean = tensor((0..channels).map(mean), &device);
        let variance = tensor((0..channels).map(variance), &device);
        Self { mean, variance, count }
    }
}

fn tensor(values: impl Iterator<Item = f64>, device: &Device) -> Tensor<1> {
    let values: Vec<f32> = values.map(|value| value as f32).collect();
    let channels = values.len();
    Tensor::from_data(TensorData::new(values, [channels]), device)
}

impl Exchange {
    /// Of a batch of `local` values a channel, of which the statistics are those of `total`.
    pub(super) fn new(group: Group, local: f64, counts: bool, total: f64) -> Self {
        Self { group, share: counts.then_some(local / total) }
    }

    /// Whether the statistics depend on this batch.
    pub(super) fn counts(&self) -> bool {
        self.share.is_some()
    }

    /// The sums over the ranks of the gradients of weight and bias, times this batch's share of the values: what divided by the
    /// values of this batch gives the mean over all.
    pub(super) fn sum<B: Backend>(&self, [weight, bias]: [FloatTensor<B>; 2]) -> [FloatTensor<B>; 2] {
        let (channels, device) = (weight.shape()[0], weight.device());
        let both = B::float_into_data(B::float_cat(vec![weight, bias], 0));
        let both = burn::tensor::try_read_sync(both).expect("a device that is read at once");
        let both = both.expect("the gradients are read from the device").convert::<f64>();
        let mut both = both.try_to_vec::<f64>().expect("numbers of 64 bits");
        self.group.sum_f64(&mut both);
        let share = self.share.unwrap_or(0.0);
        let part = |values: &[f64]| {
            let values: Vec<f32> = values.iter().map(|value| (value * share) as f32).collect();
            B::float_from_data(TensorData::new(values, [channels]), &device)
        };
        [part(&both[..channels]), part(&both[channels..])]
    }
}
