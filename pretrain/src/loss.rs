//! Losses.

use burn::tensor::{Int, Tensor, activation::log_softmax};

/// Mean over rows of `2 − 2·cos(prediction, target)`, in `[0, 4]` (BYOL, equation 2; SCRL, equation 3).
///
/// # Shapes
/// - `prediction`, `target`: `[samples, dim]`; output `[1]`
pub fn cosine_loss(prediction: Tensor<2>, target: Tensor<2>) -> Tensor<1> {
    let cosine = (normalise(prediction) * normalise(target)).sum_dim(1);
    cosine.mean().mul_scalar(-2.0).add_scalar(2.0)
}

/// The symmetrised loss of predictions and targets that stack view 1 on view 2: each view predicts the other.
///
/// # Shapes
/// - `prediction`, `target`: `[2·samples, dim]`; output `[1]`
pub fn symmetric_loss(prediction: Tensor<2>, target: Tensor<2>) -> Tensor<1> {
    let [rows, _] = prediction.dims();
    let half = rows / 2;
    let [p1, p2] = [prediction.clone().narrow(0, 0, half), prediction.narrow(0, half, half)];
    let [t1, t2] = [target.clone().narrow(0, 0, half), target.narrow(0, half, half)];
    cosine_loss(p1, t2) + cosine_loss(p2, t1)
}

/// Divides each row by its L2 norm, at least 1e-12 as in PyTorch's `F.normalize`.
pub(crate) fn normalise(rows: Tensor<2>) -> Tensor<2> {
    let norm = rows.clone().square().sum_dim(1).clamp_min(1e-24).sqrt();
    rows / norm
}

/// Mean cross-entropy with label smoothing, as PyTorch's `CrossEntropyLoss(label_smoothing=…)`.
///
/// # Shapes
/// - `logits`: `[samples, classes]`, `labels`: `[samples]`; output `[1]`
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>, smoothing: f64) -> Tensor<1> {
    let log_probabilities = log_softmax(logits, 1);
    let picked = log_probabilities.clone().gather(1, labels.unsqueeze_dim(1)).mean().neg();
    if smoothing == 0.0 {
        return picked;
    }
    picked.mul_scalar(1.0 - smoothing) + log_probabilities.mean().neg().mul_scalar(smoothing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn value(tensor: Tensor<1>) -> f32 {
        tensor.into_data().try_to_vec::<f32>().unwrap()[0]
    }

    #[test]
    fn parallel_vectors_cost_nothing_and_opposite_ones_four() {
        let device = Device::flex();
        let a = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, -1.0]], &device);
        assert!(value(cosine_loss(a.clone(), a.clone().mul_scalar(3.0))).abs() < 1e-6);
        assert!((value(cosine_loss(a.clone(), a.neg())) - 4.0).abs() < 1e-6);
    }

    #[test]
    fn each_view_predicts_the_other() {
        let device = Device::flex();
        let prediction = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0]], &device);
        let crossed = Tensor::<2>::from_floats([[0.0, 5.0], [5.0, 0.0]], &device);
        assert!(value(symmetric_loss(prediction.clone(), crossed)).abs() < 1e-6);
        assert!((value(symmetric_loss(prediction.clone(), prediction)) - 4.0).abs() < 1e-6);
    }

    #[test]
    fn smoothed_cross_entropy_equals_the_hand_computed_value() {
        let device = Device::flex();
        let logits = Tensor::<2>::from_floats([[2.0, 0.0, 0.0]], &device);
        let labels = Tensor::<1, Int>::from_ints([0], &device);
        let log_sum = (2f32.exp() + 2.0).ln();
        assert!((value(cross_entropy(logits.clone(), labels.clone(), 0.0)) - (log_sum - 2.0)).abs() < 1e-5);
        let smoothed = 0.9 * (log_sum - 2.0) + 0.1 * (log_sum - 2.0 / 3.0);
        assert!((value(cross_entropy(logits, labels, 0.1)) - smoothed).abs() < 1e-5);
    }
}
