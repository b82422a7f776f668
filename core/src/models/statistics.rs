//! Statistics of a batch, of one replica of a model or of several.

use burn::tensor::Tensor;

/// What batch normalisation takes from a batch.
#[derive(Clone, Debug)]
pub struct BatchStatistics {
    /// `[C]`
    pub mean: Tensor<1>,
    /// The biased one, `[C]`.
    pub variance: Tensor<1>,
    /// Values of each channel that they are taken over.
    pub samples: f64,
}

impl BatchStatistics {
    /// The statistics of the union of the replicas' batches (SyncBN), on the first replica's device; a single
    /// replica's are its own, to the bit.
    ///
    /// The place where statistics of other devices enter. A model runs on one device here, so a synchronised layer
    /// passes its own alone; with several devices each layer's three quantities are to be gathered before this call,
    /// its output is to be normalised with the result, and the backward pass needs the two sums over the batch of all
    /// replicas as well. None of that exists, which is why a synchronised norm refuses several devices.
    ///
    /// # Panics
    /// When there is no replica.
    pub fn over_replicas(mut replicas: Vec<Self>) -> Self {
        if replicas.len() == 1 {
            return replicas.remove(0);
        }
        let device = replicas.first().expect("statistics come from at least one replica").mean.device();
        let samples: f64 = replicas.iter().map(|replica| replica.samples).sum();
        let average = |value: &dyn Fn(&Self) -> Tensor<1>| {
            let weighted =
                |replica: &Self| value(replica).to_device(&device).mul_scalar(replica.samples / samples);
            replicas.iter().map(weighted).reduce(|a, b| a + b).expect("there are replicas")
        };
        let mean = average(&|replica| replica.mean.clone());
        // Variance within the replicas and between them; no difference of squares, which would cancel.
        let variance = average(&|replica| {
            let distance = replica.mean.clone().to_device(&device) - mean.clone();
            replica.variance.clone().to_device(&device) + distance.square()
        });
        Self { mean, variance, samples }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn statistics(values: Tensor<2>) -> BatchStatistics {
        let samples = values.dims()[0] as f64;
        let mean = values.clone().mean_dim(0);
        let variance = (values - mean.clone()).square().mean_dim(0);
        BatchStatistics { mean: mean.flatten(0, 1), variance: variance.flatten(0, 1), samples }
    }

    fn floats(tensor: Tensor<1>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn replicas_of_unequal_batches_have_the_statistics_of_the_whole_batch() {
        let rows = [[1.0, 100.5], [3.0, 99.0], [-2.0, 101.0], [7.0, 103.0], [0.5, 98.25]];
        let all = Tensor::<2>::from_data(rows, &Device::flex());
        let parts = [0..1, 1..3, 3..5].map(|rows| statistics(all.clone().slice([rows, 0..2])));
        let (found, expected) = (BatchStatistics::over_replicas(parts.to_vec()), statistics(all));
        assert_eq!(found.samples, 5.0);
        let pairs = [(found.mean, expected.mean), (found.variance, expected.variance)];
        for (found, expected) in pairs.map(|(a, b)| (floats(a), floats(b))) {
            let near = found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs());
            assert!(near, "{found:?} is not {expected:?}");
        }
    }

    #[test]
    fn one_replicas_statistics_are_its_own_to_the_bit() {
        let local = statistics(Tensor::<2>::from_data([[0.1, 0.7], [0.3, -9.1]], &Device::flex()));
        let found = BatchStatistics::over_replicas(vec![local.clone()]);
        assert_eq!(floats(found.mean), floats(local.mean));
        assert_eq!(floats(found.variance), floats(local.variance));
        assert_eq!(found.samples, 2.0);
    }
}
