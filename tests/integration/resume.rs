//! What a run that goes on insists on: its settings and its data; and how it is prolonged.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::*;

/// The learning rates that a run logged, by step.
fn rates(run: &Path) -> Vec<(u64, f64)> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let train = events.filter(|event| event["kind"] == "train");
    train.map(|event| (event["step"].as_u64().unwrap(), event["lr"].as_f64().unwrap())).collect()
}

#[test]
fn a_refused_pretraining_names_the_settings_with_both_values() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let (recipe, run) = (tiny_pretrain(tmp.path(), "scrl"), tmp.path().join("run"));
    let base = ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&run)];
    succeed(&base);
    let resume = |extra: &[&str]| fail(&[&base[..], &["--resume"], extra].concat(), tmp.path());
    let error = resume(&["--set", "schedule.batch_size=6", "--set", "seed=9", "--prolong"]);
    assert!(error.starts_with("exit code 2"), "{error}");
    assert!(error.contains("`schedule.batch_size` was 4 and is 6, `seed` was 0 and is 9"), "{error}");
    let error = resume(&["--set", "schedule.epochs=6"]);
    assert!(error.starts_with("exit code 2"), "{error}");
    assert!(error.contains("`schedule.epochs` was 4 and is 6") && error.contains("add --prolong"), "{error}");
    let error = resume(&["--set", "schedule.epochs=3", "--prolong"]);
    assert!(
        error.contains("`schedule.epochs` was 4 and is 3") && !error.contains("add --prolong"),
        "{error}"
    );
    // How the run is watched and how images are read may change.
    succeed(&[&base[..], &["--resume", "--set", "log.interval=2", "--set", "data.threads=1"]].concat());
}

#[test]
fn a_finished_pretraining_is_prolonged_under_the_longer_schedule() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let (recipe, run) = (tiny_pretrain(tmp.path(), "byol"), tmp.path().join("run"));
    let whole = tmp.path().join("whole");
    let base = ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out"];
    let long = ["--set", "schedule.epochs=6"];
    succeed(&[&base[..], &[text(&run)]].concat());
    succeed(&[&base[..], &[text(&run), "--resume", "--prolong"], &long].concat());
    succeed(&[&base[..], &[text(&whole)], &long].concat());
    let (short, long_rates) = (rates(&run), rates(&whole));
    // Twelve images in batches of four: three steps an epoch.
    assert_eq!((short.len(), long_rates.len()), (18, 18));
    assert_eq!(short[12..], long_rates[12..], "from the old end on, the schedule is the longer one");
    assert_ne!(short[6], long_rates[6]);
    let log = fs::read_to_string(run.join("log.txt")).unwrap();
    assert!(log.contains("prolonged from 4 to 6 epochs: from step 12 on"), "{log}");
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("epochs = 6"), "{config}");
    // From now on it is a run of six epochs.
    succeed(&[&base[..], &[text(&run), "--resume"], &long].concat());
}

#[test]
fn a_transfer_names_changed_settings_and_is_prolonged() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let run = tiny_detector(tmp.path(), &data, &[]);
    let recipe = tmp.path().join("transfer.toml");
    let args = ["transfer", "--config", text(&recipe), "--data", text(&data), "--init", "random"];
    let base = [&args[..], &["--out", text(&run), "--resume"]].concat();
    let error = fail(&[&base[..], &["--set", "batch_size=4"]].concat(), tmp.path());
    assert!(error.starts_with("exit code 2") && error.contains("`batch_size` was 2 and is 4"), "{error}");
    let longer = ["--set", "iterations=8", "--set", "solver.milestones=[6]"];
    let error = fail(&[&base[..], &longer].concat(), tmp.path());
    assert!(error.contains("`iterations` was 4 and is 8, `solver.milestones` was [3] and is [6]"), "{error}");
    assert!(error.contains("add --prolong"), "{error}");
    succeed(&[&base[..], &longer, &["--prolong"]].concat());
    assert_eq!(rates(&run).iter().map(|(step, _)| *step).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(json(&run.join("metrics.json"))["iterations"], 8);
}

#[test]
fn images_that_were_added_or_changed_since_are_noticed() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let (recipe, run) = (tiny_pretrain(tmp.path(), "scrl"), tmp.path().join("run"));
    let resume = |photos: &Path| {
        fail(
            &["pretrain", "--config", text(&recipe), "--data", text(photos), "--out", text(&run), "--resume"],
            tmp.path(),
        )
    };
    succeed(&["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&run)]);
    // Another place is no difference.
    let moved = tmp.path().join("moved");
    fs::rename(&photos, &moved).unwrap();
    succeed(&[
        "pretrain",
        "--config",
        text(&recipe),
        "--data",
        text(&moved),
        "--out",
        text(&run),
        "--resume",
    ]);
    let mut files: Vec<_> = fs::read_dir(&moved).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    fs::copy(&files[0], moved.join("new.png")).unwrap();
    let error = resume(&moved);
    assert!(error.starts_with("exit code 1") && error.contains("1 added (`new.png`)"), "{error}");
    fs::rename(moved.join("new.png"), &files[1]).unwrap();
    let error = resume(&moved);
    let name = files[1].file_name().unwrap().to_str().unwrap();
    assert!(error.contains(&format!("1 changed (`{name}`)")), "{error}");
}

#[test]
fn annotations_that_were_changed_since_are_noticed() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let run = tiny_detector(tmp.path(), &data, &[]);
    let path = data.join("annotations/instances_val.json");
    let mut truth = json(&path);
    truth["annotations"].as_array_mut().unwrap().pop();
    fs::write(&path, truth.to_string()).unwrap();
    let recipe = tmp.path().join("transfer.toml");
    let args = ["transfer", "--config", text(&recipe), "--data", text(&data), "--init", "random"];
    let error = fail(&[&args[..], &["--out", text(&run), "--resume"]].concat(), tmp.path());
    assert!(error.contains("1 changed (`val/"), "{error}");
}

#[test]
fn what_a_pretraining_started_from_stands_in_its_config_and_its_weights() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let recipe = tiny_pretrain(tmp.path(), "byol");
    let [first, second] = ["first", "second"].map(|name| tmp.path().join(name));
    let base = ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out"];
    succeed(&[&base[..], &[text(&first)]].concat());
    succeed(&[&base[..], &[text(&second), "--init", text(&first)]].concat());
    let config = fs::read_to_string(second.join("config.toml")).unwrap();
    assert!(config.contains(&format!("init = \"{}\"", first.display())), "{config}");
    let weights = fs::read(second.join("weights/backbone.safetensors")).unwrap();
    let header = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&weights[8..8 + header]).unwrap();
    let init = header["__metadata__"]["scrl.init"].as_str().unwrap();
    assert!(init.starts_with(&format!("{} sha256:", first.display())), "{init}");
    // The config of the run, given again, means the same run; killed before its first checkpoint, it starts as it did.
    let expected = weights;
    fs::remove_dir_all(second.join("checkpoints")).unwrap();
    succeed(&[&base[..], &[text(&second), "--resume"]].concat());
    assert!(fs::read(second.join("weights/backbone.safetensors")).unwrap() == expected);
}

#[test]
fn overwriting_leaves_nothing_of_the_old_run() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let (recipe, run) = (tiny_pretrain(tmp.path(), "scrl"), tmp.path().join("run"));
    let base = ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&run)];
    succeed(&base);
    fs::create_dir(run.join("replay")).unwrap();
    for left in ["replay/step_3.safetensors", "probe.json"] {
        fs::write(run.join(left), "old").unwrap();
    }
    succeed(&[&base[..], &["--overwrite"]].concat());
    assert!(!run.join("replay").exists() && !run.join("probe.json").exists());
}
