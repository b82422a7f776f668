//! Options of `scrl export`.

use std::path::PathBuf;

use clap::builder::RangedI64ValueParser;
use clap::{Args, Subcommand, ValueEnum};
use scrl_core::models::Arch;
use scrl_export::InputKind;
use scrl_transfer::detection::Variant;

/// Export to ONNX and validate with ONNX Runtime.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  scrl export detector --run runs/birds --out birds.onnx")]
pub struct ExportArgs {
    #[command(subcommand)]
    pub what: ExportCommand,
}

#[derive(Debug, Subcommand)]
pub enum ExportCommand {
    Backbone(ExportBackboneArgs),
    Detector(ExportDetectorArgs),
}

/// Export a backbone with a dynamic batch; a mismatch with ONNX Runtime is a failure.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  scrl export backbone --weights runs/scrl --out scrl.onnx --output pooled --images photos\n  scrl export backbone --weights runs/birds --out birds-fpn.onnx --output fpn"
)]
pub struct ExportBackboneArgs {
    /// A pretraining run or a .safetensors file; with `--output fpn` a transfer run or a detector's file.
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
    #[command(flatten)]
    pub format: FormatArgs,
}

/// Outputs of an exported backbone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputArg {
    /// The last feature map, `[batch, channels, height/32, width/32]`.
    C5,
    /// C5 averaged over all positions, `[batch, channels]`.
    Pooled,
    /// C2, C3, C4 and C5.
    Pyramid,
    /// P2 to P6 of a detector.
    Fpn,
}

/// How a file is written.
#[derive(Debug, Args)]
pub struct FormatArgs {
    /// ONNX operator set.
    #[arg(long, default_value_t = 17, value_parser = RangedI64ValueParser::<i64>::new().range(17..=21))]
    pub opset: i64,
    /// Keep batch norms as operators of their own.
    #[arg(long)]
    pub no_fold: bool,
}

/// Export a whole detector, suppression included, with dynamic batch and size; a mismatch with ONNX Runtime is a failure.
///
/// Inputs: images [N, 3, H, W] and image_sizes [N, 2] (height and width without padding). Outputs: boxes [N, 100, 4] in
/// pixels of the input, scores [N, 100], labels [N, 100] (index of the class from 0), num_detections per image. Writes a report
/// of the validation to OUT.validation.json.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  scrl export detector --run runs/birds --out birds.onnx --images photos\n  scrl export detector --weights fasterrcnn_resnet50_fpn.pth --variant torchvision --classes 90 --out coco.onnx"
)]
pub struct ExportDetectorArgs {
    /// A finished transfer run: its last detector.
    #[arg(long, required_unless_present = "weights", conflicts_with = "weights")]
    pub run: Option<PathBuf>,
    /// A detector's weights file of a transfer run, or with --variant a state dict with torchvision's keys (.pth or
    /// .safetensors).
    #[arg(long)]
    pub weights: Option<PathBuf>,
    /// File to write.
    #[arg(long)]
    pub out: PathBuf,
    /// The weights are a state dict of this variant.
    #[arg(long, value_enum, requires_all = ["weights", "classes"])]
    pub variant: Option<VariantArg>,
    /// The state dict's backbone, for example resnet50.
    #[arg(long, default_value = "resnet50", value_parser = arch, requires = "variant")]
    pub arch: Arch,
    /// The state dict's classes without the background: their number, or a text file with one name per line. Either
    /// may count the background, as the first.
    #[arg(long, requires = "variant", value_name = "NUMBER|FILE")]
    pub classes: Option<String>,
    /// Added to the variance by the state dict's batch norms: by default 1e-5 where they count their batches, else that of
    /// the variant, 0 for torchvision's weights of COCO.
    #[arg(long, requires = "variant")]
    pub norm_epsilon: Option<f64>,
    /// What the pixels of `images` are.
    #[arg(long, value_enum, default_value = "raw")]
    pub input: InputArg,
    /// Leave out the input image_sizes: no image is padded.
    #[arg(long)]
    pub no_image_sizes: bool,
    /// 16-bit floats for weights, convolutions and fully connected layers.
    #[arg(long)]
    pub fp16: bool,
    /// Folder of images for validation beside random inputs.
    #[arg(long)]
    pub images: Option<PathBuf>,
    #[command(flatten)]
    pub format: FormatArgs,
}

/// Whose numbers a detector uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VariantArg {
    Torchvision,
    Detectron2,
}

impl From<VariantArg> for Variant {
    fn from(variant: VariantArg) -> Self {
        match variant {
            VariantArg::Torchvision => Variant::Torchvision,
            VariantArg::Detectron2 => Variant::Detectron2,
        }
    }
}

/// What the pixels are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InputArg {
    /// 0 to 255, RGB; the file normalises them.
    Raw,
    /// Already normalised, zero in the padding.
    Normalized,
}

impl From<InputArg> for InputKind {
    fn from(input: InputArg) -> Self {
        match input {
            InputArg::Raw => InputKind::Raw,
            InputArg::Normalized => InputKind::Normalized,
        }
    }
}

fn arch(text: &str) -> Result<Arch, String> {
    let known = Arch::ALL.into_iter().find(|arch| arch.name() == text);
    known.ok_or_else(|| format!("expected one of {}", Arch::ALL.map(Arch::name).join(", ")))
}
