//! `scrl export` and `scrl inspect onnx`. Where there is no ONNX Runtime, nothing can be exported; the tests say so and
//! pass, unless `SCRL_REQUIRE_ONNXRUNTIME` is set.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::*;

/// A tiny detector's run and the scenes that it was trained on.
fn run(folder: &Path) -> (PathBuf, PathBuf) {
    let data = scenes(folder);
    let run = tiny_detector(folder, &data, &[]);
    (run, data)
}

#[test]
fn a_runs_detector_is_exported_validated_and_described() {
    if !has_runtime() {
        return;
    }
    let tmp = temporary();
    let (run, data) = run(tmp.path());
    let out = tmp.path().join("det.onnx");
    let photos = data.join("unlabelled");
    let args = ["--run", text(&run), "--out", text(&out), "--input", "raw", "--images", text(&photos)];
    let printed = succeed(&[&["export", "detector"], &args[..]].concat());
    assert!(printed.contains("det.onnx: reproduced by ONNX Runtime"), "{printed}");
    // Five generated inputs, four images and all four at once.
    let report = fs::read_to_string(tmp.path().join("det.onnx.validation.json")).expect("a report");
    let report: serde_json::Value = serde_json::from_str(&report).expect("the report is JSON");
    assert_eq!(report["cases"].as_array().map(Vec::len), Some(10), "{report}");
    assert_eq!(report["passed"], true);

    let described = succeed(&["inspect", "onnx", text(&out), "--run"]);
    for part in [
        "images: float32 [batch, 3, height, width]",
        "image_sizes: int64 [batch, 2]",
        "boxes: float32 [batch, 100, 4]",
        "NonMaxSuppression 2",
        "scrl.kind = detector",
        "scrl.input = raw",
        "scrl.weights_sha256 = ",
        "ONNX Runtime opens it",
    ] {
        assert!(described.contains(part), "{part} is missing:\n{described}");
    }
    let json = succeed(&["inspect", "onnx", text(&out), "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["properties"]["scrl.color_order"], "RGB");

    let pyramid = tmp.path().join("fpn.onnx");
    let args = ["export", "backbone", "--weights", text(&run), "--output", "fpn", "--out", text(&pyramid)];
    assert!(succeed(&args).contains("p6 of random"));
}

#[test]
fn files_that_are_no_models_and_weights_that_do_not_fit_are_errors_that_name_them() {
    let tmp = temporary();
    let path = tmp.path().join("text.onnx");
    fs::write(&path, "text").unwrap();
    let error = fail(&["inspect", "onnx", text(&path)], tmp.path());
    assert!(error.starts_with("exit code 1\nerror: `TMP/text.onnx` is not an ONNX model"), "{error}");
    let error = fail(&["inspect", "onnx", text(&tmp.path().join("none.onnx"))], tmp.path());
    assert!(error.starts_with("exit code 1\nerror: cannot read `TMP/none.onnx`"), "{error}");

    let out = tmp.path().join("x.onnx");
    let export = |more: &[&str]| {
        let args = ["export", "detector", "--weights", text(&path), "--out", text(&out)];
        fail(&[&args[..], more].concat(), tmp.path())
    };
    assert!(export(&[]).contains("TMP/text.onnx"));
    let error = export(&["--variant", "torchvision", "--classes", "none.txt"]);
    assert!(error.contains("--classes is `none.txt`, neither a number nor a file"), "{error}");
    assert!(export(&["--variant", "torchvision"]).starts_with("exit code 2"));
    assert!(!out.exists());
}
