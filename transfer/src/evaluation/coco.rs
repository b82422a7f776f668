//! COCO's box metrics, computed by `hotcoco`, which reproduces pycocotools 2.0.11 (see the fixture).

use std::path::Path;

use hotcoco::params::IouType;
use hotcoco::{Annotation, COCO, COCOeval, Category, Dataset, Image};
use scrl_core::data::detection::{DetectionDataset, DetectionObject};
use serde::{Deserialize, Serialize};

use super::{CocoResult, EvaluationError, ImageDetections, check, results, to_coco_results};

/// The twelve figures of COCO's box evaluation, in `[0, 1]`; `None` where no object falls into the range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CocoMetrics {
    /// Mean over IoU .50:.95, classes and 101 recall levels.
    #[serde(rename = "AP")]
    pub ap: Option<f64>,
    #[serde(rename = "AP50")]
    pub ap50: Option<f64>,
    #[serde(rename = "AP75")]
    pub ap75: Option<f64>,
    /// Objects below 32² square pixels.
    #[serde(rename = "APs")]
    pub ap_small: Option<f64>,
    /// Objects from 32² to 96².
    #[serde(rename = "APm")]
    pub ap_medium: Option<f64>,
    /// Objects above 96².
    #[serde(rename = "APl")]
    pub ap_large: Option<f64>,
    /// Recall with one detection an image.
    #[serde(rename = "AR1")]
    pub ar1: Option<f64>,
    #[serde(rename = "AR10")]
    pub ar10: Option<f64>,
    #[serde(rename = "AR100")]
    pub ar100: Option<f64>,
    #[serde(rename = "ARs")]
    pub ar_small: Option<f64>,
    #[serde(rename = "ARm")]
    pub ar_medium: Option<f64>,
    #[serde(rename = "ARl")]
    pub ar_large: Option<f64>,
    /// AP of each class, in the order of the categories' ids.
    pub per_class: Vec<ClassAp>,
}

/// A class and its AP; `None` for a class without objects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassAp {
    pub name: String,
    #[serde(rename = "AP")]
    pub ap: Option<f64>,
}

/// COCO metrics of detections.
///
/// Difficult objects (VOC) are given to the evaluation as crowds: pycocotools knows no other way to ignore an
/// object, so several detections may hide in one of them.
///
/// # Errors
/// See [`evaluate_detections`](super::evaluate_detections).
pub fn evaluate_coco(
    ground_truth: &DetectionDataset,
    results: &[ImageDetections],
) -> Result<CocoMetrics, EvaluationError> {
    check(ground_truth, results)?;
    run(to_hotcoco(ground_truth), to_coco_results(ground_truth, results))
}

/// COCO metrics of a results file (a list of `image_id, category_id, bbox, score`) against an instances file,
/// in double precision throughout.
///
/// # Errors
/// When a file cannot be read, is not such a JSON, or a result names an image that the instances file lacks.
pub fn evaluate_files(ground_truth: &Path, detections: &Path) -> Result<CocoMetrics, EvaluationError> {
    let text = std::fs::read(ground_truth).map_err(|e| EvaluationError::io(ground_truth, e))?;
    let dataset: Dataset = serde_json::from_slice(&text)
        .map_err(|e| EvaluationError::json(ground_truth, "COCO instances", e))?;
    let mut found = results::read_rows(detections)?;
    let images: std::collections::HashSet<u64> = dataset.images.iter().map(|image| image.id).collect();
    if let Some(stray) = found.iter().find(|row| !images.contains(&row.image_id)) {
        return Err(EvaluationError::UnknownImage(stray.image_id));
    }
    let categories: std::collections::HashSet<u64> = dataset.categories.iter().map(|c| c.id).collect();
    let before = found.len();
    found.retain(|row| categories.contains(&row.category_id));
    if found.len() < before {
        tracing::warn!(
            dropped = before - found.len(),
            "detections of categories that the ground truth lacks"
        );
    }
    run(dataset, found)
}

fn run(dataset: Dataset, found: Vec<CocoResult>) -> Result<CocoMetrics, EvaluationError> {
    let truth = COCO::from_dataset(dataset);
    let found = truth.load_res_anns(found.into_iter().map(annotation).collect())?;
    let mut evaluation = COCOeval::new(truth, found, IouType::Bbox);
    evaluation.evaluate()?;
    evaluation.accumulate();
    evaluation.summarize_lines();
    let figures = evaluation.get_results(None, false);
    let figure = |name: &str| figures.get(name).copied().filter(|&value| value >= 0.0);
    Ok(CocoMetrics {
        ap: figure("AP"),
        ap50: figure("AP50"),
        ap75: figure("AP75"),
        ap_small: figure("APs"),
        ap_medium: figure("APm"),
        ap_large: figure("APl"),
        ar1: figure("AR1"),
        ar10: figure("AR10"),
        ar100: figure("AR100"),
        ar_small: figure("ARs"),
        ar_medium: figure("ARm"),
        ar_large: figure("ARl"),
        per_class: per_class(&evaluation),
    })
}

fn annotation(row: CocoResult) -> Annotation {
    Annotation {
        image_id: row.image_id,
        category_id: row.category_id,
        bbox: Some(row.bbox),
        score: Some(row.score),
        ..Default::default()
    }
}

/// AP over all areas at the largest detection limit, class by class.
fn per_class(evaluation: &COCOeval) -> Vec<ClassAp> {
    let Some(table) = evaluation.accumulated() else { return Vec::new() };
    let (area, limit) = (evaluation.params.all_area_idx(), evaluation.params.max_det_idx());
    let ap = |k: usize| {
        let cells = (0..table.shape.t).flat_map(|t| (0..table.shape.r).map(move |r| (t, r)));
        let values: Vec<f64> = cells
            .map(|(t, r)| table.precision[table.precision_idx(t, r, k, area, limit)])
            .filter(|&value| value >= 0.0)
            .collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let name = |id: u64| evaluation.coco_gt().cat_name(id);
    table.cat_ids.iter().enumerate().map(|(k, &id)| ClassAp { name: name(id), ap: ap(k) }).collect()
}

fn to_hotcoco(dataset: &DetectionDataset) -> Dataset {
    let images = dataset.images.iter().map(|image| Image {
        id: image.id,
        file_name: image.file_name.clone(),
        width: image.width,
        height: image.height,
        ..Default::default()
    });
    let categories = dataset.categories.iter().map(|category| Category {
        id: category.id,
        name: category.name.clone(),
        ..Default::default()
    });
    let objects =
        dataset.images.iter().flat_map(|image| image.objects.iter().map(|object| (image.id, object)));
    let annotations = objects
        .enumerate()
        // Ids start at 1: pycocotools marks an unmatched detection with id 0.
        .map(|(index, (image_id, object))| truth(index as u64 + 1, image_id, dataset, object));
    Dataset {
        images: images.collect(),
        annotations: annotations.collect(),
        categories: categories.collect(),
        ..Default::default()
    }
}

fn truth(id: u64, image_id: u64, dataset: &DetectionDataset, object: &DetectionObject) -> Annotation {
    Annotation {
        id,
        image_id,
        category_id: dataset.categories[object.category].id,
        bbox: Some(results::xywh(&object.bbox)),
        area: Some(f64::from(object.area)),
        iscrowd: object.crowd || object.difficult,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use scrl_core::data::detection;
    use scrl_core::structures::BoxXyxy;

    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/coco_metrics")).join(name)
    }

    #[derive(Deserialize)]
    struct Expected {
        metrics: BTreeMap<String, f64>,
        per_class: BTreeMap<String, Option<f64>>,
        only_large: BTreeMap<String, f64>,
    }

    fn expected() -> Expected {
        serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap()
    }

    /// pycocotools' -1 is our null; both sides compute in double precision, in the same order.
    fn assert_equal(found: &CocoMetrics, expected: &BTreeMap<String, f64>) {
        let found = serde_json::to_value(found).unwrap();
        for (name, &value) in expected {
            let ours = found[name].as_f64().unwrap_or(-1.0);
            assert!((ours - value).abs() < 1e-9, "{name}: {ours} instead of {value}");
        }
        assert_eq!(expected.len(), 12);
    }

    /// Reads an instances file without needing its images.
    fn dataset(path: &Path) -> DetectionDataset {
        let file: Dataset = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let mut categories: Vec<_> =
            file.categories.into_iter().map(|c| detection::Category { id: c.id, name: c.name }).collect();
        categories.sort_by_key(|category| category.id);
        let object = |a: &Annotation| {
            let [x, y, width, height] = a.bbox.unwrap();
            DetectionObject {
                bbox: BoxXyxy::new(x as f32, y as f32, (x + width) as f32, (y + height) as f32),
                category: categories.iter().position(|c| c.id == a.category_id).unwrap(),
                crowd: a.iscrowd,
                difficult: false,
                area: a.area.unwrap() as f32,
            }
        };
        let image = |image: Image| detection::DetectionImage {
            id: image.id,
            path: PathBuf::new(),
            file_name: image.file_name,
            width: image.width,
            height: image.height,
            objects: file.annotations.iter().filter(|a| a.image_id == image.id).map(object).collect(),
        };
        let images = file.images.into_iter().map(image).collect();
        DetectionDataset { name: "fixture".into(), images, categories, dropped: 0 }
    }

    #[test]
    fn files_give_the_figures_of_pycocotools() {
        let found = evaluate_files(&fixture("ground_truth.json"), &fixture("detections.json")).unwrap();
        let expected = expected();
        assert_equal(&found, &expected.metrics);
        assert_eq!(found.per_class.len(), expected.per_class.len());
        for class in &found.per_class {
            let value = expected.per_class[&class.name];
            assert_eq!(class.ap.is_some(), value.is_some(), "{}", class.name);
            assert!((class.ap.unwrap_or(0.0) - value.unwrap_or(0.0)).abs() < 1e-9, "{}", class.name);
        }
    }

    #[test]
    fn a_data_set_in_memory_gives_the_figures_of_pycocotools() {
        let truth = dataset(&fixture("ground_truth.json"));
        let found = read_results_of(&truth);
        assert_equal(&evaluate_coco(&truth, &found).unwrap(), &expected().metrics);
    }

    #[test]
    fn area_ranges_without_objects_are_null() {
        let mut truth = dataset(&fixture("ground_truth.json"));
        let found = read_results_of(&truth);
        truth.images.iter_mut().for_each(|image| image.objects.retain(|object| object.area >= 9216.0));
        let metrics = evaluate_coco(&truth, &found).unwrap();
        assert_equal(&metrics, &expected().only_large);
        assert_eq!(metrics.ap_small, None);
        assert!(serde_json::to_value(&metrics).unwrap()["APs"].is_null());
    }

    fn read_results_of(truth: &DetectionDataset) -> Vec<ImageDetections> {
        super::super::read_results(&fixture("detections.json"), truth).unwrap()
    }

    #[test]
    fn no_detections_at_all_give_zero() {
        let truth = dataset(&fixture("ground_truth.json"));
        let metrics = evaluate_coco(&truth, &[]).unwrap();
        assert_eq!((metrics.ap, metrics.ar100), (Some(0.0), Some(0.0)));
    }

    #[test]
    fn a_detection_in_an_unknown_image_is_an_error() {
        let truth = dataset(&fixture("ground_truth.json"));
        let stray = [ImageDetections { image_id: 4711, detections: Vec::new() }];
        assert!(matches!(evaluate_coco(&truth, &stray), Err(EvaluationError::UnknownImage(4711))));
    }

    /// Figures of pycocotools 2.0.11, given to six digits.
    #[test]
    fn real_coco_annotations_give_the_figures_of_pycocotools() {
        let Some(folder) = crate::test_data::folder("metrics/coco100") else { return };
        let truth = folder.join("instances_val2014_100.json");
        let found = folder.join("instances_val2014_fakebbox100_results.json");
        let expected = [
            ("AP", 0.504581),
            ("AP50", 0.696973),
            ("AP75", 0.572982),
            ("APs", 0.585626),
            ("APm", 0.519400),
            ("APl", 0.501398),
            ("AR1", 0.386813),
            ("AR10", 0.593680),
            ("AR100", 0.595353),
            ("ARs", 0.639811),
            ("ARm", 0.566421),
            ("ARl", 0.564291),
        ];
        let from_files = serde_json::to_value(evaluate_files(&truth, &found).unwrap()).unwrap();
        let memory = dataset(&truth);
        let in_memory = super::super::read_results(&found, &memory).unwrap();
        let in_memory = serde_json::to_value(evaluate_coco(&memory, &in_memory).unwrap()).unwrap();
        for (name, value) in expected {
            for metrics in [&from_files, &in_memory] {
                let ours = metrics[name].as_f64().unwrap();
                assert!((ours - value).abs() < 1e-6, "{name}: {ours} instead of {value}");
            }
        }
    }
}
