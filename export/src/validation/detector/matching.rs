//! Pairs the detections of the model's filter with those of ONNX Runtime's.
//!
//! Both decide from the same scores and deltas, but compute the boxes and their overlaps each in its own way, in 32 bits. Where
//! a decision depends on the last of these, as when two boxes overlap by exactly the limit, either answer is right: such a tie
//! is recognised by the numbers that decide it, counted, and no failure.

use scrl_core::structures::BoxXyxy;
use scrl_transfer::detection::{Detection, DetectorConfig};
use serde::Serialize;

use super::DetectorTolerance;

/// Largest and mean absolute difference of matched numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Errors {
    /// Largest.
    pub max: f64,
    /// Mean.
    pub mean: f64,
    /// How many differences.
    pub count: usize,
}

impl Errors {
    /// Adds one difference; NaN counts as infinite.
    pub fn add(&mut self, difference: f64) {
        let difference = if difference.is_nan() { f64::INFINITY } else { difference.abs() };
        self.max = self.max.max(difference);
        self.mean = (self.mean * self.count as f64 + difference) / (self.count + 1) as f64;
        self.count += 1;
    }

    /// Adds the differences of another.
    pub fn merge(&mut self, other: &Errors) {
        let count = self.count + other.count;
        if count > 0 {
            let sum = self.mean * self.count as f64 + other.mean * other.count as f64;
            *self = Self { max: self.max.max(other.max), mean: sum / count as f64, count };
        }
    }
}

/// Boxes that overlap by more are one box with an error, not two of which either may win.
const SAME_BOX: f64 = 0.95;

/// What became of the detections of one or more images.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Matches {
    /// Pairs within the tolerance.
    pub matched: usize,
    /// Detections found by one side only, because of a tie.
    pub ties: usize,
    /// Detections found by one side only, which no tie explains.
    pub unexplained: usize,
    /// Of the corners of matched boxes, in pixels.
    pub boxes: Errors,
    /// Of the scores of matched boxes.
    pub scores: Errors,
}

impl Matches {
    /// Whether at most one tie in a hundred detections was decided otherwise. A tie that is leaves one detection without a
    /// partner on either side.
    pub fn ties_are_rare(&self) -> bool {
        let detections = self.matched + self.ties / 2;
        self.ties * 100 <= 2 * detections.max(100)
    }

    /// Adds another image's.
    pub fn merge(&mut self, other: &Matches) {
        self.matched += other.matched;
        self.ties += other.ties;
        self.unexplained += other.unexplained;
        self.boxes.merge(&other.boxes);
        self.scores.merge(&other.scores);
    }
}

/// Pairs one image's detections: of the same class, within the tolerance, that of corners being `pixels`.
pub(super) fn compare(
    expected: &[Detection],
    found: &[Detection],
    config: &DetectorConfig,
    tolerance: &DetectorTolerance,
    pixels: f64,
) -> Matches {
    let mut matches = Matches::default();
    let mut free = vec![true; found.len()];
    let mut alone = Vec::new();
    for detection in expected {
        let near = |&index: &usize| free[index] && is_near(detection, &found[index], tolerance, pixels);
        let distance = |&index: &usize| corner_distance(&detection.bbox, &found[index].bbox);
        let nearest = (0..found.len()).filter(near).min_by(|a, b| distance(a).total_cmp(&distance(b)));
        match nearest {
            Some(index) => {
                free[index] = false;
                matches.matched += 1;
                matches.boxes.add(f64::from(distance(&index)));
                matches.scores.add(f64::from(detection.score - found[index].score));
            }
            None => alone.push(detection),
        }
    }
    let lost = alone.into_iter().map(|detection| (detection, found));
    let new = (0..found.len()).filter(|&index| free[index]).map(|index| (&found[index], expected));
    let alone: Vec<(&Detection, &[Detection])> = lost.chain(new).collect();
    let ties = find_ties(&alone, config, tolerance);
    matches.ties = ties.iter().filter(|&&tie| tie).count();
    matches.unexplained = alone.len() - matches.ties;
    matches
}

/// Which of these, each with the other side's list, are explained by a tie: their own, or because one that does suppresses them
/// on the other side.
fn find_ties(
    alone: &[(&Detection, &[Detection])],
    config: &DetectorConfig,
    tolerance: &DetectorTolerance,
) -> Vec<bool> {
    let mut ties: Vec<bool> =
        alone.iter().map(|(detection, others)| is_tie(detection, others, config, tolerance)).collect();
    loop {
        let follows = |index: usize| {
            let (detection, others) = alone[index];
            let suppressors = (0..alone.len()).filter(|&other| ties[other]).map(|other| alone[other].0);
            let on_other_side = |tie: &&Detection| others.iter().any(|other| std::ptr::eq(other, *tie));
            !ties[index]
                && suppressors
                    .filter(on_other_side)
                    .any(|tie| may_suppress(tie, detection, config, tolerance))
        };
        let Some(next) = (0..alone.len()).find(|&index| follows(index)) else { break };
        ties[next] = true;
    }
    ties
}

/// Whether `a` may keep `b` out of the list: of its class, at least as good, and overlapping it by the limit or more.
fn may_suppress(
    a: &Detection,
    b: &Detection,
    config: &DetectorConfig,
    tolerance: &DetectorTolerance,
) -> bool {
    a.class == b.class
        && f64::from(a.score) >= f64::from(b.score) - tolerance.scores
        && f64::from(a.bbox.iou(&b.bbox)) >= f64::from(config.test.nms) - tolerance.overlap
}

fn is_near(a: &Detection, b: &Detection, tolerance: &DetectorTolerance, pixels: f64) -> bool {
    a.class == b.class
        && f64::from((a.score - b.score).abs()) <= tolerance.scores
        && f64::from(corner_distance(&a.bbox, &b.bbox)) <= pixels
}

/// Largest difference of two boxes' coordinates.
pub(super) fn corner_distance(a: &BoxXyxy, b: &BoxXyxy) -> f32 {
    let differences = a.to_array().into_iter().zip(b.to_array()).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |a, b| if b.is_nan() { f32::INFINITY } else { a.max(b) })
}

/// Whether the absence of `detection` from `others` is explained by a tie of its own: its score is at the threshold or at that of
/// the last of a full list, or one of `others` that may suppress it overlaps it by just the limit, or is another box that is
/// just as good.
fn is_tie(
    detection: &Detection,
    others: &[Detection],
    config: &DetectorConfig,
    tolerance: &DetectorTolerance,
) -> bool {
    let score = f64::from(detection.score);
    let full = others.len() == config.test.detections_per_image;
    let last = others.last().map_or(0.0, |last| f64::from(last.score));
    let hangs = |other: &Detection| {
        let overlap = f64::from(other.bbox.iou(&detection.bbox));
        let equally_good = f64::from(other.score) <= score + tolerance.scores && overlap <= SAME_BOX;
        may_suppress(other, detection, config, tolerance)
            && (overlap <= f64::from(config.test.nms) + tolerance.overlap || equally_good)
    };
    score <= f64::from(config.test.score_threshold) + tolerance.scores
        || (full && score <= last + tolerance.scores)
        || others.iter().any(hangs)
}

/// How many boxes of either list have no partner within the tolerance in the other.
pub(super) fn unmatched_boxes(a: &[BoxXyxy], b: &[BoxXyxy], tolerance: f64) -> usize {
    let mut free = vec![true; b.len()];
    let mut lost = 0;
    for bbox in a {
        let near = |&index: &usize| free[index] && f64::from(corner_distance(bbox, &b[index])) <= tolerance;
        match (0..b.len()).find(near) {
            Some(index) => free[index] = false,
            None => lost += 1,
        }
    }
    lost + free.into_iter().filter(|free| *free).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use scrl_transfer::detection::TestConfig;

    const TOLERANCE: DetectorTolerance =
        DetectorTolerance { boxes: 1e-3, scores: 0.01, overlap: 0.01, tensors: 1e-4 };
    /// Of corners.
    const PIXELS: f64 = 0.1;

    fn detection(x: f32, score: f32) -> Detection {
        Detection { bbox: BoxXyxy::new(x, 0.0, x + 10.0, 10.0), class: 0, score, mask: None }
    }

    fn compare_lists(expected: &[Detection], found: &[Detection], limit: usize) -> [usize; 3] {
        let config = DetectorConfig {
            test: TestConfig { detections_per_image: limit, nms: 0.6, ..Default::default() },
            ..Default::default()
        };
        let found = compare(expected, found, &config, &TOLERANCE, PIXELS);
        [found.matched, found.ties, found.unexplained]
    }

    #[test]
    fn equal_detections_match_in_any_order_and_their_errors_are_measured() {
        let config = DetectorConfig::default();
        let expected = [detection(0.0, 0.9), detection(50.0, 0.8)];
        let found = [detection(50.05, 0.805), detection(0.0, 0.9)];
        let matches = compare(&expected, &found, &config, &TOLERANCE, PIXELS);
        assert_eq!((matches.matched, matches.ties, matches.unexplained), (2, 0, 0));
        assert!((matches.boxes.max - 0.05).abs() < 1e-4 && (matches.boxes.mean - 0.025).abs() < 1e-4);
        assert!((matches.scores.max - 0.005).abs() < 1e-4);
    }

    #[test]
    fn another_class_place_or_score_is_no_match() {
        let one = [detection(0.0, 0.9)];
        assert_eq!(compare_lists(&one, &[Detection { class: 1, ..one[0].clone() }], 9), [0, 0, 2]);
        assert_eq!(compare_lists(&one, &[detection(0.2, 0.9)], 9), [0, 0, 2]);
        assert_eq!(compare_lists(&one, &[detection(0.0, 0.8)], 9), [0, 0, 2]);
        assert_eq!(compare_lists(&one, &[], 9), [0, 0, 1]);
        assert_eq!(compare_lists(&one, &[detection(f32::NAN, 0.9)], 9), [0, 0, 2]);
    }

    #[test]
    fn a_detection_at_the_threshold_or_the_limit_may_be_missing() {
        assert_eq!(compare_lists(&[detection(0.0, 0.055)], &[], 9), [0, 1, 0]);
        let expected = [detection(0.0, 0.9), detection(50.0, 0.5)];
        let found = [detection(0.0, 0.9), detection(90.0, 0.505)];
        assert_eq!(compare_lists(&expected, &found, 2), [1, 2, 0]);
        assert_eq!(compare_lists(&expected, &found, 9), [1, 0, 2]);
    }

    #[test]
    fn a_detection_that_overlaps_a_better_one_by_the_limit_may_be_missing() {
        // Shifted by 2.5 of 10: 7.5 / 12.5 is the limit of 0.6.
        let both = [detection(0.0, 0.9), detection(2.5, 0.7)];
        assert_eq!(compare_lists(&both, &both[..1], 9), [1, 1, 0]);
        assert_eq!(compare_lists(&both[..1], &both, 9), [1, 1, 0]);
        let apart = [detection(0.0, 0.9), detection(4.0, 0.7)];
        assert_eq!(compare_lists(&apart, &apart[..1], 9), [1, 0, 1]);
    }

    #[test]
    fn of_two_that_suppress_each_other_and_are_equally_good_either_may_stay() {
        // Shifted by 1 of 10: 9 / 11 is above the limit of 0.6.
        assert_eq!(compare_lists(&[detection(0.0, 0.9)], &[detection(1.0, 0.905)], 9), [0, 2, 0]);
        assert_eq!(compare_lists(&[detection(0.0, 0.9)], &[detection(1.0, 0.95)], 9), [0, 0, 2]);
    }

    #[test]
    fn what_only_the_loser_of_a_tie_suppresses_may_come_back() {
        // The first and the second tie; the third overlaps only the second by more than the limit, 8 / 12.
        let second = [detection(1.0, 0.905)];
        let first_and_third = [detection(0.0, 0.9), detection(3.0, 0.5)];
        assert_eq!(compare_lists(&second, &first_and_third, 9), [0, 3, 0]);
        // Without a tie nothing brings it back.
        let second_and_third = [detection(1.0, 0.905), detection(3.0, 0.5)];
        assert_eq!(compare_lists(&second, &second_and_third, 9), [1, 0, 1]);
    }

    #[test]
    fn boxes_without_a_partner_are_counted_on_both_sides() {
        let boxes = |xs: &[f32]| xs.iter().map(|&x| detection(x, 0.5).bbox).collect::<Vec<_>>();
        assert_eq!(unmatched_boxes(&boxes(&[0.0, 5.0, 9.0]), &boxes(&[5.01, 0.0]), 0.1), 1);
        assert_eq!(unmatched_boxes(&boxes(&[0.0]), &boxes(&[3.0, 4.0]), 0.1), 3);
    }
}
