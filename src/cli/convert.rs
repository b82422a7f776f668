//! Options of `scrl convert`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use scrl_core::checkpoint::weights::Layout;
use scrl_core::models::Arch;

/// Convert a backbone or a whole detector between PyTorch, numpy and safetensors files, with an account of every key.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  scrl convert --from resnet50.pth --to resnet50.safetensors --layout torchvision\n  \
    scrl convert --from runs/scrl --to scrl-d2.safetensors --layout detectron2\n  \
    scrl convert --from mask_rcnn_R_50_FPN_1x.pkl --to mask_rcnn.safetensors --layout torchvision --detector\n\n\
    Reads torchvision's, detectron2's, MoCo's and the official SCRL code's files (.pth, .pt, .pkl, .safetensors) and runs. \
    A backbone that is incomplete or has keys of its own is refused unless --allow-missing or --allow-unused is given; \
    classifiers, heads and other networks of a file are left out and listed."
)]
pub struct ConvertArgs {
    /// A weight file, or a run directory.
    #[arg(long)]
    pub from: PathBuf,
    /// File to write: .safetensors, or .pkl, the numpy arrays that detectron2 loads by MODEL.WEIGHTS.
    #[arg(long, value_parser = weights_path)]
    pub to: PathBuf,
    /// Names of the tensors to write.
    #[arg(long, value_enum)]
    pub layout: LayoutArg,
    /// Convert a whole detector, not only its backbone: Faster and Mask R-CNN with a feature pyramid, and RetinaNet under
    /// torchvision's keys.
    #[arg(long, conflicts_with_all = ["arch", "prefix", "allow_missing"])]
    pub detector: bool,
    /// Depth of the network, for example resnet50; by default the tensors tell.
    #[arg(long, value_parser = arch)]
    pub arch: Option<Arch>,
    /// What stands before the network's keys, where a file holds several, for example `module.encoder_q`.
    #[arg(long)]
    pub prefix: Option<String>,
    /// The weights expect BGR images: reverse the stem's input channels, so that the result expects RGB.
    #[arg(long)]
    pub bgr: bool,
    /// Write the file although tensors of the network are missing.
    #[arg(long)]
    pub allow_missing: bool,
    /// Write the file although keys within the network are left over.
    #[arg(long)]
    pub allow_unused: bool,
    /// Print every key of the file beside the key that is written for it.
    #[arg(long)]
    pub keys: bool,
    /// Replace the file if it exists.
    #[arg(long)]
    pub overwrite: bool,
}

/// Layouts that are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LayoutArg {
    /// `conv1.weight`, `layer1.0.bn1.weight`.
    Torchvision,
    /// `stem.conv1.weight`, `res2.0.conv1.norm.weight`.
    Detectron2,
}

impl From<LayoutArg> for Layout {
    fn from(layout: LayoutArg) -> Self {
        match layout {
            LayoutArg::Torchvision => Layout::Torchvision,
            LayoutArg::Detectron2 => Layout::Detectron2,
        }
    }
}

fn weights_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension().is_some_and(|extension| extension == "safetensors" || extension == "pkl") {
        true => Ok(path),
        false => Err("expected a file name that ends in .safetensors or .pkl".to_string()),
    }
}

fn arch(text: &str) -> Result<Arch, String> {
    let known = Arch::ALL.into_iter().find(|arch| arch.name() == text);
    known.ok_or_else(|| format!("expected one of {}", Arch::ALL.map(Arch::name).join(", ")))
}
