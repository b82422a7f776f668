//! Any of the detectors. Adding one adds a file, a variant here and in [`Architecture`], and its arms.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use scrl_core::models::{Backbone, Precision};
use scrl_core::random::Rng;
use scrl_core::structures::Size;
use scrl_ops::Group;

use super::backbone::BackboneWithFpn;
use super::config::{Architecture, DetectorConfig};
use super::faster_rcnn::FasterRcnn;
use super::losses::Losses;
use super::postprocess::Detection;
use super::retinanet::RetinaNet;
use super::target::Target;

/// A detector of any architecture; its tensors' paths are the keys of torchvision's class.
#[expect(clippy::large_enum_variant, reason = "a process holds a few detectors, and modules derive no box")]
#[derive(Module, Debug)]
pub enum Detector {
    /// Two stages, with or without masks.
    FasterRcnn(FasterRcnn),
    /// One stage.
    RetinaNet(RetinaNet),
}

impl Architecture {
    /// Every architecture, the default first.
    pub const ALL: [Architecture; 3] =
        [Architecture::FasterRcnn, Architecture::MaskRcnn, Architecture::RetinaNet];

    /// The name for people.
    pub fn title(self) -> &'static str {
        match self {
            Architecture::FasterRcnn => "Faster R-CNN",
            Architecture::MaskRcnn => "Mask R-CNN",
            Architecture::RetinaNet => "RetinaNet",
        }
    }

    /// What the paths of the layers begin with whose size depends on the number of classes.
    pub fn class_layers(self) -> &'static [&'static str] {
        match self {
            Architecture::FasterRcnn => &["roi_heads.box_predictor."],
            Architecture::MaskRcnn => {
                &["roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits."]
            }
            Architecture::RetinaNet => &["head.classification_head.cls_logits."],
        }
    }

    /// What the paths of its heads begin with, which tells RetinaNet from the others.
    pub fn heads(self) -> &'static str {
        match self {
            Architecture::FasterRcnn | Architecture::MaskRcnn => "roi_heads.",
            Architecture::RetinaNet => "head.classification_head.",
        }
    }
}

impl DetectorConfig {
    /// Builds the detector on `device` with its random initial weights, frozen as the config says.
    ///
    /// # Panics
    /// When [`Self::validate`] has an error to report.
    pub fn init(&self, rng: &mut Rng, device: &Device) -> Detector {
        match self.architecture {
            Architecture::FasterRcnn | Architecture::MaskRcnn => {
                Detector::FasterRcnn(FasterRcnn::init(self, rng, device))
            }
            Architecture::RetinaNet => Detector::RetinaNet(RetinaNet::init(self, rng, device)),
        }
    }
}

impl Detector {
    /// What the detector was built from.
    pub fn config(&self) -> &DetectorConfig {
        match self {
            Detector::FasterRcnn(model) => &model.config,
            Detector::RetinaNet(model) => &model.config,
        }
    }

    /// The backbone and its pyramid.
    pub fn backbone(&self) -> &BackboneWithFpn {
        match self {
            Detector::FasterRcnn(model) => &model.backbone,
            Detector::RetinaNet(model) => &model.backbone,
        }
    }

    /// The detector with feature maps of these numbers.
    pub fn compute_in(mut self, precision: Precision) -> Self {
        let backbone = match &mut self {
            Detector::FasterRcnn(model) => &mut model.backbone,
            Detector::RetinaNet(model) => &mut model.backbone,
        };
        backbone.body.precision = precision;
        self
    }

    /// The detector with this backbone, for example a pretrained one, frozen as the config says.
    pub fn with_backbone(self, body: Backbone) -> Self {
        match self {
            Detector::FasterRcnn(model) => Detector::FasterRcnn(model.with_backbone(body)),
            Detector::RetinaNet(model) => Detector::RetinaNet(model.with_backbone(body)),
        }
    }

    /// Trains together with the other processes of `group`: a batch is then this process's part of theirs (see
    /// [`shares`](scrl_core::data::sampler::shares)), and so are the losses, whose sum over the ranks is that of the whole batch.
    pub fn over(self, group: &Group) -> Self {
        match self {
            Detector::FasterRcnn(model) => Detector::FasterRcnn(model.over(group)),
            Detector::RetinaNet(model) => Detector::RetinaNet(model.over(group)),
        }
    }

    /// The losses of one batch.
    ///
    /// `images` are normalised and padded at the right and bottom to a multiple of 32, `[N, 3, H, W]`; `sizes` are the
    /// images' own. `rng` chooses what takes part, where the architecture samples.
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
        match self {
            Detector::FasterRcnn(model) => model.forward_train(images, sizes, targets, rng),
            Detector::RetinaNet(model) => model.forward_train(images, targets),
        }
    }

    /// The objects in each image, best first; see [`Self::forward_train`] for the inputs.
    ///
    /// Call it on a model without autodiff (`model.valid()`): on an autodiff device batch norms would train.
    ///
    /// # Panics
    /// When there are not as many sizes as images.
    pub fn detect(&self, images: Tensor<4>, sizes: &[Size]) -> Vec<Vec<Detection>> {
        match self {
            Detector::FasterRcnn(model) => model.detect(images, sizes),
            Detector::RetinaNet(model) => model.detect(images, sizes),
        }
    }
}
