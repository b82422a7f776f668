//! Weight files: the backbone that pretraining hands to transfer, and torchvision's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::Device;

use super::error::CheckpointError;
pub use super::metadata::BackboneMetadata;
use super::{pytorch, safetensors};
use crate::engine::atomic;
use crate::models::parameters::{self, LoadReport, TensorMap};
use crate::models::{Arch, ResNet, ResNetConfig};
use crate::random;

/// Writes a backbone, running statistics included, with torchvision's keys.
pub fn save_backbone(
    path: &Path,
    backbone: &ResNet,
    metadata: &BackboneMetadata,
) -> Result<(), CheckpointError> {
    write_safetensors(path, &parameters::collect(backbone), &metadata.to_map())
}

/// Reads a backbone from a `.safetensors`, `.pth` or `.pt` file, or from a run directory.
///
/// A file without this program's metadata must have torchvision's keys; depth and width are inferred from
/// them, `fc.*` and `num_batches_tracked` are left out, and a prefix common to the network's keys (`module.`,
/// `state_dict.`) is taken off. Whatever else is missing, left over or of another shape is an error.
pub fn load_backbone(
    path: &Path,
    device: &Device,
) -> Result<(ResNet, ResNetConfig, BackboneMetadata), CheckpointError> {
    let path = &weights_file(path)?;
    let (mut tensors, metadata) = read_tensors(path)?;
    let format = |problem: String| CheckpointError::format(path, problem);
    let metadata = match BackboneMetadata::from_map(&metadata).map_err(format)? {
        Some(metadata) => metadata,
        None => {
            tensors = without_prefix(tensors, path);
            drop_ignored(&mut tensors, path);
            BackboneMetadata::unknown(infer_config(&tensors).map_err(format)?)
        }
    };
    let config = ResNetConfig { arch: metadata.arch, width: metadata.width };
    // The initial values are replaced to the last one, or the load fails.
    let initial = config.init(&mut random::stream(0, &[]), device);
    let (backbone, report) = parameters::load(initial, &tensors);
    if !report.is_complete() {
        return Err(CheckpointError::Mismatch {
            path: path.clone(),
            arch: config.arch.name(),
            width: config.width,
            problem: describe(&report),
        });
    }
    Ok((backbone, config, metadata))
}

/// Writes float tensors and metadata as safetensors (f32, little endian), replacing the file in one go.
pub fn write_safetensors(
    path: &Path,
    tensors: &TensorMap,
    metadata: &BTreeMap<String, String>,
) -> Result<(), CheckpointError> {
    let folder = atomic::parent(path);
    std::fs::create_dir_all(folder).map_err(CheckpointError::write(folder))?;
    atomic::write(path, &safetensors::encode(tensors, metadata)).map_err(CheckpointError::write(path))
}

/// Reads tensors and metadata of a safetensors file. Floats come as f32, integers as they are.
pub fn read_safetensors(path: &Path) -> Result<(TensorMap, BTreeMap<String, String>), CheckpointError> {
    let bytes = std::fs::read(path).map_err(CheckpointError::read(path))?;
    safetensors::decode(&bytes, path)
}

/// Reads tensors of a safetensors file or of a PyTorch state dict (`.pth`, `.pt`), by the file's extension.
///
/// A PyTorch file has no metadata; its nested dicts give dotted keys.
pub fn read_tensors(path: &Path) -> Result<(TensorMap, BTreeMap<String, String>), CheckpointError> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("pth" | "pt") => {
            std::fs::metadata(path).map_err(CheckpointError::read(path))?;
            Ok((pytorch::read(path)?, BTreeMap::new()))
        }
        Some("safetensors") => read_safetensors(path),
        _ => {
            let problem =
                "unsupported weight format; expected a .safetensors, .pth or .pt file or a run directory";
            std::fs::metadata(path).map_err(CheckpointError::read(path))?;
            Err(CheckpointError::format(path, problem))
        }
    }
}

/// The file itself, or a run directory's backbone.
fn weights_file(path: &Path) -> Result<PathBuf, CheckpointError> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let file = path.join("weights").join("backbone.safetensors");
    if file.is_file() {
        return Ok(file);
    }
    let problem =
        "the directory has no weights/backbone.safetensors; give a pretraining run that has saved weights";
    Err(CheckpointError::format(path, problem))
}

/// Takes off what stands before `conv1.weight` where no network lies at the root and one lies deeper.
fn without_prefix(tensors: TensorMap, path: &Path) -> TensorMap {
    let is_root = |prefix: &str| {
        ["bn1.weight", "layer1.0.conv1.weight"]
            .iter()
            .all(|key| tensors.contains_key(&format!("{prefix}{key}")))
    };
    let prefixes: Vec<&str> = tensors
        .keys()
        .filter_map(|key| key.strip_suffix("conv1.weight"))
        .filter(|prefix| is_root(prefix))
        .collect();
    match prefixes[..] {
        [prefix] if !prefix.is_empty() => {
            tracing::info!(path = %path.display(), prefix, "a prefix of the keys is left out");
            let stripped = |key: &String| key.strip_prefix(prefix).unwrap_or(key).to_string();
            tensors.iter().map(|(key, data)| (stripped(key), data.clone())).collect()
        }
        _ => tensors,
    }
}

/// Drops what a backbone does not have: the classifier and PyTorch's batch counters.
fn drop_ignored(tensors: &mut TensorMap, path: &Path) {
    let ignored = |key: &str| key.starts_with("fc.") || key.ends_with("num_batches_tracked");
    let before = tensors.len();
    tensors.retain(|key, _| !ignored(key));
    if tensors.len() < before {
        let count = before - tensors.len();
        tracing::info!(path = %path.display(), count, "the classifier (fc.*) and batch counters are left out");
    }
}

/// Depth and width from torchvision's keys and the stem's shape.
fn infer_config(tensors: &TensorMap) -> Result<ResNetConfig, String> {
    let blocks = [1, 2, 3, 4].map(|stage| {
        let prefix = format!("layer{stage}.");
        let index = |key: &String| key.strip_prefix(&prefix)?.split('.').next()?.parse::<usize>().ok();
        tensors.keys().filter_map(index).collect::<BTreeSet<_>>().len()
    });
    let bottleneck = tensors.contains_key("layer1.0.conv3.weight");
    let arch = match (blocks, bottleneck) {
        ([2, 2, 2, 2], false) => Arch::ResNet18,
        ([3, 4, 6, 3], false) => Arch::ResNet34,
        ([3, 4, 6, 3], true) => Arch::ResNet50,
        ([3, 4, 23, 3], true) => Arch::ResNet101,
        ([0, 0, 0, 0], _) => {
            return Err("it has no keys like torchvision's `layer1.0.conv1.weight`".to_string());
        }
        _ => {
            let kind = if bottleneck { "bottleneck" } else { "basic" };
            return Err(format!("its {blocks:?} {kind} blocks are none of resnet18, 34, 50 and 101"));
        }
    };
    let stem = tensors.get("conv1.weight").ok_or("it has no `conv1.weight`")?;
    match stem.shape().to_vec()[..] {
        [channels, 3, 7, 7] => Ok(ResNetConfig { arch, width: channels as f64 / 64.0 }),
        ref shape => Err(format!("`conv1.weight` has shape {shape:?}, expected [channels, 3, 7, 7]")),
    }
}

/// Up to five keys of each kind that does not fit.
fn describe(report: &LoadReport) -> String {
    let mismatched: Vec<String> = report
        .mismatched
        .iter()
        .map(|(key, expected, found)| format!("{key} {found:?} instead of {expected:?}"))
        .collect();
    [("missing", &report.missing), ("left over", &report.unused), ("of another shape", &mismatched)]
        .into_iter()
        .filter(|(_, keys)| !keys.is_empty())
        .map(|(title, keys)| {
            let more = if keys.len() > 5 { ", …" } else { "" };
            format!("{} {title} ({}{more})", keys.len(), keys[..keys.len().min(5)].join(", "))
        })
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::tensor::{Tensor, TensorData};

    use super::*;

    const SMALL: ResNetConfig = ResNetConfig { arch: Arch::ResNet18, width: 0.25 };

    fn metadata() -> BackboneMetadata {
        BackboneMetadata {
            method: "scrl".to_string(),
            epoch: 12.5,
            image_size: 96,
            mean: [0.1, 0.2, 0.3],
            config_hash: "abc".to_string(),
            ..BackboneMetadata::unknown(SMALL)
        }
    }

    fn images(device: &Device) -> Tensor<4> {
        let values: Vec<f32> = (0..2 * 3 * 32 * 32).map(|i| (i as f32 * 0.37).sin()).collect();
        Tensor::from_data(TensorData::new(values, [2, 3, 32, 32]), device)
    }

    /// The tensors of a fresh network with torchvision's extra keys.
    fn torchvision_tensors(config: ResNetConfig) -> TensorMap {
        let mut tensors = parameters::collect(&config.init(&mut random::stream(1, &[]), &Device::flex()));
        tensors.insert("fc.weight".to_string(), TensorData::new(vec![0.0f32; 4], [2, 2]));
        tensors.insert("bn1.num_batches_tracked".to_string(), TensorData::new(vec![3i64], [1]));
        tensors
    }

    fn write(
        name: &str,
        tensors: &TensorMap,
        metadata: &BTreeMap<String, String>,
    ) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        write_safetensors(&path, tensors, metadata).unwrap();
        (dir, path)
    }

    fn message(path: &Path) -> String {
        load_backbone(path, &Device::flex()).expect_err("this file is refused").to_string()
    }

    #[test]
    fn a_saved_and_loaded_backbone_gives_equal_features_to_the_bit() {
        let training = Device::flex().autodiff();
        let backbone = SMALL.init(&mut random::stream(1, &[]), &training);
        // A training step moves the running statistics, which the file must carry.
        backbone.forward(images(&training)).c5.mean().backward();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/weights/backbone.safetensors");
        save_backbone(&path, &backbone, &metadata()).unwrap();
        let expected = backbone.valid().forward(images(&Device::flex())).c5.into_data();
        for source in [path.clone(), dir.path().join("run")] {
            let (loaded, config, read) = load_backbone(&source, &Device::flex()).unwrap();
            assert_eq!((config, read), (SMALL, metadata()));
            assert_eq!(loaded.forward(images(&Device::flex())).c5.into_data(), expected);
        }
    }

    #[test]
    fn a_loaded_backbone_trains_on_an_autodiff_device() {
        let (_dir, path) = write("w.safetensors", &torchvision_tensors(SMALL), &BTreeMap::new());
        let device = Device::flex().autodiff();
        let backbone = load_backbone(&path, &device).unwrap().0;
        let gradients = backbone.forward(images(&device)).c5.mean().backward();
        assert!(backbone.conv1.weight.val().grad(&gradients).is_some());
    }

    #[test]
    fn depth_and_width_of_a_file_without_metadata_are_inferred() {
        for arch in Arch::ALL {
            let config = ResNetConfig { arch, width: 0.125 };
            assert_eq!(infer_config(&torchvision_tensors(config)), Ok(config));
        }
    }

    #[test]
    fn torchvision_keys_load_without_metadata_and_below_a_prefix() {
        let tensors = torchvision_tensors(SMALL);
        let wrapped = tensors.iter().map(|(key, data)| (format!("module.{key}"), data.clone())).collect();
        for tensors in [&tensors, &wrapped] {
            let (_dir, path) = write("w.safetensors", tensors, &BTreeMap::new());
            let (_, config, read) = load_backbone(&path, &Device::flex()).unwrap();
            assert_eq!((config, read), (SMALL, BackboneMetadata::unknown(SMALL)));
        }
    }

    #[test]
    fn keys_that_do_not_fit_are_named() {
        let mut tensors = torchvision_tensors(SMALL);
        tensors.retain(|key, _| !key.starts_with("layer4.1.bn"));
        tensors.insert("layer9.weight".to_string(), TensorData::new(vec![0.0f32], [1]));
        tensors.insert("bn1.bias".to_string(), TensorData::new(vec![0.0f32; 3], [3]));
        let (_dir, path) = write("w.safetensors", &tensors, &BTreeMap::new());
        let error = message(&path);
        assert!(
            error.contains("does not fit a resnet18 of width 0.25: 8 missing (layer4.1.bn1.weight, "),
            "{error}"
        );
        assert!(
            error.contains(", …); 1 left over (layer9.weight); 1 of another shape (bn1.bias [3]"),
            "{error}"
        );
    }

    #[test]
    fn networks_of_another_kind_are_refused_with_what_was_found() {
        let mut tensors = torchvision_tensors(SMALL);
        tensors.retain(|key, _| !key.starts_with("layer3.1."));
        let (_dir, path) = write("w.safetensors", &tensors, &BTreeMap::new());
        assert!(
            message(&path).contains("its [2, 2, 1, 2] basic blocks are none of resnet18"),
            "{}",
            message(&path)
        );
        let (_dir, path) = write("w.safetensors", &TensorMap::new(), &BTreeMap::new());
        assert!(message(&path).contains("no keys like torchvision's"));
    }

    #[test]
    fn broken_metadata_is_named() {
        let mut map = metadata().to_map();
        map.insert("scrl.width".to_string(), "wide".to_string());
        let (_dir, path) = write("w.safetensors", &TensorMap::new(), &map);
        assert!(message(&path).contains("metadata `scrl.width` is `wide`, expected a number"));
        map.remove("scrl.width");
        let (_dir, path) = write("w.safetensors", &TensorMap::new(), &map);
        assert!(message(&path).contains("metadata `scrl.width` is missing"));
    }

    #[test]
    fn paths_without_weights_are_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(message(dir.path()).contains("has no weights/backbone.safetensors"));
        assert!(message(&dir.path().join("absent.pth")).starts_with("cannot read `"));
        let other = dir.path().join("model.bin");
        std::fs::write(&other, "x").unwrap();
        assert!(message(&other).contains("unsupported weight format"));
        let broken = dir.path().join("broken.pth");
        std::fs::write(&broken, "x").unwrap();
        assert!(message(&broken).contains("is no PyTorch state dict"), "{}", message(&broken));
    }
}
