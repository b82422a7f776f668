//! Log lines to standard error and to the open run's `log.txt`.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Mutex;

use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, dynamic_filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::{Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::distributed;

static RUN_LOG: Mutex<Option<File>> = Mutex::new(None);

/// Installs the subscriber; with `quiet`, only warnings and errors reach standard error.
pub fn init(quiet: bool) {
    let level = if quiet { LevelFilter::WARN } else { LevelFilter::INFO };
    let ours = tracing_subscriber::filter::filter_fn(|meta| meta.target().starts_with("scrl"));
    let terminal = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .with_filter(level)
        .with_filter(dynamic_filter_fn(|meta, _| *meta.level() == Level::ERROR || !distributed::is_silent()))
        .with_filter(ours.clone());
    let file = tracing_subscriber::fmt::layer()
        .with_writer(RunLog)
        .with_ansi(false)
        .with_filter(LevelFilter::INFO)
        .with_filter(ours);
    tracing_subscriber::registry().with(terminal).with(file).init();
}

/// Sends log lines to this run's `log.txt` from now on.
pub fn open_run_log(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    *RUN_LOG.lock().expect("no thread panics while it logs") = Some(file);
    Ok(())
}

/// Writes to the open run log, if there is one.
struct RunLog;

impl Write for RunLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match RUN_LOG.lock().expect("no thread panics while it logs").as_mut() {
            Some(file) => file.write(line),
            None => Ok(line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for RunLog {
    type Writer = RunLog;

    fn make_writer(&self) -> RunLog {
        RunLog
    }
}
