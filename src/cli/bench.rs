//! Options of `scrl bench`; the defaults are what `benches/peers` measures of PyTorch.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use scrl_core::models::{Arch, Precision};

/// Measure the speed of the real training and inference code on generated data.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  scrl bench pretrain --arch resnet50 --batch 8 --size 224 --steps 4 --threads 2\n\n\
    Each prints one line of JSON. benches/compare.py runs them beside PyTorch."
)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub what: BenchCommand,
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    Pretrain(BenchPretrainArgs),
    Forward(BenchForwardArgs),
    Detector(BenchDetectorArgs),
    Augment(BenchAugmentArgs),
    RoiAlign(BenchRoiAlignArgs),
}

/// How long and where to measure.
#[derive(Debug, Args)]
pub struct BenchRunArgs {
    /// Timed repetitions after one warm-up; reports the median.
    #[arg(long, default_value_t = 4, value_parser = count)]
    pub steps: usize,
    /// Threads of the CPU kernels.
    #[arg(long, default_value_t = 2, value_parser = count)]
    pub threads: usize,
    /// Where to compute: `cpu`, `cuda:N`, `wgpu`, or `auto` for the best that works.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Numbers that networks compute with: `f32` or `bf16`.
    #[arg(long, default_value = "f32")]
    pub precision: Precision,
    /// Also list so many of the kernels that take longest, of one more step; GPUs only.
    #[arg(long, value_name = "N", value_parser = count)]
    pub kernels: Option<usize>,
}

/// One SCRL training step: both views through both networks, backward, optimiser, moving average.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  scrl bench pretrain --arch resnet50 --batch 8 --optimizer lars")]
pub struct BenchPretrainArgs {
    /// resnet18, resnet34, resnet50 or resnet101.
    #[arg(long, default_value = "resnet50", value_parser = arch)]
    pub arch: Arch,
    /// Images per step, two views each.
    #[arg(long, default_value_t = 8, value_parser = several)]
    pub batch: usize,
    /// Side of a view, in pixels.
    #[arg(long, default_value_t = 224, value_parser = side)]
    pub size: u32,
    /// Boxes per image that both views show.
    #[arg(long, default_value_t = 10, value_parser = count)]
    pub boxes: usize,
    /// How parameters are updated.
    #[arg(long, value_enum, default_value = "sgd")]
    pub optimizer: OptimizerArg,
    #[command(flatten)]
    pub run: BenchRunArgs,
}

/// Optimisers of pretraining.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OptimizerArg {
    /// SGD with momentum.
    Sgd,
    /// SGD with momentum, scaled layer by layer.
    Lars,
}

/// A backbone's evaluation forward pass, without gradients.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  scrl bench forward --arch resnet50 --batch 8 --size 224")]
pub struct BenchForwardArgs {
    /// resnet18, resnet34, resnet50 or resnet101.
    #[arg(long, default_value = "resnet50", value_parser = arch)]
    pub arch: Arch,
    /// Images at a time.
    #[arg(long, default_value_t = 8, value_parser = count)]
    pub batch: usize,
    /// Side of an image, in pixels.
    #[arg(long, default_value_t = 224, value_parser = side)]
    pub size: u32,
    #[command(flatten)]
    pub run: BenchRunArgs,
}

/// Faster R-CNN/FPN in torchvision's variant, batch norms trained: training steps, then detection.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  scrl bench detector --arch resnet50 --batch 2 --width 640 --height 480")]
pub struct BenchDetectorArgs {
    /// resnet18, resnet34, resnet50 or resnet101.
    #[arg(long, default_value = "resnet50", value_parser = arch)]
    pub arch: Arch,
    /// Images per step.
    #[arg(long, default_value_t = 2, value_parser = count)]
    pub batch: usize,
    /// Height of an image, in pixels.
    #[arg(long, default_value_t = 480, value_parser = side)]
    pub height: u32,
    /// Width of an image, in pixels.
    #[arg(long, default_value_t = 640, value_parser = side)]
    pub width: u32,
    /// Number of classes, including the background.
    #[arg(long, default_value_t = 4, value_parser = several)]
    pub classes: usize,
    /// Objects per image.
    #[arg(long, default_value_t = 13, value_parser = count)]
    pub boxes: usize,
    /// Mask R-CNN in place of Faster R-CNN.
    #[arg(long)]
    pub masks: bool,
    #[command(flatten)]
    pub run: BenchRunArgs,
}

/// Decoding and both augmented views, on one thread, as the pretraining loader does it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  scrl bench augment --data photos --images 400 --size 224")]
pub struct BenchAugmentArgs {
    /// Folder of images, read recursively.
    #[arg(long)]
    pub data: PathBuf,
    /// Maximum number of images, the first by path.
    #[arg(long, default_value_t = 400, value_parser = count)]
    pub images: usize,
    /// Side of a view, in pixels.
    #[arg(long, default_value_t = 224, value_parser = side)]
    pub size: u32,
}

/// RoIAlign 7×7 with two sampling points per cell and axis, forward and backward.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  scrl bench roi-align --rois 512 --channels 256")]
pub struct BenchRoiAlignArgs {
    /// Boxes over all images.
    #[arg(long, default_value_t = 512, value_parser = count)]
    pub rois: usize,
    /// Images of the feature map.
    #[arg(long, default_value_t = 2, value_parser = count)]
    pub batch: usize,
    #[arg(long, default_value_t = 256, value_parser = count)]
    pub channels: usize,
    /// Height of the feature map, of stride 4.
    #[arg(long, default_value_t = 120, value_parser = count)]
    pub height: usize,
    /// Width of the feature map, of stride 4.
    #[arg(long, default_value_t = 160, value_parser = count)]
    pub width: usize,
    #[command(flatten)]
    pub run: BenchRunArgs,
}

fn arch(name: &str) -> Result<Arch, String> {
    let known = || Arch::ALL.map(Arch::name).join(", ");
    Arch::ALL.into_iter().find(|arch| arch.name() == name).ok_or_else(|| format!("expected {}", known()))
}

fn count(text: &str) -> Result<usize, String> {
    at_least(text, 1)
}

/// A training step and its batch norms need two of something.
fn several(text: &str) -> Result<usize, String> {
    at_least(text, 2)
}

/// A side in pixels, of one cell of C5 at least.
fn side(text: &str) -> Result<u32, String> {
    at_least(text, 32).map(|side| side as u32)
}

fn at_least(text: &str, least: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (least..=1 << 20).contains(number));
    number.ok_or_else(|| format!("expected a whole number of at least {least}"))
}
