//! A pretraining whose loss is NaN, and `scrl replay` of the batch that it leaves.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::*;

/// Pretrains until the loss is NaN; gives the saved batch and the message.
fn diverge(folder: &Path, method: &str, photos: &Path, extra: &[&str]) -> (PathBuf, String) {
    let run = folder.join("run");
    let recipe = tiny_pretrain(folder, method);
    let args = ["pretrain", "--config", text(&recipe), "--data", text(photos), "--out", text(&run)];
    let huge = ["--set", "schedule.base_lr=1e38", "--set", "schedule.warmup_epochs=0"];
    let message = fail(&[&args[..], &huge, extra].concat(), folder);
    let saved: Vec<_> =
        fs::read_dir(run.join("replay")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [batch] = &saved[..] else { panic!("one batch is saved: {saved:?}") };
    (batch.clone(), message)
}

#[test]
fn a_loss_that_is_no_number_leaves_its_batch_and_names_it() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let (batch, message) = diverge(tmp.path(), "scrl", &photos, &[]);
    assert!(message.starts_with("exit code 1\nerror: the loss became "), "{message}");
    let name = batch.file_name().unwrap().to_str().unwrap();
    assert!(message.contains(&format!("TMP/run/replay/{name}")), "{message}");
    assert!(message.contains("schedule.base_lr") && message.contains("scrl replay"), "{message}");
    let bytes = fs::read(&batch).unwrap();
    let header = String::from_utf8_lossy(&bytes[8..4096.min(bytes.len())]).into_owned();
    for part in ["view1", "view2", "rois1", "rois2", "indices", "unlabelled"] {
        assert!(header.contains(part), "{part} is missing in {header}");
    }
}

#[test]
fn a_replay_names_what_is_not_finite_first() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    for (method, folder) in [("scrl", "unlabelled"), ("supervised", "classes")] {
        let folder = data.join(folder);
        let method_folder = tmp.path().join(method);
        fs::create_dir(&method_folder).unwrap();
        // A checkpoint at every step: the weights are those that the loss was computed with.
        let (batch, _) = diverge(&method_folder, method, &folder, &[]);
        let output = scrl(&["replay", text(&batch)]).output().expect("the binary starts");
        let (printed, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{printed}{error}");
        assert!(error.contains("error: not finite first: "), "{error}");
        let last_layer = if method == "scrl" { "predictor.linear2" } else { "fc" };
        let parts =
            ["the loss was ", "batch: 4 images, ", "networks: the checkpoint of step ", "encoder.layer4.1"];
        for part in parts.into_iter().chain(["C5", " bad", last_layer]) {
            assert!(printed.contains(part), "{part} is missing:\n{printed}");
        }
    }
}

#[test]
fn a_batch_that_is_fine_with_the_weights_of_the_checkpoint_is_no_failure() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let (batch, _) = diverge(tmp.path(), "scrl", &photos, &["--set", "log.checkpoint_steps=0"]);
    let elsewhere = tmp.path().join("elsewhere.safetensors");
    fs::copy(&batch, &elsewhere).unwrap();
    let run = tmp.path().join("run");
    let printed = succeed(&["replay", text(&elsewhere), "--run", text(&run)]);
    assert!(printed.contains("networks: at their start"), "{printed}");
    let loss = printed.lines().find_map(|line| line.strip_prefix("loss now: ")).expect("a loss");
    assert!((0.0..=8.0).contains(&loss.parse::<f64>().unwrap()), "two cosine losses of at most 4: {loss}");
    assert!(printed.contains("the batch is fine"), "{printed}");
    assert!(!printed.contains(" bad"), "{printed}");
}

#[test]
fn a_batch_of_another_run_and_a_file_that_is_no_batch_are_refused() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let (batch, _) = diverge(tmp.path(), "scrl", &photos, &[]);
    let other = tmp.path().join("other");
    let recipe = tiny_pretrain(tmp.path(), "byol");
    let args = ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&other)];
    succeed(&[&args[..], &["--set", "schedule.epochs=1"]].concat());
    let message = fail(&["replay", text(&batch), "--run", text(&other)], tmp.path());
    assert!(message.starts_with("exit code 1\nerror: the saved batch of step "), "{message}");
    assert!(message.contains("does not belong to the run"), "{message}");
    let weights = other.join("weights/backbone.safetensors");
    let message = fail(&["replay", text(&weights)], tmp.path());
    assert!(message.contains("not a saved batch"), "{message}");
}

#[test]
fn the_command_explains_itself_with_an_example() {
    let help = succeed(&["replay", "--help"]);
    assert!(help.contains("Example") && help.contains("--quiet"), "{help}");
}
