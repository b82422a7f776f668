//! Signs of life of a pretraining, its failure, and `scrl probe`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::*;

fn events(run: &Path, kind: &str) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("the run has metrics");
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
    events.filter(|event| event["kind"] == kind).collect()
}

fn number(event: &Value, name: &str) -> f64 {
    event[name].as_f64().unwrap_or_else(|| panic!("{name} is a number in {event}"))
}

#[test]
fn a_pretraining_shows_that_it_lives_and_its_backbone_can_be_probed() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let run = tmp.path().join("run");
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    succeed(&[
        "pretrain",
        "--config",
        text(&recipe),
        "--data",
        text(&data.join("unlabelled")),
        "--out",
        text(&run),
    ]);

    let health = events(&run, "health");
    assert_eq!(health.iter().map(|event| number(event, "epoch")).collect::<Vec<_>>(), [1.0, 2.0, 3.0, 4.0]);
    for event in &health {
        assert_eq!(number(event, "images"), 12.0);
        assert!((1.0..=12.0).contains(&number(event, "feature_rank")), "{event}");
        assert!(number(event, "feature_std") > 0.0, "{event}");
        for name in ["cosine_matched", "cosine_other_place", "cosine_other_image"] {
            assert!(number(event, name).abs() <= 1.0 + 1e-9, "{event}");
        }
    }
    for event in events(&run, "train") {
        assert!(number(&event, "grad_norm") > 0.0, "{event}");
        assert!((0.0..=1.0).contains(&number(&event, "data_wait")), "{event}");
        assert!(number(&event, "images_per_second") > 0.0, "{event}");
    }

    let classes = data.join("classes");
    let printed = succeed(&["probe", text(&run), "--data", text(&classes), "--epochs", "5"]);
    assert!(printed.contains("k-NN") && printed.contains("linear"), "{printed}");
    let report: Value = serde_json::from_str(&fs::read_to_string(run.join("probe.json")).unwrap()).unwrap();
    let count = report["classes"].as_array().unwrap().len();
    assert_eq!(
        (report["train_images"].as_u64(), report["val_images"].as_u64()),
        (Some(count as u64), Some(count as u64))
    );
    assert_eq!((report["crop"].as_u64(), report["method"].as_str()), (Some(32), Some("scrl")));
    for kind in ["knn", "linear"] {
        let (top1, top5) = (number(&report[kind], "top1"), number(&report[kind], "top5"));
        assert!((0.0..=1.0).contains(&top1) && top1 <= top5, "{report}");
    }

    // An image is its own nearest neighbour.
    let weights = run.join("weights/backbone.safetensors");
    let out = tmp.path().join("own.json");
    let own = ["probe", "--weights", text(&weights), "--data", text(&classes), "--val", text(&classes)];
    succeed(&[&own[..], &["--knn", "--k", "1", "--out", text(&out)]].concat());
    let report: Value = serde_json::from_str(&fs::read_to_string(out).unwrap()).unwrap();
    assert_eq!(number(&report["knn"], "top1"), 1.0);
    assert!(report["linear"].is_null());
}

#[test]
fn a_loss_that_is_no_number_leaves_its_batch_and_names_it() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let run = tmp.path().join("run");
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let args = ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&run)];
    let huge = ["--set", "schedule.base_lr=1e38", "--set", "schedule.warmup_epochs=0"];
    let message = fail(&[&args[..], &huge].concat(), tmp.path());
    assert!(message.starts_with("exit code 1\nerror: the loss became "), "{message}");
    let saved: Vec<_> =
        fs::read_dir(run.join("replay")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let [name] = &saved[..] else { panic!("one batch is saved: {saved:?}") };
    assert!(message.contains(&format!("TMP/run/replay/{}", name.to_str().unwrap())), "{message}");
    assert!(message.contains("schedule.base_lr"), "{message}");
    let bytes = fs::read(run.join("replay").join(name)).unwrap();
    let header = String::from_utf8_lossy(&bytes[8..4096.min(bytes.len())]).into_owned();
    for part in ["view1", "view2", "rois1", "rois2", "indices", "unlabelled"] {
        assert!(header.contains(part), "{part} is missing in {header}");
    }
}

#[test]
fn images_without_classes_cannot_be_probed() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let run = tmp.path().join("none");
    let message = fail(&["probe", text(&run), "--data", text(&data.join("unlabelled"))], tmp.path());
    assert!(message.contains("TMP/data/unlabelled` has no class labels"), "{message}");
}
