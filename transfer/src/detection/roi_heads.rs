//! The box head and its losses, and which regions the mask head learns from.

use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;
use scrl_core::models::layers::Init;
use scrl_core::models::{Linear, in_f32};
use scrl_core::random::Rng;
use scrl_core::structures::BoxXyxy;
use scrl_ops::Group;

use super::box_coder::BoxCoder;
use super::config::DetectorConfig;
use super::fpn::ConvNorm;
use super::losses::{box_loss, classification_loss, select_rows};
use super::mask_head::{MaskPredictor, MaskRegion};
use super::matcher::{Match, Matcher};
use super::pooler::{POOLED, Pooler, Roi};
use super::sampling::{Sampler, image_streams};
use super::target::Target;

/// Classifies and refines proposals.
#[derive(Module, Debug)]
pub struct RoiHeads {
    /// From pooled features to one vector a region.
    pub box_head: BoxHead,
    /// From that vector to classes and boxes.
    pub box_predictor: BoxPredictor,
    /// Of Mask R-CNN: 3×3 convolutions, each followed by ReLU.
    pub mask_head: Option<Vec<ConvNorm>>,
    /// Of Mask R-CNN: from their output to a mask a class.
    pub mask_predictor: Option<MaskPredictor>,
}

/// Two fully connected layers on the pooled features.
#[derive(Module, Debug)]
pub struct BoxHead {
    /// From C · 7 · 7 features, channel by channel.
    pub fc6: Linear,
    /// From `fc6`'s outputs.
    pub fc7: Linear,
}

/// Class logits and class-specific deltas; column 0 is the background.
#[derive(Module, Debug)]
pub struct BoxPredictor {
    /// To K + 1 logits.
    pub cls_score: Linear,
    /// To (K + 1) · 4 deltas, four a class.
    pub bbox_pred: Linear,
}

/// What the predictor says about each region.
#[derive(Clone, Debug)]
pub struct BoxPredictions {
    /// `[R, K + 1]`
    pub logits: Tensor<2>,
    /// `[R, (K + 1) · 4]`
    pub deltas: Tensor<2>,
}

/// The head's losses and how many of their regions are foreground.
pub(super) struct RoiLosses {
    pub classifier: Tensor<1>,
    pub boxes: Tensor<1>,
    /// Of Mask R-CNN.
    pub mask: Option<Tensor<1>>,
    pub foreground: usize,
}

impl RoiHeads {
    /// Box head with Caffe2's Xavier weights; predictors normal with standard deviations 0.01 and 0.001.
    pub fn init(config: &DetectorConfig, rng: &mut Rng, device: &Device) -> Self {
        let (dim, classes) = (config.roi_heads.box_head_dim, config.num_classes + 1);
        let pooled = config.fpn.channels * POOLED * POOLED;
        let mut linear = |features: [usize; 2], init: Init| Linear::init(features, true, init, rng, device);
        Self {
            box_head: BoxHead {
                fc6: linear([pooled, dim], Init::C2Xavier),
                fc7: linear([dim, dim], Init::C2Xavier),
            },
            box_predictor: BoxPredictor {
                cls_score: linear([dim, classes], Init::Normal(0.01)),
                bbox_pred: linear([dim, classes * 4], Init::Normal(0.001)),
            },
            mask_head: None,
            mask_predictor: None,
        }
        .with_masks(config, rng, device)
    }

    /// `features` from P2 on; `rois` must not be empty.
    pub fn predict(&self, features: &[Tensor<4>], rois: &[Roi], pooler: Pooler) -> BoxPredictions {
        let (pooled, rows) = pooler.forward(features, rois);
        let pooled = pooled.flatten(1, 3);
        let hidden = relu(self.box_head.fc7.forward(relu(self.box_head.fc6.forward(pooled))));
        BoxPredictions {
            logits: select_rows(in_f32(self.box_predictor.cls_score.forward(hidden.clone())), &rows),
            deltas: select_rows(in_f32(self.box_predictor.bbox_pred.forward(hidden)), &rows),
        }
    }

    /// The losses of a random sample of each image's proposals and targets; with several processes, this one's part of them.
    pub(super) fn losses(
        &self,
        features: &[Tensor<4>],
        proposals: Vec<Vec<BoxXyxy>>,
        targets: &[Target],
        config: &DetectorConfig,
        group: &Group,
        rng: &mut Rng,
    ) -> RoiLosses {
        let mut sample = RoiSample::draw(proposals, targets, config, group, rng);
        let (count, foreground) = (sample.rois.len(), sample.foreground.len());
        let total = group.sum(count);
        let mask = self.mask_loss(features, &sample.mask_sample(targets), config, group);
        if total == 0 {
            let zero = Tensor::zeros([1], &features[0].device());
            return RoiLosses { classifier: zero.clone(), boxes: zero, mask, foreground };
        }
        // A process without a region goes along with one that does not count, so that its backward pass is that of the others.
        if count == 0 {
            sample.rois.push(Roi { image: 0, bbox: BoxXyxy::new(0.0, 0.0, 1.0, 1.0) });
            sample.classes.push(0);
        }
        let predictions = self.predict(features, &sample.rois, Pooler::new(config));
        let boxes = sample.box_loss(predictions.deltas, config);
        let classifier = classification_loss(predictions.logits, &sample.classes);
        let share = count as f64 / total as f64;
        RoiLosses {
            classifier: if share == 1.0 { classifier } else { classifier.mul_scalar(share) },
            boxes: boxes.div_scalar(total as f64),
            mask,
            foreground,
        }
    }
}

/// Regions for the loss. `classes` has the background as 0; `foreground` are the rows of the others, whose
/// deltas should be `deltas` and which are matched to the target `matched` of their image.
#[derive(Default)]
struct RoiSample {
    rois: Vec<Roi>,
    classes: Vec<usize>,
    foreground: Vec<usize>,
    deltas: Vec<[f32; 4]>,
    matched: Vec<usize>,
}

impl RoiSample {
    fn draw(
        proposals: Vec<Vec<BoxXyxy>>,
        targets: &[Target],
        config: &DetectorConfig,
        group: &Group,
        rng: &mut Rng,
    ) -> Self {
        let streams = image_streams(rng, targets.len(), group);
        let samples: Vec<Self> = (proposals, targets, streams)
            .into_par_iter()
            .enumerate()
            .map(|(image, (proposals, target, mut rng))| {
                Self::of_image(image, proposals, target, config, &mut rng)
            })
            .collect();
        let mut all = Self::default();
        for sample in samples {
            let start = all.rois.len();
            all.rois.extend(sample.rois);
            all.classes.extend(sample.classes);
            all.foreground.extend(sample.foreground.into_iter().map(|row| start + row));
            all.deltas.extend(sample.deltas);
            all.matched.extend(sample.matched);
        }
        all
    }

    /// The targets themselves are proposals too, so that there is foreground from the first step on.
    fn of_image(
        image: usize,
        mut proposals: Vec<BoxXyxy>,
        target: &Target,
        config: &DetectorConfig,
        rng: &mut Rng,
    ) -> Self {
        proposals.extend(target.boxes.iter().filter(|b| b.area() > 0.0));
        let matches = Matcher::PROPOSALS.assign(&proposals, &target.boxes);
        let sampler =
            Sampler { batch: config.roi_heads.batch, positive_fraction: config.roi_heads.positive_fraction };
        let drawn = sampler.draw(&matches, rng);
        let coder = BoxCoder { weights: config.roi_heads.box_weights };
        let mut sample = Self::default();
        for index in drawn.positive.into_iter().chain(drawn.negative) {
            let bbox = proposals[index];
            let class = match matches[index] {
                Match::Target(matched) => {
                    sample.foreground.push(sample.rois.len());
                    sample.deltas.push(coder.encode(&bbox, &target.boxes[matched]));
                    sample.matched.push(matched);
                    target.labels[matched] + 1
                }
                _ => 0,
            };
            sample.rois.push(Roi { image, bbox });
            sample.classes.push(class);
        }
        sample
    }

    /// The foreground regions whose object has a mask.
    fn mask_sample<'a>(&self, targets: &'a [Target]) -> Vec<MaskRegion<'a>> {
        let region = |(&row, &matched): (&usize, &usize)| {
            let roi = self.rois[row];
            let mask = targets[roi.image].masks.get(matched)?.as_ref()?;
            Some(MaskRegion { roi, class: self.classes[row], mask })
        };
        self.foreground.iter().zip(&self.matched).filter_map(region).collect()
    }

    /// Summed over the foreground, by each region's own class; `deltas` is `[R, (K + 1) · 4]`.
    fn box_loss(&self, deltas: Tensor<2>, config: &DetectorConfig) -> Tensor<1> {
        let columns = config.num_classes + 1;
        let deltas = deltas.reshape([self.rois.len() * columns, 4]);
        let rows: Vec<usize> = self.foreground.iter().map(|&row| row * columns + self.classes[row]).collect();
        box_loss(deltas, &rows, &self.deltas, config.variant.numerics().smooth_l1_beta)
    }
}

#[cfg(test)]
mod tests {
    use scrl_core::random::stream;

    use super::*;

    #[test]
    fn targets_join_the_proposals_and_classes_shift_by_the_background() {
        let target =
            Target { boxes: vec![BoxXyxy::new(0.0, 0.0, 10.0, 10.0)], labels: vec![4], ..Default::default() };
        let proposals =
            vec![vec![BoxXyxy::new(50.0, 50.0, 60.0, 60.0)], vec![BoxXyxy::new(1.0, 1.0, 9.0, 9.0)]];
        let empty = Target::default();
        let config = DetectorConfig::default();
        let sample =
            RoiSample::draw(proposals, &[target, empty], &config, &Group::ALONE, &mut stream(0, &[]));
        assert_eq!(sample.classes, [5, 0, 0]);
        assert_eq!(sample.foreground, [0]);
        assert_eq!(sample.deltas, [[0.0; 4]]);
        assert_eq!(sample.rois.iter().map(|roi| roi.image).collect::<Vec<_>>(), [0, 0, 1]);
    }
}
