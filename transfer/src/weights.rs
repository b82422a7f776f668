//! The detector's weight file, and the weights that a run starts from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::data::Category;
use burn::tensor::Device;
use scrl_core::checkpoint::CheckpointError;
use scrl_core::checkpoint::weights::{check_finite, load_backbone, read_tensors, write_safetensors};
use scrl_core::models::parameters::{self, LoadReport, TensorMap};
use scrl_core::random::stream;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::TransferConfig;
use crate::data::Preprocessing;
use crate::detection::{Architecture, Detector, DetectorConfig};
use crate::error::TransferError;

mod convert;
mod detectron2;
mod torchvision;

pub use convert::{DetectorTensors, convert_detector};
use torchvision::torchvision_tensors;

/// Name of the detector in a run's `weights` folder.
pub const DETECTOR_FILE: &str = "detector.safetensors";

/// Value of the metadata key `scrl.kind`.
const KIND: &str = "detector";

/// The purpose of the random stream of initial weights.
const INIT: u64 = u64::from_be_bytes(*b"det_init");

/// What a run starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitWeights {
    /// Nothing: detectron2's random initialisation.
    Random,
    /// A pretrained backbone; pyramid and heads are random. A weight file or a pretraining run's directory.
    Backbone(PathBuf),
    /// A whole detector, of the same or other classes. A weight file or a transfer run's directory.
    Detector(PathBuf),
}

impl InitWeights {
    /// From the text of `--init`: `random`, or a path whose content says what it is.
    ///
    /// # Errors
    /// When the path cannot be read.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        if text == "random" {
            return Ok(Self::Random);
        }
        let path = PathBuf::from(text);
        let in_run = path.join("weights").join(DETECTOR_FILE);
        if in_run.is_file() {
            return Ok(Self::Detector(path));
        }
        if path.is_dir() {
            return Ok(Self::Backbone(path));
        }
        let (tensors, metadata) = read_tensors(&path)?;
        let detector = holds_detector(&tensors, &metadata);
        Ok(if detector { Self::Detector(path) } else { Self::Backbone(path) })
    }

    /// For reports: `random`, or the path.
    pub fn describe(&self) -> String {
        match self {
            Self::Random => "random".into(),
            Self::Backbone(path) | Self::Detector(path) => path.display().to_string(),
        }
    }
}

/// A new detector, on `device`, with these weights.
///
/// # Errors
/// When the weights cannot be read or are of another network than the config's, or random layers are frozen.
pub fn init_detector(
    config: &TransferConfig,
    init: &InitWeights,
    device: &Device,
) -> Result<Detector, TransferError> {
    if *init == InitWeights::Random {
        config.check_random_init()?;
    }
    let model = config.model.init(&mut stream(config.seed, &[INIT]), device);
    match init {
        InitWeights::Random => Ok(model),
        InitWeights::Backbone(path) => with_backbone(model, config, path, device),
        InitWeights::Detector(path) => with_detector(model, path),
    }
}

fn with_backbone(
    model: Detector,
    config: &TransferConfig,
    path: &Path,
    device: &Device,
) -> Result<Detector, TransferError> {
    let (backbone, found, metadata) = load_backbone(path, device)?;
    let expected = config.model.resnet();
    // Widths that round to the same number of channels are one network.
    if (found.arch, found.stem_channels()) != (expected.arch, expected.stem_channels()) {
        return Err(TransferError::Backbone { path: path.to_path_buf(), found, expected });
    }
    if (metadata.mean, metadata.std) != (config.mean, config.std) {
        tracing::warn!(
            pretraining = ?(metadata.mean, metadata.std), transfer = ?(config.mean, config.std),
            "the backbone was pretrained with another normalisation; set mean and std to its values"
        );
    }
    tracing::info!(path = %path.display(), method = metadata.method, epoch = metadata.epoch, "backbone loaded");
    Ok(model.with_backbone(backbone))
}

/// Takes over a detector's tensors; the predictor of other classes stays random.
fn with_detector(model: Detector, path: &Path) -> Result<Detector, TransferError> {
    let file = detector_file(path);
    let tensors = torchvision_tensors(read_tensors(&file)?.0);
    let architecture = model.config().architecture;
    let (model, report) = parameters::load(model, &tensors);
    let of_classes =
        |(key, ..): &(String, _, _)| architecture.class_layers().iter().any(|layer| key.starts_with(layer));
    if !report.missing.is_empty() || !report.unused.is_empty() || !report.mismatched.iter().all(of_classes) {
        return Err(TransferError::Detector { path: file, reason: explain(&report, architecture) });
    }
    if !report.mismatched.is_empty() {
        tracing::info!("the detector has other classes: its box predictor starts from random weights");
    }
    Ok(model)
}

/// How many keys an error names of each kind.
const NAMED_KEYS: usize = 3;

fn explain(report: &LoadReport, architecture: Architecture) -> String {
    let list = |keys: Vec<String>| match keys.len() {
        0 => "none".to_string(),
        count if count <= NAMED_KEYS => keys.join(", "),
        count => format!("{} and {} more", keys[..NAMED_KEYS].join(", "), count - NAMED_KEYS),
    };
    let quoted = |keys: &[String]| list(keys.iter().map(|key| format!("`{key}`")).collect());
    let shape = |(key, model, file): &(String, Vec<usize>, Vec<usize>)| {
        format!("`{key}` ({file:?}, expected {model:?})")
    };
    let of_classes =
        |(key, ..): &(String, _, _)| architecture.class_layers().iter().any(|layer| key.starts_with(layer));
    let rows = match architecture {
        _ if !report.mismatched.iter().any(of_classes) => "",
        Architecture::FasterRcnn | Architecture::MaskRcnn => {
            "; the box predictor has one row for the background and one a class"
        }
        Architecture::RetinaNet => {
            "; the classifier has a row for each class and anchor, and none for the background"
        }
    };
    format!(
        "a {}: missing: {}; left over: {}; of another shape: {}{rows}",
        architecture.title(),
        quoted(&report.missing),
        quoted(&report.unused),
        list(report.mismatched.iter().map(shape).collect()),
    )
}

/// The config's detector with the tensors of a state dict with torchvision's keys, on `device`: a `.pth` or safetensors
/// file, or a transfer run's directory.
///
/// Every tensor of the detector must be in the file and every tensor of the file in the detector, but for batch norms'
/// `num_batches_tracked`. The file says nothing about `config`, whose `num_classes` does not count the background.
///
/// # Errors
/// When the file cannot be read, or keys or shapes do not fit; the message names them.
pub fn load_state_dict(
    path: &Path,
    config: &DetectorConfig,
    device: &Device,
) -> Result<Detector, TransferError> {
    config.validate()?;
    let file = detector_file(path);
    let tensors = torchvision_tensors(read_tensors(&file)?.0);
    let model = config.init(&mut stream(0, &[INIT]), device);
    restore(model, &tensors).map_err(|reason| TransferError::Detector { path: file, reason })
}

/// What a detector's weight file says about it.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectorMetadata {
    /// What defines the detector.
    pub config: DetectorConfig,
    /// Names and original ids of the classes, in the order of the detector's class indices.
    pub categories: Vec<Category>,
    /// How its input is to be prepared.
    pub preprocessing: Preprocessing,
}

/// A detector read from a file.
#[derive(Clone, Debug)]
pub struct LoadedDetector {
    /// The detector.
    pub model: Detector,
    /// What its file says of it.
    pub metadata: DetectorMetadata,
}

/// Writes a detector's tensors under torchvision's keys, with its metadata.
///
/// # Errors
/// When a value is NaN or infinite, or the file cannot be written.
pub fn save_detector(
    path: &Path,
    model: &Detector,
    metadata: &DetectorMetadata,
) -> Result<(), CheckpointError> {
    let tensors = parameters::collect(model);
    check_finite(path, &tensors)?;
    write_safetensors(path, &tensors, &metadata.to_map())
}

/// Reads a detector from a weight file or a transfer run's directory, onto `device`.
///
/// # Errors
/// When the file cannot be read, was not written by [`save_detector`], or lacks tensors.
pub fn load_detector(path: &Path, device: &Device) -> Result<LoadedDetector, TransferError> {
    let file = detector_file(path);
    let (tensors, map) = read_tensors(&file)?;
    let wrong = |reason: String| TransferError::Detector { path: file.clone(), reason };
    let metadata = DetectorMetadata::from_map(&map).map_err(&wrong)?;
    metadata.config.validate()?;
    check_finite(&file, &tensors)?;
    let model = metadata.config.init(&mut stream(0, &[INIT]), device);
    Ok(LoadedDetector { model: restore(model, &tensors).map_err(wrong)?, metadata })
}

/// The model with exactly these tensors, or what does not fit.
pub(crate) fn restore(model: Detector, tensors: &TensorMap) -> Result<Detector, String> {
    let architecture = model.config().architecture;
    let (model, report) = parameters::load(model, tensors);
    if report.is_complete() { Ok(model) } else { Err(explain(&report, architecture)) }
}

fn detector_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("weights").join(DETECTOR_FILE) } else { path.to_path_buf() }
}

/// Whether a file is a whole detector of this program, torchvision or detectron2.
fn holds_detector(tensors: &TensorMap, metadata: &BTreeMap<String, String>) -> bool {
    let has = |prefix: &str| tensors.keys().any(|key| key.starts_with(prefix));
    let heads = Architecture::ALL.into_iter().any(|architecture| has(architecture.heads()));
    is_detector(metadata) || (heads && has("backbone.body.")) || detectron2::is_detector(tensors)
}

fn is_detector(metadata: &BTreeMap<String, String>) -> bool {
    metadata.get("scrl.kind").is_some_and(|kind| kind == KIND)
}

impl DetectorMetadata {
    fn to_map(&self) -> BTreeMap<String, String> {
        let categories: Vec<(u64, &str)> = self.categories.iter().map(|c| (c.id, c.name.as_str())).collect();
        let entries = [
            ("kind", KIND.to_string()),
            ("config", json(&self.config)),
            ("categories", json(&categories)),
            ("preprocessing", json(&self.preprocessing)),
        ];
        entries.into_iter().map(|(key, value)| (format!("scrl.{key}"), value)).collect()
    }

    fn from_map(map: &BTreeMap<String, String>) -> Result<Self, String> {
        if !is_detector(map) {
            return Err("it has no metadata of a detector; it was not written by a transfer run".into());
        }
        let categories: Vec<(u64, String)> = entry(map, "categories")?;
        Ok(Self {
            config: entry(map, "config")?,
            categories: categories.into_iter().map(|(id, name)| Category { id, name }).collect(),
            preprocessing: entry(map, "preprocessing")?,
        })
    }
}

/// Plain structs with string keys always have a JSON form.
fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn entry<T: DeserializeOwned>(map: &BTreeMap<String, String>, key: &str) -> Result<T, String> {
    let text = map.get(&format!("scrl.{key}")).ok_or_else(|| format!("its metadata has no `scrl.{key}`"))?;
    serde_json::from_str(text).map_err(|e| format!("its metadata `scrl.{key}` cannot be understood: {e}"))
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    #[test]
    fn of_a_foreign_detector_the_backbone_is_taken_and_of_torchvisions_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("detector.safetensors");
        let init = |body: &str| {
            let keys = [format!("{body}.conv1.weight"), "roi_heads.box_head.fc6.weight".to_string()];
            let tensors = keys.map(|key| (key, TensorData::new(vec![0.0f32], [1]))).into();
            write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
            InitWeights::parse(path.to_str().unwrap()).unwrap()
        };
        assert_eq!(init("backbone.body"), InitWeights::Detector(path.clone()));
        assert_eq!(init("backbone.bottom_up.stem"), InitWeights::Backbone(path.clone()));
        assert_eq!(init("backbone"), InitWeights::Backbone(path.clone()));
    }
}
