//! The whole detector: training losses and detection.

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData, Transaction};
use scrl_core::models::{BatchNorm, ResNet};
use scrl_core::random::Rng;
use scrl_core::structures::{BoxXyxy, Size};

use super::anchor_generator::{AnchorGenerator, Anchors};
use super::config::{DetectorConfig, Norm};
use super::fpn::Fpn;
use super::pooler::{Pooler, Roi};
use super::postprocess::{Detection, detections};
use super::proposals::ProposalFilter;
use super::roi_heads::{BoxPredictions, RoiHeads};
use super::rpn::{Rpn, RpnPredictions};

/// Faster R-CNN with a feature pyramid; its tensors' paths are the keys of torchvision's `FasterRCNN`.
#[derive(Module, Debug)]
pub struct FasterRcnn {
    /// From images to the pyramid.
    pub backbone: BackboneWithFpn,
    /// From the pyramid to proposals.
    pub rpn: Rpn,
    /// From proposals to objects.
    pub roi_heads: RoiHeads,
    /// What the detector was built from.
    #[module(skip)]
    pub config: DetectorConfig,
}

/// A ResNet and its pyramid.
#[derive(Module, Debug)]
pub struct BackboneWithFpn {
    /// Gives C2 to C5.
    pub body: ResNet,
    /// Gives P2 to P6.
    pub fpn: Fpn,
}

/// The objects of one training image; crowds are left out beforehand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    /// In pixels of the image that is given to the network.
    pub boxes: Vec<BoxXyxy>,
    /// 0-based foreground class of each box.
    pub labels: Vec<usize>,
}

/// The four losses of a training step, `[1]` each, and the sizes of the samples behind them.
#[derive(Clone, Debug)]
pub struct Losses {
    /// Binary cross entropy of the sampled anchors.
    pub rpn_objectness: Tensor<1>,
    /// Box loss of the sampled foreground anchors.
    pub rpn_box: Tensor<1>,
    /// Mean cross entropy of the sampled regions.
    pub classifier: Tensor<1>,
    /// Box loss of the sampled foreground regions.
    pub box_regression: Tensor<1>,
    /// Sampled anchors of the batch that are matched to a target.
    pub foreground_anchors: usize,
    /// Sampled regions of the batch.
    pub rois: usize,
    /// Sampled regions of the batch that are matched to a target.
    pub foreground_rois: usize,
}

impl Losses {
    /// What is minimised: the sum of the four.
    pub fn total(&self) -> Tensor<1> {
        self.rpn_objectness.clone()
            + self.rpn_box.clone()
            + self.classifier.clone()
            + self.box_regression.clone()
    }
}

impl BackboneWithFpn {
    /// `[N, 3, H, W]` to P2 to P6.
    pub fn forward(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        self.fpn.forward(&self.body.forward(images))
    }

    /// Every batch norm of the detector: its heads have none.
    pub(super) fn batch_norms_mut(&mut self) -> impl Iterator<Item = &mut BatchNorm> {
        self.body.batch_norms_mut().chain(self.fpn.batch_norms_mut())
    }
}

impl FasterRcnn {
    pub(super) fn init(config: &DetectorConfig, rng: &mut Rng, device: &Device) -> Self {
        let resnet = config.backbone();
        let body = resnet.init(rng, device);
        let fpn = Fpn::init(resnet.channels(), config.fpn_channels, config.fpn_norm, rng, device);
        Self {
            backbone: BackboneWithFpn { body: with_norm(body, config), fpn },
            rpn: Rpn::init(config, rng, device),
            roi_heads: RoiHeads::init(config, rng, device),
            config: config.clone(),
        }
    }

    /// The detector with this backbone, for example a pretrained one, frozen as the config says.
    pub fn with_backbone(mut self, body: ResNet) -> Self {
        self.backbone.body = with_norm(body, &self.config);
        self
    }

    /// The losses of one batch.
    ///
    /// `images` are normalised and padded at the right and bottom to a multiple of 32, `[N, 3, H, W]`; `sizes` are the
    /// images' own. `rng` chooses the anchors and regions that take part.
    ///
    /// # Panics
    /// When there are not as many sizes and targets as images.
    pub fn forward_train(
        &self,
        images: Tensor<4>,
        sizes: &[Size],
        targets: &[Target],
        rng: &mut Rng,
    ) -> Losses {
        assert_eq!(targets.len(), sizes.len(), "each image needs a target");
        let Regions { features, predictions, anchors } = self.propose(images, sizes);
        let proposals = predictions.proposals(&anchors, sizes, &ProposalFilter::training(&self.config));
        let rpn = predictions.losses(&anchors, targets, &self.config, rng);
        let roi = self.roi_heads.losses(&features, proposals, targets, &self.config, rng);
        Losses {
            rpn_objectness: rpn.objectness,
            rpn_box: rpn.boxes,
            classifier: roi.classifier,
            box_regression: roi.boxes,
            foreground_anchors: rpn.foreground,
            rois: roi.rois,
            foreground_rois: roi.foreground,
        }
    }

    /// The objects in each image, best first; see [`Self::forward_train`] for the inputs.
    ///
    /// Call it on a model without autodiff (`model.valid()`): on an autodiff device batch norms would train.
    ///
    /// # Panics
    /// When there are not as many sizes as images.
    pub fn detect(&self, images: Tensor<4>, sizes: &[Size]) -> Vec<Vec<Detection>> {
        let Regions { features, predictions, anchors } = self.propose(images, sizes);
        let proposals = predictions.proposals(&anchors, sizes, &ProposalFilter::test(&self.config));
        let rois: Vec<Roi> = proposals
            .into_iter()
            .enumerate()
            .flat_map(|(image, boxes)| boxes.into_iter().map(move |bbox| Roi { image, bbox }))
            .collect();
        if rois.is_empty() {
            return vec![Vec::new(); sizes.len()];
        }
        let BoxPredictions { logits, deltas } =
            self.roi_heads.predict(&features, &rois, Pooler::new(&self.config));
        let [probabilities, deltas] = read(softmax(logits, 1), deltas);
        let (deltas, _) = deltas.as_chunks::<4>();
        detections(&probabilities, deltas, &rois, sizes, &self.config)
    }

    /// The proposals that [`Self::detect`] refines, of each image, best first.
    ///
    /// # Panics
    /// When there are not as many sizes as images.
    pub fn proposals(&self, images: Tensor<4>, sizes: &[Size]) -> Vec<Vec<BoxXyxy>> {
        let Regions { predictions, anchors, .. } = self.propose(images, sizes);
        predictions.proposals(&anchors, sizes, &ProposalFilter::test(&self.config))
    }

    /// What training and detection share: pyramid, head outputs and anchors.
    fn propose(&self, images: Tensor<4>, sizes: &[Size]) -> Regions {
        let [count, _, height, width] = images.dims();
        assert_eq!(count, sizes.len(), "each image needs its unpadded size");
        let features = self.backbone.forward(images);
        let predictions = self.rpn.forward(&features);
        let anchors = AnchorGenerator::new(&self.config).generate([height, width], &predictions.grids);
        Regions { features, predictions, anchors }
    }
}

struct Regions {
    features: Vec<Tensor<4>>,
    predictions: RpnPredictions,
    anchors: Anchors,
}

fn with_norm(body: ResNet, config: &DetectorConfig) -> ResNet {
    let body = body.freeze_at(config.freeze_at, config.frozen_norm_epsilon);
    match config.norm {
        Norm::BatchNorm => body,
        Norm::FrozenBatchNorm => body.freeze_batch_norm(config.frozen_norm_epsilon),
    }
}

/// Copies two tensors to the host at once.
pub(super) fn read<const A: usize, const B: usize>(a: Tensor<A>, b: Tensor<B>) -> [Vec<f32>; 2] {
    let data = Transaction::default().register(a.detach()).register(b.detach()).execute();
    let values: Vec<Vec<f32>> = data.into_iter().map(to_floats).collect();
    values.try_into().expect("two tensors were registered")
}

fn to_floats(data: TensorData) -> Vec<f32> {
    data.convert::<f32>().try_to_vec().expect("the values were converted to f32")
}
