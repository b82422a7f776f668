//! Options of `scrl evaluate`.

use std::path::PathBuf;

use clap::Args;

/// Evaluate a transfer run, or detections against ground truth without any model.
///
/// Detections are either COCO's results JSON, judged against an instances JSON, or the text files of the VOC development
/// kit, `comp4_det_SPLIT_CLASS.txt`, judged against a split of a VOC folder. The figures are those of the official tools.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  scrl evaluate --run runs/scrl-det --data data/scenes\n  scrl evaluate --run runs/scrl-det --detections-out results.json\n  scrl evaluate --ground-truth instances.json --detections results.json --out metrics.json\n  scrl evaluate --ground-truth VOCdevkit/VOC2007 --split test --detections results --out metrics.json"
)]
pub struct EvaluateArgs {
    /// A finished transfer run.
    #[arg(long, conflicts_with_all = ["ground_truth", "detections"], required_unless_present = "ground_truth")]
    pub run: Option<PathBuf>,
    /// A COCO or VOC folder to evaluate the run on; the run's own validation data by default.
    #[arg(long, requires = "run")]
    pub data: Option<PathBuf>,
    /// Writes the run's detections in the form of its data: COCO's results JSON, or a folder of the VOC kit's text files.
    #[arg(long, value_name = "FILE|DIR", requires = "run")]
    pub detections_out: Option<PathBuf>,
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
    /// Where to compute: `cpu` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    pub device: String,
}
