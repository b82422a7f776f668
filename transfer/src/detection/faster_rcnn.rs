//! Faster R-CNN and, with a mask head, Mask R-CNN: training losses and detection.

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor};
use scrl_core::models::Backbone;
use scrl_core::random::Rng;
use scrl_core::structures::{BoxXyxy, Size};
use scrl_ops::Group;

use super::anchor_generator::{AnchorGenerator, Anchors};
use super::backbone::BackboneWithFpn;
use super::config::DetectorConfig;
use super::fpn::Top;
use super::host::read;
use super::losses::Losses;
use super::pooler::{Pooler, Roi};
use super::postprocess::{Detection, detections};
use super::proposals::ProposalFilter;
use super::roi_heads::{BoxPredictions, RoiHeads};
use super::rpn::{Rpn, RpnPredictions};
use super::target::Target;

/// Faster R-CNN with a feature pyramid; its tensors' paths are the keys of torchvision's `FasterRCNN`, or of its `MaskRCNN`.
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
    /// The processes that train it.
    #[module(skip)]
    pub group: Group,
}

impl FasterRcnn {
    /// Random weights, as detectron2 draws them, frozen as the config says.
    ///
    /// # Panics
    /// When [`DetectorConfig::validate`] has an error to report.
    pub fn init(config: &DetectorConfig, rng: &mut Rng, device: &Device) -> Self {
        config.assert_valid();
        Self {
            backbone: BackboneWithFpn::init(config, Top::MaxPool, rng, device),
            rpn: Rpn::init(config, rng, device),
            roi_heads: RoiHeads::init(config, rng, device),
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
        let rpn = predictions.losses(&anchors, targets, &self.config, &self.group, rng);
        let roi = self.roi_heads.losses(&features, proposals, targets, &self.config, &self.group, rng);
        let mut terms = vec![
            ("loss_rpn_objectness", rpn.objectness),
            ("loss_rpn_box", rpn.boxes),
            ("loss_classifier", roi.classifier),
            ("loss_box_regression", roi.boxes),
        ];
        terms.extend(roi.mask.map(|mask| ("loss_mask", mask)));
        Losses {
            terms,
            counts: vec![("foreground_anchors", rpn.foreground), ("foreground_rois", roi.foreground)],
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
        let mut found = detections(&probabilities, deltas, &rois, sizes, &self.config);
        self.roi_heads.add_masks(&features, &mut found, &self.config);
        found
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
