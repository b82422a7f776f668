//! VOC's average precision at IoU 0.5, after the development kit's `VOCevaldet`.
//!
//! A detection is compared with the object of its class that it overlaps most in its image. At 0.5 or more, a
//! difficult object makes it count neither way, a free one makes it a true positive, a taken one a false positive.
//! Deviation: recall levels are compared as fractions, so that 3 of 10 objects reach the level 0.3.

use std::collections::HashMap;

use scrl_core::data::detection::{DetectionDataset, DetectionObject};
use scrl_core::structures::BoxXyxy;
use serde::{Deserialize, Serialize};

use super::{EvaluationError, ImageDetections, check};

const IOU: f64 = 0.5;

/// VOC's mean average precision by both of its definitions, in `[0, 1]`; `None` without any object to find.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VocMetrics {
    /// Mean over classes of the mean precision at recall 0, 0.1, … 1 (VOC 2007).
    #[serde(rename = "VOC07_mAP")]
    pub eleven_points: Option<f64>,
    /// Mean over classes of the area under the precision-recall curve (VOC 2010 and later).
    #[serde(rename = "VOC_mAP")]
    pub area: Option<f64>,
    #[serde(rename = "voc_per_class")]
    pub per_class: Vec<VocClassAp>,
}

/// A class's average precision; `None` for a class without objects that are not difficult.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VocClassAp {
    pub name: String,
    #[serde(rename = "VOC07_AP")]
    pub eleven_points: Option<f64>,
    #[serde(rename = "VOC_AP")]
    pub area: Option<f64>,
}

/// VOC metrics of detections; crowd objects (COCO) are ignored as difficult ones are.
///
/// # Errors
/// See [`evaluate_detections`](super::evaluate_detections).
pub fn evaluate_voc(
    ground_truth: &DetectionDataset,
    results: &[ImageDetections],
) -> Result<VocMetrics, EvaluationError> {
    check(ground_truth, results)?;
    let names = ground_truth.categories.iter().map(|category| category.name.clone());
    let per_class: Vec<VocClassAp> =
        names.enumerate().map(|(class, name)| class_ap(name, class, ground_truth, results)).collect();
    Ok(VocMetrics {
        eleven_points: mean(per_class.iter().filter_map(|class| class.eleven_points)),
        area: mean(per_class.iter().filter_map(|class| class.area)),
        per_class,
    })
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn class_ap(
    name: String,
    class: usize,
    ground_truth: &DetectionDataset,
    results: &[ImageDetections],
) -> VocClassAp {
    let (objects, positives) = objects_of(class, ground_truth);
    if positives == 0 {
        return VocClassAp { name, eleven_points: None, area: None };
    }
    let curve = curve(&matches(class, objects, results));
    VocClassAp {
        name,
        eleven_points: Some(eleven_point_ap(&curve, positives)),
        area: Some(area_ap(&curve, positives)),
    }
}

/// An object of the class at hand.
struct Truth {
    bbox: BoxXyxy,
    ignored: bool,
    taken: bool,
}

/// A class's objects by image id, and how many of them are to be found.
fn objects_of(class: usize, dataset: &DetectionDataset) -> (HashMap<u64, Vec<Truth>>, usize) {
    let truth = |object: &DetectionObject| Truth {
        bbox: object.bbox,
        ignored: object.difficult || object.crowd,
        taken: false,
    };
    let of_class = |objects: &[DetectionObject]| -> Vec<Truth> {
        objects.iter().filter(|object| object.category == class).map(truth).collect()
    };
    let objects: HashMap<u64, Vec<Truth>> =
        dataset.images.iter().map(|image| (image.id, of_class(&image.objects))).collect();
    let positives = objects.values().flatten().filter(|truth| !truth.ignored).count();
    (objects, positives)
}

/// Whether each counted detection is right, by descending score; equal scores keep their order.
fn matches(class: usize, mut objects: HashMap<u64, Vec<Truth>>, results: &[ImageDetections]) -> Vec<bool> {
    let rows = results.iter().flat_map(|image| image.detections.iter().map(|found| (image.image_id, found)));
    let mut ranked: Vec<_> = rows.filter(|(_, found)| found.class == class).collect();
    ranked.sort_by(|(_, a), (_, b)| b.score.total_cmp(&a.score));
    let mut counted = Vec::with_capacity(ranked.len());
    for (image, found) in ranked {
        let truths = objects.get_mut(&image).map(Vec::as_mut_slice).unwrap_or_default();
        match best(truths, &found.bbox) {
            Some(truth) if truth.ignored => {}
            Some(truth) => counted.push(!std::mem::replace(&mut truth.taken, true)),
            None => counted.push(false),
        }
    }
    counted
}

/// The object with the largest overlap (the first of equals), if that reaches the threshold.
fn best<'a>(truths: &'a mut [Truth], bbox: &BoxXyxy) -> Option<&'a mut Truth> {
    let mut best: Option<(f64, &mut Truth)> = None;
    for truth in truths {
        let overlap = iou(&truth.bbox, bbox);
        if best.as_ref().is_none_or(|(most, _)| overlap > *most) {
            best = Some((overlap, truth));
        }
    }
    best.filter(|(overlap, _)| *overlap >= IOU).map(|(_, truth)| truth)
}

/// Intersection over union in double precision.
fn iou(a: &BoxXyxy, b: &BoxXyxy) -> f64 {
    let (a, b) = (a.to_array().map(f64::from), b.to_array().map(f64::from));
    let area = |c: &[f64; 4]| (c[2] - c[0]).max(0.0) * (c[3] - c[1]).max(0.0);
    let common = area(&[a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let union = area(&a) + area(&b) - common;
    if union > 0.0 { common / union } else { 0.0 }
}

/// Objects found and precision after each counted detection.
struct Point {
    found: usize,
    precision: f64,
}

fn curve(correct: &[bool]) -> Vec<Point> {
    let mut found = 0;
    correct
        .iter()
        .enumerate()
        .map(|(rank, &right)| {
            found += usize::from(right);
            Point { found, precision: found as f64 / (rank + 1) as f64 }
        })
        .collect()
}

fn eleven_point_ap(curve: &[Point], positives: usize) -> f64 {
    let best_at = |tenths: usize| {
        let reached = curve.iter().filter(|point| 10 * point.found >= tenths * positives);
        reached.map(|point| point.precision).fold(0.0, f64::max)
    };
    (0..=10).map(best_at).sum::<f64>() / 11.0
}

fn area_ap(curve: &[Point], positives: usize) -> f64 {
    let (mut area, mut ceiling, mut until) = (0.0, 0.0_f64, None);
    for point in curve.iter().rev() {
        let last = until.unwrap_or(point.found);
        area += (last - point.found) as f64 * ceiling;
        ceiling = ceiling.max(point.precision);
        until = Some(point.found);
    }
    (area + until.unwrap_or(0) as f64 * ceiling) / positives as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use scrl_core::data::detection::{Category, DetectionImage};

    use super::*;
    use crate::detection::Detection;

    #[derive(Deserialize)]
    struct Object {
        name: String,
        difficult: bool,
        r#box: [f32; 4],
    }

    #[derive(Deserialize)]
    struct Found {
        image: usize,
        name: String,
        r#box: [f32; 4],
        score: f32,
    }

    #[derive(Deserialize)]
    struct Ap {
        eleven_points: f64,
        area: f64,
    }

    #[derive(Deserialize)]
    struct Case {
        classes: Vec<String>,
        images: Vec<Vec<Object>>,
        detections: Vec<Found>,
        expected: BTreeMap<String, Option<Ap>>,
        mean: Ap,
    }

    impl Case {
        fn load() -> Self {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/voc_metrics/case.json");
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
        }

        fn class(&self, name: &str) -> usize {
            self.classes.iter().position(|class| class == name).unwrap()
        }

        fn dataset(&self) -> DetectionDataset {
            let object = |object: &Object| DetectionObject {
                bbox: from_inclusive(object.r#box),
                category: self.class(&object.name),
                crowd: false,
                difficult: object.difficult,
                area: from_inclusive(object.r#box).area(),
            };
            let image = |(id, objects): (usize, &Vec<Object>)| DetectionImage {
                id: id as u64,
                path: PathBuf::new(),
                file_name: String::new(),
                width: 500,
                height: 500,
                objects: objects.iter().map(object).collect(),
            };
            let category = |(id, name): (usize, &String)| Category { id: id as u64 + 1, name: name.clone() };
            DetectionDataset {
                name: "case".into(),
                images: self.images.iter().enumerate().map(image).collect(),
                categories: self.classes.iter().enumerate().map(category).collect(),
                dropped: 0,
            }
        }

        fn results(&self) -> Vec<ImageDetections> {
            let result = |found: &Found| ImageDetections {
                image_id: found.image as u64,
                detections: vec![Detection {
                    bbox: from_inclusive(found.r#box),
                    class: self.class(&found.name),
                    score: found.score,
                }],
            };
            self.detections.iter().map(result).collect()
        }
    }

    /// 1-based inclusive pixels to edges.
    fn from_inclusive([x1, y1, x2, y2]: [f32; 4]) -> BoxXyxy {
        BoxXyxy::new(x1 - 1.0, y1 - 1.0, x2, y2)
    }

    #[test]
    fn both_average_precisions_equal_the_development_kits() {
        let case = Case::load();
        let metrics = evaluate_voc(&case.dataset(), &case.results()).unwrap();
        let close = |ours: f64, theirs: f64| (ours - theirs).abs() < 1e-12;
        for class in &metrics.per_class {
            match &case.expected[&class.name] {
                Some(ap) => {
                    assert!(close(class.eleven_points.unwrap(), ap.eleven_points), "{class:?}");
                    assert!(close(class.area.unwrap(), ap.area), "{class:?}");
                }
                None => assert_eq!((class.eleven_points, class.area), (None, None)),
            }
        }
        assert!(close(metrics.eleven_points.unwrap(), case.mean.eleven_points));
        assert!(close(metrics.area.unwrap(), case.mean.area));
    }

    #[test]
    fn a_perfect_ranking_scores_one_and_a_second_hit_on_an_object_is_an_error() {
        let perfect = curve(&[true, true]);
        assert_eq!((eleven_point_ap(&perfect, 2), area_ap(&perfect, 2)), (1.0, 1.0));
        let truths = || {
            let truth = Truth { bbox: BoxXyxy::new(0.0, 0.0, 10.0, 10.0), ignored: false, taken: false };
            HashMap::from([(1, vec![truth])])
        };
        let found = Detection { bbox: BoxXyxy::new(0.0, 0.0, 10.0, 9.0), class: 0, score: 0.5 };
        let twice = [ImageDetections { image_id: 1, detections: vec![found, found] }];
        assert_eq!(matches(0, truths(), &twice), [true, false]);
    }

    #[test]
    fn without_objects_to_find_there_is_no_figure() {
        let mut dataset = Case::load().dataset();
        dataset.images.iter_mut().for_each(|image| image.objects.iter_mut().for_each(|o| o.difficult = true));
        let metrics = evaluate_voc(&dataset, &[]).unwrap();
        assert_eq!((metrics.eleven_points, metrics.area), (None, None));
    }
}
