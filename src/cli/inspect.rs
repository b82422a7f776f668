//! Options of `scrl inspect`.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand};

/// Inspect augmented views, data sets, curves of runs and ONNX files.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  scrl inspect views --config configs/pretrain/scrl_small.toml --data photos --out sheet.png"
)]
pub struct InspectArgs {
    #[command(subcommand)]
    pub what: InspectCommand,
}

#[derive(Debug, Subcommand)]
pub enum InspectCommand {
    Dataset(InspectDatasetArgs),
    Views(InspectViewsArgs),
    Run(InspectRunArgs),
    Onnx(InspectOnnxArgs),
}

/// Examine a data set: sizes, classes, boxes, broken and missing files, duplicates; and draw pages of it.
///
/// Works on COCO and VOC data and on plain folders of images. Every image is decoded. Writes report.json and pages of
/// images with their boxes and names to OUT, and prints a summary. Problems of the data are findings, not failures: the
/// exit code is 0 unless the data set cannot be read at all.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  scrl inspect dataset --data data/scenes --out doctor")]
pub struct InspectDatasetArgs {
    /// A COCO or VOC folder, or a folder of images (its subfolders train, val and test are splits).
    #[arg(long)]
    pub data: PathBuf,
    /// Split to examine; may be given several times. All splits by default.
    #[arg(long = "split", value_name = "NAME")]
    pub splits: Vec<String>,
    /// Folder for the report and the pages; files of the same names are replaced.
    #[arg(long)]
    pub out: PathBuf,
    /// Images of each split to draw, twelve a page.
    #[arg(long, default_value_t = 12, value_parser = RangedU64ValueParser::<usize>::new().range(0..=1200))]
    pub images: usize,
    /// Chooses the images to draw.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Draw the curves of one run, or of several for comparison: loss, learning rate and everything else that they log.
///
/// Writes an SVG file for every number that the runs' metrics.jsonl has more than once, and prints where it started and
/// ended. Of a finished transfer run, a folder of its name gets losses, AP and precision–recall curves.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  scrl inspect run runs/scrl runs/byol --out curves")]
pub struct InspectRunArgs {
    /// Run directories.
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Folder for the curves; files of the same names are replaced.
    #[arg(long)]
    pub out: PathBuf,
}

/// Draw augmented views with their matched boxes, one row per image.
///
/// The images are the first of a run's first epoch, augmented as that run augments them. A pair of boxes has one colour
/// and one number in both views. With --weights a third picture shows how alike a box of view 1 and each place of view 2
/// are, and the mean cosines of matched and of other boxes are printed.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  scrl inspect views --config configs/pretrain/scrl_small.toml --data photos --out sheet.png\n  scrl inspect views --config runs/scrl/config.toml --data photos --weights runs/scrl --out similar.png"
)]
pub struct InspectViewsArgs {
    /// TOML recipe of pretraining; see configs/pretrain.
    #[arg(long)]
    pub config: PathBuf,
    /// Folder of images, read recursively; may be given several times.
    #[arg(long, required = true)]
    pub data: Vec<PathBuf>,
    /// Picture to write, .png or .jpg.
    #[arg(long)]
    pub out: PathBuf,
    /// Rows of the sheet.
    #[arg(long, default_value_t = 8, value_parser = RangedU64ValueParser::<usize>::new().range(1..=100))]
    pub images: usize,
    /// Seed of order and augmentation; the recipe's by default.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Overrides one setting of the recipe.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// A pretraining run or a weights file: adds the similarity maps.
    #[arg(long)]
    pub weights: Option<PathBuf>,
    /// Number of the box whose similarity is shown; the largest of view 1 by default.
    #[arg(long = "box", value_name = "NUMBER", requires = "weights")]
    pub box_number: Option<usize>,
    /// Where to compute: `cpu`, `cuda:N`, `wgpu`, or `auto` for the best that works.
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

/// Describe an ONNX file: its inputs and outputs, operators, size and metadata.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  scrl inspect onnx birds.onnx --run")]
pub struct InspectOnnxArgs {
    /// The ONNX file, of any program.
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Also open it in ONNX Runtime.
    #[arg(long)]
    pub run: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
}
