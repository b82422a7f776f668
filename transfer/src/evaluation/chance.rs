//! What a detector reaches that knows the data set but does not look at the image.

use scrl_core::random::{RngExt, stream};
use scrl_core::structures::BoxXyxy;
use scrl_ops::batched_nms;

use super::{DetectionMetrics, EvaluationError, ImageDetections, evaluate_detections};
use crate::data::DetectionDataset;
use crate::detection::{Detection, TestConfig};

/// The purpose of the random stream that draws the boxes.
const CHANCE: u64 = u64::from_be_bytes(*b"chance__");
/// Boxes per image, as many as COCO's metrics judge.
const BOXES: usize = 100;

/// The metrics of random boxes: in every image 100 boxes, each with the class, the place and the size, relative to the image,
/// of an object of the data set that is drawn at random, and with a random score; then suppressed as detections are.
///
/// A detector that is not better has learnt nothing that is in the images. `None` where no image has an object.
///
/// # Errors
/// See [`evaluate_detections`].
pub fn chance(dataset: &DetectionDataset, seed: u64) -> Result<Option<DetectionMetrics>, EvaluationError> {
    let relative =
        |bbox: &BoxXyxy, width: u32, height: u32| bbox.scale(1.0 / width as f32, 1.0 / height as f32);
    let objects: Vec<(BoxXyxy, usize)> = dataset
        .images
        .iter()
        .flat_map(|image| image.objects.iter().map(move |object| (image, object)))
        .filter(|(_, object)| !object.crowd && !object.difficult)
        .map(|(image, object)| (relative(&object.bbox, image.width, image.height), object.category))
        .collect();
    if objects.is_empty() {
        return Ok(None);
    }
    let of_image = |(index, image): (usize, &crate::data::DetectionImage)| {
        let mut rng = stream(seed, &[CHANCE, index as u64]);
        let mut detection = || {
            let (bbox, class) = objects[rng.random_range(0..objects.len())];
            let score: f32 = rng.random();
            Detection { bbox: bbox.scale(image.width as f32, image.height as f32), class, score, mask: None }
        };
        let drawn: Vec<Detection> = (0..BOXES).map(|_| detection()).collect();
        ImageDetections { image_id: image.id, detections: suppressed(&drawn) }
    };
    let found: Vec<ImageDetections> = dataset.images.iter().enumerate().map(of_image).collect();
    evaluate_detections(dataset, &found).map(Some)
}

/// Without those that overlap a better one of their class by more than detectors allow.
fn suppressed(drawn: &[Detection]) -> Vec<Detection> {
    let boxes: Vec<[f32; 4]> = drawn.iter().map(|found| found.bbox.to_array()).collect();
    let scores: Vec<f32> = drawn.iter().map(|found| found.score).collect();
    let classes: Vec<usize> = drawn.iter().map(|found| found.class).collect();
    let overlap = TestConfig::default().nms;
    batched_nms(&boxes, &scores, &classes, overlap).into_iter().map(|index| drawn[index].clone()).collect()
}

#[cfg(test)]
mod tests {
    use crate::data::{Category, DetectionImage, DetectionObject};

    use super::*;

    /// Images with one object each, at the given relative places.
    fn dataset(places: &[[f32; 4]]) -> DetectionDataset {
        let image = |(index, [x1, y1, x2, y2]): (usize, &[f32; 4])| {
            let bbox = BoxXyxy::new(100.0 * x1, 50.0 * y1, 100.0 * x2, 50.0 * y2);
            DetectionImage {
                id: index as u64 + 1,
                path: "x".into(),
                file_name: index.to_string(),
                width: 100,
                height: 50,
                objects: vec![DetectionObject {
                    bbox,
                    category: 0,
                    crowd: false,
                    difficult: false,
                    area: bbox.area(),
                    mask: None,
                }],
                annotated: None,
            }
        };
        DetectionDataset {
            name: "places".into(),
            images: places.iter().enumerate().map(image).collect(),
            categories: vec![Category { id: 1, name: "thing".into() }],
            dropped: 0,
        }
    }

    #[test]
    fn who_knows_where_every_object_is_needs_no_image() {
        let same = dataset(&[[0.2, 0.2, 0.6, 0.6]; 5]);
        let found = chance(&same, 0).unwrap().unwrap();
        assert!((found.coco.ap50.unwrap() - 1.0).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn scattered_objects_are_seldom_hit_and_the_seed_decides() {
        let mut rng = stream(3, &[]);
        let mut side = || rng.random_range(0.0..0.8f32);
        let places: Vec<[f32; 4]> =
            (0..40).map(|_| (side(), side())).map(|(x, y)| [x, y, x + 0.1, y + 0.1]).collect();
        let scattered = dataset(&places);
        let found = chance(&scattered, 0).unwrap().unwrap();
        assert!(found.coco.ap50.unwrap() < 0.3, "{found:?}");
        assert_eq!(chance(&scattered, 0).unwrap().unwrap(), found);
        assert_ne!(chance(&scattered, 1).unwrap().unwrap(), found);
        let mut empty = scattered;
        empty.images.iter_mut().for_each(|image| image.objects.clear());
        assert!(chance(&empty, 0).unwrap().is_none());
    }
}
