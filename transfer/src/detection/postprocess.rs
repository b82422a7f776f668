//! From the box predictor's output to detections.

use rayon::prelude::*;
use scrl_core::structures::{BoxXyxy, Size};
use scrl_ops::batched_nms;

use super::box_coder::BoxCoder;
use super::config::DetectorConfig;
use super::pooler::Roi;
use super::proposals::usable;
use crate::mask::Mask;

/// A found object.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// In pixels of the image that was given to the network, within its unpadded size.
    pub bbox: BoxXyxy,
    /// 0-based foreground class.
    pub class: usize,
    /// Probability, above the config's threshold.
    pub score: f32,
    /// Its mask, from a detector that gives masks.
    pub mask: Option<Mask>,
}

/// Detections of each image, best first.
///
/// `probabilities` has K + 1 values a region, `deltas` K + 1 rows of four; the background comes first in both. `sizes`
/// are the unpadded ones.
pub fn detections(
    probabilities: &[f32],
    deltas: &[[f32; 4]],
    rois: &[Roi],
    sizes: &[Size],
    config: &DetectorConfig,
) -> Vec<Vec<Detection>> {
    let columns = config.num_classes + 1;
    let of_image = |(image, &size): (usize, &Size)| {
        let mut found = Vec::new();
        for (row, roi) in rois.iter().enumerate().filter(|(_, roi)| roi.image == image) {
            let range = row * columns..(row + 1) * columns;
            add_candidates(&probabilities[range.clone()], &deltas[range], roi, size, config, &mut found);
        }
        suppress(found, config)
    };
    sizes.par_iter().enumerate().map(of_image).collect()
}

/// Adds one detection for each class of this region that scores above the threshold.
fn add_candidates(
    probabilities: &[f32],
    deltas: &[[f32; 4]],
    roi: &Roi,
    size: Size,
    config: &DetectorConfig,
    found: &mut Vec<Detection>,
) {
    let coder = BoxCoder { weights: config.roi_heads.box_weights };
    let min_size = config.variant.numerics().min_detection_size;
    for class in 0..config.num_classes {
        let score = probabilities[class + 1];
        if score > config.test.score_threshold
            && let Some(bbox) = usable(coder.decode(&roi.bbox, deltas[class + 1]), size, min_size)
        {
            found.push(Detection { bbox, class, score, mask: None });
        }
    }
}

/// The detections that survive suppression within their class, best first, as many as the config allows.
pub(super) fn suppress(found: Vec<Detection>, config: &DetectorConfig) -> Vec<Detection> {
    let boxes: Vec<[f32; 4]> = found.iter().map(|d| d.bbox.to_array()).collect();
    let scores: Vec<f32> = found.iter().map(|d| d.score).collect();
    let classes: Vec<usize> = found.iter().map(|d| d.class).collect();
    let mut kept = batched_nms(&boxes, &scores, &classes, config.test.nms);
    kept.truncate(config.test.detections_per_image);
    kept.into_iter().map(|index| found[index].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detection::TestConfig;

    const SIZE: Size = Size { width: 50, height: 40 };

    fn config() -> DetectorConfig {
        DetectorConfig { num_classes: 2, ..Default::default() }
    }

    fn rois() -> Vec<Roi> {
        let square = |x: f32| BoxXyxy::new(x, 0.0, x + 10.0, 10.0);
        let place = [(0, 0.0), (0, 1.0), (1, 45.0)];
        place.iter().map(|&(image, x)| Roi { image, bbox: square(x) }).collect()
    }

    #[test]
    fn suppression_is_by_class_and_boxes_are_clipped_to_their_own_image() {
        let probabilities = [0.1, 0.6, 0.3, 0.1, 0.8, 0.05, 0.2, 0.04, 0.76];
        let found = detections(&probabilities, &[[0.0; 4]; 9], &rois(), &[SIZE; 2], &config());
        let summary: Vec<(usize, f32)> = found[0].iter().map(|d| (d.class, d.score)).collect();
        assert_eq!(summary, [(0, 0.8), (1, 0.3)]);
        assert_eq!(found[1].len(), 1);
        assert_eq!(found[1][0].bbox, BoxXyxy::new(45.0, 0.0, 50.0, 10.0));
    }

    #[test]
    fn nothing_above_the_threshold_gives_an_empty_list_for_every_image() {
        let found = detections(&[0.02; 9], &[[0.0; 4]; 9], &rois(), &[SIZE; 2], &config());
        assert_eq!(found, vec![Vec::new(); 2]);
        assert_eq!(detections(&[], &[], &[], &[SIZE], &config()), vec![Vec::new()]);
    }

    #[test]
    fn the_number_of_detections_is_limited_to_the_best() {
        let config =
            DetectorConfig { test: TestConfig { detections_per_image: 1, ..config().test }, ..config() };
        let found = detections(
            &[0.1, 0.6, 0.3, 0.1, 0.8, 0.05, 0.2, 0.0, 0.0],
            &[[0.0; 4]; 9],
            &rois(),
            &[SIZE],
            &config,
        );
        assert_eq!(found[0].iter().map(|d| d.score).collect::<Vec<_>>(), [0.8]);
    }
}
