//! Greedy non-maximum suppression on the host, with torchvision's results.
//!
//! Boxes are `[x1, y1, x2, y2]` with `x1 <= x2` and `y1 <= y2`, in any one unit.

use std::collections::HashMap;

#[cfg(feature = "flex")]
use crate::vectorized;

/// Without the CPU kernels, for the build's processor.
#[cfg(not(feature = "flex"))]
fn vectorized<R>(body: impl FnOnce() -> R) -> R {
    body()
}

/// Indices of the kept boxes, by descending score; ties keep the lower index first.
///
/// A box is suppressed when its intersection over union with a kept box of higher rank is above `iou_threshold`.
///
/// # Panics
/// If `boxes` and `scores` differ in length.
pub fn nms(boxes: &[[f32; 4]], scores: &[f32], iou_threshold: f32) -> Vec<usize> {
    assert_eq!(boxes.len(), scores.len(), "nms takes one score a box");
    suppress(boxes, &by_descending_score(scores), iou_threshold)
}

/// [`nms`] within each class; the result is sorted by descending score over all classes.
///
/// # Panics
/// If `boxes`, `scores` and `classes` differ in length.
pub fn batched_nms(boxes: &[[f32; 4]], scores: &[f32], classes: &[usize], iou_threshold: f32) -> Vec<usize> {
    assert_eq!(boxes.len(), scores.len(), "batched_nms takes one score a box");
    assert_eq!(boxes.len(), classes.len(), "batched_nms takes one class a box");
    let order = by_descending_score(scores);
    let mut class_orders: HashMap<usize, Vec<usize>> = HashMap::new();
    for &index in &order {
        class_orders.entry(classes[index]).or_default().push(index);
    }
    let mut kept = vec![false; boxes.len()];
    for class_order in class_orders.values() {
        for index in suppress(boxes, class_order, iou_threshold) {
            kept[index] = true;
        }
    }
    order.into_iter().filter(|&index| kept[index]).collect()
}

/// Stable order of descending scores; a score that is not a number ranks first, as in PyTorch.
fn by_descending_score(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (scores[a], scores[b]);
        b.partial_cmp(&a).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
    });
    order
}

/// Members of `order` that no kept member before them suppresses, in that order.
fn suppress(boxes: &[[f32; 4]], order: &[usize], iou_threshold: f32) -> Vec<usize> {
    let ranked = RankedBoxes::new(boxes, order);
    let mut suppressed = vec![false; order.len()];
    let mut kept = Vec::new();
    vectorized(
        #[inline(always)]
        || {
            for (rank, &index) in order.iter().enumerate() {
                if !suppressed[rank] {
                    kept.push(index);
                    ranked.suppress_below(rank, iou_threshold, &mut suppressed);
                }
            }
        },
    );
    kept
}

/// Coordinates and areas by rank, one array each, so that the inner loop compiles to vector instructions.
struct RankedBoxes {
    x1: Vec<f32>,
    y1: Vec<f32>,
    x2: Vec<f32>,
    y2: Vec<f32>,
    area: Vec<f32>,
}

impl RankedBoxes {
    fn new(boxes: &[[f32; 4]], order: &[usize]) -> Self {
        let column = |axis: usize| order.iter().map(|&index| boxes[index][axis]).collect::<Vec<f32>>();
        let area = |&index: &usize| {
            let [x1, y1, x2, y2] = boxes[index];
            (x2 - x1) * (y2 - y1)
        };
        Self {
            x1: column(0),
            y1: column(1),
            x2: column(2),
            y2: column(3),
            area: order.iter().map(area).collect(),
        }
    }

    /// Marks the boxes after `rank` whose overlap with the box at `rank` is above the threshold.
    #[inline(always)]
    fn suppress_below(&self, rank: usize, iou_threshold: f32, suppressed: &mut [bool]) {
        let (x1, y1, x2, y2) = (self.x1[rank], self.y1[rank], self.x2[rank], self.y2[rank]);
        let area = self.area[rank];
        let first = rank + 1;
        let others = self.x1[first..]
            .iter()
            .zip(&self.y1[first..])
            .zip(&self.x2[first..])
            .zip(&self.y2[first..])
            .zip(&self.area[first..]);
        for (((((&ox1, &oy1), &ox2), &oy2), &other_area), suppressed) in others.zip(&mut suppressed[first..])
        {
            let width = larger(0.0, smaller(x2, ox2) - larger(x1, ox1));
            let height = larger(0.0, smaller(y2, oy2) - larger(y1, oy1));
            let intersection = width * height;
            *suppressed |= intersection / (area + other_area - intersection) > iou_threshold;
        }
    }
}

// C++'s `std::max` and `std::min`, also for NaN; one instruction each.

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a < b { b } else { a }
}

#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if b < a { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};
    use safetensors::SafeTensors;

    const FIXTURE: &[u8] = include_bytes!("../tests/fixtures/nms/nms.safetensors");

    struct Fixture {
        boxes: Vec<[f32; 4]>,
        scores: Vec<f32>,
        classes: Vec<usize>,
    }

    impl Fixture {
        fn load() -> Self {
            let boxes = floats("boxes").chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect();
            Self { boxes, scores: floats("scores"), classes: indices("classes") }
        }
    }

    fn floats(name: &str) -> Vec<f32> {
        bytes(name).as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }

    fn indices(name: &str) -> Vec<usize> {
        bytes(name).as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b) as usize).collect()
    }

    fn bytes(name: &str) -> Vec<u8> {
        SafeTensors::deserialize(FIXTURE).unwrap().tensor(name).unwrap().data().to_vec()
    }

    #[test]
    fn nms_keeps_the_boxes_that_torchvision_keeps_in_the_same_order() {
        let Fixture { boxes, scores, .. } = Fixture::load();
        for threshold in ["0.3", "0.5", "0.7"] {
            let kept = nms(&boxes, &scores, threshold.parse().unwrap());
            assert_eq!(kept, indices(&format!("nms.{threshold}")), "threshold {threshold}");
        }
    }

    #[test]
    fn batched_nms_keeps_the_boxes_that_torchvision_keeps_in_the_same_order() {
        let Fixture { boxes, scores, classes } = Fixture::load();
        for threshold in ["0.3", "0.5", "0.7"] {
            let kept = batched_nms(&boxes, &scores, &classes, threshold.parse().unwrap());
            assert_eq!(kept, indices(&format!("batched_nms.{threshold}")), "threshold {threshold}");
        }
    }

    /// Greedy suppression straight from its definition.
    fn by_definition(boxes: &[[f32; 4]], scores: &[f32], classes: &[usize], threshold: f32) -> Vec<usize> {
        let iou = |a: &[f32; 4], b: &[f32; 4]| {
            let side = |axis: usize| (a[axis + 2].min(b[axis + 2]) - a[axis].max(b[axis])).max(0.0);
            let area = |b: &[f32; 4]| (b[2] - b[0]) * (b[3] - b[1]);
            let intersection = side(0) * side(1);
            intersection / (area(a) + area(b) - intersection)
        };
        let mut order: Vec<usize> = (0..boxes.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let mut kept: Vec<usize> = Vec::new();
        for index in order {
            let covers = |&other: &usize| {
                classes[other] == classes[index] && iou(&boxes[other], &boxes[index]) > threshold
            };
            if !kept.iter().any(covers) {
                kept.push(index);
            }
        }
        kept
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_boxes_are_suppressed_as_defined(
            corners in vec([0u8..40, 0u8..40, 0u8..40, 0u8..40], 0..200),
            threshold in 0.0f32..1.0,
        ) {
            let boxes: Vec<[f32; 4]> = corners
                .iter()
                .map(|&[a, b, c, d]| [a.min(c), b.min(d), a.max(c), b.max(d)].map(f32::from))
                .collect();
            // Scores with many ties.
            let scores: Vec<f32> = corners.iter().map(|c| f32::from(c[0] % 7)).collect();
            let classes: Vec<usize> = corners.iter().map(|c| usize::from(c[1] % 3)).collect();
            let one_class = vec![0; boxes.len()];
            prop_assert_eq!(nms(&boxes, &scores, threshold), by_definition(&boxes, &scores, &one_class, threshold));
            let expected = by_definition(&boxes, &scores, &classes, threshold);
            prop_assert_eq!(batched_nms(&boxes, &scores, &classes, threshold), expected);
        }
    }

    #[test]
    fn an_overlap_equal_to_the_threshold_is_kept_and_one_above_it_is_not() {
        let boxes = [[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 1.0]];
        assert_eq!(nms(&boxes, &[0.9, 0.8], 0.5), [0, 1]);
        assert_eq!(nms(&boxes, &[0.9, 0.8], 0.49), [0]);
    }

    #[test]
    fn a_suppressed_box_suppresses_nothing() {
        let boxes = [[0.0, 0.0, 10.0, 10.0], [4.0, 0.0, 14.0, 10.0], [8.0, 0.0, 18.0, 10.0]];
        assert_eq!(nms(&boxes, &[0.9, 0.8, 0.7], 0.4), [0, 2]);
    }

    #[test]
    fn equal_scores_keep_the_lower_index() {
        let boxes = [[0.0, 0.0, 4.0, 4.0]; 3];
        assert_eq!(nms(&boxes, &[0.5; 3], 0.5), [0]);
        assert_eq!(batched_nms(&boxes, &[0.5; 3], &[7, 2, 7], 0.5), [0, 1]);
    }

    #[test]
    fn boxes_without_area_are_kept_and_no_boxes_give_no_indices() {
        let boxes = [[1.0, 1.0, 1.0, 1.0]; 2];
        assert_eq!(nms(&boxes, &[0.1, 0.2], 0.5), [1, 0]);
        assert!(nms(&[], &[], 0.5).is_empty());
        assert!(batched_nms(&[], &[], &[], 0.5).is_empty());
    }
}
