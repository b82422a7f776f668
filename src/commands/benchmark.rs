//! `scrl benchmark`, and the process of one of its cells.

use std::io::{BufReader, Write};

use anyhow::{Context, Result, bail};
use scrl_core::config::SettingError;
use scrl_core::engine::Monitor;
use scrl_core::models::Precision;

use scrl_benchmark::job::{JobEnd, JobFile};
use scrl_benchmark::process::{PipedProgress, follow_pulse, listen_to_parent};
use scrl_benchmark::report::tables;
use scrl_benchmark::results::Results;
use scrl_benchmark::{Benchmark, BenchmarkEnd, Host, ResolvedPlan, estimate};
use scrl_figures::document::{Block, Document};

use super::{Ending, speed};
use crate::cli::{BenchmarkArgs, BenchmarkCellArgs};
use crate::progress_table::ProgressTable;
use crate::{device, logging};

pub fn run(args: BenchmarkArgs, monitor: Monitor, quiet: bool) -> Result<Ending> {
    let mut plan = ResolvedPlan::load(&args.config, &args.overrides)?;
    if let Some(precision) = args.precision {
        plan = plan.compute_in(precision);
    }
    if plan.uses(Precision::Bf16) {
        for device in &args.device {
            if device::usable(Precision::Bf16, device, false)?.is_f32() {
                plan = plan.compute_in(Precision::F32);
            }
        }
    }
    if args.dry_run {
        print!("{}", estimate::dry_run(&plan, &args.out, &args.device, args.jobs, &host(None)?)?);
        return Ok(Ending::Done);
    }
    let benchmark = Benchmark {
        plan: &plan,
        out: &args.out,
        devices: &args.device,
        jobs: args.jobs,
        only_report: args.report,
        interrupt: monitor.interrupt.clone(),
        host: &host(args.launcher.as_deref())?,
    };
    let mut table = ProgressTable::new(quiet, &plan.plan.report.metric);
    let results = match benchmark.run(&mut table)? {
        BenchmarkEnd::Interrupted => {
            eprintln!("interrupted; the same command goes on");
            return Ok(Ending::Interrupted);
        }
        BenchmarkEnd::Reported(results) => results,
    };
    print(&results, &args, &plan.plan.report.metric)?;
    let done =
        results.pretrain.len() + results.transfer.len() + results.export.len() + results.detectors.len();
    let total = done + results.unfinished.len();
    if args.report {
        println!("{done} of {total} cells have a result");
        return Ok(Ending::Done);
    }
    if let Some(first) = results.unfinished.first() {
        bail!(
            "{} of {total} cells have no result; the first: {}: {}. The report names all; the same command tries them again",
            results.unfinished.len(),
            first.title,
            first.reason
        );
    }
    Ok(Ending::Done)
}

fn print(results: &Results, args: &BenchmarkArgs, metric: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for dataset in results.datasets() {
        let table = Block::Table(tables::detection_table(results, dataset, false));
        let text = Document { title: dataset.into(), blocks: vec![table] }.markdown();
        writeln!(out, "{}", text.trim_start_matches("# "))?;
    }
    for difference in results.differences.iter().filter(|d| d.metric == metric) {
        writeln!(out, "{}", difference.sentence())?;
    }
    for export in &results.export {
        writeln!(
            out,
            "{}: reproduced by ONNX Runtime in {} cases, max abs error {:.2e}",
            args.out.join(&export.path).display(),
            export.cases,
            export.max_abs_error
        )?;
    }
    writeln!(out, "report: {}", args.out.join("report.html").display())?;
    Ok(())
}

/// Does one cell's work for a benchmark that waits for it.
pub fn cell(args: BenchmarkCellArgs, mut monitor: Monitor) -> Result<Ending> {
    match args.remote {
        true => follow_pulse(&args.job, monitor.interrupt.clone())?,
        false => listen_to_parent(monitor.interrupt.clone()),
    }
    let file =
        std::fs::File::open(&args.job).with_context(|| format!("cannot read `{}`", args.job.display()))?;
    let job: JobFile = serde_json::from_reader(BufReader::new(file))
        .with_context(|| format!("`{}` is not a job of this program", args.job.display()))?;
    monitor.progress = Box::new(PipedProgress::default());
    Ok(match job.run(&args.device, &host(None)?, &mut monitor)? {
        JobEnd::Done => Ending::Done,
        JobEnd::Interrupted => Ending::Interrupted,
    })
}

/// What this program lends to a benchmark. On Linux it is the file that runs, even if another was built in its place
/// meanwhile: all cells of a benchmark are computed by one program.
///
/// A launcher starts it on other machines, where only its own path leads to it.
fn host(launcher: Option<&str>) -> Result<Host> {
    let program = match cfg!(target_os = "linux") && launcher.is_none() {
        true => "/proc/self/exe".into(),
        false => std::env::current_exe().context("cannot tell which program this is")?,
    };
    let words = shell_words::split(launcher.unwrap_or_default());
    let launcher = words.map_err(|_| SettingError {
        key: "--launcher".into(),
        value: launcher.unwrap_or_default().into(),
        expected: "a command whose quotes are closed".into(),
    })?;
    Ok(Host {
        program,
        launcher,
        device: |name| device::parse(name).map_err(|error| error.to_string()),
        open_log: logging::open_run_log,
        peak_gib: speed::peak_gib,
    })
}
