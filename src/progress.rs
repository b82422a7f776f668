//! The progress bar and Ctrl-C.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use scrl_core::engine::{Interrupt, Monitor, Progress};

/// How often a line is printed where there is no terminal to draw a bar on.
const LINE_INTERVAL: Duration = Duration::from_secs(15);
/// Signals within this time of the first are the same request: terminals and schedulers send several at once.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// A monitor that reacts to Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 and, unless `quiet`, shows progress on standard error.
pub fn monitor(quiet: bool) -> Result<Monitor> {
    let interrupt = Interrupt::new();
    let requested = interrupt.clone();
    listen(move |signal| requested_by(signal, &requested)).context("cannot react to signals")?;
    let progress: Box<dyn Progress> = match (quiet, std::io::stderr().is_terminal()) {
        (true, _) => return Ok(Monitor { interrupt, ..Monitor::silent() }),
        (false, true) => Box::new(Bar(ProgressBar::hidden())),
        (false, false) => Box::new(Lines { title: String::new(), total: 0, last: Instant::now() }),
    };
    Ok(Monitor { interrupt, progress })
}

/// A signal that asks the program to stop.
#[derive(Clone, Copy, PartialEq)]
enum Stop {
    /// Ctrl-C; a second one ends the program at once.
    Interrupt,
    /// From `kill`, a scheduler or a closed terminal, by its name; the program always saves.
    Other(&'static str),
}

/// Asks for the end, or ends at once where somebody insists.
fn requested_by(signal: Stop, interrupt: &Interrupt) {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    if let Some(first) = FIRST.get() {
        if signal == Stop::Interrupt && first.elapsed() >= SAME_REQUEST {
            std::process::exit(130);
        }
        return;
    }
    FIRST.get_or_init(Instant::now);
    match signal {
        Stop::Interrupt => tracing::warn!("stopping after this step; press Ctrl-C again to stop at once"),
        Stop::Other(name) => tracing::warn!("{name}: stopping after this step"),
    }
    interrupt.request();
}

/// Calls `react` for each signal, on a thread of its own.
#[cfg(unix)]
fn listen(react: impl Fn(Stop) + Send + 'static) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1])?;
    let listen = move || {
        signals.forever().for_each(|signal| {
            react(match signal {
                SIGTERM => Stop::Other("SIGTERM"),
                SIGHUP => Stop::Other("SIGHUP"),
                SIGUSR1 => Stop::Other("SIGUSR1"),
                _ => Stop::Interrupt,
            })
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(listen)?;
    Ok(())
}

/// Calls `react` for each Ctrl-C, on a thread of its own.
#[cfg(not(unix))]
fn listen(react: impl Fn(Stop) + Send + 'static) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || react(Stop::Interrupt))
}

/// A bar with the estimated time left.
struct Bar(ProgressBar);

impl Progress for Bar {
    fn start(&mut self, total: u64, done: u64, title: &str) {
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} eta {eta} {msg}")
            .expect("the template is valid");
        self.0 = ProgressBar::new(total).with_style(style).with_prefix(title.to_string()).with_position(done);
        self.0.reset_eta();
    }

    fn update(&mut self, done: u64, message: &str) {
        self.0.set_position(done);
        self.0.set_message(message.to_string());
    }

    fn finish(&mut self, message: &str) {
        self.0.finish_with_message(message.to_string());
    }
}

/// A line now and then, for logs.
struct Lines {
    title: String,
    total: u64,
    last: Instant,
}

impl Progress for Lines {
    fn start(&mut self, total: u64, _done: u64, title: &str) {
        (self.title, self.total, self.last) = (title.to_string(), total, Instant::now());
    }

    fn update(&mut self, done: u64, message: &str) {
        if self.last.elapsed() >= LINE_INTERVAL {
            eprintln!("{} {done}/{}: {message}", self.title, self.total);
            self.last = Instant::now();
        }
    }

    fn finish(&mut self, message: &str) {
        eprintln!("{}: {message}", self.title);
    }
}
