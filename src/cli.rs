//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use scrl_core::models::Precision;

mod bench;
mod benchmark;
mod convert;
mod evaluate;
mod export;
mod inspect;
mod pack;
mod predict;
mod probe;
mod replay;

pub use bench::*;
pub use benchmark::*;
pub use convert::*;
pub use evaluate::*;
pub use export::*;
pub use inspect::*;
pub use pack::*;
pub use predict::*;
pub use probe::*;
pub use replay::*;

/// Self-supervised pretraining that makes object detectors better: pretrain, transfer, compare, export.
#[derive(Debug, Parser)]
#[command(name = "scrl", version = crate::device::version(), max_term_width = 100)]
pub struct Cli {
    /// Print only errors and results.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Synth(SynthArgs),
    Pretrain(PretrainArgs),
    Transfer(TransferArgs),
    Evaluate(EvaluateArgs),
    Export(ExportArgs),
    Bench(BenchArgs),
    Benchmark(BenchmarkArgs),
    #[command(hide = true)]
    BenchmarkCell(BenchmarkCellArgs),
    Convert(ConvertArgs),
    Inspect(InspectArgs),
    Pack(PackArgs),
    Predict(PredictArgs),
    Probe(ProbeArgs),
    Replay(ReplayArgs),
}

/// Write procedural scenes as a COCO data set with class folders, so that everything runs without a download.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  scrl synth --out data/scenes --set train=400 --set width=160 --set height=160"
)]
pub struct SynthArgs {
    /// Folder to write to; must be empty or absent.
    #[arg(long)]
    pub out: PathBuf,
    /// TOML file with the scenes' settings; all have defaults.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Overrides one setting.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Replace what the folder holds.
    #[arg(long)]
    pub overwrite: bool,
}

/// How a run directory is opened.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Run directory to write to.
    #[arg(long)]
    pub out: PathBuf,
    /// Overrides one setting of the configuration, for example `schedule.epochs=20`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Continue from the last checkpoint of the run.
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// With --resume: go on although the configuration asks for a longer run than the one that was started.
    #[arg(long, requires = "resume")]
    pub prolong: bool,
    /// Delete the content of the run directory and start again.
    #[arg(long)]
    pub overwrite: bool,
    /// Train together with the other processes that `mpirun` or `srun` has started, in builds with the feature `mpi`.
    #[arg(long)]
    pub distributed: bool,
    /// Where to compute: `cpu`, `cuda:N`, `wgpu`, or `auto` for the best that works; with --distributed, `cuda:local` is a card for
    /// each process of a machine.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Numbers that networks compute with, in place of the configuration's: `f32`, or `bf16` on processors with AMX and on CUDA.
    #[arg(long)]
    pub precision: Option<Precision>,
}

/// Pretrain a backbone on a folder of images with SCRL, BYOL, DenseCL or supervised classification.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  scrl pretrain --config configs/pretrain/scrl_small.toml --data photos --out runs/scrl"
)]
pub struct PretrainArgs {
    /// TOML recipe; see configs/pretrain.
    #[arg(long)]
    pub config: PathBuf,
    /// Folder of images, read recursively; may be given several times.
    #[arg(long, required = true)]
    pub data: Vec<PathBuf>,
    /// Folder of images for health checks that training does not see; by default they use training images.
    #[arg(long, value_name = "DIR")]
    pub held_out: Option<PathBuf>,
    /// Weights to start the backbone from: a run directory, or a file that `scrl convert` reads.
    #[arg(long, conflicts_with = "resume")]
    pub init: Option<PathBuf>,
    #[command(flatten)]
    pub run: RunArgs,
}

/// Fine-tune Faster R-CNN/FPN from a backbone on COCO or VOC data and evaluate it.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  scrl transfer --config configs/transfer/small.toml --data data/scenes --init runs/scrl --out runs/scrl-det"
)]
pub struct TransferArgs {
    /// TOML recipe; see configs/transfer.
    #[arg(long)]
    pub config: PathBuf,
    /// A COCO or VOC folder; fills in the data sources of the recipe.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// `random`, a pretraining run, or a weights file.
    #[arg(long)]
    pub init: String,
    #[command(flatten)]
    pub run: RunArgs,
}
