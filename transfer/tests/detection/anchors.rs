//! Anchors: `fixtures/detection`.

use scrl_transfer::detection::{AnchorConfig, AnchorGenerator, DetectorConfig};
use serde::Deserialize;

use crate::support::*;

#[derive(Deserialize)]
struct Fixture {
    anchors: Vec<AnchorCase>,
}

#[derive(Deserialize)]
struct AnchorCase {
    sizes: Vec<f32>,
    image: [usize; 2],
    grids: Vec<[usize; 2]>,
    boxes: Vec<[f32; 4]>,
    every: usize,
}

#[test]
fn anchors_are_those_of_torchvision() {
    for case in fixture::<Fixture>("detection/detection.json").anchors {
        let sizes = [case.sizes, vec![1.0; 5]].concat()[..5].to_vec();
        let config = DetectorConfig {
            anchors: AnchorConfig { sizes, ..DetectorConfig::torchvision().anchors },
            ..DetectorConfig::torchvision()
        };
        let anchors = AnchorGenerator::new(&config).generate(case.image, &case.grids);
        let chosen: Vec<_> = anchors.boxes.iter().step_by(case.every).collect();
        assert_eq!(chosen.len(), case.boxes.len());
        for (anchor, expected) in chosen.into_iter().zip(case.boxes) {
            assert_eq!(anchor.to_array(), expected);
        }
    }
}
