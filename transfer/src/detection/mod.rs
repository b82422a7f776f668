//! Faster R-CNN with a feature pyramid (Ren et al., arXiv 1506.01497; Lin et al., arXiv 1612.03144), after
//! detectron2 and, as a variant that differs in numbers alone, after torchvision.
//!
//! N images in the batch, A anchors of one image over all levels, R regions (RoIs) over all images, K foreground
//! classes, C pyramid channels. Boxes are `(x1, y1, x2, y2)` in pixels of the padded input image, whose origin is
//! the image's own. Classes are 0-based foreground classes; inside the box predictor, as in torchvision, column 0 is
//! the background and class k has column k + 1.
//!
//! Networks and losses run on the device. Anchors, matching, sampling, decoding and suppression are a few hundred
//! thousand numbers and run on the host, one image a thread, after one read of the region proposal network's output.

mod anchor_generator;
mod box_coder;
mod config;
mod faster_rcnn;
mod fpn;
mod losses;
mod matcher;
mod pooler;
mod postprocess;
mod precise_bn;
mod proposals;
mod roi_heads;
mod rpn;
mod sampler;

pub use anchor_generator::{AnchorGenerator, Anchors};
pub use box_coder::BoxCoder;
pub use config::{DetectorConfig, DetectorConfigError, LEVELS, Norm, Numerics, Variant};
pub use faster_rcnn::{BackboneWithFpn, FasterRcnn, Losses, Target};
pub use fpn::{ConvNorm, Fpn};
pub use losses::{box_loss, classification_loss, objectness_loss};
pub use matcher::{Match, Matcher};
pub use pooler::{Pooler, Roi};
pub use postprocess::{Detection, detections};
pub use precise_bn::precise_bn;
pub use proposals::ProposalFilter;
pub use roi_heads::{BoxHead, BoxPredictions, BoxPredictor, RoiHeads};
pub use rpn::{Rpn, RpnHead, RpnLosses, RpnPredictions};
pub use sampler::{Sample, Sampler};
