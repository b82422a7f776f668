//! torchvision's keys of a detector, today's and those of its older files.

use burn::tensor::TensorData;
use scrl_core::models::parameters::TensorMap;

use super::detectron2;

/// A state dict's tensors under the names that torchvision gives them today, without the counters of batch norms.
///
/// torchvision's published file of `fasterrcnn_resnet50_fpn` is older than the pyramid's and the head's present keys
/// (torchvision, `ops/feature_pyramid_network.py` and `models/detection/rpn.py::_load_from_state_dict`).
pub(super) fn torchvision_tensors(tensors: TensorMap) -> TensorMap {
    let foreign = detectron2::is_detector(&tensors);
    if foreign {
        tracing::warn!(
            "the detector is detectron2's: it fits a config of the variant `detectron2` whose mean, std and order of channels \
             are those that it was trained with"
        );
    }
    tensors.into_iter().filter_map(|(key, data)| torchvision_tensor(foreign, &key, data)).collect()
}

/// One of them; none of what is not a weight.
pub(super) fn torchvision_tensor(
    detectron2: bool,
    key: &str,
    data: TensorData,
) -> Option<(String, TensorData)> {
    let (key, data) = match detectron2 {
        true => detectron2::to_torchvision(key, data)?,
        false => (key.to_string(), data),
    };
    (!key.ends_with(".num_batches_tracked")).then(|| (present_key(key), data))
}

/// The key that torchvision gives a tensor of a detector today.
pub(super) fn present_key(key: String) -> String {
    let parts: Vec<&str> = key.split('.').collect();
    match parts[..] {
        ["rpn", "head", "conv", kind @ ("weight" | "bias")] => format!("rpn.head.conv.0.0.{kind}"),
        [
            "backbone",
            "fpn",
            blocks @ ("inner_blocks" | "layer_blocks"),
            index,
            kind @ ("weight" | "bias"),
        ] => {
            format!("backbone.fpn.{blocks}.{index}.0.{kind}")
        }
        // The mask head's layers once had names (`models/detection/mask_rcnn.py::_load_from_state_dict`).
        ["roi_heads", "mask_head", layer, kind @ ("weight" | "bias")] => {
            match layer.strip_prefix("mask_fcn").and_then(|number| number.parse::<usize>().ok()) {
                Some(number @ 1..) => format!("roi_heads.mask_head.{}.0.{kind}", number - 1),
                _ => key,
            }
        }
        // Its heads once were a list of convolutions and ReLUs in turns (`models/detection/retinanet.py::_v1_to_v2_weights`).
        ["head", head, "conv", index, kind @ ("weight" | "bias")] => match index.parse::<usize>() {
            Ok(index) => format!("head.{head}.conv.{}.0.{kind}", index / 2),
            Err(_) => key,
        },
        _ => key,
    }
}
