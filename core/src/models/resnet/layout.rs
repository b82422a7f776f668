//! The one description of a ResNet: its convolutions with their keys, channels, kernels and strides.
//!
//! The network is built from it. The shapes of its tensors, its cost and the names in its ONNX graph follow from it.

use super::ResNetConfig;

/// Keys of a block's convolutions and of the batch norms behind them, in order; a basic block has two.
pub(super) const BODY: [[&str; 2]; 3] = [["conv1", "bn1"], ["conv2", "bn2"], ["conv3", "bn3"]];
/// The same of its shortcut.
pub(super) const SHORTCUT: [&str; 2] = ["downsample.0", "downsample.1"];

/// A convolution and the batch norm behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvLayout {
    /// torchvision's key of the convolution, for example `layer1.0.conv2`.
    pub conv: String,
    /// torchvision's key of the batch norm.
    pub norm: String,
    /// `[in, out]`.
    pub channels: [usize; 2],
    /// Side of the square kernel.
    pub kernel: usize,
    /// Input pixels per output pixel, in each direction.
    pub stride: usize,
    /// Image pixels per output pixel, in each direction.
    pub image_stride: usize,
}

/// A block: its convolutions in order, and that of its shortcut where shapes change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockLayout {
    /// Two 3×3, or a bottleneck's 1×1, 3×3 and 1×1.
    pub body: Vec<ConvLayout>,
    /// The 1×1 of the shortcut.
    pub shortcut: Option<ConvLayout>,
}

/// A ResNet without its classifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResNetLayout {
    /// The 7×7 before the max pooling.
    pub stem: ConvLayout,
    /// Blocks of the stages that end in C2, C3, C4 and C5.
    pub stages: [Vec<BlockLayout>; 4],
}

impl ResNetConfig {
    /// What the network consists of.
    pub fn layout(&self) -> ResNetLayout {
        let mut inputs = self.stem_channels();
        let stem = ConvLayout {
            conv: "conv1".into(),
            norm: "bn1".into(),
            channels: [3, inputs],
            kernel: 7,
            stride: 2,
            image_stride: 2,
        };
        let stages = [0, 1, 2, 3].map(|stage| {
            let inner = self.stem_channels() << stage;
            let blocks = 0..self.arch.blocks()[stage];
            let blocks = blocks.map(|index| {
                let block = Place { stage, index }.block(self.arch.expansion(), inputs, inner);
                inputs = inner * self.arch.expansion();
                block
            });
            blocks.collect()
        });
        ResNetLayout { stem, stages }
    }

    /// Multiplications of the convolutions in one forward pass of a square image of `side` pixels, a multiple of 32: of the
    /// stem and of the stages that end in C2, C3, C4 and C5.
    pub fn multiplications(&self, side: u64) -> [u64; 5] {
        let layout = self.layout();
        let count = |conv: &ConvLayout| {
            let cells = (side / conv.image_stride as u64).pow(2);
            cells * (conv.channels[0] * conv.channels[1] * conv.kernel.pow(2)) as u64
        };
        let [c2, c3, c4, c5] = layout
            .stages
            .each_ref()
            .map(|stage| stage.iter().flat_map(BlockLayout::convolutions).map(count).sum());
        [count(&layout.stem), c2, c3, c4, c5]
    }
}

impl ResNetLayout {
    /// All convolutions, from the stem on.
    pub fn convolutions(&self) -> impl Iterator<Item = &ConvLayout> {
        let blocks = self.stages.iter().flatten().flat_map(BlockLayout::convolutions);
        std::iter::once(&self.stem).chain(blocks)
    }
}

impl BlockLayout {
    /// Those of the body, then that of the shortcut.
    pub fn convolutions(&self) -> impl Iterator<Item = &ConvLayout> {
        self.body.iter().chain(&self.shortcut)
    }
}

/// Which block.
#[derive(Clone, Copy)]
struct Place {
    stage: usize,
    index: usize,
}

impl Place {
    fn block(self, expansion: usize, inputs: usize, inner: usize) -> BlockLayout {
        // The first block of a stage halves the map, but for C2's, whose input the max pooling has halved.
        let stride = if self.index == 0 && self.stage > 0 { 2 } else { 1 };
        let (after, before) = (4 << self.stage, (4 << self.stage) / stride);
        let outputs = inner * expansion;
        let conv = |keys: [&str; 2], channels, kernel, stride, image_stride| ConvLayout {
            conv: self.key(keys[0]),
            norm: self.key(keys[1]),
            channels,
            kernel,
            stride,
            image_stride,
        };
        let body = match expansion {
            1 => vec![
                conv(BODY[0], [inputs, inner], 3, stride, after),
                conv(BODY[1], [inner, inner], 3, 1, after),
            ],
            // Version 1.5: the stride is in the 3×3.
            _ => vec![
                conv(BODY[0], [inputs, inner], 1, 1, before),
                conv(BODY[1], [inner, inner], 3, stride, after),
                conv(BODY[2], [inner, outputs], 1, 1, after),
            ],
        };
        let changes = stride != 1 || inputs != outputs;
        let shortcut = changes.then(|| conv(SHORTCUT, [inputs, outputs], 1, stride, after));
        BlockLayout { body, shortcut }
    }

    fn key(self, name: &str) -> String {
        format!("layer{}.{}.{name}", self.stage + 1, self.index)
    }
}

#[cfg(test)]
mod tests {
    use crate::models::{Arch, ResNetConfig};

    #[test]
    fn counts_are_those_of_torchvisions_networks() {
        // Summed over the Conv2d of torchvision 0.29's models by forward hooks: output cells × output channels × kernel.
        let cases = [
            (Arch::ResNet18, [118_013_952, 462_422_016, 411_041_792, 411_041_792, 411_041_792]),
            (Arch::ResNet34, [118_013_952, 693_633_024, 873_463_808, 1_335_885_824, 642_252_800]),
            (Arch::ResNet50, [118_013_952, 667_942_912, 1_027_604_480, 1_464_336_384, 809_238_528]),
            (Arch::ResNet101, [118_013_952, 667_942_912, 1_027_604_480, 5_176_557_568, 809_238_528]),
        ];
        for (arch, expected) in cases {
            assert_eq!(ResNetConfig::new(arch).multiplications(224), expected, "{arch}");
        }
        let half = ResNetConfig { width: 0.5, ..ResNetConfig::new(Arch::ResNet50) }.multiplications(224);
        assert_eq!(half, [59_006_976, 166_985_728, 256_901_120, 366_084_096, 202_309_632]);
    }
}
