//! Help, usage errors, and one clear sentence for every kind of bad input.

use std::fs;

use crate::support::*;

#[test]
fn every_command_explains_itself_with_an_example() {
    let commands: [&[&str]; 20] = [
        &["synth"],
        &["pretrain"],
        &["transfer"],
        &["evaluate"],
        &["export", "backbone"],
        &["export", "detector"],
        &["bench"],
        &["bench", "pretrain"],
        &["bench", "forward"],
        &["bench", "detector"],
        &["bench", "augment"],
        &["bench", "roi-align"],
        &["benchmark"],
        &["predict"],
        &["probe"],
        &["convert"],
        &["inspect", "dataset"],
        &["inspect", "views"],
        &["inspect", "run"],
        &["inspect", "onnx"],
    ];
    for command in commands {
        let help = succeed(&[command, &["--help"]].concat());
        assert!(help.contains("Example"), "{command:?} shows no example:\n{help}");
        assert!(help.contains("--quiet"), "{command:?} has no --quiet:\n{help}");
    }
}

#[test]
fn wrong_usage_exits_with_two() {
    scrl(&["pretrain", "--data", "photos"]).assert().code(2);
    scrl(&["fly"]).assert().code(2);
}

#[test]
fn an_unknown_key_is_named_with_its_nearest_neighbour() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let toml = fs::read_to_string(&recipe).unwrap().replace("batch_size", "batchsize");
    fs::write(&recipe, toml).unwrap();
    let run = tmp.path().join("run");
    let args = ["pretrain", "--config", text(&recipe), "--data", text(&data), "--out", text(&run)];
    insta::assert_snapshot!(fail(&args, tmp.path()));
    assert!(!run.exists(), "nothing is written before the configuration is checked");
}

#[test]
fn an_unknown_override_is_named() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let run = tmp.path().join("run");
    let args = ["pretrain", "--config", text(&recipe), "--data", text(&data), "--out", text(&run)];
    insta::assert_snapshot!(fail(&[&args[..], &["--set", "schedule.epoch=3"]].concat(), tmp.path()));
}

#[test]
fn an_empty_folder_is_named() {
    let tmp = temporary();
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let (data, run) = (tmp.path().join("photos"), tmp.path().join("run"));
    fs::create_dir(&data).unwrap();
    let args = ["pretrain", "--config", text(&recipe), "--data", text(&data), "--out", text(&run)];
    insta::assert_snapshot!(fail(&args, tmp.path()));
}

#[test]
fn a_truncated_jpeg_is_named() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let recipe = tiny_pretrain(tmp.path(), "byol");
    let (photos, run) = (data.join("unlabelled"), tmp.path().join("run"));
    for entry in fs::read_dir(&photos).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    let args = ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&run)];
    // Which of the damaged files comes first is the shuffle's choice; the message must be the same.
    let message = fail(&args, tmp.path());
    let name =
        message.split("unlabelled/").nth(1).and_then(|rest| rest.split('`').next()).unwrap().to_string();
    insta::assert_snapshot!(message.replace(&name, "NAME.jpg"));
}

#[test]
fn a_missing_annotation_file_is_named() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let recipe = tiny_transfer(tmp.path());
    let run = tmp.path().join("run");
    fs::remove_file(data.join("annotations/instances_val.json")).unwrap();
    let args = ["transfer", "--config", text(&recipe), "--data", text(&data), "--init", "random"];
    insta::assert_snapshot!(fail(&[&args[..], &["--out", text(&run)]].concat(), tmp.path()));
}

#[test]
fn a_folder_in_use_is_never_overwritten() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let run = tmp.path().join("run");
    fs::create_dir(&run).unwrap();
    fs::write(run.join("precious.txt"), "mine").unwrap();
    let args = ["pretrain", "--config", text(&recipe), "--data", text(&data), "--out", text(&run)];
    insta::assert_snapshot!("non_empty_out", fail(&args, tmp.path()));
    insta::assert_snapshot!("foreign_overwrite", fail(&[&args[..], &["--overwrite"]].concat(), tmp.path()));
    assert_eq!(fs::read_to_string(run.join("precious.txt")).unwrap(), "mine");
}

#[test]
fn supervised_pretraining_without_class_folders_is_refused() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let recipe = tiny_pretrain(tmp.path(), "supervised");
    let (photos, run) = (data.join("unlabelled"), tmp.path().join("run"));
    let args = ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&run)];
    insta::assert_snapshot!(fail(&args, tmp.path()));
}

#[test]
fn missing_weights_and_unknown_devices_are_named() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let recipe = tiny_transfer(tmp.path());
    let (run, weights) = (tmp.path().join("run"), tmp.path().join("nothing.safetensors"));
    let args = ["transfer", "--config", text(&recipe), "--data", text(&data), "--out", text(&run), "--init"];
    insta::assert_snapshot!("missing_weights", fail(&[&args[..], &[text(&weights)]].concat(), tmp.path()));
    let device = ["random", "--device", "tpu"];
    insta::assert_snapshot!("unknown_device", fail(&[&args[..], &device].concat(), tmp.path()));
}

/// A pipe without a reader from the start, as that of `scrl … | head` is after a moment.
#[cfg(unix)]
#[test]
fn a_reader_that_went_away_ends_a_command_without_a_word() {
    use std::os::unix::process::ExitStatusExt;
    /// The signal of a write to a pipe that nobody reads.
    const SIGPIPE: i32 = 13;

    let tmp = temporary();
    let data = scenes(tmp.path());
    let [again, doctor] = ["again", "doctor"].map(|name| tmp.path().join(name));
    let commands: [&[&str]; 2] = [
        &["inspect", "dataset", "--data", text(&data), "--out", text(&doctor)],
        &["synth", "--out", text(&again), "--set", "train=2"],
    ];
    for args in commands {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_scrl"));
        let child = command.arg("--quiet").args(args).stdout(writer).stderr(std::process::Stdio::piped());
        let output = child.spawn().and_then(|child| child.wait_with_output()).expect("the binary starts");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        assert_eq!(output.status.signal(), Some(SIGPIPE), "{args:?}: {}", output.status);
    }
}
