//! Options of `scrl benchmark`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use scrl_core::models::Precision;

/// Run a plan of inits, label fractions and seeds: pretrain, transfer, evaluate, export, report.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  scrl benchmark --config configs/benchmark/demo.toml --out runs/demo --dry-run\n  \
    scrl benchmark --config configs/benchmark/demo.toml --out runs/demo\n\n\
    The same command again goes on where it stopped. Exit codes: 0 every cell has a result, 1 some failed (the report \
    names them), 130 interrupted."
)]
pub struct BenchmarkArgs {
    /// TOML plan; see configs/benchmark.
    #[arg(long)]
    pub config: PathBuf,
    /// Folder for all runs and the report; what is already done there is kept.
    #[arg(long)]
    pub out: PathBuf,
    /// Overrides one setting of the plan.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Print the cells with the time and disk space that they should take, and run none.
    #[arg(long)]
    pub dry_run: bool,
    /// Report on the cells that are done and run none, also while another process runs the others.
    #[arg(long, conflicts_with = "dry_run")]
    pub report: bool,
    /// Cells at a time, each a process of its own; one for each device by default.
    #[arg(long, value_parser = jobs)]
    pub jobs: Option<usize>,
    /// Where to compute: `cpu`, `cuda:N`, `wgpu` or `auto`, or several that cells take in turn, such as `cuda:0,cuda:1`.
    #[arg(long, default_value = "cpu", value_delimiter = ',')]
    pub device: Vec<String>,
    /// Start each cell by this command, which runs its arguments on some machine and ends with their exit code: for example
    /// `srun --exclusive -n1` or `ssh node7`. The machines share the folder, the data and this program; --jobs says how many cells
    /// run at a time.
    #[arg(long, value_name = "COMMAND")]
    pub launcher: Option<String>,
    /// Numbers that all networks compute with, in place of the plan's: `f32`, or `bf16` on processors with AMX and on CUDA.
    #[arg(long)]
    pub precision: Option<Precision>,
}

/// One cell of a benchmark, as `scrl benchmark` starts it.
#[derive(Debug, Args)]
pub struct BenchmarkCellArgs {
    /// What to do, as written by the benchmark.
    #[arg(long)]
    pub job: PathBuf,
    #[arg(long)]
    pub device: String,
    /// Whether it listens to the benchmark's pulse instead of its standard input.
    #[arg(long)]
    pub remote: bool,
}

fn jobs(text: &str) -> Result<usize, String> {
    text.parse::<NonZeroUsize>().map(usize::from).map_err(|_| "expected a number of at least 1".to_string())
}
