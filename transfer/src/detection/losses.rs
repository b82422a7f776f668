//! The losses of a training step, and the terms that several heads share.

use burn::tensor::activation::{log_sigmoid, log_softmax};
use burn::tensor::{Int, Tensor, TensorData};

/// The losses of a training step by the names that events give them, and how large the samples behind them are.
#[derive(Clone, Debug)]
pub struct Losses {
    /// Name and value, `[1]` each; their sum is minimised.
    pub terms: Vec<(&'static str, Tensor<1>)>,
    /// Name and number, for example of the anchors that are matched to a target.
    pub counts: Vec<(&'static str, usize)>,
}

impl Losses {
    /// What is minimised: the sum of the terms. There is at least one.
    pub fn total(&self) -> Tensor<1> {
        let terms = self.terms.iter().map(|(_, value)| value.clone());
        terms.reduce(|sum, value| sum + value).expect("a detector has losses")
    }

    /// The term of a name.
    pub fn term(&self, name: &str) -> Option<&Tensor<1>> {
        self.terms.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The count of a name.
    pub fn count(&self, name: &str) -> Option<usize> {
        self.counts.iter().find(|(known, _)| *known == name).map(|&(_, value)| value)
    }
}

/// The given rows, in the given order; gradients reach only them. `rows` must not be empty.
pub(super) fn select_rows<const D: usize>(tensor: Tensor<D>, rows: &[usize]) -> Tensor<D> {
    let values: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    let rows = Tensor::<1, Int>::from_data(TensorData::new(values, [rows.len()]), &tensor.device());
    tensor.select(0, rows)
}

/// Zero that depends on `tensor`, so that its parameters get a gradient of zero rather than none.
pub(super) fn zero_of<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    tensor.narrow(0, 0, 1).sum().mul_scalar(0.0)
}

/// Sum of smooth L1 (plain L1 for `beta` 0) between the given rows of `deltas`, `[*, 4]`, and `targets`.
pub fn box_loss(deltas: Tensor<2>, rows: &[usize], targets: &[[f32; 4]], beta: f64) -> Tensor<1> {
    if rows.is_empty() {
        return zero_of(deltas);
    }
    let targets = TensorData::new(targets.as_flattened().to_vec(), [targets.len(), 4]);
    let targets = Tensor::from_data(targets, &deltas.device());
    smooth_l1(select_rows(deltas, rows), targets, beta)
}

fn smooth_l1(prediction: Tensor<2>, target: Tensor<2>, beta: f64) -> Tensor<1> {
    let distance = (prediction - target).abs();
    if beta == 0.0 {
        return distance.sum();
    }
    let inner = distance.clone().clamp_max(beta);
    (inner.clone().square().div_scalar(2.0 * beta) + distance - inner).sum()
}

/// Sum of the binary cross entropy of the given rows of `logits`, `[*]`.
pub fn objectness_loss(logits: Tensor<1>, positive: &[usize], negative: &[usize]) -> Tensor<1> {
    let rows = [positive, negative].concat();
    if rows.is_empty() {
        return zero_of(logits);
    }
    let labels: Vec<f32> = (0..rows.len()).map(|row| if row < positive.len() { 1.0 } else { 0.0 }).collect();
    let labels = Tensor::from_data(TensorData::new(labels, [rows.len()]), &logits.device());
    let logits = select_rows(logits, &rows);
    // −ln σ(x) for a positive; −ln σ(−x) = x − ln σ(x) for a negative.
    ((labels.neg() + 1.0) * logits.clone() - log_sigmoid(logits)).sum()
}

/// Mean cross entropy of `logits`, `[R, classes]`, with one class a row.
pub fn classification_loss(logits: Tensor<2>, classes: &[usize]) -> Tensor<1> {
    let values: Vec<i64> = classes.iter().map(|&class| class as i64).collect();
    let classes = Tensor::<2, Int>::from_data(TensorData::new(values, [classes.len(), 1]), &logits.device());
    log_softmax(logits, 1).gather(1, classes).mean().neg()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn value(loss: Tensor<1>) -> f32 {
        loss.into_scalar::<f32>()
    }

    #[test]
    fn smooth_l1_is_quadratic_below_beta_and_linear_above() {
        let deltas = Tensor::<2>::from_data([[9.0, 9.0, 9.0, 9.0], [0.5, -3.0, 0.0, 1.0]], &Device::flex());
        let loss = |beta| value(box_loss(deltas.clone(), &[1], &[[0.0, 0.0, 0.0, 1.0]], beta));
        assert!((loss(1.0) - (0.125 + 2.5)).abs() < 1e-6);
        assert!((loss(0.0) - 3.5).abs() < 1e-6);
    }

    #[test]
    fn objectness_loss_matches_hand_computed_values_and_stays_finite() {
        let logits = Tensor::<1>::from_data([0.0, 2.0, 200.0, -200.0], &Device::flex());
        let expected = std::f32::consts::LN_2 + (1.0f32 + 2.0f32.exp()).ln();
        assert!((value(objectness_loss(logits.clone(), &[0], &[1])) - expected).abs() < 1e-5);
        assert!((value(objectness_loss(logits.clone(), &[3], &[2])) - 400.0).abs() < 1e-3);
        assert_eq!(value(objectness_loss(logits, &[], &[])), 0.0);
    }

    #[test]
    fn classification_loss_is_the_mean_negative_log_probability() {
        let logits = Tensor::<2>::from_data([[0.0, 0.0], [0.0, 3.0f32.ln()]], &Device::flex());
        let expected = (2.0f32.ln() + 4.0f32.ln()) / 2.0;
        assert!((value(classification_loss(logits, &[1, 0])) - expected).abs() < 1e-5);
    }

    #[test]
    fn no_rows_give_a_zero_with_a_zero_gradient() {
        let deltas = Tensor::<2>::ones([3, 4], &Device::flex().autodiff()).require_grad();
        let loss = box_loss(deltas.clone(), &[], &[], 0.0);
        let gradients = loss.clone().backward();
        assert_eq!(value(loss), 0.0);
        assert_eq!(deltas.grad(&gradients).unwrap().abs().sum().into_scalar::<f32>(), 0.0);
    }
}
