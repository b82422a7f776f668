//! Whole detectors of detectron2 (`GeneralizedRCNN` with `StandardROIHeads` and a feature pyramid) under torchvision's keys, and back.
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

/// Key and form of a tensor in this program's detectors; none of anchors and pixel statistics, which are settings here. A key that is
/// not known stays as it is.
pub(super) fn to_torchvision(key: &str, data: TensorData) -> Option<(String, TensorData)> {
    let key = bare(key);
    let is_setting = key.starts_with("pixel_") || key.starts_with("proposal_generator.anchor_generator.");
    (!is_setting).then(|| convert(key, data))
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

/// The blocks of the pyramid, detectron2's name and torchvision's.
const PYRAMID: [(&str, &str); 2] = [("fpn_lateral", "inner_blocks"), ("fpn_output", "layer_blocks")];

/// `fpn_lateral2` and `fpn_output2` are the first blocks of their kind.
fn pyramid(block: &str, rest: &[&str]) -> Option<String> {
    let (level, name) =
        PYRAMID.into_iter().find_map(|(prefix, name)| Some((block.strip_prefix(prefix)?, name)))?;
    let place = level.parse::<usize>().ok()?.checked_sub(2)?;
    match rest {
        ["norm", leaf] => Some(format!("backbone.fpn.{name}.{place}.1.{leaf}")),
        [leaf] => Some(format!("backbone.fpn.{name}.{place}.0.{leaf}")),
        _ => None,
    }
}

/// detectron2's key and form of a tensor under torchvision's key; none of a key that is not one of such a detector.
pub(super) fn from_torchvision(key: &str, data: &TensorData) -> Option<(String, TensorData)> {
    let parts: Vec<&str> = key.split('.').collect();
    let name = match parts[..] {
        ["backbone", "body", ..] => {
            let inside = key.trim_start_matches("backbone.body.");
            format!("backbone.bottom_up.{}", Layout::Detectron2.key_for(inside)?)
        }
        ["backbone", "fpn", blocks, place, part, leaf] => {
            let name = PYRAMID.iter().find(|(_, name)| *name == blocks)?.0;
            let level = place.parse::<usize>().ok()? + 2;
            match part {
                "0" => format!("backbone.{name}{level}.{leaf}"),
                "1" => format!("backbone.{name}{level}.norm.{leaf}"),
                _ => return None,
            }
        }
        ["rpn", "head", "conv", "0", "0", kind] => format!("proposal_generator.rpn_head.conv.{kind}"),
        ["rpn", "head", "cls_logits", kind] => {
            format!("proposal_generator.rpn_head.objectness_logits.{kind}")
        }
        ["rpn", "head", "bbox_pred", kind] => format!("proposal_generator.rpn_head.anchor_deltas.{kind}"),
        ["roi_heads", "box_head", "fc6", kind] => format!("roi_heads.box_head.fc1.{kind}"),
        ["roi_heads", "box_head", "fc7", kind] => format!("roi_heads.box_head.fc2.{kind}"),
        ["roi_heads", "box_predictor", "cls_score", _] => return Some((key.into(), first_row_last(data))),
        ["roi_heads", "box_predictor", "bbox_pred", _] => return Some((key.into(), without_first(data, 4)?)),
        ["roi_heads", "mask_head", place, "0", kind] => {
            format!("roi_heads.mask_head.mask_fcn{}.{kind}", place.parse::<usize>().ok()? + 1)
        }
        ["roi_heads", "mask_predictor", "conv5_mask", kind] => format!("roi_heads.mask_head.deconv.{kind}"),
        ["roi_heads", "mask_predictor", "mask_fcn_logits", kind] => {
            return Some((format!("roi_heads.mask_head.predictor.{kind}"), without_first(data, 1)?));
        }
        _ => return None,
    };
    Some((name, data.clone()))
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

fn first_row_last(data: &TensorData) -> TensorData {
    let (mut values, length) = rows(data);
    values.rotate_left(length);
    TensorData::new(values, data.shape().to_vec())
}

/// None of a tensor that has no more rows.
fn without_first(data: &TensorData, count: usize) -> Option<TensorData> {
    let (values, length) = rows(data);
    let mut shape = data.shape().to_vec();
    shape[0] = shape[0].checked_sub(count).filter(|rows| *rows > 0)?;
    Some(TensorData::new(values[count * length..].to_vec(), shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key that a Mask R-CNN of detectron2 has one of, with its shape for three classes.
    const KEYS: [(&str, &[usize]); 14] = [
        ("backbone.bottom_up.stem.conv1.weight", &[4, 3, 7, 7]),
        ("backbone.bottom_up.res2.0.shortcut.norm.running_var", &[16]),
        ("backbone.fpn_lateral2.weight", &[8, 16, 1, 1]),
        ("backbone.fpn_lateral5.norm.bias", &[8]),
        ("backbone.fpn_output4.weight", &[8, 8, 3, 3]),
        ("proposal_generator.rpn_head.conv.bias", &[8]),
        ("proposal_generator.rpn_head.objectness_logits.weight", &[3, 8, 1, 1]),
        ("proposal_generator.rpn_head.anchor_deltas.bias", &[12]),
        ("roi_heads.box_head.fc1.weight", &[16, 392]),
        ("roi_heads.box_predictor.cls_score.weight", &[4, 16]),
        ("roi_heads.box_predictor.bbox_pred.bias", &[12]),
        ("roi_heads.mask_head.mask_fcn4.weight", &[8, 8, 3, 3]),
        ("roi_heads.mask_head.deconv.weight", &[8, 8, 2, 2]),
        ("roi_heads.mask_head.predictor.weight", &[3, 8, 1, 1]),
    ];

    #[test]
    fn the_way_to_torchvision_and_back_keeps_every_tensor() {
        let tensor = |shape: &[usize]| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|index| index as f32).collect();
            TensorData::new(values, shape.to_vec())
        };
        let theirs: TensorMap = KEYS.iter().map(|(key, shape)| (key.to_string(), tensor(shape))).collect();
        let convert = |(key, data): (&String, &TensorData)| {
            let (key, data) = to_torchvision(key, data.clone())?;
            Some((super::super::torchvision::present_key(key), data))
        };
        let ours: TensorMap = theirs.iter().filter_map(convert).collect();
        assert_eq!(ours.len(), theirs.len());
        assert_eq!(ours["roi_heads.box_predictor.bbox_pred.bias"].shape().to_vec(), [16]);
        let back: TensorMap = ours
            .iter()
            .map(|(key, data)| from_torchvision(key, data).unwrap_or_else(|| panic!("{key}")))
            .collect();
        assert_eq!(back, theirs);
        assert!(to_torchvision("model.pixel_mean", tensor(&[3])).is_none());
        assert!(from_torchvision("roi_heads.box_predictor.bbox_pred.bias", &tensor(&[4])).is_none());
        assert!(from_torchvision("head.regression_head.conv.0.0.weight", &tensor(&[1])).is_none());
    }
}
