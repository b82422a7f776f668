//! Detections from the predictor's output: `fixtures/detection_parts`.

use scrl_transfer::detection::{DetectorConfig, detections};
use serde::Deserialize;

use crate::support::*;

#[derive(Deserialize)]
struct Fixture {
    rois: Vec<Vec<[f32; 4]>>,
    sizes: Vec<[u32; 2]>,
    probabilities: Vec<[f32; 4]>,
    deltas: Vec<[f32; 16]>,
    found: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    boxes: Vec<[f32; 4]>,
    scores: Vec<f32>,
    labels: Vec<usize>,
}

#[test]
fn boxes_scores_and_classes_are_torchvisions_in_its_order() {
    let case: Fixture = fixture("detection_parts/postprocess.json");
    let config = DetectorConfig { num_classes: 3, ..DetectorConfig::torchvision() };
    let (deltas, _) = case.deltas.as_flattened().as_chunks::<4>();
    let probabilities = case.probabilities.as_flattened();
    let found = detections(probabilities, deltas, &rois(&case.rois), &sizes(&case.sizes), &config);
    assert_eq!(found.len(), case.found.len());
    for (found, expected) in found.iter().zip(&case.found) {
        let labels: Vec<usize> = found.iter().map(|detection| detection.class + 1).collect();
        assert_eq!(labels, expected.labels);
        assert_near(&found.iter().map(|d| d.score).collect::<Vec<_>>(), &expected.scores, 1e-6);
        let boxes: Vec<[f32; 4]> = found.iter().map(|detection| detection.bbox.to_array()).collect();
        assert_near(boxes.as_flattened(), expected.boxes.as_flattened(), 1e-5);
    }
}
