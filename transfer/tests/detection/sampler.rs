//! Sampling: `fixtures/detection_parts`.

use scrl_core::random::stream;
use scrl_transfer::detection::{Match, Sampler};
use serde::Deserialize;

use crate::support::*;

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    positive: usize,
    negative: usize,
    ignored: usize,
    batch: usize,
    fraction: f64,
    drawn: [usize; 2],
}

#[test]
fn as_many_candidates_are_drawn_of_each_kind_as_by_torchvision() {
    for case in fixture::<Fixture>("detection_parts/sampler.json").cases {
        let kinds = [
            (Match::Target(0), case.positive),
            (Match::Background, case.negative),
            (Match::Ignored, case.ignored),
        ];
        let matches: Vec<Match> = kinds.into_iter().flat_map(|(kind, count)| vec![kind; count]).collect();
        let sampler = Sampler { batch: case.batch, positive_fraction: case.fraction };
        let drawn = sampler.draw(&matches, &mut stream(3, &[]));
        assert_eq!([drawn.positive.len(), drawn.negative.len()], case.drawn);
    }
}
