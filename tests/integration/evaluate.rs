//! `scrl evaluate` without a model, and what a run writes for the official tools.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::*;

const COCO_NAMES: [&str; 12] =
    ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("transfer/tests/fixtures/coco_metrics").join(name)
}

fn judge(truth: &Path, found: &Path, extra: &[&str], out: &Path) -> Value {
    let args = ["evaluate", "--ground-truth", text(truth), "--detections", text(found), "--out", text(out)];
    succeed(&[&args[..], extra].concat());
    json(out)
}

#[test]
fn coco_files_are_judged_under_the_official_names() {
    let tmp = temporary();
    let out = tmp.path().join("metrics.json");
    let metrics = judge(&fixture("ground_truth.json"), &fixture("detections.json"), &[], &out);
    let names: BTreeSet<&str> = metrics.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, COCO_NAMES.into_iter().chain(["per_class"]).collect());
    for (name, value) in json(&fixture("expected.json"))["metrics"].as_object().unwrap() {
        let difference = metrics[name].as_f64().unwrap() - value.as_f64().unwrap();
        assert!(difference.abs() < 1e-6, "{name}: {} instead of {value}", metrics[name]);
    }
    assert_eq!(metrics["per_class"]["never seen"], -1.0);
}

/// Two images of 100 × 100 pixels, two cats, a dog and a difficult dog, as a VOC folder; and a folder of detections.
fn voc(folder: &Path) -> (PathBuf, PathBuf) {
    let (root, found) = (folder.join("voc"), folder.join("found"));
    for folder in [root.join("Annotations"), root.join("ImageSets/Main"), found.clone()] {
        fs::create_dir_all(folder).unwrap();
    }
    let object = |name: &str, difficult: u8, [x1, y1, x2, y2]: [u32; 4]| {
        format!(
            "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin>\
             <ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        )
    };
    let images = [
        ("a", object("cat", 0, [1, 1, 10, 10]) + &object("dog", 0, [50, 50, 80, 80])),
        ("b", object("cat", 0, [1, 1, 10, 10]) + &object("dog", 1, [50, 50, 80, 80])),
    ];
    for (name, objects) in images {
        let xml =
            format!("<annotation><size><width>100</width><height>100</height></size>{objects}</annotation>");
        fs::write(root.join(format!("Annotations/{name}.xml")), xml).unwrap();
    }
    fs::write(root.join("ImageSets/Main/test.txt"), "a\nb\n").unwrap();
    for class in [
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "chair",
        "cow",
        "diningtable",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ] {
        fs::write(found.join(format!("comp4_det_test_{class}.txt")), "").unwrap();
    }
    // The best cat is wrong, the second one overlaps by exactly one half, the third one finds the same cat again.
    let cats = "b 0.9 40 40 60 60\na 0.8 1 1 10 5\na 0.7 1 1 10 10\n";
    fs::write(found.join("comp4_det_test_cat.txt"), cats).unwrap();
    // A difficult object counts neither way.
    fs::write(found.join("comp4_det_test_dog.txt"), "b 0.9 50 50 80 80\na 0.8 50 50 80 80\n").unwrap();
    (root, found)
}

#[test]
fn the_kits_text_files_are_judged_by_both_definitions_and_by_class() {
    let tmp = temporary();
    let (root, found) = voc(tmp.path());
    let out = tmp.path().join("metrics.json");
    let metrics = judge(&root, &found, &["--split", "test"], &out);
    let close = |value: &Value, expected: f64| (value.as_f64().expect("a number") - expected).abs() < 1e-12;
    // Precision 1/2 at recall 1/2: six of eleven levels, half of the area.
    assert!(close(&metrics["VOC07_AP"]["cat"], 6.0 * 0.5 / 11.0), "{metrics}");
    assert!(close(&metrics["VOC_AP"]["cat"], 0.25), "{metrics}");
    assert!(close(&metrics["VOC07_AP"]["dog"], 1.0) && close(&metrics["VOC_AP"]["dog"], 1.0), "{metrics}");
    assert!(metrics["VOC_AP"]["sofa"].is_null() && metrics["VOC_AP"].as_object().unwrap().len() == 20);
    assert!(close(&metrics["VOC07_mAP"], (3.0 / 11.0 + 1.0) / 2.0), "{metrics}");
    assert!(close(&metrics["VOC_mAP"], 0.625), "{metrics}");
}

#[test]
fn what_cannot_be_judged_is_named_with_file_and_line() {
    let tmp = temporary();
    let (root, found) = voc(tmp.path());
    let refusal = |truth: &Path, found: &Path, extra: &[&str]| {
        let args = ["evaluate", "--ground-truth", text(truth), "--detections", text(found)];
        fail(&[&args[..], extra].concat(), tmp.path())
    };
    let split = ["--split", "test"];
    fs::remove_file(found.join("comp4_det_test_sofa.txt")).unwrap();
    insta::assert_snapshot!("evaluate_missing_class_file", refusal(&root, &found, &split));
    let sofa = |line: &str| fs::write(found.join("comp4_det_test_sofa.txt"), line).unwrap();
    sofa("a 0.5 1 1 9 9\nzebra 0.5 1 1 9 9\n");
    insta::assert_snapshot!("evaluate_unknown_image", refusal(&root, &found, &split));
    sofa("a 0.5 1 1 9\n");
    insta::assert_snapshot!("evaluate_malformed_line", refusal(&root, &found, &split));
    insta::assert_snapshot!("evaluate_no_split", refusal(&root, &found, &[]));
    insta::assert_snapshot!("evaluate_unknown_split", refusal(&root, &found, &["--split", "tset"]));
    let results = tmp.path().join("results.json");
    let row = r#"{"image_id": 4711, "category_id": 3, "bbox": [1, 1, 5, 5], "score": 0.5}"#;
    fs::write(&results, format!("[{row}]")).unwrap();
    let truth = tmp.path().join("truth.json");
    fs::copy(fixture("ground_truth.json"), &truth).unwrap();
    insta::assert_snapshot!("evaluate_unknown_coco_image", refusal(&truth, &results, &[]));
    fs::write(&results, "[\n{\"image_id\": 5}]").unwrap();
    insta::assert_snapshot!("evaluate_malformed_json", refusal(&truth, &results, &[]));
    insta::assert_snapshot!("evaluate_split_of_a_file", refusal(&truth, &results, &split));
}

/// A VOC folder of the validation scenes of a COCO folder.
fn as_voc(scenes: &Path, root: &Path) -> PathBuf {
    let truth = json(&scenes.join("annotations/instances_val.json"));
    for folder in ["Annotations", "JPEGImages", "ImageSets/Main"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let class = |id: &Value| truth["categories"].as_array().unwrap().iter().find(|c| c["id"] == *id).unwrap();
    let mut list = String::new();
    for image in truth["images"].as_array().unwrap() {
        let file = Path::new(image["file_name"].as_str().unwrap());
        let name = file.file_stem().unwrap().to_str().unwrap();
        let of_image =
            truth["annotations"].as_array().unwrap().iter().filter(|a| a["image_id"] == image["id"]);
        let object = |a: &Value| {
            let [x, y, w, h] = [0, 1, 2, 3].map(|i| a["bbox"][i].as_f64().unwrap());
            format!(
                "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>\
                 </bndbox></object>",
                class(&a["category_id"])["name"].as_str().unwrap(),
                x + 1.0,
                y + 1.0,
                x + w,
                y + h
            )
        };
        let objects: String = of_image.map(object).collect();
        fs::write(
            root.join(format!("Annotations/{name}.xml")),
            format!("<annotation>{objects}</annotation>"),
        )
        .unwrap();
        fs::copy(scenes.join("val").join(file), root.join("JPEGImages").join(file.file_name().unwrap()))
            .unwrap();
        list += &format!("{name}\n");
    }
    for split in ["trainval", "test"] {
        fs::write(root.join(format!("ImageSets/Main/{split}.txt")), &list).unwrap();
    }
    root.to_path_buf()
}

#[test]
fn a_run_writes_its_detections_in_the_form_of_its_data_and_they_give_its_figures() {
    let tmp = temporary();
    let scenes = scenes(tmp.path());
    let recipe = tiny_transfer(tmp.path());
    let voc = as_voc(&scenes, &tmp.path().join("voc"));
    for (data, form) in [(&scenes, "coco"), (&voc, "voc")] {
        let (run, found) = (tmp.path().join(format!("run-{form}")), tmp.path().join(format!("found-{form}")));
        let train = ["transfer", "--config", text(&recipe), "--data", text(data), "--init", "random"];
        succeed(&[&train[..], &["--out", text(&run)]].concat());
        let (ours, theirs) = (tmp.path().join("ours.json"), tmp.path().join("theirs.json"));
        let evaluate = ["evaluate", "--run", text(&run), "--detections-out", text(&found)];
        succeed(&[&evaluate[..], &["--out", text(&ours)]].concat());
        let ours = json(&ours);
        let (names, theirs) = match form {
            "coco" => {
                let truth = data.join("annotations/instances_val.json");
                assert!(
                    !json(&found).as_array().unwrap().is_empty(),
                    "an untrained detector finds something"
                );
                (&COCO_NAMES[..], judge(&truth, &found, &[], &theirs))
            }
            _ => {
                let written: Vec<String> = fs::read_dir(&found)
                    .unwrap()
                    .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
                    .collect();
                assert!(written.iter().any(|text| !text.is_empty()), "an untrained detector finds something");
                (&["VOC07_mAP", "VOC_mAP"][..], judge(data, &found, &["--split", "test"], &theirs))
            }
        };
        for name in names {
            let (ours, theirs) = (ours[name].as_f64().unwrap_or(-1.0), theirs[name].as_f64().unwrap());
            assert!((ours - theirs).abs() < 1e-6, "{form} {name}: {ours} and {theirs}");
        }
    }
}

/// Figures of pycocotools 2.0.11, given to six digits.
#[test]
fn real_coco_annotations_give_the_published_figures() {
    let Some(folder) = real_data("metrics/coco100") else { return };
    let tmp = temporary();
    let (truth, found) = (
        folder.join("instances_val2014_100.json"),
        folder.join("instances_val2014_fakebbox100_results.json"),
    );
    let metrics = judge(&truth, &found, &[], &tmp.path().join("metrics.json"));
    let expected = [
        0.504581, 0.696973, 0.572982, 0.585626, 0.519400, 0.501398, 0.386813, 0.593680, 0.595353, 0.639811,
        0.566421, 0.564291,
    ];
    for (name, value) in COCO_NAMES.into_iter().zip(expected) {
        let ours = metrics[name].as_f64().unwrap();
        assert!((ours - value).abs() < 1e-6, "{name}: {ours} instead of {value}");
    }
}
