//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod bench;
mod convert;
mod inspect;
mod probe;

pub use bench::*;
pub use convert::*;
pub use inspect::*;
pub use probe::*;

/// Self-supervised pretraining that makes object detectors better: pretrain, transfer, compare, export.
#[derive(Debug, Parser)]
#[command(name = "scrl", version, max_term_width = 100)]
pub struct Cli {
    /// Print errors and results alone.
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
    Convert(ConvertArgs),
    Inspect(InspectArgs),
    Probe(ProbeArgs),
}

/// Write procedural scenes as a COCO dataset with class folders, so that everything runs with no download.
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
    /// Go on from the last checkpoint of the run.
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Delete what the run directory holds and start anew.
    #[arg(long)]
    pub overwrite: bool,
    /// Where to compute: `cpu` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

/// Pretrain a backbone on a folder of images by SCRL, BYOL or supervised classification.
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

/// Evaluate a transfer run, or COCO detections against COCO ground truth.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  scrl evaluate --run runs/scrl-det --data data/scenes\n  scrl evaluate --ground-truth instances.json --detections results.json --out metrics.json"
)]
pub struct EvaluateArgs {
    /// A finished transfer run.
    #[arg(long, conflicts_with_all = ["ground_truth", "detections"], required_unless_present = "ground_truth")]
    pub run: Option<PathBuf>,
    /// A COCO or VOC folder to evaluate the run on; the run's own validation data by default.
    #[arg(long, requires = "run")]
    pub data: Option<PathBuf>,
    /// COCO instances JSON.
    #[arg(long, requires = "detections")]
    pub ground_truth: Option<PathBuf>,
    /// COCO results JSON.
    #[arg(long, requires = "ground_truth")]
    pub detections: Option<PathBuf>,
    /// Writes the metrics to this JSON file.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Where to compute: `cpu` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

/// Emit ONNX and prove it with ONNX Runtime.
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(subcommand)]
    pub what: ExportCommand,
}

#[derive(Debug, Subcommand)]
pub enum ExportCommand {
    Backbone(ExportBackboneArgs),
}

/// Export a backbone with a dynamic batch; a mismatch with ONNX Runtime is a failure.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  scrl export backbone --weights runs/scrl --out scrl.onnx --output pooled --images photos"
)]
pub struct ExportBackboneArgs {
    /// A pretraining run or a .safetensors file.
    #[arg(long)]
    pub weights: PathBuf,
    /// File to write.
    #[arg(long)]
    pub out: PathBuf,
    /// What the network returns.
    #[arg(long, value_enum, default_value = "c5")]
    pub output: OutputArg,
    /// Folder of images for validation beside random inputs.
    #[arg(long)]
    pub images: Option<PathBuf>,
}

/// Outputs of an exported backbone.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OutputArg {
    /// The last feature map, `[batch, channels, height/32, width/32]`.
    C5,
    /// C5 averaged over all positions, `[batch, channels]`.
    Pooled,
    /// C2, C3, C4 and C5.
    Pyramid,
}

/// Run a plan of inits, label fractions and seeds: pretrain, transfer, evaluate, export, report.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  scrl benchmark --config configs/benchmark/demo.toml --out runs/demo")]
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
    /// Where to compute: `cpu` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    pub device: String,
}
