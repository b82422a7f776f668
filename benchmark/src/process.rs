//! A cell's process: this program again, told over its standard input when to stop.
//!
//! The input's other end closes when the benchmark dies, however it dies, and the cell's process ends with it; its run
//! resumes from the last checkpoint. So nothing goes on working for a benchmark that is gone. A process that a launcher starts
//! on some other machine reads the same from a file, the benchmark's [`Pulse`].

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::error::{Context, Result};
use crate::host::Host;
use crate::record::write_file;
use scrl_core::engine::{Interrupt, Progress};
use serde::{Deserialize, Serialize};

/// What the parent writes to ask for a checkpoint and an end.
const STOP: &str = "stop";
/// Between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// How far a cell is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// `training`, `evaluation`.
    pub title: String,
    /// Steps done.
    pub done: u64,
    /// Steps in all.
    pub total: u64,
    /// What the process says of its state, for example the loss.
    pub message: String,
}

/// How a cell's process ended.
#[derive(Clone, Debug, PartialEq)]
pub enum ExitState {
    /// It says that it is done.
    Done,
    /// It stopped on request; its cell can go on.
    Interrupted,
    /// The reason, in one line.
    Failed(String),
}

/// A cell's process, as its parent sees it.
pub struct CellProcess {
    child: Child,
    /// Closing it ends the process.
    stdin: ChildStdin,
    /// Whether it runs wherever a launcher put it.
    remote: bool,
    phase: Arc<Mutex<Phase>>,
    started: Instant,
    log: PathBuf,
    /// Where this attempt's part of the log begins.
    log_start: u64,
    stopping: bool,
}

impl CellProcess {
    /// Starts the job of a file in a process of the host's program, by way of its launcher if there is one; what it says goes to
    /// the end of `log`.
    ///
    /// # Errors
    /// When the process or its log cannot be created.
    pub fn start(host: &Host, job: &Path, log: &Path, device: &str, threads: Option<usize>) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot write `{}`", log.display()))?;
        let log_start = file.metadata().map_or(0, |metadata| metadata.len());
        let remote = !host.launcher.is_empty();
        let mut command = match host.launcher.split_first() {
            None => Command::new(&host.program),
            Some((launcher, args)) => {
                let mut command = Command::new(launcher);
                command.args(args).arg(&host.program);
                command
            }
        };
        command.arg("benchmark-cell").arg("--job").arg(job).args(["--device", device]);
        command.args(remote.then_some("--remote"));
        if let Some(threads) = threads {
            command.env("RAYON_NUM_THREADS", threads.to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::from(file));
        let failed = || match host.launcher.first() {
            Some(launcher) => format!("cannot start `{launcher}`, the launcher of cells"),
            None => "cannot start a cell's process".to_string(),
        };
        let mut child = command.spawn().with_context(failed)?;
        let stdin = child.stdin.take().context("a cell's process has no standard input")?;
        let stdout = child.stdout.take().context("a cell's process has no standard output")?;
        let phase = Arc::new(Mutex::new(Phase::default()));
        let shared = Arc::clone(&phase);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
                if let (Ok(phase), Ok(mut shared)) = (serde_json::from_str(&line), shared.lock()) {
                    *shared = phase;
                }
            }
        });
        let started = Instant::now();
        Ok(Self { child, stdin, remote, phase, started, log: log.to_path_buf(), log_start, stopping: false })
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase.lock().map(|phase| phase.clone()).unwrap_or_default()
    }

    /// Time since it started.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Asks it once for a checkpoint and an end.
    pub fn stop(&mut self) {
        if !self.stopping {
            self.stopping = true;
            // A process that is gone already hears nothing and needs nothing.
            let _ = writeln!(self.stdin, "{STOP}");
        }
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn poll(&mut self) -> Result<Option<ExitState>> {
        let status = self.child.try_wait().context("cannot wait for a cell's process")?;
        Ok(status.map(|status| match status.code() {
            Some(0) => ExitState::Done,
            Some(130) => ExitState::Interrupted,
            _ => ExitState::Failed(self.reason(status)),
        }))
    }

    /// The error that it printed last.
    fn reason(&self, status: ExitStatus) -> String {
        let mut text = String::new();
        let read = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.log_start))?;
            file.read_to_string(&mut text)
        });
        let printed = read.ok().and_then(|_| {
            let error = text.rsplit_once("error: ").map(|(_, error)| error);
            let panic = text.split_once("panicked at").map(|(_, panic)| panic);
            error.or(panic).map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
        });
        printed.filter(|text| !text.is_empty()).unwrap_or_else(|| format!("its process ended by {status}"))
    }
}

impl Drop for CellProcess {
    /// Leaves no process behind. One that a launcher started ends without the benchmark's pulse.
    fn drop(&mut self) {
        if self.remote {
            return;
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// In a cell's process: listens to the parent. A line asks for a checkpoint and an end; the end of the input means that the
/// parent is gone, and ends the process at once.
pub fn listen_to_parent(interrupt: Interrupt) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(|line| line.ok()) {
            if line == STOP {
                interrupt.request();
            }
        }
        std::process::exit(1);
    });
}

/// How a benchmark tells processes on other machines that it is there, by a file in its folder that they all see.
///
/// It counts up in the file; a process that sees the same count for too long, or the word to stop, ends with a checkpoint. The
/// machines' clocks do not matter.
#[derive(Debug)]
pub struct Pulse {
    path: PathBuf,
    count: u64,
    last: Option<Instant>,
}

/// Name of the file of a [`Pulse`], beside the jobs.
const PULSE: &str = "pulse";
/// Between two beats.
const BEAT: Duration = Duration::from_secs(5);
/// Without a beat the benchmark is taken for dead: shared file systems may be late by a minute.
const SILENCE: Duration = Duration::from_secs(180);

impl Pulse {
    /// A pulse in the folder of the jobs.
    pub fn new(jobs: &Path) -> Self {
        Self { path: jobs.join(PULSE), count: 0, last: None }
    }

    /// Beats, if it is time.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn beat(&mut self) -> Result<()> {
        if self.last.is_some_and(|last| last.elapsed() < BEAT) {
            return Ok(());
        }
        self.last = Some(Instant::now());
        self.count += 1;
        // The process number tells this benchmark from one that was here before.
        self.write(&format!("{} {}", std::process::id(), self.count))
    }

    /// Asks all processes for a checkpoint and an end.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn stop(&mut self) -> Result<()> {
        self.write(STOP)
    }

    fn write(&self, text: &str) -> Result<()> {
        write_file(&self.path, text.as_bytes())
    }
}

/// In the process of a job that a launcher has started: stops when the benchmark's [`Pulse`] says so or is gone.
///
/// # Errors
/// When no folder above the job has a pulse.
pub fn follow_pulse(job: &Path, interrupt: Interrupt) -> Result<()> {
    let found = job.ancestors().map(|folder| folder.join(PULSE)).find(|path| path.is_file());
    let path = found.with_context(|| format!("no benchmark is at work above `{}`", job.display()))?;
    follow(path, interrupt, Duration::from_secs(1), SILENCE);
    Ok(())
}

/// Looks at a pulse from time to time; without a new beat for so long, its benchmark is gone.
fn follow(path: PathBuf, interrupt: Interrupt, look: Duration, silence: Duration) {
    std::thread::spawn(move || {
        let read = || std::fs::read_to_string(&path).unwrap_or_default();
        // What is there at first may be the end of a benchmark before.
        let (mut known, mut changed, mut beats) = (read(), Instant::now(), 0);
        loop {
            let text = read();
            if text != known {
                (known, changed) = (text, Instant::now());
                beats += 1;
            }
            if (known == STOP && beats > 0) || changed.elapsed() > silence {
                interrupt.request();
                return;
            }
            std::thread::sleep(look);
        }
    });
}

/// In a cell's process: progress as lines on standard output.
#[derive(Debug, Default)]
pub struct PipedProgress {
    phase: Phase,
    last: Option<Instant>,
}

impl PipedProgress {
    fn tell(&mut self) {
        self.last = Some(Instant::now());
        if let Ok(line) = serde_json::to_string(&self.phase) {
            let mut out = std::io::stdout().lock();
            // Nobody listens to a parent that is gone; the process ends by itself.
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        }
    }
}

impl Progress for PipedProgress {
    fn start(&mut self, total: u64, done: u64, title: &str) {
        self.phase = Phase { title: title.to_string(), done, total, message: String::new() };
        self.tell();
    }

    fn update(&mut self, done: u64, message: &str) {
        self.phase.done = done;
        if !message.is_empty() {
            self.phase.message = message.to_string();
        }
        if self.last.is_none_or(|last| last.elapsed() >= PROGRESS_INTERVAL) {
            self.tell();
        }
    }

    fn finish(&mut self, _message: &str) {
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a process that follows the pulse is asked to stop within a second.
    fn stops(interrupt: &Interrupt) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            if interrupt.is_requested() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    #[test]
    fn a_process_stops_when_the_pulse_says_so_or_stays_away() {
        let folder = tempfile::tempdir().unwrap();
        let start = |silence: u64| {
            let interrupt = Interrupt::new();
            let path = folder.path().join(PULSE);
            follow(path, interrupt.clone(), Duration::from_millis(5), Duration::from_millis(silence));
            // The process has read what is there before it changes.
            std::thread::sleep(Duration::from_millis(100));
            interrupt
        };
        let mut pulse = Pulse::new(folder.path());
        pulse.stop().unwrap();
        let after_another = start(60_000);
        pulse.beat().unwrap();
        assert!(!stops(&after_another), "a benchmark before this one was stopped, not this one");
        pulse.stop().unwrap();
        assert!(stops(&after_another));
        assert!(stops(&start(300)), "nobody beats any more");
    }

    #[test]
    fn a_job_without_a_benchmark_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = follow_pulse(&folder.path().join("cells/a.job.json"), Interrupt::new()).unwrap_err();
        assert!(error.to_string().contains("no benchmark is at work"), "{error}");
    }
}
