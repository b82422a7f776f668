//! `scrl benchmark`, and the process of one of its cells.

use std::io::{BufReader, Write};

use anyhow::{Context, Result, bail};
use scrl_core::engine::Monitor;

use super::Ending;
use crate::benchmark::estimate;
use crate::benchmark::job::JobFile;
use crate::benchmark::plan::ResolvedPlan;
use crate::benchmark::process::{PipedProgress, obey};
use crate::benchmark::report::sections;
use crate::benchmark::results::Results;
use crate::benchmark::run::{Benchmark, BenchmarkEnd};
use crate::cli::{BenchmarkArgs, BenchmarkCellArgs};
use crate::device;
use scrl_figures::document::{Block, Document};

pub fn run(args: BenchmarkArgs, monitor: Monitor, quiet: bool) -> Result<Ending> {
    let plan = ResolvedPlan::load(&args.config, &args.overrides)?;
    if args.dry_run {
        estimate::dry_run(&plan, &args.out, &args.device, args.jobs)?;
        return Ok(Ending::Done);
    }
    let benchmark = Benchmark {
        plan: &plan,
        out: &args.out,
        devices: &args.device,
        jobs: args.jobs,
        interrupt: monitor.interrupt.clone(),
        quiet,
    };
    let results = match benchmark.run()? {
        BenchmarkEnd::Interrupted => {
            eprintln!("interrupted; the same command goes on");
            return Ok(Ending::Interrupted);
        }
        BenchmarkEnd::Reported(results) => results,
    };
    print(&results, &args, &plan.plan.report.metric)?;
    if let Some(first) = results.unfinished.first() {
        let total = results.unfinished.len()
            + results.pretrain.len()
            + results.transfer.len()
            + results.export.len()
            + results.detectors.len();
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
        let table = Block::Table(sections::detection_table(results, dataset, false));
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
    obey(monitor.interrupt.clone());
    let file =
        std::fs::File::open(&args.job).with_context(|| format!("cannot read `{}`", args.job.display()))?;
    let job: JobFile = serde_json::from_reader(BufReader::new(file))
        .with_context(|| format!("`{}` is no job of this program", args.job.display()))?;
    monitor.progress = Box::new(PipedProgress::new());
    job.run(&device::parse(&args.device)?, &args.device, &mut monitor)
}
