//! The whole path on wgpu, on a GPU or on a software renderer, beside the same on the CPU.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::*;

/// Relative difference of losses. Rounding differs by some 1e-7 a sum; a step multiplies what there is. At learning
/// rates that move these tiny networks far, two ways of rounding on the CPU are one per cent apart after six steps, so rates are small.
/// Supervised views have 64 pixels: of 32, C5 has one cell, and a batch norm over four numbers has made 1e-3 of a rounding. Of 64, losses
/// differ by 1e-6 at most.
const TOLERANCE: f64 = 1e-4;

fn series(run: &Path, key: &str) -> Vec<f64> {
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).expect("the run has metrics");
    let events = metrics.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
    events.filter_map(|event| event[key].as_f64()).collect()
}

#[track_caller]
fn assert_near(what: &str, [cpu, wgpu]: [&[f64]; 2]) {
    assert!(!cpu.is_empty() && cpu.len() == wgpu.len(), "{what}: {cpu:?} on the CPU, {wgpu:?} on wgpu");
    for (index, (cpu, wgpu)) in cpu.iter().zip(wgpu).enumerate() {
        let near = (cpu - wgpu).abs() <= TOLERANCE * cpu.abs().max(1.0);
        assert!(near, "{what}, number {index}: {cpu} on the CPU, {wgpu} on wgpu");
    }
}

#[test]
fn pretraining_and_transfer_on_wgpu_have_the_losses_of_the_cpu() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let devices = ["cpu", "wgpu"];
    for (method, view) in [("scrl", "augment.view_size=32"), ("supervised", "augment.view_size=64")] {
        let recipe = tiny_pretrain(tmp.path(), method);
        let images = data.join(if method == "supervised" { "classes" } else { "unlabelled" });
        let losses = devices.map(|device| {
            let run = tmp.path().join(format!("{method}-{device}"));
            let args = ["--config", text(&recipe), "--data", text(&images), "--out", text(&run)];
            let sets = ["schedule.epochs=2", "schedule.base_lr=0.001", view];
            let small = [&sets.map(|set| ["--set", set]).concat()[..], &["--device", device]].concat();
            succeed(&[&["pretrain"], &args[..], &small].concat());
            series(&run, "loss")
        });
        assert_near(method, losses.each_ref().map(Vec::as_slice));
    }

    let (recipe, init) = (tiny_transfer(tmp.path()), tmp.path().join("scrl-cpu"));
    let runs = devices.map(|device| {
        let run = tmp.path().join(format!("detector-{device}"));
        let args = ["--config", text(&recipe), "--data", text(&data), "--out", text(&run)];
        succeed(&[&["transfer"], &args[..], &["--init", text(&init), "--device", device]].concat());
        run
    });
    let losses = runs.each_ref().map(|run| series(run, "loss"));
    assert_near("Faster R-CNN", losses.each_ref().map(Vec::as_slice));

    // A detector that was trained on wgpu is evaluated there and exported like any other.
    succeed(&["evaluate", "--run", text(&runs[1]), "--data", text(&data), "--device", "wgpu"]);
    if has_runtime() {
        let onnx = tmp.path().join("detector.onnx");
        succeed(&["export", "detector", "--run", text(&runs[1]), "--out", text(&onnx)]);
        assert!(onnx.exists());
    }
}

/// Figures of a detector that finds things: those of barely trained ones hang on the order of scores that are nearly equal.
#[test]
fn a_trained_detector_has_the_average_precision_of_the_cpu() {
    /// Scores and corners differ by some 1e-5; where two of them change places AP moves by less than this.
    const AP_TOLERANCE: f64 = 1e-3;
    let tmp = temporary();
    let data = scenes(tmp.path());
    let sets =
        ["iterations=400", "batch_size=4", "solver.lr=0.05", "solver.milestones=[300]", "log_every=100"];
    let sets: Vec<&str> = sets.into_iter().flat_map(|set| ["--set", set]).collect();
    let run = tiny_detector(tmp.path(), &data, &sets);
    // On its training images, which it has learnt in these few seconds.
    let (train, val) =
        (data.join("annotations/instances_train.json"), data.join("annotations/instances_val.json"));
    fs::copy(train, val).expect("the annotations are copied");
    fs::remove_dir_all(data.join("val")).expect("the images are removed");
    fs::rename(data.join("train"), data.join("val")).expect("the images are moved");
    fs::create_dir(data.join("train")).expect("the folder is made");
    let [cpu, wgpu] = ["cpu", "wgpu"].map(|device| {
        let figures = tmp.path().join(format!("{device}.json"));
        let args = ["--run", text(&run), "--data", text(&data), "--out", text(&figures), "--device", device];
        succeed(&[&["evaluate"], &args[..]].concat());
        json(&figures)
    });
    for figure in ["AP", "AP50", "AR100", "VOC07_mAP"] {
        let [cpu, wgpu] = [&cpu, &wgpu].map(|figures| figures[figure].as_f64().expect("a figure"));
        assert!(cpu > 0.05, "{figure} is {cpu}: the detector has learnt nothing that could be compared");
        assert!((cpu - wgpu).abs() < AP_TOLERANCE, "{figure}: {cpu} on the CPU, {wgpu} on wgpu");
    }
}

#[test]
fn devices_that_are_not_there_are_named_with_the_reason() {
    let tmp = temporary();
    let refused = |device| fail(&["bench", "forward", "--device", device, "--steps", "1"], tmp.path());
    assert!(refused("wgpu:7").starts_with("exit code 2"), "{}", refused("wgpu:7"));
    let cuda = refused("cuda:0");
    assert!(cuda.starts_with("exit code 2") && cuda.contains("built without cuda"), "{cuda}");
}
