//! The feature pyramid: `fixtures/detection_parts`.

use crate::device::device;
use scrl_core::models::Features;
use scrl_core::random::stream;
use scrl_transfer::detection::{Fpn, Top};
use serde::Deserialize;

use crate::support::*;

#[derive(Deserialize)]
struct Fixture {
    inputs: [usize; 4],
    shapes: Vec<[usize; 4]>,
    every: usize,
    values: Vec<Vec<f32>>,
}

#[test]
fn pyramids_of_odd_grids_are_those_of_torchvision() {
    let case: Fixture = fixture("detection_parts/fpn.json");
    let device = device();
    let fpn = Fpn::init(case.inputs, case.shapes[0][1], false, Top::MaxPool, &mut stream(0, &[]), &device);
    let maps: [_; 4] = feature_maps(&case.inputs, &device).try_into().unwrap();
    let [c2, c3, c4, c5] = maps;
    let outputs = filled(fpn, half_noise(0)).forward(&Features::new(vec![c2, c3, c4, c5]));
    assert_eq!(outputs.len(), 5);
    for ((output, shape), expected) in outputs.into_iter().zip(case.shapes).zip(case.values) {
        assert_eq!(output.dims(), shape);
        let values: Vec<f32> = floats(output).into_iter().step_by(case.every).collect();
        assert_near(&values, &expected, 1e-5);
    }
}
