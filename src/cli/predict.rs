//! Options of `scrl predict`.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{ArgGroup, Args};
use scrl_core::models::Precision;

/// A trained detector, by Burn or by ONNX Runtime.
#[derive(Debug, Args)]
pub struct DetectorArgs {
    /// A finished transfer run: its last detector.
    #[arg(long)]
    pub run: Option<PathBuf>,
    /// A detector's weights file that a transfer run wrote.
    #[arg(long)]
    pub weights: Option<PathBuf>,
    /// An ONNX file of `scrl export detector`; ONNX Runtime computes it.
    #[arg(long)]
    pub model: Option<PathBuf>,
}

/// Draw the detections in images, and write them as COCO results.
///
/// OUT gets every image under its relative name with the boxes of at least --score drawn, and predictions.json with all that
/// the detector found, in COCO's results format with the files' names and sizes and the classes' names.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("detector").args(["run", "weights", "model"]).required(true),
    after_help = "Examples:\n  scrl predict --run runs/scrl-det photos --out found\n  scrl predict --weights runs/scrl-det/weights/best.safetensors a.jpg b.png --out found --score 0.3 --json\n  scrl predict --model birds.onnx photos --out found --batch 4\n\nImages that cannot be read are named and left out; the exit code is then 1."
)]
pub struct PredictArgs {
    /// Image files, and folders that are read recursively.
    #[arg(required = true, value_name = "IMAGES")]
    pub images: Vec<PathBuf>,
    #[command(flatten)]
    pub detector: DetectorArgs,
    /// Folder for the pictures and predictions.json.
    #[arg(long)]
    pub out: PathBuf,
    /// Detections of at least this score are drawn and printed.
    #[arg(long, default_value_t = 0.5)]
    pub score: f32,
    /// Print one line of JSON per image instead of text.
    #[arg(long)]
    pub json: bool,
    /// Also write PICTURE.masks.png beside each picture, of a detector that gives masks: a pixel is the place of the detection that it
    /// belongs to among those of at least --score, from 1, the best on top; 0 is the background.
    #[arg(long)]
    pub masks: bool,
    /// Images per batch; in a batch of different sizes padding can change the last digits.
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub batch: usize,
    /// Replace files of the same names in OUT.
    #[arg(long)]
    pub overwrite: bool,
    /// Where to compute: `cpu`, `cuda:N`, `wgpu`, or `auto` for the best that works; an exported model runs on the CPU.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Numbers that the detector computes with: `f32`, or `bf16` on processors with AMX and on CUDA; an exported model has its own.
    #[arg(long, default_value = "f32")]
    pub precision: Precision,
}
