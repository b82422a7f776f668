//! The feature pyramid.

use burn::module::Module;
use burn::tensor::module::{interpolate, max_pool2d};
use burn::tensor::ops::{InterpolateMode, InterpolateOptions, MaxPoolOptions};
use burn::tensor::{Device, Tensor};
use scrl_core::models::layers::{Conv2dConfig, Init};
use scrl_core::models::{BatchNorm, Conv2d, Features, Level};
use scrl_core::random::Rng;

/// A convolution and, if the pyramid is normalised, its batch norm.
pub type ConvNorm = (Conv2d, Option<BatchNorm>);

/// Feature pyramid network: merges C2 to C5 from the top down.
#[derive(Module, Debug)]
pub struct Fpn {
    /// 1×1 convolutions of C2 to C5 to C channels.
    pub inner_blocks: Vec<ConvNorm>,
    /// 3×3 convolutions that smooth the merged maps.
    pub layer_blocks: Vec<ConvNorm>,
}

impl Fpn {
    /// `inputs` are the channels of C2 to C5, `channels` is C. With `norm` the convolutions have a batch norm in
    /// place of their bias.
    pub fn init(inputs: [usize; 4], channels: usize, norm: bool, rng: &mut Rng, device: &Device) -> Self {
        let mut block = |channels: [usize; 2], kernel: usize| {
            let conv =
                Conv2dConfig { bias: !norm, ..Conv2dConfig::new(channels, kernel).init_with(Init::C2Xavier) };
            (conv.init(rng, device), norm.then(|| BatchNorm::init(channels[1], device)))
        };
        Self {
            inner_blocks: inputs.iter().map(|&input| block([input, channels], 1)).collect(),
            layer_blocks: inputs.iter().map(|_| block([channels, channels], 3)).collect(),
        }
    }

    /// P2 to P6, each `[N, C, ⌈H / stride⌉, ⌈W / stride⌉]` with strides 4 to 64.
    pub fn forward(&self, features: &Features) -> Vec<Tensor<4>> {
        let mut maps = Vec::with_capacity(5);
        let mut merged: Option<Tensor<4>> = None;
        for level in Level::ALL.into_iter().rev() {
            let lateral = conv_norm(&self.inner_blocks[level.index()], features.at(level));
            let sum = match merged {
                Some(top) => lateral.clone() + upsample(top, &lateral),
                None => lateral,
            };
            maps.push(conv_norm(&self.layer_blocks[level.index()], sum.clone()));
            merged = Some(sum);
        }
        maps.reverse();
        maps.push(subsample(maps[3].clone()));
        maps
    }

    /// Every batch norm, if the pyramid has any.
    pub(super) fn batch_norms_mut(&mut self) -> impl Iterator<Item = &mut BatchNorm> {
        let blocks = self.inner_blocks.iter_mut().chain(&mut self.layer_blocks);
        blocks.filter_map(|(_, norm)| norm.as_mut())
    }
}

fn conv_norm((conv, norm): &ConvNorm, input: Tensor<4>) -> Tensor<4> {
    let output = conv.forward(input);
    match norm {
        Some(norm) => norm.forward(output),
        None => output,
    }
}

/// Nearest neighbours, to the height and width of `like`.
fn upsample(input: Tensor<4>, like: &Tensor<4>) -> Tensor<4> {
    let [_, _, height, width] = like.dims();
    interpolate(input, InterpolateOptions::new(InterpolateMode::Nearest).with_output_size([height, width]))
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
        let fpn = Fpn::init([4, 8, 16, 32], 6, true, &mut stream(0, &[]), &device);
        let map = |channels, height, width| Tensor::<4>::ones([2, channels, height, width], &device);
        let features = Features::new(vec![map(4, 24, 32), map(8, 12, 16), map(16, 6, 8), map(32, 3, 4)]);
        let sizes: Vec<_> = fpn.forward(&features).iter().map(|map| map.dims()).collect();
        assert_eq!(sizes, [[2, 6, 24, 32], [2, 6, 12, 16], [2, 6, 6, 8], [2, 6, 3, 4], [2, 6, 2, 2]]);
    }
}
