//! Levels of regions and their pooled features: `fixtures/detection`, `fixtures/detection_parts`.

use crate::device::device;
use std::collections::BTreeMap;

use scrl_transfer::detection::{DetectorConfig, Pooler, RoiHeadsConfig, Variant};
use serde::Deserialize;

use crate::support::*;

#[derive(Deserialize)]
struct Fixture {
    levels: LevelCase,
}

#[derive(Deserialize)]
struct LevelCase {
    boxes: Vec<[f32; 4]>,
    levels: BTreeMap<String, Vec<usize>>,
}

#[test]
fn pooling_levels_are_those_of_torchvision() {
    let case = fixture::<Fixture>("detection/detection.json").levels;
    for (canonical, expected) in case.levels {
        let config = DetectorConfig {
            roi_heads: RoiHeadsConfig {
                canonical_box_size: canonical.parse().unwrap(),
                ..Default::default()
            },
            ..Default::default()
        };
        let found: Vec<usize> = boxes(&case.boxes).iter().map(|b| Pooler::new(&config).level(b)).collect();
        assert_eq!(found, expected, "canonical size {canonical}");
    }
}

#[derive(Deserialize)]
struct Pooled {
    rois: Vec<Vec<[f32; 4]>>,
    torchvision: Vec<f32>,
    aligned: Vec<f32>,
}

#[test]
fn pooled_features_are_torchvisions_and_with_detectron2s_alignment_detectron2s() {
    let case: Pooled = fixture("detection_parts/pooler.json");
    let features = feature_maps(&[2; 4], &device());
    for (variant, expected) in [(Variant::Torchvision, case.torchvision), (Variant::Detectron2, case.aligned)]
    {
        let pooler = Pooler::new(&DetectorConfig {
            roi_heads: RoiHeadsConfig { canonical_box_size: 56.0, ..variant.config().roi_heads },
            ..variant.config()
        });
        // Sampling points are at most 140 cells from the origin in f32.
        let (pooled, rows) = pooler.forward(&features, &rois(&case.rois));
        let pooled = floats(pooled);
        let regions: Vec<&[f32]> = pooled.chunks_exact(pooled.len() / rows.len()).collect();
        let in_order: Vec<f32> = rows.iter().flat_map(|row| regions[*row]).copied().collect();
        assert_near(&in_order, &expected, 2e-5);
    }
}
