//! Metrics of classification.

use burn::tensor::{Int, Tensor};

/// The k of [`hits`]: top-1 and top-5.
pub const TOP_K: [usize; 2] = [1, 5];

/// How many samples have their label among the 1 and among the 5 largest logits; `[2]`, on the device.
///
/// A logit that equals the label's counts as larger, so that equal logits are no hits. With at most k classes every
/// sample is a hit.
///
/// # Shapes
/// - `logits`: `[samples, classes]`, `labels`: `[samples]`
pub fn hits(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let [_, classes] = logits.dims();
    let own = logits.clone().gather(1, labels.unsqueeze_dim(1));
    let below = logits.lower(own.expand([-1, classes as i64])).int().sum_dim(1);
    let count = |k: usize| below.clone().greater_equal_elem(classes.saturating_sub(k) as i64).float().sum();
    Tensor::cat(TOP_K.map(count).to_vec(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn counts(logits: Tensor<2>, labels: &[i64]) -> Vec<f32> {
        let labels = Tensor::from_ints(labels, &logits.device());
        hits(logits, labels).into_data().try_to_vec().unwrap()
    }

    #[test]
    fn labels_are_hits_by_their_rank_among_the_logits() {
        let logits = Tensor::from_floats([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]; 4], &Device::flex());
        // Ranks 1, 2, 5 and 6.
        assert_eq!(counts(logits, &[0, 1, 4, 5]), [1.0, 3.0]);
    }

    #[test]
    fn equal_logits_are_no_hits_and_few_classes_always_are() {
        let device = Device::flex();
        assert_eq!(counts(Tensor::zeros([3, 6], &device), &[0, 1, 2]), [0.0, 0.0]);
        assert_eq!(counts(Tensor::zeros([3, 4], &device), &[0, 1, 2]), [0.0, 3.0]);
    }
}
