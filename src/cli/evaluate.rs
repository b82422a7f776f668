//! Options of `scrl evaluate`.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{ArgGroup, Args};
use scrl_core::models::Precision;

use super::DetectorArgs;

/// Evaluate a detector, or detections against ground truth without any model.
///
/// Detections are either COCO's results JSON, judged against an instances JSON, or the text files of the VOC development
/// kit, `comp4_det_SPLIT_CLASS.txt`, judged against a split of a VOC folder. The figures are those of the official tools.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("judged").args(["run", "weights", "model", "ground_truth"]).required(true),
    after_help = "Examples:\n  scrl evaluate --run runs/scrl-det --data data/scenes\n  scrl evaluate --run runs/scrl-det --detections-out results.json\n  scrl evaluate --model birds.onnx --data data/birds --batch 4\n  scrl evaluate --ground-truth instances.json --detections results.json --out metrics.json\n  scrl evaluate --ground-truth VOCdevkit/VOC2007 --split test --detections results --out metrics.json"
)]
pub struct EvaluateArgs {
    #[command(flatten)]
    pub detector: DetectorArgs,
    /// A COCO or VOC folder to evaluate on; by default the run's own validation data.
    #[arg(long, required_unless_present_any = ["run", "ground_truth"], conflicts_with = "ground_truth")]
    pub data: Option<PathBuf>,
    /// Writes the detections in the form of the data: COCO's results JSON, or a folder of the VOC kit's text files.
    #[arg(long, value_name = "FILE|DIR", conflicts_with = "ground_truth")]
    pub detections_out: Option<PathBuf>,
    /// Images per batch; in a batch of different sizes padding can change the last digits.
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub batch: usize,
    /// COCO instances JSON, or a VOC folder or development kit.
    #[arg(long, requires = "detections", value_name = "FILE|DIR")]
    pub ground_truth: Option<PathBuf>,
    /// The VOC split: a list in ImageSets/Main.
    #[arg(long, requires = "ground_truth")]
    pub split: Option<String>,
    /// COCO results JSON, or the folder of the VOC kit's text files.
    #[arg(long, requires = "ground_truth", value_name = "FILE|DIR")]
    pub detections: Option<PathBuf>,
    /// Writes the metrics to this JSON file.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Share the images with the other processes that `mpirun` or `srun` has started, in builds with the feature `mpi`.
    #[arg(long)]
    pub distributed: bool,
    /// Where to compute: `cpu`, `cuda:N`, `wgpu`, or `auto` for the best that works; an exported model runs on the CPU.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Numbers that the detector computes with: `f32`, or `bf16` on processors with AMX and on CUDA; an exported model has its own.
    #[arg(long, default_value = "f32")]
    pub precision: Precision,
}
