//! The whole path on wgpu, on a GPU or on a software renderer, beside the same on the CPU.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::*;

/// Relative difference of losses and scores. Rounding differs by some 1e-7 a sum; a step multiplies what there is. At learning
/// rates that move these tiny networks far, two ways of rounding on the CPU are one per cent apart after six steps, so rates are small.
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

/// Scores and boxes of a file of predictions, in its order.
fn predictions(folder: &Path) -> Vec<f64> {
    let found = json(&folder.join("predictions.json"));
    let rows = found.as_array().expect("a list").iter();
    rows.flat_map(|row| {
        let corners = row["bbox"].as_array().expect("a box").iter().map(|corner| corner.as_f64().unwrap());
        std::iter::once(row["score"].as_f64().unwrap()).chain(corners).collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn the_whole_path_on_wgpu_has_the_figures_of_the_cpu() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let devices = ["cpu", "wgpu"];
    for method in ["scrl", "byol", "densecl", "supervised"] {
        let recipe = tiny_pretrain(tmp.path(), method);
        let images = data.join(if method == "supervised" { "classes" } else { "unlabelled" });
        let losses = devices.map(|device| {
            let run = tmp.path().join(format!("{method}-{device}"));
            let args = ["--config", text(&recipe), "--data", text(&images), "--out", text(&run)];
            let small = ["--set", "schedule.epochs=2", "--set", "schedule.base_lr=0.001", "--device", device];
            succeed(&[&["pretrain"], &args[..], &small].concat());
            series(&run, "loss")
        });
        assert_near(method, losses.each_ref().map(Vec::as_slice));
    }

    let init = tmp.path().join("scrl-cpu");
    for (name, recipe) in
        [("faster-rcnn", tiny_transfer(tmp.path())), ("retinanet", tiny_retinanet(tmp.path()))]
    {
        let runs = devices.map(|device| {
            let run = tmp.path().join(format!("{name}-{device}"));
            let args = ["--config", text(&recipe), "--data", text(&data), "--out", text(&run)];
            let rest = ["--init", text(&init), "--device", device];
            succeed(&[&["transfer"], &args[..], &rest].concat());
            run
        });
        let losses = runs.each_ref().map(|run| series(run, "loss"));
        assert_near(name, losses.each_ref().map(Vec::as_slice));

        // One detector on both: what it finds, and its figures.
        let run = &runs[0];
        let found = devices.map(|device| {
            let found = tmp.path().join(format!("{name}-{device}-found"));
            let (images, found_in) = (data.join("val"), text(&found));
            let args = ["predict", "--run", text(run), text(&images), "--out", found_in, "--device", device];
            succeed(&args);
            predictions(&found)
        });
        assert_near("predictions", found.each_ref().map(Vec::as_slice));
        let figures = devices.map(|device| {
            let args = ["evaluate", "--run", text(run), "--data", text(&data), "--device", device];
            succeed(&args)
        });
        assert_eq!(figures[0], figures[1], "{name}");

        // A detector that was trained on wgpu is exported like any other.
        if has_runtime() {
            let onnx = tmp.path().join(format!("{name}.onnx"));
            succeed(&["export", "detector", "--run", text(&runs[1]), "--out", text(&onnx)]);
            assert!(onnx.exists());
        }
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
