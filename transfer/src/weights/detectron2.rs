//! Whole detectors of detectron2 (`GeneralizedRCNN` with `StandardROIHeads` and a feature pyramid) under torchvision's keys.
//!
//! detectron2 has the background as the last class, no boxes for it and no mask; here, as in torchvision, it is the first of each.

use burn::tensor::TensorData;
use scrl_core::checkpoint::weights::Layout;
use scrl_core::models::parameters::TensorMap;

/// What the keys of the region proposal network begin with, which tells a detector from a backbone.
const PROPOSALS: &str = "proposal_generator.rpn_head.";

/// The keys of a checkpoint, which may lie in a dictionary `model`.
fn bare(key: &str) -> &str {
    key.strip_prefix("model.").unwrap_or(key)
}

/// Whether tensors are those of such a detector.
pub(super) fn is_detector(tensors: &TensorMap) -> bool {
    tensors.keys().any(|key| bare(key).starts_with(PROPOSALS))
}

/// Its tensors under the keys and in the shapes of this program's detectors; anchors and pixel statistics, which are settings here, are
/// left out. A key that is not known stays as it is.
pub(super) fn to_torchvision(tensors: TensorMap) -> TensorMap {
    let is_setting =
        |key: &str| key.starts_with("pixel_") || key.starts_with("proposal_generator.anchor_generator.");
    let tensors = tensors.into_iter().filter(|(key, _)| !is_setting(bare(key)));
    tensors.map(|(key, data)| convert(bare(&key), data)).collect()
}

fn convert(key: &str, data: TensorData) -> (String, TensorData) {
    let parts: Vec<&str> = key.split('.').collect();
    let name = match parts[..] {
        ["backbone", "bottom_up", ..] => {
            let inside = key.trim_start_matches("backbone.bottom_up.");
            Layout::Detectron2.to_torchvision(inside).map(|name| format!("backbone.body.{name}"))
        }
        ["backbone", block, ref rest @ ..] => pyramid(block, rest),
        ["proposal_generator", "rpn_head", layer, kind] => Some(match layer {
            "conv" => format!("rpn.head.conv.0.0.{kind}"),
            "objectness_logits" => format!("rpn.head.cls_logits.{kind}"),
            "anchor_deltas" => format!("rpn.head.bbox_pred.{kind}"),
            other => format!("rpn.head.{other}.{kind}"),
        }),
        ["roi_heads", "box_head", "fc1", kind] => Some(format!("roi_heads.box_head.fc6.{kind}")),
        ["roi_heads", "box_head", "fc2", kind] => Some(format!("roi_heads.box_head.fc7.{kind}")),
        ["roi_heads", "box_predictor", "cls_score", _] => return (key.into(), last_row_first(&data)),
        ["roi_heads", "box_predictor", "bbox_pred", _] => return (key.into(), zeros_first(&data, 4)),
        ["roi_heads", "mask_head", "deconv", kind] => {
            Some(format!("roi_heads.mask_predictor.conv5_mask.{kind}"))
        }
        ["roi_heads", "mask_head", "predictor", kind] => {
            return (format!("roi_heads.mask_predictor.mask_fcn_logits.{kind}"), zeros_first(&data, 1));
        }
        // `mask_fcn1` and so on are also torchvision's former names.
        _ => None,
    };
    (name.unwrap_or_else(|| key.to_string()), data)
}

/// `fpn_lateral2` and `fpn_output2` are the first blocks of their kind.
fn pyramid(block: &str, rest: &[&str]) -> Option<String> {
    let kinds = [("fpn_lateral", "inner_blocks"), ("fpn_output", "layer_blocks")];
    let (level, name) =
        kinds.into_iter().find_map(|(prefix, name)| Some((block.strip_prefix(prefix)?, name)))?;
    let place = level.parse::<usize>().ok()?.checked_sub(2)?;
    match rest {
        ["norm", leaf] => Some(format!("backbone.fpn.{name}.{place}.1.{leaf}")),
        [leaf] => Some(format!("backbone.fpn.{name}.{place}.0.{leaf}")),
        _ => None,
    }
}

/// The numbers of each row, of `rows` in all.
fn rows(data: &TensorData) -> (Vec<f32>, usize) {
    let values: Vec<f32> = data.iter::<f32>().collect();
    let count = data.shape()[0].max(1);
    let length = values.len() / count;
    (values, length)
}

fn last_row_first(data: &TensorData) -> TensorData {
    let (mut values, length) = rows(data);
    values.rotate_right(length);
    TensorData::new(values, data.shape().to_vec())
}

fn zeros_first(data: &TensorData, count: usize) -> TensorData {
    let (values, length) = rows(data);
    let mut shape = data.shape().to_vec();
    shape[0] += count;
    TensorData::new([vec![0.0; count * length], values].concat(), shape)
}
