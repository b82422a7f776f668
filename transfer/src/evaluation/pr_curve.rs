//! Precision against recall, at the 101 recall levels of COCO's evaluation.

use crate::data::DetectionDataset;
use hotcoco::params::IouType;
use hotcoco::{AccumulatedEval, COCO, COCOeval};
use serde::{Deserialize, Serialize};

use super::coco::{annotation, to_hotcoco};
use super::{EvaluationError, ImageDetections, check, to_coco_results};

/// COCO's precision–recall curves, over all areas and with at most 100 detections an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrecisionRecall {
    /// The recall levels 0, 0.01, … 1 of every curve.
    pub recall: Vec<f64>,
    /// Mean over the classes that have objects; its name is `mean`.
    pub mean: ClassCurves,
    /// In the order of the categories' ids.
    pub classes: Vec<ClassCurves>,
}

/// A class's curves; a curve is empty for a class without objects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassCurves {
    /// Name of the class.
    pub name: String,
    /// Precision at each recall level where an IoU of 0.5 makes a detection right, in `[0, 1]`.
    pub iou50: Vec<f64>,
    /// Mean of the precisions at the IoU thresholds 0.50, 0.55, … 0.95.
    pub coco: Vec<f64>,
}

impl ClassCurves {
    /// AP50 and AP of the class: the means of its curves; `None` without objects.
    pub fn average_precisions(&self) -> [Option<f64>; 2] {
        [&self.iou50, &self.coco].map(|curve| mean(curve))
    }
}

/// Precision–recall curves of detections, as pycocotools accumulates them.
///
/// # Errors
/// See [`evaluate_detections`](super::evaluate_detections).
pub fn precision_recall(
    ground_truth: &DetectionDataset,
    results: &[ImageDetections],
) -> Result<PrecisionRecall, EvaluationError> {
    check(ground_truth, results)?;
    let truth = COCO::from_dataset(to_hotcoco(ground_truth));
    let rows = to_coco_results(ground_truth, results).into_iter().map(annotation).collect();
    let found = truth.load_res_anns(rows).map_err(EvaluationError::engine)?;
    let mut evaluation = COCOeval::new(truth, found, IouType::Bbox);
    evaluation.evaluate().map_err(EvaluationError::engine)?;
    evaluation.accumulate();
    let recall = evaluation.params.rec_thrs.clone();
    let (area, limit) = (evaluation.params.all_area_idx(), evaluation.params.max_det_idx());
    let table = evaluation.accumulated();
    let curves = |(k, &id): (usize, &u64)| {
        let name = evaluation.coco_gt().cat_name(id);
        table.map(|table| class_curves(table, name, k, area, limit))
    };
    let ids = table.map_or(&[][..], |table| &table.cat_ids);
    let classes: Vec<ClassCurves> = ids.iter().enumerate().filter_map(curves).collect();
    let mean = ClassCurves {
        name: "mean".into(),
        iou50: mean_curve(classes.iter().map(|class| &class.iou50)),
        coco: mean_curve(classes.iter().map(|class| &class.coco)),
    };
    Ok(PrecisionRecall { recall, mean, classes })
}

fn class_curves(table: &AccumulatedEval, name: String, k: usize, area: usize, limit: usize) -> ClassCurves {
    let at = |t: usize, r: usize| table.precision[table.precision_idx(t, r, k, area, limit)];
    // pycocotools marks a class without objects with −1.
    if table.shape.r == 0 || at(0, 0) < 0.0 {
        return ClassCurves { name, iou50: Vec::new(), coco: Vec::new() };
    }
    let levels = || 0..table.shape.r;
    let over_thresholds = |r| (0..table.shape.t).map(|t| at(t, r)).sum::<f64>() / table.shape.t as f64;
    ClassCurves {
        name,
        iou50: levels().map(|r| at(0, r)).collect(),
        coco: levels().map(over_thresholds).collect(),
    }
}

/// Level by level the mean of the curves that are not empty.
fn mean_curve<'a>(curves: impl Iterator<Item = &'a Vec<f64>>) -> Vec<f64> {
    let curves: Vec<&Vec<f64>> = curves.filter(|curve| !curve.is_empty()).collect();
    let levels = curves.first().map_or(0, |curve| curve.len());
    (0..levels)
        .map(|level| curves.iter().map(|curve| curve[level]).sum::<f64>() / curves.len() as f64)
        .collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests;
