//! The feature pyramid.

use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Tensor};
use scrl_core::models::layers::{self, Conv2dConfig, Ending, Init};
use scrl_core::models::{BatchNorm, Conv2d, Features, Level};
use scrl_core::random::Rng;
use scrl_ops::add_upsampled;

/// A convolution and, if the pyramid is normalised, its batch norm.
pub type ConvNorm = (Conv2d, Option<BatchNorm>);

/// How the levels above P5 are made, and with it where the pyramid begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Top {
    /// P2 to P5, and P6 of every second row and column of P5 (Faster R-CNN).
    MaxPool,
    /// P3 to P5, and P6 and P7 by convolutions (RetinaNet).
    P6P7,
}

impl Top {
    /// The backbone's levels that are merged.
    fn merged(self) -> &'static [Level] {
        match self {
            Top::MaxPool => &Level::ALL,
            Top::P6P7 => &Level::ALL[1..],
        }
    }
}

/// Feature pyramid network (Lin et al., arXiv 1612.03144): merges feature maps from the top down.
#[derive(Module, Debug)]
pub struct Fpn {
    /// 1×1 convolutions of the merged maps, the last of which is C5, to C channels.
    pub inner_blocks: Vec<ConvNorm>,
    /// 3×3 convolutions that smooth the merged maps.
    pub layer_blocks: Vec<ConvNorm>,
    /// Where [`Top::P6P7`] makes the coarsest levels.
    pub extra_blocks: Option<P6P7>,
}

/// Two levels above P5 (torchvision's `LastLevelP6P7` on P5): P6 by a convolution of P5, P7 by one of P6 through ReLU.
#[derive(Module, Debug)]
pub struct P6P7 {
    /// 3×3, stride 2.
    pub p6: Conv2d,
    /// 3×3, stride 2.
    pub p7: Conv2d,
}

impl Fpn {
    /// `inputs` are the channels of C2 to C5, `channels` is C. With `norm` the convolutions of the merged maps have a batch
    /// norm in place of their bias.
    pub fn init(
        inputs: [usize; 4],
        channels: usize,
        norm: bool,
        top: Top,
        rng: &mut Rng,
        device: &Device,
    ) -> Self {
        let mut block = |channels: [usize; 2], kernel: usize| {
            let conv =
                Conv2dConfig { bias: !norm, ..Conv2dConfig::new(channels, kernel).init_with(Init::C2Xavier) };
            (conv.init(rng, device), norm.then(|| BatchNorm::init(channels[1], device)))
        };
        let merged = top.merged();
        let inner_blocks = merged.iter().map(|level| block([inputs[level.index()], channels], 1)).collect();
        let layer_blocks = merged.iter().map(|_| block([channels, channels], 3)).collect();
        let extra_blocks = (top == Top::P6P7).then(|| P6P7::init(channels, rng, device));
        Self { inner_blocks, layer_blocks, extra_blocks }
    }

    /// P2 to P6, or P3 to P7, each `[N, C, ⌈H / stride⌉, ⌈W / stride⌉]` with strides 4 to 64, or 8 to 128.
    pub fn forward(&self, features: &Features) -> Vec<Tensor<4>> {
        let mut maps = Vec::with_capacity(5);
        let mut merged: Option<Tensor<4>> = None;
        let first = Level::ALL.len() - self.inner_blocks.len();
        for (block, &level) in Level::ALL[first..].iter().enumerate().rev() {
            let lateral = conv_norm(&self.inner_blocks[block], features.at(level));
            let sum = match merged {
                Some(top) => add_upsampled(lateral, top),
                None => lateral,
            };
            maps.push(conv_norm(&self.layer_blocks[block], sum.clone()));
            merged = Some(sum);
        }
        maps.reverse();
        let coarsest = maps[maps.len() - 1].clone();
        match &self.extra_blocks {
            Some(extra) => maps.extend(extra.forward(coarsest)),
            None => maps.push(subsample(coarsest)),
        }
        maps
    }

    /// Every batch norm, if the pyramid has any.
    pub(super) fn batch_norms_mut(&mut self) -> impl Iterator<Item = &mut BatchNorm> {
        let blocks = self.inner_blocks.iter_mut().chain(&mut self.layer_blocks);
        blocks.filter_map(|(_, norm)| norm.as_mut())
    }
}

impl P6P7 {
    fn init(channels: usize, rng: &mut Rng, device: &Device) -> Self {
        let config = Conv2dConfig { padding: 1, ..Conv2dConfig::new([channels, channels], 3).stride(2) };
        let mut conv = || config.bias().init_with(Init::C2Xavier).init(rng, device);
        Self { p6: conv(), p7: conv() }
    }

    fn forward(&self, p5: Tensor<4>) -> [Tensor<4>; 2] {
        let p6 = self.p6.forward(p5);
        [p6.clone(), self.p7.forward(relu(p6))]
    }
}

fn conv_norm((conv, norm): &ConvNorm, input: Tensor<4>) -> Tensor<4> {
    match norm {
        Some(norm) => layers::conv_norm(conv, norm, input, Ending::None),
        None => conv.forward(input),
    }
}

/// Every second row and column.
fn subsample(input: Tensor<4>) -> Tensor<4> {
    max_pool2d(input, MaxPoolOptions::new([1, 1]).with_stride([2, 2]))
}

#[cfg(test)]
mod tests {
    use scrl_core::random::stream;

    use super::*;

    #[test]
    fn five_levels_have_the_pyramids_channels_and_halving_sizes() {
        let device = Device::flex();
        let fpn = Fpn::init([4, 8, 16, 32], 6, true, Top::MaxPool, &mut stream(0, &[]), &device);
        let map = |channels, height, width| Tensor::<4>::ones([2, channels, height, width], &device);
        let features = Features::new(vec![map(4, 24, 32), map(8, 12, 16), map(16, 6, 8), map(32, 3, 4)]);
        let sizes: Vec<_> = fpn.forward(&features).iter().map(|map| map.dims()).collect();
        assert_eq!(sizes, [[2, 6, 24, 32], [2, 6, 12, 16], [2, 6, 6, 8], [2, 6, 3, 4], [2, 6, 2, 2]]);
    }
}
