//! Deltas of boxes: `fixtures/detection`.

use scrl_transfer::detection::BoxCoder;
use serde::Deserialize;

use crate::support::*;

#[derive(Deserialize)]
struct Fixture {
    coder: CoderCase,
}

#[derive(Deserialize)]
struct CoderCase {
    proposals: Vec<[f32; 4]>,
    targets: Vec<[f32; 4]>,
    deltas: Vec<[f32; 4]>,
    cases: Vec<WeightedCoderCase>,
}

#[derive(Deserialize)]
struct WeightedCoderCase {
    weights: [f32; 4],
    encoded: Vec<[f32; 4]>,
    decoded: Vec<[f32; 4]>,
}

#[test]
fn box_deltas_are_those_of_torchvision() {
    let CoderCase { proposals, targets, deltas, cases } =
        fixture::<Fixture>("detection/detection.json").coder;
    for case in cases {
        let coder = BoxCoder { weights: case.weights };
        for (index, &proposal) in proposals.iter().enumerate() {
            let encoded = coder.encode(&bbox(proposal), &bbox(targets[index]));
            assert_near(&encoded, &case.encoded[index], 1e-5);
            let decoded = coder.decode(&bbox(proposal), deltas[index]);
            assert_near(&decoded.to_array(), &case.decoded[index], 1e-5);
        }
    }
}
