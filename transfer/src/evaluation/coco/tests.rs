//! pycocotools' figures, on fixtures and on real annotations.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::data;
use scrl_core::structures::BoxXyxy;

use super::*;
use crate::data::DetectionObject;
use crate::detection::Detection;
use hotcoco::{Annotation, Image};

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/coco_metrics")).join(name)
}

#[derive(Deserialize)]
struct Expected {
    metrics: BTreeMap<String, f64>,
    per_class: BTreeMap<String, Option<f64>>,
    #[serde(default)]
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
        file.categories.into_iter().map(|c| data::Category { id: c.id, name: c.name }).collect();
    categories.sort_by_key(|category| category.id);
    let object = |a: &Annotation| {
        let [x, y, width, height] = a.bbox.unwrap();
        DetectionObject {
            bbox: BoxXyxy::new(x as f32, y as f32, (x + width) as f32, (y + height) as f32),
            category: categories.iter().position(|c| c.id == a.category_id).unwrap(),
            crowd: a.iscrowd,
            difficult: false,
            area: a.area.unwrap() as f32,
            mask: None,
        }
    };
    let image = |image: Image| data::DetectionImage {
        id: image.id,
        path: PathBuf::new(),
        file_name: image.file_name,
        width: image.width,
        height: image.height,
        objects: file.annotations.iter().filter(|a| a.image_id == image.id).map(object).collect(),
        annotated: None,
    };
    let images = file.images.into_iter().map(image).collect();
    DetectionDataset { name: "fixture".into(), images, categories, dropped: 0 }
}

#[test]
fn files_give_the_figures_of_pycocotools() {
    let found = evaluate_files(&fixture("ground_truth.json"), &fixture("detections.json")).unwrap().boxes;
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

fn only_large() -> DetectionDataset {
    let mut truth = dataset(&fixture("ground_truth.json"));
    truth.images.iter_mut().for_each(|image| image.objects.retain(|object| object.area >= 9216.0));
    truth
}

#[test]
fn area_ranges_without_objects_are_null() {
    let found = read_results_of(&dataset(&fixture("ground_truth.json")));
    let metrics = evaluate_coco(&only_large(), &found).unwrap();
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
    let from_files = serde_json::to_value(evaluate_files(&truth, &found).unwrap().boxes).unwrap();
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

/// A hundred images of everything at once: see `generate.py`.
#[test]
fn a_random_set_of_a_hundred_images_gives_the_figures_of_pycocotools() {
    let found = evaluate_files(&fixture("stress_truth.json"), &fixture("stress_found.json")).unwrap().boxes;
    let text = std::fs::read(fixture("stress_expected.json")).unwrap();
    let expected: Expected = serde_json::from_slice(&text).unwrap();
    assert_equal(&found, &expected.metrics);
    assert_eq!(found.per_class.len(), expected.per_class.len());
    for class in &found.per_class {
        let (ours, theirs) = (class.ap.unwrap_or(-1.0), expected.per_class[&class.name].unwrap_or(-1.0));
        assert!((ours - theirs).abs() < 1e-9, "{}: {ours} instead of {theirs}", class.name);
    }
}

#[test]
fn the_official_report_has_the_twelve_names_and_minus_one_for_what_cannot_be_measured() {
    let metrics = evaluate_coco(&only_large(), &[]).unwrap();
    let report = metrics.official();
    let names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"];
    assert_eq!(report.as_object().unwrap().len(), names.len() + 1);
    assert!(names.iter().all(|name| report[name].is_number()), "{report}");
    assert_eq!((&report["AP"], &report["APs"]), (&0.0.into(), &Value::from(-1.0)));
    assert_eq!(report["per_class"]["never seen"], -1.0);
}

#[test]
fn a_missing_area_is_the_boxes() {
    let folder = tempfile::tempdir().unwrap();
    let mut truth: Value =
        serde_json::from_slice(&std::fs::read(fixture("ground_truth.json")).unwrap()).unwrap();
    let mut paths = Vec::new();
    for keep in [true, false] {
        for annotation in truth["annotations"].as_array_mut().unwrap() {
            let annotation = annotation.as_object_mut().unwrap();
            let side = |i: usize| annotation["bbox"][i].as_f64().unwrap();
            let area = side(2) * side(3);
            annotation.insert("area".into(), area.into());
            if !keep {
                annotation.remove("area");
            }
        }
        paths.push(folder.path().join(format!("{keep}.json")));
        std::fs::write(paths.last().unwrap(), truth.to_string()).unwrap();
    }
    let [with, without] =
        [0, 1].map(|i| evaluate_files(&paths[i], &fixture("detections.json")).unwrap().boxes);
    assert_eq!(with, without);
    assert!(with.ap_small.is_some() && with.ap_large.is_some());
}

#[test]
fn a_result_of_an_image_that_the_truth_lacks_is_named_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("found.json");
    let row =
        |image: u64| format!("{{\"image_id\":{image},\"category_id\":3,\"bbox\":[1,1,5,5],\"score\":0.5}}");
    std::fs::write(&path, format!("[{},{}]", row(5), row(4711))).unwrap();
    let message = evaluate_files(&fixture("ground_truth.json"), &path).unwrap_err().to_string();
    assert!(message.contains("found.json`: result 2 names image 4711"), "{message}");
    std::fs::write(&path, "[]").unwrap();
    assert_eq!(evaluate_files(&fixture("ground_truth.json"), &path).unwrap().boxes.ap, Some(0.0));
}

#[test]
fn annotations_without_ids_with_id_0_or_with_one_id_are_all_evaluated() {
    let text = std::fs::read(fixture("ground_truth.json")).unwrap();
    let expected = evaluate_files(&fixture("ground_truth.json"), &fixture("detections.json")).unwrap().boxes;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("truth.json");
    for id in [None, Some(0), Some(7)] {
        let mut truth: Value = serde_json::from_slice(&text).unwrap();
        for annotation in truth["annotations"].as_array_mut().unwrap() {
            let annotation = annotation.as_object_mut().unwrap();
            annotation.remove("id");
            annotation.extend(id.map(|id: u64| ("id".to_string(), Value::from(id))));
        }
        std::fs::write(&path, serde_json::to_vec(&truth).unwrap()).unwrap();
        let found = evaluate_files(&path, &fixture("detections.json")).unwrap().boxes;
        assert_eq!(found, expected, "{id:?}");
    }
}

/// Detections of a results file, for a data set in memory.
fn detections_of(path: &Path, dataset: &DetectionDataset) -> Vec<ImageDetections> {
    let rows: Vec<CocoResult> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let of_image = |image: &data::DetectionImage| {
        let rows = rows.iter().filter(|row| row.image_id == image.id);
        let detection = |row: &CocoResult| {
            let [x, y, width, height] = row.bbox;
            Detection {
                bbox: BoxXyxy::new(x as f32, y as f32, (x + width) as f32, (y + height) as f32),
                score: row.score as f32,
                class: dataset.categories.iter().position(|c| c.id == row.category_id).unwrap(),
                mask: None,
            }
        };
        ImageDetections { image_id: image.id, detections: rows.map(detection).collect() }
    };
    dataset.images.iter().map(of_image).collect()
}

#[test]
fn boxes_beyond_the_image_and_without_area_are_judged_as_pycocotools_judges_them() {
    let folder = tempfile::tempdir().unwrap();
    let (truth, found) = (fixture("degenerate_truth.json"), fixture("degenerate_detections.json"));
    for index in 0..12 {
        std::fs::write(folder.path().join(format!("{index}.png")), "not decoded here").unwrap();
    }
    let dataset = data::coco::load(&truth, folder.path(), data::Labels::Boxes).unwrap();
    assert_eq!(dataset.dropped, 12, "training leaves out the boxes without area");
    let expected: BTreeMap<String, f64> =
        serde_json::from_slice(&std::fs::read(fixture("degenerate_expected.json")).unwrap()).unwrap();
    assert!(expected["AP"] < 0.9, "clipped boxes would be easier: {expected:?}");
    assert_equal(&evaluate_files(&truth, &found).unwrap().boxes, &expected);
    // Coordinates of detections are exact in single precision, scores keep their order.
    assert_equal(&evaluate_coco(&dataset, &detections_of(&found, &dataset)).unwrap(), &expected);
}

fn mask_fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/masks")).join(name)
}

/// The twelve figures and those of classes; both sides compute in double precision.
fn assert_official(found: &Value, prefix: &str, expected: &Value) {
    let expected = expected.as_object().unwrap();
    assert_eq!(expected.len(), 13);
    for (name, value) in expected {
        let found = &found[format!("{prefix}{name}")];
        let pairs: Vec<(f64, f64)> = match value.as_object() {
            Some(classes) => {
                classes.iter().map(|(k, v)| (found[k].as_f64().unwrap(), v.as_f64().unwrap())).collect()
            }
            None => vec![(found.as_f64().unwrap(), value.as_f64().unwrap())],
        };
        for (found, expected) in pairs {
            assert!((found - expected).abs() < 1e-9, "{prefix}{name}: {found} instead of {expected}");
        }
    }
}

#[test]
fn masks_have_the_figures_of_pycocotools_from_files_and_in_memory() {
    let expected: Value =
        serde_json::from_slice(&std::fs::read(mask_fixture("expected.json")).unwrap()).unwrap();
    let (truth, found) = (mask_fixture("ground_truth.json"), mask_fixture("detections.json"));
    let figures = evaluate_files(&truth, &found).unwrap().official();
    assert_official(&figures, "", &expected["bbox"]);
    assert_official(&figures, "segm_", &expected["segm"]);

    let dataset = coco::survey(&truth, Path::new(""), data::Labels::Masks).unwrap().dataset;
    let results = super::super::read_results(&found, &dataset).unwrap();
    let figures = evaluate_coco_masks(&dataset, &results).unwrap().expect("both sides have masks").official();
    let prefixed: Value = figures
        .as_object()
        .unwrap()
        .iter()
        .map(|(k, v)| (format!("segm_{k}"), v.clone()))
        .collect::<Map<_, _>>()
        .into();
    assert_official(&prefixed, "segm_", &expected["segm"]);

    // Written and read again, they are the same, also without their boxes.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    super::super::write_results(&path, &dataset, &results).unwrap();
    let again = evaluate_files(&truth, &path).unwrap().official();
    assert_official(&again, "segm_", &expected["segm"]);
    let mut rows: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    rows.iter_mut().for_each(|row| drop(row.as_object_mut().unwrap().remove("bbox")));
    std::fs::write(&path, serde_json::to_vec(&rows).unwrap()).unwrap();
    assert_official(&evaluate_files(&truth, &path).unwrap().official(), "segm_", &expected["segm"]);

    // Where one result lacks its mask, or the data were read without, boxes alone are judged.
    rows.iter_mut().for_each(|row| row["bbox"] = serde_json::json!([1, 1, 9, 9]));
    rows[0].as_object_mut().unwrap().remove("segmentation");
    std::fs::write(&path, serde_json::to_vec(&rows).unwrap()).unwrap();
    assert_eq!(evaluate_files(&truth, &path).unwrap().masks, None);
    let plain = coco::survey(&truth, Path::new(""), data::Labels::Boxes).unwrap().dataset;
    assert_eq!(evaluate_coco_masks(&plain, &results).unwrap(), None);
}

#[test]
fn a_result_with_a_mask_of_another_images_size_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    let row = r#"{"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": {"size": [2, 2], "counts": [1, 3]}}"#;
    std::fs::write(&path, format!("[{row}]")).unwrap();
    let error = evaluate_files(&mask_fixture("ground_truth.json"), &path).unwrap_err().to_string();
    assert!(error.contains("result number 1: its mask is of 2×2 pixels, the image has"), "{error}");
}

#[test]
fn metrics_with_masks_are_read_back_as_they_were_written() {
    let dataset =
        coco::survey(&mask_fixture("ground_truth.json"), Path::new(""), data::Labels::Masks).unwrap().dataset;
    let results = super::super::read_results(&mask_fixture("detections.json"), &dataset).unwrap();
    let metrics = super::super::evaluate_detections(&dataset, &results).unwrap();
    let text = serde_json::to_string(&metrics).unwrap();
    assert!(text.contains("\"segm_AP50\":"), "{text}");
    assert_eq!(serde_json::from_str::<super::super::DetectionMetrics>(&text).unwrap(), metrics);
    assert!(metrics.summary().iter().any(|(name, value)| *name == "segm_AP" && value.is_some()));
    let boxes = super::super::DetectionMetrics { masks: None, ..metrics };
    let text = serde_json::to_string(&boxes).unwrap();
    assert!(!text.contains("segm_"), "{text}");
    assert_eq!(serde_json::from_str::<super::super::DetectionMetrics>(&text).unwrap(), boxes);
}
