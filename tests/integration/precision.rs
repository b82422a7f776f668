//! `precision = "bf16"` through the binary: every command that computes, and machines without such products.

use std::fs;
use std::path::Path;

use scrl_ops::bf16_products;
use serde_json::Value;

use crate::support::*;

/// What a run's `config.toml` says.
fn recorded(run: &Path) -> bool {
    let config = fs::read_to_string(run.join("config.toml")).expect("the run has a config");
    config.lines().any(|line| line == "precision = \"bf16\"")
}

fn pretrain(recipe: &Path, data: &Path, out: &Path, extra: &[&str]) -> String {
    let [recipe, data, out] = [recipe, data, out].map(text);
    let args = ["pretrain", "--config", recipe, "--data", data, "--out", out, "--set", "schedule.epochs=2"];
    succeed(&[&args[..], extra].concat())
}

#[test]
fn every_method_pretrains_in_bfloat16_and_its_backbone_serves_a_detector() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    for method in ["scrl", "byol", "densecl", "supervised"] {
        let (recipe, run) = (tiny_pretrain(tmp.path(), method), tmp.path().join(method));
        let images = if method == "supervised" { "classes" } else { "unlabelled" };
        // One by the option, the others by the setting.
        let extra: &[&str] =
            if method == "scrl" { &["--precision", "bf16"] } else { &["--set", "precision=bf16"] };
        pretrain(&recipe, &data.join(images), &run, extra);
        assert_eq!(recorded(&run), bf16_products(), "{method}");
        let metrics = fs::read_to_string(run.join("metrics.jsonl")).expect("the run has metrics");
        let losses = metrics
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON")["loss"].as_f64());
        assert!(losses.clone().count() >= 4 && losses.clone().all(f64::is_finite), "{method}: {metrics}");
    }
    let run = tmp.path().join("scrl");
    succeed(&["probe", text(&run), "--data", text(&data.join("classes")), "--knn", "--precision", "bf16"]);
    assert!(run.join("probe.json").exists());

    // As exact as the numbers are: weights are of 32 bits and can be used by either precision.
    let init = ["--init", text(&run)];
    for (name, recipe) in [("fast", tiny_transfer(tmp.path())), ("retina", tiny_retinanet(tmp.path()))] {
        let detector = tmp.path().join(name);
        let args = ["--config", text(&recipe), "--data", text(&data), "--out", text(&detector)];
        succeed(&[&["transfer"], &args[..], &init[..], &["--precision", "bf16"]].concat());
        assert_eq!(recorded(&detector), bf16_products());
        for precision in ["f32", "bf16"] {
            succeed(&["evaluate", "--run", text(&detector), "--data", text(&data), "--precision", precision]);
        }
        let found = tmp.path().join(format!("{name}-found"));
        let images = data.join("val");
        let args = ["predict", "--run", text(&detector), text(&images), "--out", text(&found)];
        succeed(&[&args[..], &["--precision", "bf16"]].concat());
        assert!(found.join("predictions.json").exists());
    }
}

#[test]
fn a_run_in_bfloat16_is_repeated_to_the_bit_and_not_resumed_in_another_precision() {
    if !bf16_products() {
        eprintln!("skipped: this processor does not multiply bfloat16 numbers, so no run begins in bf16");
        return;
    }
    let tmp = temporary();
    let data = scenes(tmp.path()).join("unlabelled");
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let (first, second) = (tmp.path().join("first"), tmp.path().join("second"));
    let bf16 = ["--precision", "bf16"];
    let args = |out, epochs| {
        ["pretrain", "--config", text(&recipe), "--data", text(&data), "--out", out, "--set", epochs]
    };
    for run in [&first, &second] {
        succeed(&[&args(text(run), "schedule.epochs=2")[..], &bf16].concat());
    }
    let weights = |run: &Path| fs::read(run.join("weights/backbone.safetensors")).expect("weights");
    assert_eq!(weights(&first), weights(&second), "two runs of one configuration");
    let resume = [&args(text(&first), "schedule.epochs=2")[..], &["--resume"]].concat();
    let refused = fail(&resume, tmp.path());
    assert!(refused.starts_with("exit code 2") && refused.contains("precision"), "{refused}");
}

#[test]
fn other_precisions_and_devices_are_refused() {
    let tmp = temporary();
    let refused = fail(&["bench", "forward", "--precision", "fp8"], tmp.path());
    assert!(refused.starts_with("exit code 2") && refused.contains("expected f32 or bf16"), "{refused}");
    let data = scenes(tmp.path()).join("unlabelled");
    let recipe = tiny_pretrain(tmp.path(), "byol");
    let out = tmp.path().join("run");
    let args = ["pretrain", "--config", text(&recipe), "--data", text(&data), "--out", text(&out)];
    let refused = fail(&[&args[..], &["--set", "precision=f16"]].concat(), tmp.path());
    assert!(refused.starts_with("exit code 2") && refused.contains("precision"), "{refused}");
    assert!(!out.exists());
}
