//! What every test needs: the binary, small images, small recipes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use scrl_export::runtime::{RuntimeError, runtime};
use serde_json::Value;
use tempfile::TempDir;

/// The binary, quiet, with arguments split at spaces; arguments that hold paths come one by one.
pub fn scrl(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scrl"));
    command.arg("--quiet").args(args);
    command
}

/// Runs to the end and demands success.
pub fn succeed(args: &[&str]) -> String {
    let output = scrl(args).output().expect("the binary starts");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("output is UTF-8")
}

/// Runs to the end and gives the exit code and standard error, with `folder` replaced by `TMP`.
pub fn fail(args: &[&str], folder: &Path) -> String {
    let Output { status, stderr, .. } = scrl(args).output().expect("the binary starts");
    let text = String::from_utf8(stderr).expect("errors are UTF-8");
    let text = text.replace(folder.to_str().expect("temporary paths are UTF-8"), "TMP");
    format!("exit code {}\n{text}", status.code().expect("the process was not killed"))
}

/// A folder that is removed at the end of the test.
pub fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// Writes twelve 48-pixel unlabelled scenes, annotated ones and class folders to `folder/data`.
pub fn scenes(folder: &Path) -> PathBuf {
    let data = folder.join("data");
    let sets =
        ["width=48", "height=48", "train=8", "val=4", "unlabelled=12", "class_images=2", "min_scale=0.2"];
    let mut args = vec!["synth", "--out", text(&data)];
    sets.iter().for_each(|set| args.extend(["--set", set]));
    succeed(&args);
    data
}

/// A pretraining recipe of seconds: ResNet-18 at an eighth of its width on 32-pixel views.
pub fn tiny_pretrain(folder: &Path, method: &str) -> PathBuf {
    let path = folder.join(format!("{method}.toml"));
    let toml = format!(
        "method = \"{method}\"\n[model]\narch = \"resnet18\"\nwidth = 0.125\n[augment]\nview_size = 32\n\
         [boxes]\ncount = 3\nmin_size = 8.0\n[heads]\nhidden = 16\noutput = 8\n\
         [schedule]\nepochs = 4\nbatch_size = 4\nbase_lr = 1.0\nwarmup_epochs = 1\n\
         [log]\ninterval = 1\ncheckpoint_steps = 1\n"
    );
    fs::write(&path, toml).expect("the temporary folder is writable");
    path
}

/// A transfer recipe of seconds.
pub fn tiny_transfer(folder: &Path) -> PathBuf {
    let path = folder.join("transfer.toml");
    let toml = "iterations = 4\nbatch_size = 2\nmin_sizes = [64]\nmax_size = 64\ntest_min_size = 64\n\
        test_max_size = 64\nlog_every = 1\ncheckpoint_every = 1\n\
        [model]\narch = \"resnet18\"\nwidth = 0.125\nfpn_channels = 8\nfpn_norm = true\nbox_head_dim = 16\n\
        anchor_sizes = [8.0, 16.0, 32.0, 64.0, 128.0]\ncanonical_box_size = 56.0\nrpn_batch = 16\nroi_batch = 16\n\
        [solver]\nlr = 0.01\nwarmup_iterations = 1\nmilestones = [3]\n";
    fs::write(&path, toml).expect("the temporary folder is writable");
    path
}

/// A recipe of a tiny RetinaNet, whose every anchor scores above the threshold.
pub fn tiny_retinanet(folder: &Path) -> PathBuf {
    let path = folder.join("retinanet.toml");
    let toml = "iterations = 4\nbatch_size = 2\nmin_sizes = [64]\nmax_size = 64\ntest_min_size = 64\n\
        test_max_size = 64\nlog_every = 1\ncheckpoint_every = 1\n\
        [model]\narchitecture = \"retinanet\"\narch = \"resnet18\"\nwidth = 0.125\nfpn_channels = 8\nfpn_norm = true\n\
        anchor_sizes = [8.0, 16.0, 32.0, 64.0, 128.0]\nbox_score_threshold = 0.001\n\
        retinanet = { convolutions = 1, pre_nms = 50 }\n\
        [solver]\nlr = 0.01\nwarmup_iterations = 1\nmilestones = [3]\n";
    fs::write(&path, toml).expect("the temporary folder is writable");
    path
}

/// Trains the detector of [`tiny_transfer`] from random weights and evaluates it; its run directory.
pub fn tiny_detector(folder: &Path, data: &Path, extra: &[&str]) -> PathBuf {
    let (recipe, run) = (tiny_transfer(folder), folder.join("detector"));
    let args = ["--config", text(&recipe), "--data", text(data), "--init", "random", "--out", text(&run)];
    succeed(&[&["transfer"], &args[..], extra].concat());
    run
}

/// The content of a JSON file.
pub fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether there is ONNX Runtime; says so when this machine has none and cannot fetch one.
pub fn has_runtime() -> bool {
    match runtime() {
        Err(error @ RuntimeError::NotFound { .. })
            if std::env::var_os("SCRL_REQUIRE_ONNXRUNTIME").is_none() =>
        {
            eprintln!("skipped: {error}");
            false
        }
        _ => true,
    }
}

/// A folder of real data that is not part of the project: `$SCRL_TEST_DATA` or `../shared/data`. `SCRL_REQUIRE_DATA` makes it a
/// failure that there is none.
pub fn real_data(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("SCRL_TEST_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    let folder = root.join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    let absent = format!("no real data at {}; set SCRL_TEST_DATA to the folder of it", folder.display());
    assert!(std::env::var_os("SCRL_REQUIRE_DATA").is_none(), "{absent}");
    eprintln!("skipped: {absent}");
    None
}
