//! VOC's average precision at IoU 0.5, after the development kit's `VOCevaldet`.
//!
//! A detection is compared with the object of its class that it overlaps most in its image. At 0.5 or more, a
//! difficult object makes it count neither way, a free one makes it a true positive, a taken one a false positive.
//! Boxes are `xmin, ymin, xmax, ymax` in pixels counted from 1, the last ones included, in double precision and in the kit's
//! order of operations.

use std::collections::HashMap;

use crate::data::{AnnotatedObject, DetectionDataset};
use scrl_core::structures::BoxXyxy;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{EvaluationError, ImageDetections, check};

/// The kit's `VOCopts.minoverlap`.
const MIN_OVERLAP: f64 = 0.5;

/// MATLAB's `0:0.1:1`, which it counts from both ends: its 0.3 is `3 · 0.1`, above the 0.3 that 3 of 10 objects reach, all
/// others are the nearest to their fractions.
const LEVELS: [f64; 11] = [0.0, 0.1, 0.2, 3.0 * 0.1, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];

/// VOC's mean average precision by both of its definitions, in `[0, 1]`; `None` without any object to find.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VocMetrics {
    /// Mean over classes of the mean precision at recall 0, 0.1, … 1 (VOC 2007).
    #[serde(rename = "VOC07_mAP")]
    pub eleven_points: Option<f64>,
    /// Mean over classes of the area under the precision-recall curve (VOC 2010 and later).
    #[serde(rename = "VOC_mAP")]
    pub area: Option<f64>,
    /// Figures of each class, in the order of the labels.
    #[serde(rename = "voc_per_class")]
    pub per_class: Vec<VocClassAp>,
}

/// A class's average precision; `None` for a class without objects that are not difficult.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VocClassAp {
    /// Name of the class.
    pub name: String,
    /// AP by VOC 2007's eleven points.
    #[serde(rename = "VOC07_AP")]
    pub eleven_points: Option<f64>,
    /// AP as the area under the curve, as since VOC 2010.
    #[serde(rename = "VOC_AP")]
    pub area: Option<f64>,
}

impl VocMetrics {
    /// `VOC07_mAP` and `VOC_mAP`, and both per class as objects of class names; null without objects to find.
    pub fn by_name(&self) -> Value {
        let classes = |ap: fn(&VocClassAp) -> Option<f64>| -> Map<String, Value> {
            self.per_class.iter().map(|class| (class.name.clone(), ap(class).into())).collect()
        };
        json!({
            "VOC07_mAP": self.eleven_points,
            "VOC_mAP": self.area,
            "VOC07_AP": classes(|class| class.eleven_points),
            "VOC_AP": classes(|class| class.area),
        })
    }
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
    Ok(VocMetrics::of(names.enumerate().map(|(class, name)| {
        let found = detections_of(class, ground_truth, results);
        ClassCase { name, objects: objects_of(class, ground_truth), found }.average_precision()
    })))
}

impl VocMetrics {
    /// The means over classes.
    pub(super) fn of(classes: impl Iterator<Item = VocClassAp>) -> Self {
        let per_class: Vec<VocClassAp> = classes.collect();
        Self {
            eleven_points: mean(per_class.iter().filter_map(|class| class.eleven_points)),
            area: mean(per_class.iter().filter_map(|class| class.area)),
            per_class,
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// An object of the class at hand.
pub(super) struct Truth {
    /// Inclusive pixels, counted from 1.
    pub bbox: [f64; 4],
    pub ignored: bool,
    pub taken: bool,
}

/// A detection of the class at hand.
pub(super) struct Found {
    /// Position of its image.
    pub image: usize,
    pub score: f64,
    /// Inclusive pixels, counted from 1.
    pub bbox: [f64; 4],
}

/// All that the evaluation of a class needs.
pub(super) struct ClassCase {
    pub name: String,
    /// By position of the image.
    pub objects: Vec<Vec<Truth>>,
    pub found: Vec<Found>,
}

/// A class's objects by position of the image.
fn objects_of(class: usize, dataset: &DetectionDataset) -> Vec<Vec<Truth>> {
    let corners = |[x, y, width, height]: [f64; 4]| [x + 1.0, y + 1.0, x + width, y + height];
    let truth = |object: &AnnotatedObject| Truth {
        bbox: corners(object.bbox),
        ignored: object.difficult || object.crowd,
        taken: false,
    };
    let of_class = |objects: &[AnnotatedObject]| -> Vec<Truth> {
        objects.iter().filter(|object| object.category == class).map(truth).collect()
    };
    dataset.images.iter().map(|image| of_class(&image.truth())).collect()
}

fn detections_of(class: usize, dataset: &DetectionDataset, results: &[ImageDetections]) -> Vec<Found> {
    let positions: HashMap<u64, usize> =
        dataset.images.iter().enumerate().map(|(position, image)| (image.id, position)).collect();
    let mut found = Vec::new();
    for result in results {
        let Some(&image) = positions.get(&result.image_id) else { continue };
        let of_class = result.detections.iter().filter(|detection| detection.class == class);
        found.extend(of_class.map(|detection| Found {
            image,
            score: f64::from(detection.score),
            bbox: inclusive(&detection.bbox),
        }));
    }
    found
}

/// Edges from 0 as the kit counts them: the first and the last pixel, from 1.
pub(super) fn inclusive(bbox: &BoxXyxy) -> [f64; 4] {
    let [x1, y1, x2, y2] = bbox.to_array().map(f64::from);
    [x1 + 1.0, y1 + 1.0, x2, y2]
}

impl ClassCase {
    /// Both average precisions; `None` without objects that are not ignored.
    pub(super) fn average_precision(mut self) -> VocClassAp {
        let positives = self.objects.iter().flatten().filter(|truth| !truth.ignored).count();
        if positives == 0 {
            return VocClassAp { name: self.name, eleven_points: None, area: None };
        }
        let curve = curve(&self.matches());
        VocClassAp {
            name: self.name,
            eleven_points: Some(eleven_point_ap(&curve, positives)),
            area: Some(area_ap(&curve, positives)),
        }
    }

    /// Whether each counted detection is right, by descending score; equal scores keep their order.
    fn matches(&mut self) -> Vec<bool> {
        self.found.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut counted = Vec::with_capacity(self.found.len());
        for found in &self.found {
            match best(&mut self.objects[found.image], &found.bbox) {
                Some(truth) if truth.ignored => {}
                Some(truth) => counted.push(!std::mem::replace(&mut truth.taken, true)),
                None => counted.push(false),
            }
        }
        counted
    }
}

/// The object with the largest overlap (the first of equals), if that reaches the threshold.
fn best<'a>(truths: &'a mut [Truth], bbox: &[f64; 4]) -> Option<&'a mut Truth> {
    let mut best: Option<(f64, &mut Truth)> = None;
    for truth in truths {
        let overlap = overlap(bbox, &truth.bbox);
        if best.as_ref().is_none_or(|(most, _)| overlap > *most) {
            best = Some((overlap, truth));
        }
    }
    best.filter(|(overlap, _)| *overlap >= MIN_OVERLAP).map(|(_, truth)| truth)
}

/// Intersection over union of boxes whose last pixels belong to them.
fn overlap(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let width = a[2].min(b[2]) - a[0].max(b[0]) + 1.0;
    let height = a[3].min(b[3]) - a[1].max(b[1]) + 1.0;
    if width <= 0.0 || height <= 0.0 {
        return 0.0;
    }
    let area = |c: &[f64; 4]| (c[2] - c[0] + 1.0) * (c[3] - c[1] + 1.0);
    width * height / (area(a) + area(b) - width * height)
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
    let recall = |point: &Point| point.found as f64 / positives as f64;
    let best_at = |level: f64| {
        let reached = curve.iter().filter(|point| recall(point) >= level);
        reached.map(|point| point.precision).fold(0.0, f64::max)
    };
    LEVELS.into_iter().map(best_at).sum::<f64>() / LEVELS.len() as f64
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
pub(super) mod tests;
