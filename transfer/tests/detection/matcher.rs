//! Matching: `fixtures/detection`.

use scrl_transfer::detection::{Match, Matcher};
use serde::Deserialize;

use crate::support::*;

#[derive(Deserialize)]
struct Fixture {
    matcher: MatcherCase,
}

#[derive(Deserialize)]
struct MatcherCase {
    candidates: Vec<[f32; 4]>,
    targets: Vec<[f32; 4]>,
    strict: Vec<i64>,
    low_quality: Vec<i64>,
}

#[test]
fn matches_are_those_of_torchvision() {
    let case = fixture::<Fixture>("detection/detection.json").matcher;
    let code = |found: &Match| match found {
        Match::Target(index) => *index as i64,
        Match::Background => -1,
        Match::Ignored => -2,
    };
    for (matcher, expected) in [(Matcher::PROPOSALS, case.strict), (Matcher::ANCHORS, case.low_quality)] {
        let found = matcher.assign(&boxes(&case.candidates), &boxes(&case.targets));
        assert_eq!(found.iter().map(code).collect::<Vec<_>>(), expected);
    }
}
