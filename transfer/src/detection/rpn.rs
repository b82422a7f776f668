//! The region proposal network and its losses.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;
use scrl_core::models::layers::{Conv2dConfig, Init};
use scrl_core::models::{Conv2d, in_f32};
use scrl_core::random::Rng;
use scrl_core::structures::{BoxXyxy, Size};
use scrl_ops::Group;

use super::anchor_generator::Anchors;
use super::box_coder::BoxCoder;
use super::config::DetectorConfig;
use super::host::read;
use super::losses::{box_loss, objectness_loss};
use super::matcher::{Match, Matcher};
use super::proposals::ProposalFilter;
use super::sampling::{Sampler, image_streams};
use super::target::Target;

/// Region proposal network: scores anchors and refines the best into proposals.
#[derive(Module, Debug)]
pub struct Rpn {
    /// Its only network.
    pub head: RpnHead,
}

/// The convolutions that every pyramid level shares.
#[derive(Module, Debug)]
pub struct RpnHead {
    /// One 3×3 convolution, nested as torchvision's keys want it: `conv.0.0`.
    pub conv: Vec<Vec<Conv2d>>,
    /// One logit an anchor of a cell.
    pub cls_logits: Conv2d,
    /// `dx, dy, dw, dh` of each anchor of a cell.
    pub bbox_pred: Conv2d,
}

/// What the head says about every anchor of the batch, in the order of [`Anchors`], image after image.
#[derive(Clone, Debug)]
pub struct RpnPredictions {
    /// Logits, `[N · A]`.
    pub objectness: Tensor<1>,
    /// `[N · A, 4]`
    pub deltas: Tensor<2>,
    /// `[height, width]` of each level.
    pub grids: Vec<[usize; 2]>,
}

/// The network's losses and how many anchors of the batch were foreground.
#[derive(Clone, Debug)]
pub struct RpnLosses {
    /// Binary cross entropy of the sampled anchors, `[1]`.
    pub objectness: Tensor<1>,
    /// Box loss of the sampled foreground anchors, `[1]`.
    pub boxes: Tensor<1>,
    /// Sampled anchors that are matched to a target.
    pub foreground: usize,
}

impl Rpn {
    /// Weights normal with standard deviation 0.01, biases zero.
    pub fn init(config: &DetectorConfig, rng: &mut Rng, device: &Device) -> Self {
        let (channels, anchors) = (config.fpn.channels, config.anchors_per_cell());
        let mut conv = |outputs: usize, kernel: usize| {
            Conv2dConfig::new([channels, outputs], kernel)
                .bias()
                .init_with(Init::Normal(0.01))
                .init(rng, device)
        };
        let head = RpnHead {
            conv: vec![vec![conv(channels, 3)]],
            cls_logits: conv(anchors, 1),
            bbox_pred: conv(anchors * 4, 1),
        };
        Self { head }
    }

    /// Runs the head on every level, `[N, C, H, W]` each.
    pub fn forward(&self, features: &[Tensor<4>]) -> RpnPredictions {
        let (mut objectness, mut deltas, mut grids) = (Vec::new(), Vec::new(), Vec::new());
        for map in features {
            let [_, _, height, width] = map.dims();
            let hidden = self.head.conv[0].iter().fold(map.clone(), |x, conv| conv.forward_relu(x));
            objectness.push(by_anchor(self.head.cls_logits.forward(hidden.clone()), 1));
            deltas.push(by_anchor(self.head.bbox_pred.forward(hidden), 4));
            grids.push([height, width]);
        }
        let objectness = Tensor::cat(objectness, 1).flatten(0, 2);
        let deltas = Tensor::cat(deltas, 1).flatten(0, 1);
        RpnPredictions { objectness, deltas, grids }
    }
}

/// `[N, anchors of a cell · values, H, W]` to `[N, H · W · anchors of a cell, values]`, in 32 bits.
pub(super) fn by_anchor(map: Tensor<4>, values: usize) -> Tensor<3> {
    let [images, channels, height, width] = map.dims();
    let anchors = channels / values;
    in_f32(map).reshape([images, anchors, values, height, width]).permute([0, 3, 4, 1, 2]).reshape([
        images,
        height * width * anchors,
        values,
    ])
}

impl RpnPredictions {
    /// Proposals of each image, best first; `sizes` are the unpadded ones. Reads the predictions from the device.
    pub fn proposals(&self, anchors: &Anchors, sizes: &[Size], filter: &ProposalFilter) -> Vec<Vec<BoxXyxy>> {
        let [objectness, deltas] = read(self.objectness.clone(), self.deltas.clone());
        let (deltas, _) = deltas.as_chunks::<4>();
        let count = anchors.boxes.len();
        let select = |(image, &size): (usize, &Size)| {
            let range = image * count..(image + 1) * count;
            filter.select(&objectness[range.clone()], &deltas[range], anchors, size)
        };
        sizes.par_iter().enumerate().map(select).collect()
    }

    /// The losses of a random sample of anchors of each image; with several processes, this one's part of them.
    pub fn losses(
        &self,
        anchors: &Anchors,
        targets: &[Target],
        config: &DetectorConfig,
        group: &Group,
        rng: &mut Rng,
    ) -> RpnLosses {
        let sampler = Sampler { batch: config.rpn.batch, positive_fraction: config.rpn.positive_fraction };
        let samples: Vec<AnchorSample> = (targets.par_iter(), image_streams(rng, targets.len(), group))
            .into_par_iter()
            .map(|(target, mut rng)| AnchorSample::draw(anchors, target, sampler, &mut rng))
            .collect();
        let all = AnchorSample::concatenate(samples, anchors.boxes.len());

        let numerics = config.variant.numerics();
        let divisor = if numerics.rpn_loss_per_sample {
            group.sum(all.positive.len() + all.negative.len()).max(1)
        } else {
            config.rpn.batch * group.sum(targets.len())
        } as f64;
        let objectness = objectness_loss(self.objectness.clone(), &all.positive, &all.negative);
        let boxes = box_loss(self.deltas.clone(), &all.positive, &all.deltas, numerics.smooth_l1_beta);
        RpnLosses {
            objectness: objectness.div_scalar(divisor),
            boxes: boxes.div_scalar(divisor),
            foreground: all.positive.len(),
        }
    }
}

/// Anchors for the loss, by index, with the deltas that the positive ones should have.
#[derive(Default)]
struct AnchorSample {
    positive: Vec<usize>,
    negative: Vec<usize>,
    deltas: Vec<[f32; 4]>,
}

impl AnchorSample {
    fn draw(anchors: &Anchors, target: &Target, sampler: Sampler, rng: &mut Rng) -> Self {
        let matches = Matcher::ANCHORS.assign(&anchors.boxes, &target.boxes);
        let sample = sampler.draw(&matches, rng);
        let delta = |&anchor: &usize| match matches[anchor] {
            Match::Target(index) => BoxCoder::UNIT.encode(&anchors.boxes[anchor], &target.boxes[index]),
            _ => unreachable!("the sampler's positives are matched"),
        };
        let deltas = sample.positive.iter().map(delta).collect();
        Self { positive: sample.positive, negative: sample.negative, deltas }
    }

    /// Joins the images' samples; image n's anchors start at row n · A of the predictions.
    fn concatenate(samples: Vec<Self>, anchors: usize) -> Self {
        let mut all = Self::default();
        for (image, sample) in samples.into_iter().enumerate() {
            let row = |anchor: usize| image * anchors + anchor;
            all.positive.extend(sample.positive.into_iter().map(row));
            all.negative.extend(sample.negative.into_iter().map(row));
            all.deltas.extend(sample.deltas);
        }
        all
    }
}
