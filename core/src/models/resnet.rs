//! ResNet v1.5 (He et al., arXiv 1512.03385, with the stride in the 3×3 of a bottleneck as torchvision has it).
//!
//! N images in the batch; a feature map C*k* has stride 2^*k* relative to the input.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use scrl_ops::{Group, MaxPool2dOptions, max_pool2d};
use serde::{Deserialize, Serialize};

mod layout;

use layout::{BODY, SHORTCUT};
pub use layout::{BlockLayout, ConvLayout, ResNetLayout};

use super::features::{Features, Level};
use super::layers::{BatchNorm, Conv2d, Conv2dConfig, Ending, conv_norm, conv_norm_shared};
use super::precision::Precision;
use crate::random::Rng;

/// Depth of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 18 layers, basic blocks.
    ResNet18,
    /// 34 layers, basic blocks.
    ResNet34,
    /// 50 layers, bottlenecks.
    ResNet50,
    /// 101 layers, bottlenecks.
    ResNet101,
}

impl Arch {
    /// Every depth.
    pub const ALL: [Arch; 4] = [Arch::ResNet18, Arch::ResNet34, Arch::ResNet50, Arch::ResNet101];

    /// torchvision's name, for example `resnet50`.
    pub fn name(self) -> &'static str {
        match self {
            Arch::ResNet18 => "resnet18",
            Arch::ResNet34 => "resnet34",
            Arch::ResNet50 => "resnet50",
            Arch::ResNet101 => "resnet101",
        }
    }

    /// Blocks of the four stages.
    pub fn blocks(self) -> [usize; 4] {
        match self {
            Arch::ResNet18 => [2, 2, 2, 2],
            Arch::ResNet34 | Arch::ResNet50 => [3, 4, 6, 3],
            Arch::ResNet101 => [3, 4, 23, 3],
        }
    }

    /// Output channels of a block per inner channel: 4 for bottlenecks, 1 for basic blocks.
    pub fn expansion(self) -> usize {
        match self {
            Arch::ResNet18 | Arch::ResNet34 => 1,
            Arch::ResNet50 | Arch::ResNet101 => 4,
        }
    }
}

impl std::fmt::Display for Arch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Which ResNet: its depth and its width.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// Depth.
    pub arch: Arch,
    /// Factor on every channel count; 1 is the published network, 0.25 to 0.5 suit small machines.
    #[serde(default = "one")]
    pub width: f64,
}

fn one() -> f64 {
    1.0
}

impl ResNetConfig {
    /// The published network of this depth.
    pub fn new(arch: Arch) -> Self {
        Self { arch, width: 1.0 }
    }

    /// Channels of the stem: 64 at width 1.
    pub fn stem_channels(&self) -> usize {
        ((64.0 * self.width).round() as usize).max(8)
    }

    /// Channels of C2, C3, C4 and C5: 256, 512, 1024 and 2048 for ResNet-50.
    pub fn channels(&self) -> [usize; 4] {
        [1, 2, 4, 8].map(|factor| self.stem_channels() * factor * self.arch.expansion())
    }

    /// A network of random weights: Kaiming's normal ones, batch norms at one and zero.
    pub fn init(&self, rng: &mut Rng, device: &Device) -> ResNet {
        let layout = self.layout();
        let [layer1, layer2, layer3, layer4] =
            layout.stages.map(|stage| stage.iter().map(|block| Block::init(block, rng, device)).collect());
        let (conv1, bn1) = layout.stem.init(rng, device);
        ResNet { conv1, bn1, layer1, layer2, layer3, layer4, precision: Precision::default() }
    }
}

impl ConvLayout {
    fn init(&self, rng: &mut Rng, device: &Device) -> (Conv2d, BatchNorm) {
        let conv = Conv2dConfig::new(self.channels, self.kernel).stride(self.stride);
        (conv.init(rng, device), BatchNorm::init(self.channels[1], device))
    }
}

/// A ResNet without its classifier.
#[derive(Module, Debug)]
pub struct ResNet {
    /// The 7×7 of the stem, stride 2.
    pub conv1: Conv2d,
    /// Its batch norm.
    pub bn1: BatchNorm,
    /// The stage that ends in C2.
    pub layer1: Vec<Block>,
    /// The stage that ends in C3.
    pub layer2: Vec<Block>,
    /// The stage that ends in C4.
    pub layer3: Vec<Block>,
    /// The stage that ends in C5.
    pub layer4: Vec<Block>,
    /// The numbers of its feature maps.
    #[module(skip)]
    pub precision: Precision,
}

impl ResNet {
    /// With feature maps of these numbers.
    pub fn compute_in(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// With the statistics of batch norms over the batches of all processes of `group`, in training.
    pub fn over(mut self, group: &Group) -> Self {
        self.batch_norms_mut().for_each(|norm| norm.group = group.clone());
        self
    }

    /// `[N, 3, H, W]` to the four feature maps; C*k* is `[N, channels, ⌈H/2^k⌉, ⌈W/2^k⌉]`.
    pub fn forward(&self, images: Tensor<4>) -> Features {
        self.forward_to(Level::C5, images)
    }

    /// As [`forward`](Self::forward), without the stages behind `last`: their layers compute nothing, and their batch norms
    /// see no batch.
    pub fn forward_to(&self, last: Level, images: Tensor<4>) -> Features {
        let stem = conv_norm(&self.conv1, &self.bn1, self.precision.of(images), Ending::Relu);
        let stem = max_pool2d(stem, MaxPool2dOptions { kernel: [3; 2], stride: [2; 2], padding: [1; 2] });
        let stages = [&self.layer1, &self.layer2, &self.layer3, &self.layer4];
        let stages = stages.into_iter().take(last.index() + 1);
        let maps = stages.scan(stem, |input, stage| {
            *input = forward_stage(stage, input.clone());
            Some(input.clone())
        });
        Features::new(maps.collect())
    }

    /// Freezes the first `stages` of stem, C2, C3, C4, C5 (detectron2's `FREEZE_AT`: 1 is the stem, 2 the stem and C2):
    /// their parameters get no gradient and their batch norms are frozen ones with this epsilon.
    pub fn freeze_at(mut self, stages: usize, epsilon: f64) -> Self {
        if stages >= 1 {
            self.conv1 = self.conv1.freeze();
            self.bn1 = self.bn1.frozen(epsilon);
        }
        let freeze = |layer: Vec<Block>, stage: usize| {
            if stages < stage {
                return layer;
            }
            layer.freeze().into_iter().map(|block| block.freeze_batch_norm(epsilon)).collect()
        };
        self.layer1 = freeze(self.layer1, 2);
        self.layer2 = freeze(self.layer2, 3);
        self.layer3 = freeze(self.layer3, 4);
        self.layer4 = freeze(self.layer4, 5);
        self
    }

    /// Turns every batch norm into a frozen one: running statistics, no gradients (FrozenBatchNorm).
    pub fn freeze_batch_norm(mut self, epsilon: f64) -> Self {
        self.bn1 = self.bn1.frozen(epsilon);
        let freeze =
            |layer: Vec<Block>| layer.into_iter().map(|block| block.freeze_batch_norm(epsilon)).collect();
        self.layer1 = freeze(self.layer1);
        self.layer2 = freeze(self.layer2);
        self.layer3 = freeze(self.layer3);
        self.layer4 = freeze(self.layer4);
        self
    }

    /// Every batch norm, from the stem on.
    pub fn batch_norms_mut(&mut self) -> impl Iterator<Item = &mut BatchNorm> {
        let stages = [&mut self.layer1, &mut self.layer2, &mut self.layer3, &mut self.layer4];
        let blocks = stages.into_iter().flatten().flat_map(Block::batch_norms_mut);
        std::iter::once(&mut self.bn1).chain(blocks)
    }
}

fn forward_stage(blocks: &[Block], input: Tensor<4>) -> Tensor<4> {
    blocks.iter().fold(input, |x, block| block.forward(x))
}

/// A convolution of a block and its batch norm.
#[derive(Clone, Copy, Debug)]
pub struct NamedLayer<'a> {
    /// The keys of both in the block, for example `conv2` and `bn2`.
    pub keys: [&'static str; 2],
    /// The convolution.
    pub conv: &'a Conv2d,
    /// The batch norm behind it.
    pub norm: &'a BatchNorm,
}

/// A basic block (two 3×3) or, with `conv3`, a bottleneck (1×1, 3×3, 1×1).
#[derive(Module, Debug)]
pub struct Block {
    /// 3×3, or a bottleneck's first 1×1.
    pub conv1: Conv2d,
    /// Its batch norm.
    pub bn1: BatchNorm,
    /// 3×3.
    pub conv2: Conv2d,
    /// Its batch norm.
    pub bn2: BatchNorm,
    /// A bottleneck's last 1×1.
    pub conv3: Option<Conv2d>,
    /// Its batch norm.
    pub bn3: Option<BatchNorm>,
    /// 1×1 and batch norm of the shortcut, where shapes change.
    pub downsample: Option<(Conv2d, BatchNorm)>,
}

impl Block {
    fn init(layout: &BlockLayout, rng: &mut Rng, device: &Device) -> Self {
        let mut layer = |layout: &ConvLayout| layout.init(rng, device);
        let (conv1, bn1) = layer(&layout.body[0]);
        let (conv2, bn2) = layer(&layout.body[1]);
        let (conv3, bn3) = layout.body.get(2).map(&mut layer).unzip();
        let downsample = layout.shortcut.as_ref().map(layer);
        Self { conv1, bn1, conv2, bn2, conv3, bn3, downsample }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let (x, input) = conv_norm_shared(&self.conv1, &self.bn1, input);
        let identity = match &self.downsample {
            Some((conv, norm)) => conv_norm(conv, norm, input, Ending::None),
            None => input,
        };
        let last = Ending::AddRelu(identity);
        match (&self.conv3, &self.bn3) {
            (Some(conv), Some(norm)) => {
                let x = conv_norm(&self.conv2, &self.bn2, x, Ending::Relu);
                conv_norm(conv, norm, x, last)
            }
            _ => conv_norm(&self.conv2, &self.bn2, x, last),
        }
    }

    /// The layers of the body, in order.
    pub fn body(&self) -> Vec<NamedLayer<'_>> {
        let third = self.conv3.as_ref().zip(self.bn3.as_ref());
        let layers = [Some((&self.conv1, &self.bn1)), Some((&self.conv2, &self.bn2)), third];
        let named = BODY.into_iter().zip(layers.into_iter().flatten());
        named.map(|(keys, (conv, norm))| NamedLayer { keys, conv, norm }).collect()
    }

    /// The layer of the shortcut; none where the input passes unchanged.
    pub fn shortcut(&self) -> Option<NamedLayer<'_>> {
        self.downsample.as_ref().map(|(conv, norm)| NamedLayer { keys: SHORTCUT, conv, norm })
    }

    fn freeze_batch_norm(mut self, epsilon: f64) -> Self {
        self.bn1 = self.bn1.frozen(epsilon);
        self.bn2 = self.bn2.frozen(epsilon);
        self.bn3 = self.bn3.map(|norm| norm.frozen(epsilon));
        self.downsample = self.downsample.map(|(conv, norm)| (conv, norm.frozen(epsilon)));
        self
    }

    fn batch_norms_mut(&mut self) -> impl Iterator<Item = &mut BatchNorm> {
        let downsample = self.downsample.as_mut().map(|(_, norm)| norm);
        [Some(&mut self.bn1), Some(&mut self.bn2), self.bn3.as_mut(), downsample].into_iter().flatten()
    }
}
