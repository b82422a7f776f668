//! A cell's process: this program again, told over its standard input when to stop.
//!
//! The input's other end closes when the benchmark dies, however it dies, and the cell's process ends with it; its run
//! resumes from the last checkpoint. So nothing goes on working for a benchmark that is gone.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::error::{Context, Result};
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
    phase: Arc<Mutex<Phase>>,
    started: Instant,
    log: PathBuf,
    /// Where this attempt's part of the log begins.
    log_start: u64,
    stopping: bool,
}

impl CellProcess {
    /// Starts the job of a file in a process of `program`, see [`Host::program`](crate::Host); what it says goes to the end
    /// of `log`.
    ///
    /// # Errors
    /// When the process or its log cannot be created.
    pub fn start(
        program: &Path,
        job: &Path,
        log: &Path,
        device: &str,
        threads: Option<usize>,
    ) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot write `{}`", log.display()))?;
        let log_start = file.metadata().map_or(0, |metadata| metadata.len());
        let mut command = Command::new(program);
        command.arg("benchmark-cell").arg("--job").arg(job).args(["--device", device]);
        if let Some(threads) = threads {
            command.env("RAYON_NUM_THREADS", threads.to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::from(file));
        let mut child = command.spawn().context("cannot start a cell's process")?;
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
        Ok(Self { child, stdin, phase, started, log: log.to_path_buf(), log_start, stopping: false })
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
    /// Leaves no process behind.
    fn drop(&mut self) {
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
