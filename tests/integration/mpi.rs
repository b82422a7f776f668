//! Two processes that MPI connects, beside one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use scrl_core::checkpoint::weights::read_safetensors;
use serde_json::Value;

use crate::support::*;

/// Relative difference of losses at learning rates that keep these tiny networks calm; sums are grouped by processes.
const TOLERANCE: f64 = 1e-4;

/// `mpirun` with this many processes of the binary; MPI takes tests that run as root only when it is told so, and more processes
/// than cores likewise.
fn mpirun(processes: usize, args: &[&str]) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["-n", &processes.to_string(), "--bind-to", "none", "--oversubscribe"]);
    command.args([env!("CARGO_BIN_EXE_scrl"), "--quiet"]).args(args);
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.env("OMPI_MCA_mpi_yield_when_idle", "1");
    command
}

fn distributed(processes: usize, args: &[&str]) {
    let Output { status, stderr, .. } =
        mpirun(processes, args).arg("--distributed").output().expect("mpirun is installed");
    assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
}

fn losses(run: &Path) -> Vec<f64> {
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).expect("the run has metrics");
    let events = metrics.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
    events.filter(|event| event["kind"] == "train").filter_map(|event| event["loss"].as_f64()).collect()
}

#[track_caller]
fn assert_near(what: &str, found: &[f64], expected: &[f64]) {
    assert!(!expected.is_empty() && found.len() == expected.len(), "{what}: {found:?}, {expected:?}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let near = (found - expected).abs() <= TOLERANCE * expected.abs();
        assert!(near, "{what}, number {index}: {found} is not {expected}");
    }
}

/// A command that makes a run, without its `--out`, and the weights that the run leaves.
struct Job {
    args: Vec<String>,
    weights: &'static str,
}

impl Job {
    fn args<'a>(&'a self, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
        let args = self.args.iter().map(String::as_str).chain(["--out", text(out)]);
        args.chain(more.iter().copied()).collect()
    }

    fn weights(&self, run: &Path) -> Vec<u8> {
        fs::read(run.join("weights").join(self.weights)).expect("the run has weights")
    }
}

fn jobs(folder: &Path) -> [Job; 2] {
    let data = scenes(folder);
    let (pretrain, transfer) = (tiny_pretrain(folder, "scrl"), tiny_transfer(folder));
    let strings = |args: &[&str]| args.iter().map(ToString::to_string).collect();
    let images = data.join("unlabelled");
    let calm = ["--set", "schedule.base_lr=0.001", "--set", "heads.pool_level=\"c4\""];
    let pretrain = ["pretrain", "--config", text(&pretrain), "--data", text(&images)];
    let transfer = ["transfer", "--config", text(&transfer), "--data", text(&data), "--init", "random"];
    let slow = ["--set", "solver.lr=0.001", "--set", "iterations=8"];
    [
        Job { args: strings(&[&pretrain[..], &calm].concat()), weights: "backbone.safetensors" },
        Job { args: strings(&[&transfer[..], &slow].concat()), weights: "detector.safetensors" },
    ]
}

#[test]
fn two_processes_do_what_one_does_and_twice_the_same_to_the_bit() {
    let tmp = temporary();
    for (number, job) in jobs(tmp.path()).iter().enumerate() {
        let run = |name: &str| tmp.path().join(format!("{name}-{number}"));
        let (alone, two, again) = (run("alone"), run("two"), run("again"));
        succeed(&job.args(&alone, &[]));
        distributed(2, &job.args(&two, &[]));
        distributed(2, &job.args(&again, &[]));
        assert_near(job.weights, &losses(&two), &losses(&alone));
        assert!(job.weights(&two) == job.weights(&again), "{}: two runs differ", job.weights);
        let [found, expected] = [&two, &alone]
            .map(|run| read_safetensors(&run.join("weights").join(job.weights)).expect("weights are read").0);
        for (path, expected) in &expected {
            let [found, expected] =
                [&found[path], expected].map(|data| data.iter::<f32>().collect::<Vec<_>>());
            let largest = expected.iter().fold(0.02_f32, |largest, value| largest.max(value.abs()));
            let differs = found.iter().zip(&expected).any(|(a, b)| (a - b).abs() > 1e-3 * largest);
            assert!(!differs, "{}: {path} differs", job.weights);
        }
    }
    // The images are shared out, and the accuracies are those of one process.
    let classes = tmp.path().join("data/classes");
    let report = tmp.path().join("two-0").join("probe.json");
    let run = tmp.path().join("two-0");
    let probe = ["probe", text(&run), "--data", text(&classes), "--val-fraction", "0.5", "--epochs", "2"];
    succeed(&probe);
    let alone = json(&report);
    fs::remove_file(&report).expect("the report is removed");
    distributed(2, &probe);
    assert_eq!(json(&report), alone);
    // So are the images of an evaluation, and the figures are those of one process.
    let run = tmp.path().join("two-1");
    let figures = ["alone.json", "two.json"].map(|name| tmp.path().join(name));
    let args = |out: &Path| ["evaluate", "--run", text(&run), "--out", text(out)].map(String::from);
    let [alone, two] = figures.each_ref().map(|path| args(path));
    succeed(&alone.each_ref().map(String::as_str));
    distributed(2, &two.each_ref().map(String::as_str));
    assert_eq!(json(&figures[0]), json(&figures[1]));
}

/// The processes of a running `mpirun`.
fn ranks(mpirun: &Child) -> Vec<i32> {
    let path = format!("/proc/{0}/task/{0}/children", mpirun.id());
    let children = fs::read_to_string(path).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Starts two processes and sends one of them, or `mpirun`, a signal when so many steps are logged. The exit code.
fn signalled(
    job: &Job,
    out: &Path,
    more: &[&str],
    steps: usize,
    rank: Option<usize>,
    signal: i32,
) -> Option<i32> {
    let mut command = mpirun(2, &job.args(out, more));
    let mut child = command.arg("--distributed").stderr(Stdio::null()).spawn().expect("mpirun is installed");
    let begun = Instant::now();
    let logged =
        || fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.matches("\"train\"").count());
    while logged() < steps && child.try_wait().expect("mpirun is waited for").is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{steps} steps have not come");
        std::thread::sleep(Duration::from_millis(2));
    }
    let target = match rank {
        Some(rank) => ranks(&child).get(rank).copied(),
        None => i32::try_from(child.id()).ok(),
    };
    if let Some(pid) = target {
        // SAFETY: it only sends a signal.
        unsafe { libc::kill(pid, signal) };
    }
    // None hangs: the others end within a minute.
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("mpirun is waited for") {
            return status.code();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "the processes do not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn killed_and_resumed_by_two_processes_a_run_ends_with_the_same_bits_and_by_one_nearly() {
    let tmp = temporary();
    for (number, job) in jobs(tmp.path()).iter().enumerate() {
        let run = |name: &str| -> PathBuf { tmp.path().join(format!("{name}-{number}")) };
        let whole = run("whole");
        distributed(2, &job.args(&whole, &[]));
        let killed = run("killed");
        for (round, steps) in [2, 5].into_iter().enumerate() {
            let resume: &[&str] = if round == 0 { &[] } else { &["--resume"] };
            signalled(job, &killed, resume, steps, Some(round % 2), libc::SIGKILL);
        }
        let copy = run("copy");
        let status = Command::new("cp").args(["-r", text(&killed), text(&copy)]).status().expect("cp runs");
        assert!(status.success());
        distributed(2, &job.args(&killed, &["--resume"]));
        assert!(job.weights(&killed) == job.weights(&whole), "{}: the resumed run differs", job.weights);
        succeed(&job.args(&copy, &["--resume"]));
        assert_near(job.weights, &losses(&copy), &losses(&whole));
    }
}

#[test]
fn sigusr1_to_mpirun_saves_and_stops_all_processes() {
    let tmp = temporary();
    let [job, _] = jobs(tmp.path());
    let (whole, stopped) = (tmp.path().join("whole"), tmp.path().join("stopped"));
    let long = ["--set", "log.checkpoint_steps=0"];
    distributed(2, &job.args(&whole, &long));
    let code = signalled(&job, &stopped, &long, 4, None, libc::SIGUSR1);
    assert_eq!(code, Some(130));
    distributed(2, &job.args(&stopped, &[&long[..], &["--resume"]].concat()));
    assert!(job.weights(&stopped) == job.weights(&whole), "the resumed run differs");
}

#[test]
fn what_cannot_work_is_refused_with_the_way_out() {
    let tmp = temporary();
    let [job, _] = jobs(tmp.path());
    let out = tmp.path().join("run");
    let refused = |processes: usize, more: &[&str]| {
        let output = mpirun(processes, &job.args(&out, more)).output().expect("mpirun is installed");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = refused(2, &[]);
    assert!(text.contains("`--distributed` is not given") && text.contains("one of 2 processes"), "{text}");
    assert!(!out.exists(), "nothing is written");
    let text = refused(3, &["--distributed", "--set", "schedule.batch_size=2"]);
    assert!(text.contains("each of 3 processes an image"), "{text}");
    let text = refused(2, &["--distributed", "--set", "schedule.epochs=0"]);
    assert!(text.contains("schedule.epochs"), "{text}");
}
