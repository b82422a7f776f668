//! The mask head of Mask R-CNN (He et al., arXiv 1703.06870).

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::activation::{log_sigmoid, sigmoid};
use burn::tensor::{Device, Tensor, TensorData};
use scrl_core::models::layers::{Conv2dConfig, Init};
use scrl_core::models::{Conv2d, ConvTranspose2d, in_f32};
use scrl_core::random::Rng;
use scrl_core::structures::BoxXyxy;
use scrl_ops::Group;

use super::config::{Architecture, DetectorConfig};
use super::losses::{select_rows, zero_of};
use super::pooler::{Pooler, Roi};
use super::postprocess::Detection;
use super::roi_heads::RoiHeads;
use crate::mask::{Mask, ObjectMask, SoftMask};

/// Side of the grid that the mask head sees.
const POOLED: usize = 14;
/// Side of the masks that it gives.
pub const MASK_SIDE: usize = 28;
/// Convolutions of the head.
const CONVOLUTIONS: usize = 4;

/// From the head's features to a mask for each class.
#[derive(Module, Debug)]
pub struct MaskPredictor {
    /// Doubles the sides; followed by ReLU.
    pub conv5_mask: ConvTranspose2d,
    /// 1×1, to K + 1 masks; as in torchvision, the background has the first.
    pub mask_fcn_logits: Conv2d,
}

/// A region that the mask head learns from.
pub(super) struct MaskRegion<'a> {
    pub roi: Roi,
    /// With the background as 0.
    pub class: usize,
    pub mask: &'a ObjectMask,
}

impl RoiHeads {
    /// With a mask head if the config's architecture has one: normal weights after He, those of the last layer normal with
    /// standard deviation 0.001, as detectron2 draws them.
    pub(super) fn with_masks(mut self, config: &DetectorConfig, rng: &mut Rng, device: &Device) -> Self {
        if config.architecture != Architecture::MaskRcnn {
            return self;
        }
        let channels = config.fpn.channels;
        let convolution = |channels: [usize; 2], kernel: usize, init: Init| Conv2dConfig {
            bias: true,
            ..Conv2dConfig::new(channels, kernel).init_with(init)
        };
        let hidden = convolution([channels; 2], 3, Init::KaimingNormalFanOut);
        self.mask_head = Some((0..CONVOLUTIONS).map(|_| (hidden.init(rng, device), None)).collect());
        let last = convolution([channels, config.num_classes + 1], 1, Init::Normal(0.001));
        self.mask_predictor = Some(MaskPredictor {
            conv5_mask: ConvTranspose2d::init([channels; 2], 2, Init::KaimingNormalFanOut, rng, device),
            mask_fcn_logits: last.init(rng, device),
        });
        self
    }

    /// Mask logits of each region, `[R, K + 1, 28, 28]`, and the row of each of `rois`, which must not be empty.
    ///
    /// None without a mask head.
    pub fn predict_masks(
        &self,
        features: &[Tensor<4>],
        rois: &[Roi],
        pooler: Pooler,
    ) -> Option<(Tensor<4>, Vec<usize>)> {
        let (Some(head), Some(predictor)) = (&self.mask_head, &self.mask_predictor) else { return None };
        let (pooled, rows) = pooler.with_side(POOLED).forward(features, rois);
        let hidden = head.iter().fold(pooled, |hidden, (convolution, _)| convolution.forward_relu(hidden));
        let logits = predictor.conv5_mask.forward_relu_then(hidden, &predictor.mask_fcn_logits);
        Some((in_f32(logits), rows))
    }

    /// The mean binary cross entropy over the cells of the regions' masks, each of its own class; with several processes, this
    /// one's part of it. None without a mask head.
    pub(super) fn mask_loss(
        &self,
        features: &[Tensor<4>],
        regions: &[MaskRegion],
        config: &DetectorConfig,
        group: &Group,
    ) -> Option<Tensor<1>> {
        self.mask_head.as_ref()?;
        let total = group.sum(regions.len()).max(1);
        let rois: Vec<Roi> = match regions {
            // So that every weight has a gradient, of zero.
            [] => vec![Roi { image: 0, bbox: BoxXyxy::new(0.0, 0.0, 1.0, 1.0) }],
            regions => regions.iter().map(|region| region.roi).collect(),
        };
        let (logits, rows) = self.predict_masks(features, &rois, Pooler::new(config))?;
        if regions.is_empty() {
            return Some(zero_of(logits));
        }
        let classes = regions.iter().map(|region| region.class);
        let logits = of_classes(logits, &rows, classes);
        let targets = TensorData::new(targets(regions, config), [regions.len(), MASK_SIDE * MASK_SIDE]);
        let targets = Tensor::<2>::from_data(targets, &logits.device());
        // −ln σ(x) inside; −ln σ(−x) = x − ln σ(x) outside.
        let loss = (targets.neg() + 1.0) * logits.clone() - log_sigmoid(logits);
        Some(loss.sum().div_scalar((total * MASK_SIDE * MASK_SIDE) as f64))
    }

    /// Gives each detection of each image its mask; nothing without a mask head.
    pub fn add_masks(
        &self,
        features: &[Tensor<4>],
        detections: &mut [Vec<Detection>],
        config: &DetectorConfig,
    ) {
        let found =
            || detections.iter().enumerate().flat_map(|(image, found)| found.iter().map(move |f| (image, f)));
        let rois: Vec<Roi> = found().map(|(image, found)| Roi { image, bbox: found.bbox }).collect();
        if rois.is_empty() {
            return;
        }
        let Some((logits, rows)) = self.predict_masks(features, &rois, Pooler::new(config)) else { return };
        let classes: Vec<usize> = found().map(|(_, found)| found.class + 1).collect();
        let cells = sigmoid(of_classes(logits, &rows, classes.into_iter())).into_data();
        let cells: Vec<f32> = cells.convert::<f32>().try_to_vec().expect("the values are f32");
        let masks = cells.chunks_exact(MASK_SIDE * MASK_SIDE);
        for (found, cells) in detections.iter_mut().flatten().zip(masks) {
            found.mask = Some(Mask::Cells(SoftMask { cells: cells.to_vec(), side: MASK_SIDE }));
        }
    }
}

/// The masks of these classes, `[R, 784]` in the order of `rows`.
fn of_classes(logits: Tensor<4>, rows: &[usize], classes: impl Iterator<Item = usize>) -> Tensor<2> {
    let [count, columns, ..] = logits.dims();
    let rows: Vec<usize> = rows.iter().zip(classes).map(|(row, class)| row * columns + class).collect();
    select_rows(logits.reshape([count * columns, MASK_SIDE * MASK_SIDE]), &rows)
}

/// The cells that the regions should have, one object after the other, so that each is drawn once.
fn targets(regions: &[MaskRegion], config: &DetectorConfig) -> Vec<f32> {
    let cells = MASK_SIDE * MASK_SIDE;
    let mut all = vec![0.0; regions.len() * cells];
    let mut of_object = BTreeMap::<*const ObjectMask, Vec<usize>>::new();
    for (index, region) in regions.iter().enumerate() {
        of_object.entry(std::ptr::from_ref(region.mask)).or_default().push(index);
    }
    for indices in of_object.values() {
        let boxes: Vec<BoxXyxy> = indices.iter().map(|&index| regions[index].roi.bbox).collect();
        let found = regions[indices[0]].mask.regions(&boxes, MASK_SIDE, config.variant);
        for (&index, mask) in indices.iter().zip(found) {
            all[index * cells..(index + 1) * cells].copy_from_slice(&mask);
        }
    }
    all
}
