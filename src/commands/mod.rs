//! One thin function a command.

pub mod benchmark;
pub mod convert;
pub mod detector;
pub mod evaluate;
pub mod export;
pub mod inspect;
pub mod pack;
pub mod predict;
pub mod pretrain;
pub mod probe;
pub mod replay;
pub mod speed;
pub mod synth;
pub mod transfer;

use std::path::Path;

use anyhow::{Context, Result};
use scrl_core::config::{ChangedSettings, ConfigError, SettingError};
use scrl_core::engine::{OpenMode, RunDir};
use scrl_core::models::Precision;
use scrl_ops::Group;

use scrl_transfer::DetectionMetrics;

use crate::cli::RunArgs;
use crate::device;

/// How a command ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Done,
    Interrupted,
}

/// 2 for a wrong configuration, as for a wrong command line; 1 for any other failure.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let is_setting = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<ConfigError>() || cause.is::<SettingError>() || cause.is::<ChangedSettings>()
    };
    if error.chain().any(is_setting) { 2 } else { 1 }
}

impl RunArgs {
    /// The precision of the run: that of the command line, else that of the configuration, as far as the device has it.
    fn usable_precision(&self, configured: Precision) -> Result<Precision> {
        device::usable(self.precision.unwrap_or(configured), &self.device, self.resume)
    }
}

/// Opens the run directory and its log; processes other than rank 0 only read from it.
fn open_run(args: &RunArgs, group: &Group) -> Result<RunDir> {
    let mode = match (args.resume, args.overwrite) {
        (true, _) => OpenMode::Resume,
        (false, true) => OpenMode::Overwrite,
        (false, false) => OpenMode::New,
    };
    let run = if group.is_root() { Some(open_logged(&args.out, mode)?) } else { None };
    group.wait();
    match run {
        Some(run) => Ok(run),
        None => Ok(RunDir::join(&args.out)?),
    }
}

/// Opens a run directory and sends log lines to its `log.txt` from now on.
pub fn open_logged(path: &Path, mode: OpenMode) -> Result<RunDir> {
    let run = RunDir::open(path, mode)?;
    let log = run.file("log.txt");
    crate::logging::open_run_log(&log)
        .with_context(|| format!("cannot write the log `{}`", log.display()))?;
    Ok(run)
}

/// One line a metric, in percent; `–` where the data has nothing to measure.
fn print_metrics(metrics: &DetectionMetrics) {
    for (name, value) in metrics.summary() {
        println!("{name:>10}  {}", value.map_or("–".to_string(), |v| format!("{:.2} %", 100.0 * v)));
    }
}
