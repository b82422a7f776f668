//! `scrl benchmark`

use anyhow::{Context, Result};
use scrl_core::engine::Monitor;

use super::Ending;
use crate::benchmark::plan::ResolvedPlan;
use crate::benchmark::run::Benchmark;
use crate::cli::BenchmarkArgs;
use crate::device;

pub fn run(args: BenchmarkArgs, mut monitor: Monitor) -> Result<Ending> {
    let device = device::parse(&args.device)?;
    let plan = ResolvedPlan::load(&args.config, &args.overrides)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create `{}`", args.out.display()))?;
    let mut benchmark = Benchmark { plan: &plan, out: &args.out, device: &device, monitor: &mut monitor };
    let (ending, results) = benchmark.run()?;
    if ending == Ending::Interrupted {
        eprintln!("interrupted; the same command goes on");
        return Ok(ending);
    }
    println!("{}", results.table());
    for export in &results.export {
        println!(
            "{}: reproduced by ONNX Runtime in {} cases, max abs error {:.2e}",
            args.out.join(&export.path).display(),
            export.cases,
            export.max_abs_error
        );
    }
    println!("report: {}", args.out.join("report.html").display());
    Ok(ending)
}
