//! The loss terms: `fixtures/detection_parts`.

use crate::device::device;
use burn::tensor::{Tensor, TensorData};
use scrl_transfer::detection::{Variant, box_loss, classification_loss, objectness_loss};
use serde::Deserialize;

use crate::support::*;

#[derive(Deserialize)]
struct Fixture {
    logits: Vec<[f32; 4]>,
    deltas: Vec<[f32; 16]>,
    labels: Vec<usize>,
    targets: Vec<[f32; 4]>,
    classifier: f32,
    boxes: f32,
    objectness: Objectness,
}

#[derive(Deserialize)]
struct Objectness {
    logits: Vec<f32>,
    positive: Vec<usize>,
    negative: Vec<usize>,
    loss: f32,
}

fn tensor<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), &device())
}

#[test]
fn the_box_heads_losses_are_torchvisions() {
    let case: Fixture = fixture("detection_parts/losses.json");
    let rois = case.labels.len();
    let classifier = classification_loss(tensor(case.logits.as_flattened(), [rois, 4]), &case.labels);
    assert_near(&[classifier.into_scalar::<f32>()], &[case.classifier], 1e-6);
    let foreground: Vec<usize> = (0..rois).filter(|&roi| case.labels[roi] > 0).collect();
    let rows: Vec<usize> = foreground.iter().map(|&roi| roi * 4 + case.labels[roi]).collect();
    let targets: Vec<[f32; 4]> = foreground.iter().map(|&roi| case.targets[roi]).collect();
    let beta = Variant::Torchvision.numerics().smooth_l1_beta;
    let boxes = box_loss(tensor(case.deltas.as_flattened(), [rois * 4, 4]), &rows, &targets, beta);
    assert_near(&[boxes.into_scalar::<f32>() / rois as f32], &[case.boxes], 1e-6);
}

#[test]
fn the_objectness_loss_is_torchvisions() {
    let case = fixture::<Fixture>("detection_parts/losses.json").objectness;
    let sum = objectness_loss(tensor(&case.logits, [case.logits.len()]), &case.positive, &case.negative);
    let sampled = case.positive.len() + case.negative.len();
    assert_near(&[sum.into_scalar::<f32>() / sampled as f32], &[case.loss], 1e-6);
}
