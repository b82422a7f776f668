//! A whole detector under another program's keys.

use std::collections::BTreeMap;
use std::path::Path;

use scrl_core::checkpoint::weights::{
    Layout, check_finite, detectron2_settings, read_tensors, reversed_channels,
};
use scrl_core::models::parameters::TensorMap;

use super::torchvision::torchvision_tensor;
use super::{DetectorMetadata, detector_file, detectron2, holds_detector, json};
use crate::data::Preprocessing;
use crate::error::TransferError;

/// What torchvision's keys of a detector begin with.
const OWN_KEYS: [&str; 5] = ["backbone.body.", "backbone.fpn.", "rpn.head.", "roi_heads.", "head."];

/// A whole detector's tensors on their way to another program.
#[derive(Clone, Debug)]
pub struct DetectorTensors {
    /// Whose keys the file has: torchvision's, which are also this program's, or detectron2's.
    pub found: Layout,
    /// Under the keys of the layout that was asked for.
    pub tensors: TensorMap,
    /// Every tensor's key in the file and the one that it gets.
    pub renamed: Vec<(String, String)>,
    /// Keys of what is not a weight: batch counters, anchors, pixel statistics.
    pub left_out: Vec<String>,
    /// Keys that are none of a detector's, or have no name in the layout.
    pub unused: Vec<String>,
    /// Of the file to write.
    pub metadata: BTreeMap<String, String>,
}

/// Reads a detector from a weight file or a transfer run's directory, under the keys of `layout` (torchvision's or detectron2's).
///
/// detectron2 has the background as the last class and no box or mask of it, torchvision has it as the first: rows are moved, added
/// with zeros, or left out. With `bgr` the weights are those for BGR images, and the stem's input channels are reversed.
///
/// # Errors
/// When the file cannot be read or is not a whole detector, or a value is NaN or infinite.
pub fn convert_detector(path: &Path, layout: Layout, bgr: bool) -> Result<DetectorTensors, TransferError> {
    let file = detector_file(path);
    let (tensors, metadata) = read_tensors(&file)?;
    check_finite(&file, &tensors)?;
    if !holds_detector(&tensors, &metadata) {
        let reason = "a whole detector: it has neither a region proposal network nor RetinaNet's heads; leave out --detector to \
                      convert its backbone"
            .to_string();
        return Err(TransferError::Detector { path: file, reason });
    }
    let foreign = detectron2::is_detector(&tensors);
    let found = if foreign { Layout::Detectron2 } else { Layout::Torchvision };
    let mut converted = DetectorTensors {
        found,
        tensors: TensorMap::new(),
        renamed: Vec::new(),
        left_out: Vec::new(),
        unused: Vec::new(),
        metadata,
    };
    let own = |key: &str| OWN_KEYS.iter().any(|prefix| key.starts_with(prefix));
    for (source, data) in tensors {
        let Some((key, mut data)) = torchvision_tensor(foreign, &source, data) else {
            converted.left_out.push(source);
            continue;
        };
        if bgr && key == "backbone.body.conv1.weight" {
            data = reversed_channels(&data);
        }
        let named = match layout {
            Layout::Detectron2 => detectron2::from_torchvision(&key, &data),
            _ => own(&key).then_some((key, data)),
        };
        match named {
            Some((key, data)) => {
                converted.renamed.push((source, key.clone()));
                converted.tensors.insert(key, data);
            }
            None => converted.unused.push(source),
        }
    }
    converted.metadata = described(layout, &converted.metadata);
    Ok(converted)
}

/// What the written file says of itself: all that the read one does, or for detectron2 the settings that it needs.
fn described(layout: Layout, metadata: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut map = match (layout, DetectorMetadata::from_map(metadata)) {
        (Layout::Detectron2, Ok(detector)) => {
            let Preprocessing { mean, std, .. } = detector.preprocessing;
            let names: Vec<&str> =
                detector.categories.iter().map(|category| category.name.as_str()).collect();
            let mut map = detectron2_settings(detector.config.resnet().arch, mean, std);
            map.insert("detectron2.classes".into(), json(&names));
            map
        }
        (Layout::Detectron2, Err(_)) => BTreeMap::new(),
        _ => metadata.clone(),
    };
    map.insert("scrl.layout".into(), layout.name().into());
    map
}
