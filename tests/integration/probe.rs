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
    assert_eq!(
        health.iter().map(|event| number(event, "epoch")).collect::<Vec<_>>(),
        [0.0, 1.0, 2.0, 3.0, 4.0]
    );
    assert_eq!(number(&health[0], "step"), 0.0, "the first look comes before training");
    for event in &health {
        assert_eq!(number(event, "images"), 12.0);
        assert!((1.0..=12.0).contains(&number(event, "feature_rank")), "{event}");
        assert!(number(event, "feature_std") > 0.0, "{event}");
        for space in ["cosine", "backbone_cosine", "backbone_centred_cosine"] {
            for pair in ["matched", "other_place", "other_image"] {
                assert!(number(event, &format!("{space}_{pair}")).abs() <= 1.0 + 1e-6, "{event}");
            }
        }
        // Behind a ReLU nothing is negative, so no two vectors point apart; less their mean they do.
        let of_others = |space: &str| number(event, &format!("{space}_other_image"));
        assert!(of_others("backbone_cosine") > 0.0, "{event}");
        assert!(of_others("backbone_centred_cosine") < of_others("backbone_cosine"), "{event}");
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
    assert_eq!(report["level"], "c5");

    let out = tmp.path().join("c4.json");
    succeed(&[&own[..], &["--knn", "--k", "1", "--level", "c4", "--out", text(&out)]].concat());
    let report: Value = serde_json::from_str(&fs::read_to_string(out).unwrap()).unwrap();
    assert_eq!((&report["level"], number(&report["knn"], "top1")), (&Value::from("c4"), 1.0));
}

/// Every tensor of a run's last checkpoint and its backbone, but for the probe's.
fn networks(run: &Path) -> Vec<(String, Vec<u8>)> {
    let names = ["online", "target", "optimizer"].map(|name| format!("checkpoints/last/{name}.safetensors"));
    let names = names.into_iter().chain(["weights/backbone.safetensors".to_string()]);
    names.map(|name| (name.clone(), fs::read(run.join(&name)).expect("the run has it"))).collect()
}

#[test]
fn held_out_images_are_what_health_checks_look_at_and_change_nothing_else() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let pretrain = |name: &str, more: &[&str]| {
        let run = tmp.path().join(name);
        let unlabelled = data.join("unlabelled");
        let mut args =
            vec!["pretrain", "--config", text(&recipe), "--data", text(&unlabelled), "--out", text(&run)];
        args.extend(more);
        succeed(&args);
        run
    };
    let own = pretrain("own", &[]);
    let held_out = pretrain("held-out", &["--held-out", text(&data.join("classes"))]);
    assert_eq!(networks(&own), networks(&held_out));
    let ranks = |run: &Path| -> Vec<f64> {
        events(run, "health").iter().map(|event| number(event, "feature_rank")).collect()
    };
    assert!(ranks(&own).iter().zip(ranks(&held_out)).all(|(own, held_out)| *own != held_out));
}

#[test]
fn an_online_probe_reports_its_accuracy_and_leaves_the_networks_as_they_are() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    for method in ["scrl", "byol"] {
        let recipe = tiny_pretrain(tmp.path(), method);
        let pretrain = |name: &str, folder: &str, extra: &[&str]| {
            let run = tmp.path().join(format!("{method}-{name}"));
            let photos = data.join(folder);
            let args = ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&run)];
            // Two micro-batches a step: the probe sees both.
            succeed(&[&args[..], &["--set", "schedule.accumulate=2"], extra].concat());
            run
        };
        let with = pretrain("with", "classes", &[]);
        let without = pretrain("without", "classes", &["--set", "log.online_probe=false"]);
        let train = events(&with, "train");
        assert!(train.len() >= 8);
        for event in &train {
            let (top1, top5) = (number(event, "probe_top1"), number(event, "probe_top5"));
            assert!((0.0..=100.0).contains(&top1) && top1 <= top5 && top5 <= 100.0, "{event}");
        }
        assert!(events(&without, "train").iter().all(|event| event["probe_top1"].is_null()));
        for ((name, with), (_, without)) in networks(&with).iter().zip(&networks(&without)) {
            assert!(with == without, "{method}: the probe changes {name}");
        }
        assert!(with.join("checkpoints/last/probe.safetensors").is_file());
        assert!(!without.join("checkpoints/last/probe.safetensors").exists());

        // Images that have no classes are no error.
        let unlabelled = pretrain("unlabelled", "unlabelled", &["--set", "schedule.epochs=1"]);
        assert!(events(&unlabelled, "train").iter().all(|event| event["probe_top1"].is_null()));
        let log = fs::read_to_string(unlabelled.join("log.txt")).unwrap();
        assert!(log.contains("online probe: off"), "{log}");
    }
}

#[test]
fn a_checkpoint_without_a_probe_resumes_with_a_new_one_and_says_so() {
    let tmp = temporary();
    let classes = scenes(tmp.path()).join("classes");
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let run = tmp.path().join("run");
    let args = ["pretrain", "--config", text(&recipe), "--data", text(&classes), "--out", text(&run)];
    succeed(&[&args[..], &["--set", "log.online_probe=false"]].concat());
    let last = networks(&run);
    succeed(&[&args[..], &["--resume"]].concat());
    assert!(
        fs::read_to_string(run.join("log.txt")).unwrap().contains("online probe: the checkpoint has none")
    );
    assert!(networks(&run) == last, "the run was over");
}

#[test]
fn images_without_classes_cannot_be_probed() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let run = tmp.path().join("none");
    let message = fail(&["probe", text(&run), "--data", text(&data.join("unlabelled"))], tmp.path());
    assert!(message.contains("TMP/data/unlabelled` has no class labels"), "{message}");
}
