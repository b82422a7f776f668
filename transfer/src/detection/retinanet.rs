//! RetinaNet (Lin et al., arXiv 1708.02002) as torchvision has it: one stage, every anchor of P3 to P7 classified with the
//! focal loss.
//!
//! K classes have K logits; none is the background. An anchor of an image is a row of the predictions.

use burn::module::Module;
use burn::tensor::activation::{log_sigmoid, sigmoid};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;
use scrl_core::models::layers::{Conv2dConfig, Init, constant_parameter};
use scrl_core::models::{Backbone, Conv2d};
use scrl_core::random::Rng;
use scrl_core::structures::Size;
use scrl_ops::Group;

use super::anchor_generator::{AnchorGenerator, Anchors};
use super::backbone::BackboneWithFpn;
use super::box_coder::BoxCoder;
use super::config::DetectorConfig;
use super::fpn::Top;
use super::host::read;
use super::losses::{Losses, select_rows, zero_of};
use super::matcher::{Match, Matcher};
use super::postprocess::{Detection, suppress};
use super::proposals::{best, usable};
use super::rpn::by_anchor;
use super::target::Target;

/// RetinaNet; its tensors' paths are the keys of torchvision's `RetinaNet`.
#[derive(Module, Debug)]
pub struct RetinaNet {
    /// From images to the pyramid.
    pub backbone: BackboneWithFpn,
    /// From the pyramid to the predictions of every anchor.
    pub head: RetinaNetHead,
    /// What the detector was built from.
    #[module(skip)]
    pub config: DetectorConfig,
    /// The processes that train it.
    #[module(skip)]
    pub group: Group,
}

/// The two heads, which every pyramid level shares.
#[derive(Module, Debug)]
pub struct RetinaNetHead {
    /// Scores.
    pub classification_head: ClassificationHead,
    /// Boxes.
    pub regression_head: RegressionHead,
}

/// One logit per class and anchor.
#[derive(Module, Debug)]
pub struct ClassificationHead {
    /// 3×3 convolutions, each followed by ReLU; nested as torchvision's keys want it: `conv.0.0`.
    pub conv: Vec<Vec<Conv2d>>,
    /// The last convolution, 3×3.
    pub cls_logits: Conv2d,
}

/// `dx, dy, dw, dh` of each anchor.
#[derive(Module, Debug)]
pub struct RegressionHead {
    /// As those of [`ClassificationHead`].
    pub conv: Vec<Vec<Conv2d>>,
    /// The last convolution, 3×3.
    pub bbox_reg: Conv2d,
}

/// What the heads say about every anchor, in the order of [`Anchors`].
#[derive(Clone, Debug)]
pub struct RetinaNetPredictions {
    /// `[N, A, K]`
    pub logits: Tensor<3>,
    /// `[N, A, 4]`
    pub deltas: Tensor<3>,
    /// `[height, width]` of each level.
    pub grids: Vec<[usize; 2]>,
}

impl RetinaNetHead {
    /// Weights normal with standard deviation 0.01, biases zero but for the classifier's, which makes every class as probable
    /// as the config's prior.
    pub fn init(config: &DetectorConfig, rng: &mut Rng, device: &Device) -> Self {
        let (channels, anchors) = (config.fpn.channels, config.anchors_per_cell());
        let mut conv = |outputs: usize| {
            Conv2dConfig::new([channels, outputs], 3).bias().init_with(Init::Normal(0.01)).init(rng, device)
        };
        let count = config.retinanet.convolutions;
        let mut tower = || (0..count).map(|_| vec![conv(channels)]).collect::<Vec<_>>();
        let towers = [tower(), tower()];
        let (mut cls_logits, bbox_reg) = (conv(anchors * config.num_classes), conv(anchors * 4));
        let prior = config.retinanet.prior;
        let bias = -((1.0 - prior) / prior).ln();
        let outputs = anchors * config.num_classes;
        cls_logits.bias = Some(constant_parameter([outputs], bias as f32, device));
        let [classification, regression] = towers;
        Self {
            classification_head: ClassificationHead { conv: classification, cls_logits },
            regression_head: RegressionHead { conv: regression, bbox_reg },
        }
    }

    /// Runs both heads on every level, `[N, C, H, W]` each.
    pub fn forward(&self, features: &[Tensor<4>]) -> RetinaNetPredictions {
        let (classification, regression) = (&self.classification_head, &self.regression_head);
        let [outputs, ..] = classification.cls_logits.weight.dims();
        let [coordinates, ..] = regression.bbox_reg.weight.dims();
        let classes = outputs / (coordinates / 4);
        let (mut logits, mut deltas, mut grids) = (Vec::new(), Vec::new(), Vec::new());
        for map in features {
            let [_, _, height, width] = map.dims();
            let scored = classification.cls_logits.forward(through(&classification.conv, map.clone()));
            let moved = regression.bbox_reg.forward(through(&regression.conv, map.clone()));
            logits.push(by_anchor(scored, classes));
            deltas.push(by_anchor(moved, 4));
            grids.push([height, width]);
        }
        RetinaNetPredictions { logits: Tensor::cat(logits, 1), deltas: Tensor::cat(deltas, 1), grids }
    }
}

fn through(tower: &[Vec<Conv2d>], map: Tensor<4>) -> Tensor<4> {
    tower.iter().flatten().fold(map, |x, conv| conv.forward_relu(x))
}

impl RetinaNet {
    /// Random weights as torchvision draws them, frozen as the config says.
    ///
    /// # Panics
    /// When [`DetectorConfig::validate`] has an error to report.
    pub fn init(config: &DetectorConfig, rng: &mut Rng, device: &Device) -> Self {
        config.assert_valid();
        Self {
            backbone: BackboneWithFpn::init(config, Top::P6P7, rng, device),
            head: RetinaNetHead::init(config, rng, device),
            config: config.clone(),
            group: Group::alone(),
        }
    }

    /// The detector with this backbone, for example a pretrained one, frozen as the config says.
    pub fn with_backbone(mut self, body: Backbone) -> Self {
        self.backbone = self.backbone.with_body(body, &self.config);
        self
    }

    /// Trains together with the other processes of `group`: a batch is then this process's part of theirs, and so are the losses.
    pub fn over(self, group: &Group) -> Self {
        Self { backbone: self.backbone.over(group), group: group.clone(), ..self }
    }

    /// The losses of one batch, each the mean over the images of a sum that is divided by the image's matched anchors.
    ///
    /// `images` are normalised and padded at the right and bottom to a multiple of 32, `[N, 3, H, W]`. Nothing is read from
    /// the device.
    ///
    /// # Panics
    /// When there are not as many targets as images.
    pub fn forward_train(&self, images: Tensor<4>, targets: &[Target]) -> Losses {
        let (predictions, anchors) = self.predict(images);
        assert_eq!(predictions.logits.dims()[0], targets.len(), "each image needs a target");
        let matched: Vec<AnchorTargets> =
            targets.par_iter().map(|target| AnchorTargets::of(&anchors, target)).collect();
        let images = self.group.sum(targets.len());
        let all = AnchorTargets::concatenate(matched, anchors.boxes.len(), images);
        let RetinaNetPredictions { logits, deltas, .. } = predictions;
        let focal =
            Focal { alpha: self.config.retinanet.focal_alpha, gamma: self.config.retinanet.focal_gamma };
        Losses {
            terms: vec![
                ("loss_classification", all.classification_loss(logits.flatten(0, 1), focal)),
                ("loss_box_regression", all.box_loss(deltas.flatten(0, 1))),
            ],
            counts: vec![("foreground_anchors", all.matched.len())],
        }
    }

    /// The objects in each image, best first; `sizes` are the unpadded ones.
    ///
    /// Call it on a model without autodiff (`model.valid()`): on an autodiff device batch norms would train.
    ///
    /// # Panics
    /// When there are not as many sizes as images.
    pub fn detect(&self, images: Tensor<4>, sizes: &[Size]) -> Vec<Vec<Detection>> {
        let (predictions, anchors) = self.predict(images);
        assert_eq!(predictions.logits.dims()[0], sizes.len(), "each image needs its unpadded size");
        let [scores, deltas] = read(sigmoid(predictions.logits), predictions.deltas);
        let (deltas, _) = deltas.as_chunks::<4>();
        let (count, classes) = (anchors.boxes.len(), self.config.num_classes);
        let of_image = |(image, &size): (usize, &Size)| {
            let rows = image * count..(image + 1) * count;
            let scores = &scores[rows.start * classes..rows.end * classes];
            retinanet_detections(scores, &deltas[rows], &anchors, size, &self.config)
        };
        sizes.par_iter().enumerate().map(of_image).collect()
    }

    /// Head outputs and anchors of a batch of padded images, `[N, 3, H, W]`.
    pub fn predict(&self, images: Tensor<4>) -> (RetinaNetPredictions, Anchors) {
        let [_, _, height, width] = images.dims();
        let predictions = self.head.forward(&self.backbone.forward(images));
        let anchors = AnchorGenerator::new(&self.config).generate([height, width], &predictions.grids);
        (predictions, anchors)
    }
}

/// Detections of one image of this unpadded size, best first, from its A rows of K probabilities and A rows of deltas.
///
/// Of each level the best scores above the threshold are decoded, clipped to the image and, class by class over all levels,
/// suppressed. Boxes that are not finite or have no area are left out.
pub fn retinanet_detections(
    scores: &[f32],
    deltas: &[[f32; 4]],
    anchors: &Anchors,
    size: Size,
    config: &DetectorConfig,
) -> Vec<Detection> {
    let classes = config.num_classes;
    let mut found = Vec::new();
    for range in &anchors.levels {
        let first = range.start * classes;
        let candidates: Vec<(usize, f32)> = scores[first..range.end * classes]
            .iter()
            .enumerate()
            .map(|(index, &score)| (first + index, score))
            .filter(|&(_, score)| score > config.test.score_threshold)
            .collect();
        let above: Vec<f32> = candidates.iter().map(|&(_, score)| score).collect();
        for place in best(&above, config.retinanet.pre_nms) {
            let (index, score) = candidates[place];
            let (anchor, class) = (index / classes, index % classes);
            let bbox = BoxCoder::UNIT.decode(&anchors.boxes[anchor], deltas[anchor]);
            if let Some(bbox) = usable(bbox, size, 0.0) {
                found.push(Detection { bbox, class, score, mask: None });
            }
        }
    }
    suppress(found, config)
}

/// What the anchors of a batch should say. Rows number the anchors of all images.
#[derive(Default)]
struct AnchorTargets {
    /// Anchors that take part: those of a target or of the background.
    valid: Vec<bool>,
    /// Rows that are matched to a target.
    matched: Vec<usize>,
    /// The classes of the matched rows.
    classes: Vec<usize>,
    /// The deltas that the matched rows should have.
    deltas: Vec<[f32; 4]>,
    /// What each row's losses are multiplied by: 1 / (images · the image's matched anchors, 1 at least).
    weights: Vec<f32>,
}

impl AnchorTargets {
    /// Of one image, with a weight for it alone.
    fn of(anchors: &Anchors, target: &Target) -> Self {
        let matches = Matcher::RETINANET.assign(&anchors.boxes, &target.boxes);
        let mut all = Self::default();
        for (row, (found, anchor)) in matches.iter().zip(&anchors.boxes).enumerate() {
            if let Match::Target(index) = *found {
                all.matched.push(row);
                all.classes.push(target.labels[index]);
                all.deltas.push(BoxCoder::UNIT.encode(anchor, &target.boxes[index]));
            }
        }
        all.valid = matches.iter().map(|found| *found != Match::Ignored).collect();
        all.weights = vec![1.0 / all.matched.len().max(1) as f32; matches.len()];
        all
    }

    /// Joins the images of a batch that has `total` of them with those of other processes; those of image n start at row n · A.
    fn concatenate(images: Vec<Self>, anchors: usize, total: usize) -> Self {
        let count = total as f32;
        let mut all = Self::default();
        for (image, part) in images.into_iter().enumerate() {
            all.matched.extend(part.matched.into_iter().map(|row| image * anchors + row));
            all.valid.extend(part.valid);
            all.classes.extend(part.classes);
            all.deltas.extend(part.deltas);
            all.weights.extend(part.weights.into_iter().map(|weight| weight / count));
        }
        all
    }

    /// The focal loss of `logits`, `[N · A, K]`.
    ///
    /// Every valid entry counts as background first; the matched entries then change sides, so that no tensor of targets as
    /// large as the logits is made.
    fn classification_loss(&self, logits: Tensor<2>, focal: Focal) -> Tensor<1> {
        let device = logits.device();
        let weights =
            self.valid.iter().zip(&self.weights).map(|(&valid, &weight)| if valid { weight } else { 0.0 });
        let weights = column(weights.collect(), &device);
        let background = (focal.negative(logits.clone()).sum_dim(1) * weights).sum();
        if self.matched.is_empty() {
            return background;
        }
        let classes: Vec<i64> = self.classes.iter().map(|&class| class as i64).collect();
        let classes = Tensor::<2, Int>::from_data(TensorData::new(classes, [self.matched.len(), 1]), &device);
        let own = select_rows(logits, &self.matched).gather(1, classes);
        let change = focal.positive(own.clone()) - focal.negative(own);
        background + (change * self.matched_weights(&device)).sum()
    }

    /// The sum of absolute differences of the matched rows of `deltas`, `[N · A, 4]`.
    fn box_loss(&self, deltas: Tensor<2>) -> Tensor<1> {
        if self.matched.is_empty() {
            return zero_of(deltas);
        }
        let device = deltas.device();
        let wanted = TensorData::new(self.deltas.as_flattened().to_vec(), [self.deltas.len(), 4]);
        let distance = (select_rows(deltas, &self.matched) - Tensor::from_data(wanted, &device)).abs();
        (distance.sum_dim(1) * self.matched_weights(&device)).sum()
    }

    fn matched_weights(&self, device: &Device) -> Tensor<2> {
        column(self.matched.iter().map(|&row| self.weights[row]).collect(), device)
    }
}

fn column(values: Vec<f32>, device: &Device) -> Tensor<2> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count, 1]), device)
}

/// The focal loss of single logits (equation 5 of the paper), for p = σ(x).
#[derive(Clone, Copy)]
struct Focal {
    alpha: f64,
    gamma: f64,
}

impl Focal {
    /// −α (1 − p)^γ ln p
    fn positive(self, logits: Tensor<2>) -> Tensor<2> {
        self.term(logits).mul_scalar(self.alpha)
    }

    /// −(1 − α) p^γ ln(1 − p), which is the other side's at −x.
    fn negative(self, logits: Tensor<2>) -> Tensor<2> {
        self.term(logits.neg()).mul_scalar(1.0 - self.alpha)
    }

    /// −(1 − p)^γ ln p
    fn term(self, logits: Tensor<2>) -> Tensor<2> {
        let unsure = sigmoid(logits.clone().neg());
        let factor = if self.gamma == 2.0 { unsure.square() } else { unsure.powf_scalar(self.gamma) };
        factor * log_sigmoid(logits).neg()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_focal_loss_has_the_papers_values() {
        let logits = Tensor::<2>::from_data([[0.0, 2.0, -60.0]], &Device::flex());
        let values = |loss: Tensor<2>| loss.into_data().iter::<f64>().collect::<Vec<_>>();
        let focal = Focal { alpha: 0.25, gamma: 2.0 };
        let p = 1.0 / (1.0 + (-2.0f64).exp());
        let positive = values(focal.positive(logits.clone()));
        assert!((positive[0] - 0.25 * 0.25 * 2f64.ln()).abs() < 1e-7);
        assert!((positive[1] + 0.25 * (1.0 - p).powi(2) * p.ln()).abs() < 1e-7);
        assert!((positive[2] - 0.25 * 60.0).abs() < 1e-4);
        let negative = values(focal.negative(logits));
        assert!((negative[1] + 0.75 * p.powi(2) * (1.0 - p).ln()).abs() < 1e-6);
        assert_eq!(negative[2], 0.0);
    }

    #[test]
    fn scales_are_whole_pixels_in_thirds_of_an_octave() {
        let config = DetectorConfig::retinanet();
        assert_eq!(config.retinanet.octave(32.0), [32.0, 40.0, 50.0]);
        assert_eq!(config.anchors_per_cell(), 9);
    }
}
