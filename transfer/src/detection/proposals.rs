//! From scored anchors to proposals.

use scrl_core::structures::{BoxXyxy, Size};
use scrl_ops::batched_nms;

use super::anchor_generator::Anchors;
use super::box_coder::BoxCoder;
use super::config::DetectorConfig;

/// How many proposals survive, and which.
#[derive(Clone, Copy, Debug)]
pub struct ProposalFilter {
    /// Best anchors kept of each level before suppression.
    pub pre_nms: usize,
    /// Best proposals kept of an image after suppression.
    pub post_nms: usize,
    /// A proposal is dropped when its IoU with a better one of its level is above this.
    pub nms: f32,
    /// Least width and height, in pixels.
    pub min_size: f32,
}

impl ProposalFilter {
    /// In training.
    pub fn training(config: &DetectorConfig) -> Self {
        Self::new(config, config.rpn.pre_nms_train, config.rpn.post_nms_train)
    }

    /// In detection.
    pub fn test(config: &DetectorConfig) -> Self {
        Self::new(config, config.rpn.pre_nms_test, config.rpn.post_nms_test)
    }

    fn new(config: &DetectorConfig, pre_nms: usize, post_nms: usize) -> Self {
        let min_size = config.variant.numerics().min_proposal_size;
        Self { pre_nms, post_nms, nms: config.rpn.nms, min_size }
    }

    /// The proposals of one image of this unpadded size, best first.
    ///
    /// `objectness` has A logits, `deltas` A rows, in the order of the anchors. What is not finite is left out.
    pub fn select(
        &self,
        objectness: &[f32],
        deltas: &[[f32; 4]],
        anchors: &Anchors,
        size: Size,
    ) -> Vec<BoxXyxy> {
        let (mut boxes, mut scores, mut levels) = (Vec::new(), Vec::new(), Vec::new());
        for (level, range) in anchors.levels.iter().enumerate() {
            for index in best(&objectness[range.clone()], self.pre_nms).into_iter().map(|i| i + range.start) {
                let decoded = BoxCoder::UNIT.decode(&anchors.boxes[index], deltas[index]);
                if let Some(bbox) = usable(decoded, size, self.min_size)
                    && !objectness[index].is_nan()
                {
                    boxes.push(bbox.to_array());
                    scores.push(objectness[index]);
                    levels.push(level);
                }
            }
        }
        let mut kept = batched_nms(&boxes, &scores, &levels, self.nms);
        kept.truncate(self.post_nms);
        kept.into_iter().map(|index| from_array(boxes[index])).collect()
    }
}

fn from_array([x1, y1, x2, y2]: [f32; 4]) -> BoxXyxy {
    BoxXyxy::new(x1, y1, x2, y2)
}

/// The box within the image, if it is finite, not empty and at least `min_size` pixels wide and high.
pub(super) fn usable(bbox: BoxXyxy, size: Size, min_size: f32) -> Option<BoxXyxy> {
    if !bbox.to_array().iter().all(|value| value.is_finite()) {
        return None;
    }
    let bbox = bbox.clip(size.width as f32, size.height as f32);
    let long_enough = |side: f32| side > 0.0 && side >= min_size;
    (long_enough(bbox.width()) && long_enough(bbox.height())).then_some(bbox)
}

/// Indices of the `count` highest scores, best first; of equal ones the first. Scores that are not a number are last.
pub(super) fn best(scores: &[f32], count: usize) -> Vec<usize> {
    let key = |index: usize| if scores[index].is_nan() { f32::NEG_INFINITY } else { scores[index] };
    let order = |&a: &usize, &b: &usize| key(b).total_cmp(&key(a)).then(a.cmp(&b));
    let mut indices: Vec<usize> = (0..scores.len()).collect();
    if count == 0 {
        return Vec::new();
    }
    if count < indices.len() {
        indices.select_nth_unstable_by(count - 1, order);
        indices.truncate(count);
    }
    indices.sort_unstable_by(order);
    indices
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { width: 50, height: 40 };

    fn filter(pre_nms: usize, post_nms: usize) -> ProposalFilter {
        ProposalFilter { pre_nms, post_nms, nms: 0.7, min_size: 0.0 }
    }

    fn anchors() -> Anchors {
        let square = |x: f32| BoxXyxy::new(x, 0.0, x + 10.0, 10.0);
        Anchors { boxes: [0.0, 1.0, 20.0, 0.0, 60.0].map(square).to_vec(), levels: vec![0..3, 3..5] }
    }

    #[test]
    fn the_best_are_ordered_and_ties_keep_the_first() {
        assert_eq!(best(&[1.0, 3.0, f32::NAN, 3.0, 2.0], 3), [1, 3, 4]);
        assert_eq!(best(&[1.0, 3.0], 5), [1, 0]);
        assert_eq!(best(&[1.0], 0), [0usize; 0]);
    }

    #[test]
    fn suppression_works_within_a_level_and_boxes_outside_the_image_go() {
        let found = filter(10, 10).select(&[1.0, 2.0, 0.5, 3.0, 9.0], &[[0.0; 4]; 5], &anchors(), SIZE);
        // Anchor 0 overlaps the better 1 of its level, but not by level 3's; anchor 4 lies right of the image.
        let corners: Vec<f32> = found.iter().map(|b| b.x1).collect();
        assert_eq!(corners, [0.0, 1.0, 20.0]);
        assert_eq!(
            filter(1, 10).select(&[1.0, 2.0, 0.5, 3.0, 9.0], &[[0.0; 4]; 5], &anchors(), SIZE).len(),
            1
        );
        assert_eq!(
            filter(10, 2).select(&[1.0, 2.0, 0.5, 3.0, 9.0], &[[0.0; 4]; 5], &anchors(), SIZE).len(),
            2
        );
    }

    #[test]
    fn boxes_that_are_not_finite_are_left_out() {
        let deltas = [[f32::NAN, 0.0, 0.0, 0.0]; 5];
        assert!(filter(10, 10).select(&[0.0; 5], &deltas, &anchors(), SIZE).is_empty());
    }
}
