//! The model's filters on scores and deltas of all images.
//!
//! Tensors of another shape than the model's give no boxes; the comparison of the tensors has failed then.

use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};
use scrl_core::structures::{BoxXyxy, Size};
use scrl_transfer::detection::{
    Anchors, Detection, DetectorConfig, ProposalFilter, Roi, detections as filter_detections,
    retinanet_detections,
};

/// Where small tensors of the host are computed with.
pub(super) fn device() -> Device {
    Device::default()
}

pub(super) fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// The model's proposals from scores and deltas of all images.
pub(super) fn propose(
    objectness: &[f32],
    deltas: &[f32],
    anchors: &Anchors,
    sizes: &[Size],
    config: &DetectorConfig,
) -> Vec<Vec<BoxXyxy>> {
    let count = anchors.boxes.len();
    let (deltas, _) = deltas.as_chunks::<4>();
    let filter = ProposalFilter::test(config);
    let of_image = |(image, &size): (usize, &Size)| {
        let range = image * count..(image + 1) * count;
        match (objectness.get(range.clone()), deltas.get(range)) {
            (Some(objectness), Some(deltas)) => filter.select(objectness, deltas, anchors, size),
            // Tensors of another shape fail their own comparison.
            _ => Vec::new(),
        }
    };
    sizes.iter().enumerate().map(of_image).collect()
}

/// The model's detections from the logits and deltas of all regions.
pub(super) fn detect(
    logits: Vec<f32>,
    deltas: &[f32],
    rois: &[Roi],
    sizes: &[Size],
    config: &DetectorConfig,
) -> Vec<Vec<Detection>> {
    let columns = config.num_classes + 1;
    let (deltas, _) = deltas.as_chunks::<4>();
    if logits.len() != rois.len() * columns || deltas.len() != rois.len() * columns {
        return vec![Vec::new(); sizes.len()];
    }
    let logits = Tensor::<2>::from_data(TensorData::new(logits, [rois.len(), columns]), &device());
    filter_detections(&host(softmax(logits, 1)), deltas, rois, sizes, config)
}

/// RetinaNet's detections from the probabilities and deltas of all anchors.
pub(super) fn retinanet_of_all(
    probabilities: &[f32],
    deltas: &[f32],
    anchors: &Anchors,
    sizes: &[Size],
    config: &DetectorConfig,
) -> Vec<Vec<Detection>> {
    let (count, classes) = (anchors.boxes.len(), config.num_classes);
    let (deltas, _) = deltas.as_chunks::<4>();
    let of_image = |(image, &size): (usize, &Size)| {
        let scores = probabilities.get(image * count * classes..(image + 1) * count * classes);
        match (scores, deltas.get(image * count..(image + 1) * count)) {
            (Some(scores), Some(deltas)) => retinanet_detections(scores, deltas, anchors, size, config),
            _ => Vec::new(),
        }
    };
    sizes.iter().enumerate().map(of_image).collect()
}
