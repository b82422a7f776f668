//! Detectors with a feature pyramid (Lin et al., arXiv 1612.03144): Faster R-CNN (Ren et al., arXiv 1506.01497) after
//! detectron2 and, as a variant that differs only in numbers, after torchvision; RetinaNet (Lin et al., arXiv 1708.02002)
//! after torchvision. [`Detector`] is any of them.
//!
//! N images in the batch, A anchors of one image over all levels, R regions (RoIs) over all images, K foreground
//! classes, C pyramid channels. Boxes are `(x1, y1, x2, y2)` in pixels of the padded input image, whose origin is
//! the image's own. Classes are 0-based foreground classes; inside the box predictor, as in torchvision, column 0 is
//! the background and class k has column k + 1.
//!
//! Networks and losses run on the device. Anchors, matching, sampling, decoding and suppression are a few hundred
//! thousand numbers and run on the host, one image a thread, after one read of the region proposal network's output.

mod anchor_generator;
mod backbone;
mod box_coder;
mod config;
mod detector;
mod faster_rcnn;
mod fpn;
mod host;
mod losses;
mod mask_head;
mod matcher;
mod pooler;
mod postprocess;
mod precise_bn;
mod proposals;
mod retinanet;
mod roi_heads;
mod rpn;
mod sampling;
mod target;

pub use anchor_generator::{AnchorGenerator, Anchors};
pub use backbone::BackboneWithFpn;
pub use box_coder::BoxCoder;
pub use config::{
    AnchorConfig, Architecture, BackboneConfig, DetectorConfig, FpnConfig, LEVELS, Norm, Numerics,
    RetinaNetConfig, RoiHeadsConfig, RpnConfig, TestConfig, Variant,
};
pub use detector::Detector;
pub use faster_rcnn::FasterRcnn;
pub use fpn::{ConvNorm, Fpn, P6P7, Top};
pub use losses::{Losses, box_loss, classification_loss, objectness_loss};
pub use mask_head::{MASK_SIDE, MaskPredictor};
pub use matcher::{Match, Matcher};
pub use pooler::{Pooler, Roi};
pub use postprocess::{Detection, detections};
pub use precise_bn::precise_bn;
pub use proposals::ProposalFilter;
pub use retinanet::{
    ClassificationHead, RegressionHead, RetinaNet, RetinaNetHead, RetinaNetPredictions, retinanet_detections,
};
pub use roi_heads::{BoxHead, BoxPredictions, BoxPredictor, RoiHeads};
pub use rpn::{Rpn, RpnHead, RpnLosses, RpnPredictions};
pub use sampling::{SampledIndices, Sampler};
pub use target::Target;
