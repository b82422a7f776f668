//! RetinaNet through the binary: from a pretrained backbone to an ONNX file that finds the same, and in a benchmark.

use std::fs;

use crate::support::*;

#[test]
fn a_retinanet_is_trained_from_a_pretrained_backbone_evaluated_and_exported() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let [pretrained, run] = ["pretrained", "run"].map(|name| tmp.path().join(name));
    let unlabelled = data.join("unlabelled");
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let args =
        ["pretrain", "--config", text(&recipe), "--data", text(&unlabelled), "--out", text(&pretrained)];
    succeed(&args);
    let recipe = tiny_retinanet(tmp.path());
    let args = ["transfer", "--config", text(&recipe), "--data", text(&data), "--init", text(&pretrained)];
    let printed = succeed(&[&args[..], &["--out", text(&run)]].concat());
    assert!(printed.contains("AP50"), "{printed}");
    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    for part in ["loss_classification", "loss_box_regression", "foreground_anchors"] {
        assert!(log.contains(part), "no {part} in the events");
    }
    assert!(fs::read_to_string(run.join("plots/losses.svg")).unwrap().contains("loss_classification"));
    let starts = json(&run.join("metrics.json"));
    assert_eq!(starts["init"], text(&pretrained));
    if !has_runtime() {
        return;
    }
    let onnx = tmp.path().join("retinanet.onnx");
    let printed = succeed(&["export", "detector", "--run", text(&run), "--out", text(&onnx)]);
    assert!(printed.contains("reproduced by ONNX Runtime"), "{printed}");
    let report = json(&tmp.path().join("retinanet.onnx.validation.json"));
    assert!(report["total"]["matched"].as_u64().unwrap() > 50, "{report}");
    let evaluate = |detector: &[&str]| {
        let out = tmp.path().join("figures.json");
        succeed(&[&["evaluate"], detector, &["--data", text(&data), "--out", text(&out)]].concat());
        json(&out)
    };
    let [by_run, by_model] = [["--run", text(&run)], ["--model", text(&onnx)]].map(|model| evaluate(&model));
    for key in ["AP", "AP50", "VOC_mAP"] {
        let [a, b] = [&by_run, &by_model].map(|figures| figures[key].as_f64().unwrap());
        assert!((a - b).abs() < 1e-3, "{key}: {a} by Burn, {b} by ONNX Runtime");
    }
    let described = succeed(&["inspect", "onnx", text(&onnx)]);
    assert!(described.contains("RetinaNet"), "{described}");
}

#[test]
fn settings_of_the_other_architecture_are_refused_by_name() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let out = tmp.path().join("run");
    let refused = |recipe: &std::path::Path, setting: &str| {
        let args = ["transfer", "--config", text(recipe), "--data", text(&data), "--init", "random"];
        fail(&[&args[..], &["--out", text(&out), "--set", setting]].concat(), tmp.path())
    };
    let error = refused(&tiny_retinanet(tmp.path()), "model.rpn.batch=8");
    assert!(error.contains("rpn.batch") && error.contains("Faster and Mask R-CNN"), "{error}");
    let error = refused(&tiny_transfer(tmp.path()), "model.retinanet={scales=2}");
    assert!(error.contains("retinanet") && error.contains("RetinaNet"), "{error}");
}

#[test]
fn a_benchmark_compares_initialisations_of_retinanet() {
    let tmp = temporary();
    for method in ["scrl", "densecl"] {
        tiny_pretrain(tmp.path(), method);
    }
    tiny_retinanet(tmp.path());
    let plan = tmp.path().join("plan.toml");
    let toml = "inits = [\"random\", \"densecl\", \"scrl\"]\nlabel_fractions = [1.0]\nseeds = [0]\n\
        transfer = \"retinanet.toml\"\n[pretrain]\ndensecl = \"densecl.toml\"\nscrl = \"scrl.toml\"\n\
        [data.synth]\nwidth = 48\nheight = 48\ntrain = 8\nval = 4\nunlabelled = 12\nclass_images = 2\nmin_scale = 0.2\n";
    fs::write(&plan, toml).unwrap();
    let out = tmp.path().join("out");
    let table = succeed(&["benchmark", "--config", text(&plan), "--out", text(&out)]);
    for init in ["random", "densecl", "scrl"] {
        assert_eq!(table.matches(&format!("| {init} |")).count(), 1, "{init}:\n{table}");
    }
    assert_eq!(table.matches("reproduced by ONNX Runtime").count(), 2, "{table}");
}
