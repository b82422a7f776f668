//! Which candidate boxes stand for which target.

use scrl_core::structures::BoxXyxy;

/// What a candidate box (an anchor or a proposal) stands for in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The target with this index.
    Target(usize),
    /// No target overlaps it enough: it should be classified as background.
    Background,
    /// Neither: it takes no part in the loss.
    Ignored,
}

/// Assigns candidates to targets by IoU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matcher {
    /// From this IoU on a candidate is its best target's.
    pub high: f32,
    /// Below this IoU with every target it is background.
    pub low: f32,
    /// Whether each target's best candidates are matched although their IoU is below `high`.
    pub allow_low_quality: bool,
}

impl Matcher {
    /// The region proposal network's.
    pub const ANCHORS: Matcher = Matcher { high: 0.7, low: 0.3, allow_low_quality: true };
    /// RetinaNet's.
    pub const RETINANET: Matcher = Matcher { high: 0.5, low: 0.4, allow_low_quality: true };
    /// The box head's.
    pub const PROPOSALS: Matcher = Matcher { high: 0.5, low: 0.5, allow_low_quality: false };

    /// One entry a candidate. Without targets all are background. A target that no candidate touches matches nothing.
    pub fn assign(&self, candidates: &[BoxXyxy], targets: &[BoxXyxy]) -> Vec<Match> {
        let mut best_of_target = vec![0.0f32; targets.len()];
        let best: Vec<Best> =
            candidates.iter().map(|candidate| best_target(candidate, targets, &mut best_of_target)).collect();
        let mut matches: Vec<Match> = best.iter().map(|best| self.by_threshold(best)).collect();
        if self.allow_low_quality {
            add_low_quality(&mut matches, candidates, targets, &best, &best_of_target);
        }
        matches
    }

    fn by_threshold(&self, best: &Best) -> Match {
        match best.iou {
            iou if iou < self.low => Match::Background,
            iou if iou < self.high => Match::Ignored,
            _ => Match::Target(best.target),
        }
    }
}

/// A candidate's best target; of equal ones the first.
struct Best {
    target: usize,
    iou: f32,
}

fn best_target(candidate: &BoxXyxy, targets: &[BoxXyxy], best_of_target: &mut [f32]) -> Best {
    let mut best = Best { target: 0, iou: 0.0 };
    for (target, (b, best_here)) in targets.iter().zip(best_of_target).enumerate() {
        let iou = b.iou(candidate);
        *best_here = best_here.max(iou);
        if iou > best.iou {
            best = Best { target, iou };
        }
    }
    best
}

/// A candidate that is the best of some target (or ties with it) goes to its own best target.
fn add_low_quality(
    matches: &mut [Match],
    candidates: &[BoxXyxy],
    targets: &[BoxXyxy],
    best: &[Best],
    best_of_target: &[f32],
) {
    let reached = |iou: f32| iou > 0.0;
    let least = best_of_target.iter().copied().filter(|&iou| reached(iou)).fold(f32::INFINITY, f32::min);
    for ((found, candidate), best) in matches.iter_mut().zip(candidates).zip(best) {
        // A candidate below every target's best cannot equal one of them.
        let wins = best.iou >= least
            && targets.iter().zip(best_of_target).any(|(b, &top)| reached(top) && b.iou(candidate) == top);
        if wins {
            *found = Match::Target(best.target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(x: f32, side: f32) -> BoxXyxy {
        BoxXyxy::new(x, 0.0, x + side, side)
    }

    #[test]
    fn without_targets_everything_is_background() {
        let found = Matcher::ANCHORS.assign(&[square(0.0, 4.0), square(3.0, 2.0)], &[]);
        assert_eq!(found, [Match::Background; 2]);
    }

    #[test]
    fn thresholds_separate_targets_ignored_and_background() {
        let candidates = [square(0.0, 10.0), square(4.0, 10.0), square(30.0, 10.0)];
        let matcher = Matcher { high: 0.7, low: 0.3, allow_low_quality: false };
        let found = matcher.assign(&candidates, &[square(0.0, 10.0)]);
        assert_eq!(found, [Match::Target(0), Match::Ignored, Match::Background]);
    }

    #[test]
    fn a_poorly_covered_target_still_gets_its_best_candidates_with_ties() {
        let candidates = [square(8.0, 10.0), square(-8.0, 10.0), square(9.0, 10.0)];
        let found = Matcher::ANCHORS.assign(&candidates, &[square(0.0, 10.0)]);
        assert_eq!(found, [Match::Target(0), Match::Target(0), Match::Background]);
    }

    #[test]
    fn a_target_without_area_matches_nothing() {
        let found = Matcher::ANCHORS.assign(&[square(0.0, 10.0)], &[BoxXyxy::new(5.0, 5.0, 5.0, 5.0)]);
        assert_eq!(found, [Match::Background]);
    }
}
