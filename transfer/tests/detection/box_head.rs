//! The box head on pooled regions: `fixtures/detection_parts`.

use crate::device::device;
use scrl_core::random::stream;
use scrl_transfer::detection::{
    BoxHead, BoxPredictor, DetectorConfig, FpnConfig, Pooler, RoiHeads, RoiHeadsConfig,
};
use serde::Deserialize;

use crate::support::*;

#[derive(Deserialize)]
struct Fixture {
    rois: Vec<Vec<[f32; 4]>>,
    logits: Vec<[f32; 4]>,
    deltas: Vec<[f32; 16]>,
}

#[test]
fn logits_and_deltas_of_each_region_are_torchvisions() {
    let case: Fixture = fixture("detection_parts/box_head.json");
    let device = device();
    let config = DetectorConfig {
        fpn: FpnConfig { channels: 6, ..DetectorConfig::torchvision().fpn },
        roi_heads: RoiHeadsConfig {
            box_head_dim: 8,
            canonical_box_size: 56.0,
            ..DetectorConfig::torchvision().roi_heads
        },
        num_classes: 3,
        ..DetectorConfig::torchvision()
    };
    let RoiHeads { box_head, box_predictor, .. } = RoiHeads::init(&config, &mut stream(0, &[]), &device);
    let box_head: BoxHead = filled(box_head, half_noise(40));
    let box_predictor: BoxPredictor = filled(box_predictor, half_noise(50));
    let heads = RoiHeads { box_head, box_predictor, mask_head: None, mask_predictor: None };
    let features = feature_maps(&[6; 4], &device);
    let found = heads.predict(&features, &rois(&case.rois), Pooler::new(&config));
    assert_near(&floats(found.logits), case.logits.as_flattened(), 1e-5);
    assert_near(&floats(found.deltas), case.deltas.as_flattened(), 1e-5);
}
