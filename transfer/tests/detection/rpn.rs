//! The region proposal network, its proposals and its losses: `fixtures/detection_parts`.

use crate::device::device;
use std::collections::BTreeMap;

use scrl_core::random::stream;
use scrl_core::structures::Size;
use scrl_ops::Group;
use scrl_transfer::detection::{
    AnchorConfig, AnchorGenerator, Anchors, DetectorConfig, FpnConfig, ProposalFilter, Rpn, RpnConfig,
    RpnPredictions, Target,
};
use serde::Deserialize;

use crate::support::*;

#[derive(Deserialize)]
struct Fixture {
    every: usize,
    objectness: Vec<f32>,
    deltas: Vec<[f32; 4]>,
    proposals: Vec<Vec<[f32; 4]>>,
    training_proposals: Vec<Vec<[f32; 4]>>,
    losses: BTreeMap<String, f32>,
}

const CHANNELS: usize = 6;
const SIZES: [Size; 2] = [Size { width: 131, height: 97 }, Size { width: 120, height: 100 }];

fn config() -> DetectorConfig {
    DetectorConfig {
        fpn: FpnConfig { channels: CHANNELS, ..DetectorConfig::torchvision().fpn },
        anchors: AnchorConfig {
            sizes: vec![16.0, 32.0, 64.0, 96.0, 128.0],
            ..DetectorConfig::torchvision().anchors
        },
        rpn: RpnConfig {
            pre_nms_train: 60,
            pre_nms_test: 40,
            post_nms_train: 50,
            post_nms_test: 30,
            batch: 100_000,
            ..DetectorConfig::torchvision().rpn
        },
        num_classes: 3,
        ..DetectorConfig::torchvision()
    }
}

fn predictions() -> (Anchors, RpnPredictions) {
    let device = device();
    let rpn = filled(Rpn::init(&config(), &mut stream(0, &[]), &device), |name, shape, key| {
        assert!(name.starts_with("head."));
        half_noise(30)(name, shape, key)
    });
    let predictions = rpn.forward(&feature_maps(&[CHANNELS; 5], &device));
    (AnchorGenerator::new(&config()).generate([100, 132], &GRIDS), predictions)
}

#[test]
fn scores_and_deltas_are_torchvisions_in_the_order_of_the_anchors() {
    let case: Fixture = fixture("detection_parts/rpn.json");
    let (anchors, RpnPredictions { objectness, deltas, grids }) = predictions();
    assert_eq!(grids, GRIDS);
    assert_eq!(objectness.dims(), [2 * anchors.boxes.len()]);
    let objectness: Vec<f32> = floats(objectness).into_iter().step_by(case.every).collect();
    assert_near(&objectness, &case.objectness, 1e-5);
    let deltas = floats(deltas);
    let deltas: Vec<f32> = deltas.as_chunks::<4>().0.iter().step_by(case.every).flatten().copied().collect();
    assert_near(&deltas, case.deltas.as_flattened(), 1e-5);
}

#[test]
fn proposals_of_training_and_detection_are_torchvisions() {
    let case: Fixture = fixture("detection_parts/rpn.json");
    let (anchors, predictions) = predictions();
    let filters = [
        (ProposalFilter::test(&config()), case.proposals),
        (ProposalFilter::training(&config()), case.training_proposals),
    ];
    for (filter, expected) in filters {
        let found = predictions.proposals(&anchors, &SIZES, &filter);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            let found: Vec<[f32; 4]> = found.iter().map(|b| b.to_array()).collect();
            // Pixels of images of 131: f32 of two orders of operations.
            assert_near(found.as_flattened(), expected.as_flattened(), 1e-4);
        }
    }
}

#[test]
fn losses_of_all_anchors_are_torchvisions() {
    let expected = fixture::<Fixture>("detection_parts/rpn.json").losses;
    let (anchors, predictions) = predictions();
    let first = [[10.0, 12.0, 50.0, 60.0], [60.0, 20.0, 120.0, 90.0]];
    let targets = [
        Target { boxes: boxes(&first), labels: vec![0, 2], masks: Vec::new() },
        Target { boxes: boxes(&[[5.0, 8.0, 45.0, 40.0]]), labels: vec![1], masks: Vec::new() },
    ];
    // torchvision's sampler takes half of a batch of 100,000 at most from the foreground: all of it.
    let losses = predictions.losses(&anchors, &targets, &config(), &Group::ALONE, &mut stream(0, &[]));
    let relative = |found: f32, name: &str| (found / expected[name] - 1.0).abs();
    assert!(relative(losses.objectness.into_scalar::<f32>(), "loss_objectness") < 1e-5);
    assert!(relative(losses.boxes.into_scalar::<f32>(), "loss_rpn_box_reg") < 1e-4);
    assert!(losses.foreground >= 3);
}
