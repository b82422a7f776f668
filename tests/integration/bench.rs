//! `scrl bench`: what scripts read, and what is refused.

use serde_json::Value;

use crate::support::*;

/// Runs a bench and gives the one line of JSON that it prints, after checking its name and its figures.
fn bench(args: &[&str], figures: &[&str]) -> Value {
    let output = succeed(&[&["bench"], args].concat());
    assert_eq!(output.lines().count(), 1, "only one line:\n{output}");
    let line: Value = serde_json::from_str(&output).expect("the line is JSON");
    assert_eq!(line["bench"], args[0]);
    for figure in figures.iter().chain(&["threads"]) {
        let value = line[figure].as_f64().unwrap_or(f64::NAN);
        assert!(value.is_finite() && value > 0.0, "{figure} in {line}");
    }
    if cfg!(target_os = "linux") {
        assert!(line["peak_gib"].as_f64().expect("a number") > 0.0, "{line}");
    } else {
        assert!(line["peak_gib"].is_null() || line["peak_gib"].is_number(), "{line}");
    }
    line
}

#[test]
fn a_pretraining_step_is_measured_with_either_optimizer() {
    for optimizer in ["sgd", "lars"] {
        let args = [
            "pretrain", "--arch", "resnet18", "--batch", "2", "--size", "32", "--boxes", "3", "--steps", "1",
        ];
        let line = bench(
            &[&args[..], &["--optimizer", optimizer]].concat(),
            &["batch", "size", "boxes", "steps", "median_step_seconds", "pairs_per_second", "loss"],
        );
        let product =
            line["median_step_seconds"].as_f64().unwrap() * line["pairs_per_second"].as_f64().unwrap();
        assert!((product - 2.0).abs() < 1e-9, "two pairs a step: {line}");
        assert_eq!((line["arch"].as_str(), line["optimizer"].as_str()), (Some("resnet18"), Some(optimizer)));
    }
}

#[test]
fn a_forward_pass_is_measured() {
    let args =
        ["forward", "--arch", "resnet18", "--batch", "2", "--size", "32", "--steps", "2", "--threads", "1"];
    let line = bench(&args, &["batch", "size", "steps", "median_step_seconds", "images_per_second"]);
    assert_eq!((line["threads"].as_u64(), line["steps"].as_u64()), (Some(1), Some(2)));
}

#[test]
fn training_and_detection_of_a_detector_are_measured() {
    let args = ["detector", "--arch", "resnet18", "--height", "64", "--width", "64", "--boxes", "2"];
    let figures =
        ["height", "width", "classes", "boxes", "train_images_per_second", "infer_images_per_second"];
    bench(&[&args[..], &["--steps", "1"]].concat(), &[&figures[..], &["loss"]].concat());
}

#[test]
fn augmentation_is_measured_on_the_images_of_a_folder() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let line = bench(
        &["augment", "--data", text(&photos), "--images", "5", "--size", "32"],
        &["size", "seconds", "images_per_second"],
    );
    assert_eq!(line["images"], 5);
    let line = bench(&["augment", "--data", text(&photos), "--size", "32"], &["images_per_second"]);
    assert_eq!(line["images"], 12, "all that the folder has");
}

#[test]
fn roi_align_is_measured_forward_and_backward() {
    let args =
        ["roi-align", "--rois", "4", "--channels", "2", "--height", "9", "--width", "8", "--steps", "1"];
    bench(&args, &["rois", "batch", "channels", "forward_seconds", "forward_backward_seconds"]);
}

#[test]
fn values_that_measure_nothing_are_refused() {
    let tmp = temporary();
    let refusal = |args: &[&str]| fail(&[&["bench"], args].concat(), tmp.path());
    insta::assert_snapshot!("bench_no_steps", refusal(&["forward", "--steps", "0"]));
    insta::assert_snapshot!("bench_one_image", refusal(&["pretrain", "--batch", "1"]));
    insta::assert_snapshot!("bench_small_side", refusal(&["detector", "--width", "16"]));
    insta::assert_snapshot!("bench_unknown_arch", refusal(&["forward", "--arch", "resnet42"]));
    insta::assert_snapshot!("bench_unknown_device", refusal(&["forward", "--device", "tpu"]));
    let missing = tmp.path().join("photos");
    insta::assert_snapshot!("bench_missing_folder", refusal(&["augment", "--data", text(&missing)]));
}
