//! The detector, part by part and as a whole: against torchvision, against detectron2's definitions, and in training.

mod anchors;
mod box_coder;
mod box_head;
mod detectron2;
#[path = "../../../ops/tests/support/device.rs"]
mod device;
mod fasterrcnn_resnet50_fpn;
mod fpn;
mod group;
mod losses;
mod maskrcnn_resnet50_fpn;
mod matcher;
mod normalization;
mod pooler;
mod postprocess;
#[cfg(feature = "wgpu")]
mod reads;
mod retinanet_resnet50_fpn;
mod rpn;
mod sampler;
mod small_detector;
mod state_dict;
mod support;
mod training;
