//! The whole path through the binary: kill and resume, interrupt.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::*;

/// Starts a pretraining that the test will end early.
fn start(args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_scrl"))
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts")
}

fn events(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Waits until the run has logged `count` events or ended.
fn wait_for_events(child: &mut Child, run: &Path, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while events(run).len() < count && child.try_wait().expect("the process exists").is_none() {
        assert!(Instant::now() < deadline, "no {count} events after two minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every tensor of a run: its exported weights and its last checkpoint.
fn tensors(run: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = [run.join("weights"), run.join("checkpoints/last")]
        .iter()
        .flat_map(|folder| fs::read_dir(folder).expect("the folder exists"))
        .map(|entry| entry.expect("the folder is readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_killed_pretraining_resumes_to_the_same_bits() {
    let tmp = temporary();
    // With labels, so that the online probe resumes too.
    let photos = scenes(tmp.path()).join("classes");
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let (whole, killed) = (tmp.path().join("whole"), tmp.path().join("killed"));
    let base = ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out"];
    succeed(&[&base[..], &[text(&whole)]].concat());

    let mut resume: &[&str] = &[];
    for logged in [1, 3, 6, 7, 10] {
        let mut child = start(&[&base[..], &[text(&killed)], resume].concat());
        wait_for_events(&mut child, &killed, logged);
        child.kill().expect("the process can be killed");
        child.wait().expect("the process ends");
        resume = &["--resume"];
    }
    succeed(&[&base[..], &[text(&killed), "--resume"]].concat());

    let (expected, found) = (tensors(&whole), tensors(&killed));
    for name in ["backbone", "online", "target", "optimizer", "probe", "probe_optimizer"] {
        assert!(expected.iter().any(|file| file.0 == format!("{name}.safetensors")), "{name} is not saved");
    }
    assert_eq!(
        expected.iter().map(|f| &f.0).collect::<Vec<_>>(),
        found.iter().map(|f| &f.0).collect::<Vec<_>>()
    );
    for ((name, expected), (_, found)) in expected.iter().zip(&found) {
        assert!(expected == found, "{name} differs after killing and resuming");
    }
    let steps = |run| events(run).iter().map(|e| e["step"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(steps(&whole), steps(&killed), "every step is logged once");
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_a_checkpoint_and_exits_with_130() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let recipe = tiny_pretrain(tmp.path(), "byol");
    let (whole, stopped) = (tmp.path().join("whole"), tmp.path().join("stopped"));
    let base = ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out"];
    // Long enough that the signal arrives in time; never saved but for the interrupt.
    let long = ["--set", "schedule.epochs=40", "--set", "log.checkpoint_steps=0"];
    succeed(&[&base[..], &[text(&whole)], &long].concat());

    let mut child = start(&[&base[..], &[text(&stopped)], &long].concat());
    wait_for_events(&mut child, &stopped, 4);
    let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill exists");
    assert!(signal.success());
    assert_eq!(child.wait().expect("the process ends").code(), Some(130));
    assert!(stopped.join("checkpoints/last").is_dir());
    succeed(&[&base[..], &[text(&stopped)], &long, &["--resume"]].concat());
    assert!(tensors(&whole) == tensors(&stopped), "an interrupted run must end with the same bits");
}

#[test]
fn a_resume_with_other_settings_is_refused() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let run = tmp.path().join("run");
    let base = ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&run)];
    succeed(&base);
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    insta::assert_snapshot!(fail(&[&base[..], &["--resume", "--set", "seed=9"]].concat(), tmp.path()));
    assert_eq!(
        fs::read_to_string(run.join("config.toml")).unwrap(),
        config,
        "the run keeps its own settings"
    );
}

#[test]
fn pretraining_logs_what_scripts_read() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    for (method, folder) in [("scrl", "unlabelled"), ("byol", "unlabelled"), ("supervised", "classes")] {
        let recipe = tiny_pretrain(tmp.path(), method);
        let run = tmp.path().join(method);
        let photos = data.join(folder);
        succeed(&["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&run)]);
        let mut events = events(&run);
        events.retain(|event| event["kind"] == "train");
        assert_eq!(events.len(), if method == "supervised" { 16 } else { 12 });
        for event in &events {
            assert_eq!(event["kind"], "train");
            for field in ["step", "epoch", "loss", "lr", "images_per_second", "boxes"] {
                assert!(event[field].is_number(), "{method}: {field} in {event}");
            }
            assert_eq!(event["ema_momentum"].is_number(), method != "supervised");
            for field in ["train_top1", "train_top5"] {
                assert_eq!(event[field].is_number(), method == "supervised", "{method}: {field} in {event}");
            }
            if method == "supervised" {
                let (top1, top5) = (event["train_top1"].as_f64(), event["train_top5"].as_f64());
                assert!(top1 <= top5 && top5 <= Some(100.0), "{event}");
            }
        }
        assert!(run.join("config.toml").is_file() && run.join("log.txt").is_file());
        assert!(run.join("weights/backbone.safetensors").is_file());
    }
}
