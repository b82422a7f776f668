//! Against pycocotools' `precision` array on the fixture of the COCO metrics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::data::{Labels, coco};

use super::*;
use crate::evaluation::{evaluate_coco, read_results};

#[derive(Deserialize)]
struct Expected {
    recall: Vec<f64>,
    classes: BTreeMap<String, [Vec<f64>; 2]>,
    mean: [Vec<f64>; 2],
}

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/coco_metrics")).join(name)
}

fn expected() -> Expected {
    serde_json::from_slice(&std::fs::read(fixture("precision.json")).unwrap()).unwrap()
}

fn close(ours: &[f64], theirs: &[f64]) -> bool {
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-9)
}

#[test]
fn curves_are_those_of_pycocotools() {
    let truth = coco::survey(&fixture("ground_truth.json"), Path::new(""), Labels::Boxes).unwrap().dataset;
    let found = read_results(&fixture("detections.json"), &truth).unwrap();
    let curves = precision_recall(&truth, &found).unwrap();
    let expected = expected();
    assert!(close(&curves.recall, &expected.recall));
    assert_eq!(curves.classes.len(), expected.classes.len());
    for class in curves.classes.iter().chain([&curves.mean]) {
        let [iou50, coco] = expected.classes.get(&class.name).unwrap_or(&expected.mean);
        assert!(close(&class.iou50, iou50) && close(&class.coco, coco), "{}", class.name);
    }
}

#[test]
fn the_means_of_the_curves_are_the_average_precisions() {
    let truth = coco::survey(&fixture("ground_truth.json"), Path::new(""), Labels::Boxes).unwrap().dataset;
    let found = read_results(&fixture("detections.json"), &truth).unwrap();
    let curves = precision_recall(&truth, &found).unwrap();
    let metrics = evaluate_coco(&truth, &found).unwrap();
    let near = |a: Option<f64>, b: Option<f64>| (a.unwrap_or(-1.0) - b.unwrap_or(-1.0)).abs() < 1e-9;
    let [ap50, ap] = curves.mean.average_precisions();
    assert!(near(ap50, metrics.ap50) && near(ap, metrics.ap), "{ap50:?} {ap:?}");
    for (class, metric) in curves.classes.iter().zip(&metrics.per_class) {
        assert_eq!(class.name, metric.name);
        assert!(near(class.average_precisions()[1], metric.ap), "{}", class.name);
    }
    assert!(
        curves.classes.iter().any(|class| class.iou50.is_empty()),
        "a class without objects has no curve"
    );
}

#[test]
fn without_any_object_there_is_no_curve() {
    let mut truth =
        coco::survey(&fixture("ground_truth.json"), Path::new(""), Labels::Boxes).unwrap().dataset;
    for image in &mut truth.images {
        (image.objects, image.annotated) = (Vec::new(), None);
    }
    let curves = precision_recall(&truth, &[]).unwrap();
    assert_eq!(curves.mean.average_precisions(), [None, None]);
}
