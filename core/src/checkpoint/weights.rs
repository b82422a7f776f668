//! Weight files: the backbone that pretraining hands to transfer, and those of torchvision, detectron2, MoCo and the
//! official SCRL code.

mod import;
mod layout;
mod read;
mod report;
mod shapes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use sha2::{Digest, Sha256};

use super::error::CheckpointError;
pub use super::metadata::BackboneMetadata;
use super::{numpy_pickle, safetensors};
use crate::config::hex;
use crate::engine::atomic;
use crate::models::Arch;
use crate::models::parameters::{self, TensorMap};
use crate::models::{Backbone, ResNetConfig};
use crate::random;

pub use import::{Import, ImportOptions, import, reversed_channels};
pub use layout::Layout;
pub use read::{read_safetensors, read_tensors};
pub use report::{KeyReport, ShapeMismatch};

/// Writes a backbone, running statistics included, with torchvision's keys.
///
/// # Errors
/// When a value is NaN or infinite, or the file cannot be written.
pub fn save_backbone(
    path: &Path,
    backbone: &Backbone,
    metadata: &BackboneMetadata,
) -> Result<(), CheckpointError> {
    write_backbone(path, &parameters::collect(backbone), metadata, Layout::Torchvision)
}

/// Writes a backbone's tensors, given under torchvision's keys, in a layout, with the metadata that its reader needs. A path
/// that ends in `.pkl` becomes a pickle of numpy arrays, which detectron2 reads; others become safetensors.
///
/// # Errors
/// When a key is not one of a ResNet, a value is NaN or infinite, or the file cannot be written.
pub fn write_backbone(
    path: &Path,
    tensors: &TensorMap,
    metadata: &BackboneMetadata,
    layout: Layout,
) -> Result<(), CheckpointError> {
    let rename = |(key, data): (&String, &_)| match layout.key_for(key) {
        Some(name) => Ok((name, TensorData::clone(data))),
        None => {
            Err(CheckpointError::format(path, format!("`{key}` has no name in {}'s layout", layout.name())))
        }
    };
    check_finite(path, tensors)?;
    let renamed: TensorMap = tensors.iter().map(rename).collect::<Result<_, _>>()?;
    let mut map = metadata.to_map();
    map.insert("scrl.layout".to_string(), layout.name().to_string());
    if layout == Layout::Detectron2 {
        map.extend(detectron2_settings(metadata.arch, metadata.mean, metadata.std));
    }
    write_tensors(path, &renamed, &map)
}

/// Writes tensors with their metadata: a path that ends in `.pkl` becomes a pickle of numpy arrays, others become safetensors.
///
/// # Errors
/// When the file cannot be written.
pub fn write_tensors(
    path: &Path,
    tensors: &TensorMap,
    metadata: &BTreeMap<String, String>,
) -> Result<(), CheckpointError> {
    match path.extension().is_some_and(|ending| ending == "pkl") {
        true => write_file(path, &numpy_pickle::encode(tensors, metadata)),
        false => write_safetensors(path, tensors, metadata),
    }
}

/// The settings with which detectron2 must read weights, by their keys in its configuration; `mean` and `std` are per channel of RGB
/// images in `[0, 1]`.
pub fn detectron2_settings(arch: Arch, mean: [f32; 3], std: [f32; 3]) -> BTreeMap<String, String> {
    // In units of 0 to 255; f32 products would show their rounding.
    let pixels = |values: [f32; 3]| format!("{:?}", values.map(|value| (value as f64 * 255e4).round() / 1e4));
    let depth = arch.name().trim_start_matches("resnet");
    let entries = [
        ("INPUT.FORMAT", "RGB".to_string()),
        ("MODEL.PIXEL_MEAN", pixels(mean)),
        ("MODEL.PIXEL_STD", pixels(std)),
        ("MODEL.RESNETS.DEPTH", depth.to_string()),
        ("MODEL.RESNETS.STRIDE_IN_1X1", "False".to_string()),
    ];
    entries.into_iter().map(|(key, value)| (format!("detectron2.{key}"), value)).collect()
}

/// Reads a backbone from a weight file of any layout that [`import`] knows, or from a run directory.
///
/// The classifier, batch counters and whatever lies outside the network are left out and counted in the log. Whatever
/// else is missing, left over or of another shape is an error.
///
/// # Errors
/// When the file cannot be read, holds no ResNet, or lacks tensors of it.
pub fn load_backbone(
    path: &Path,
    device: &Device,
) -> Result<(Backbone, ResNetConfig, BackboneMetadata), CheckpointError> {
    let import = import(path, &ImportOptions::default())?.complete()?;
    import.log();
    // The initial values are replaced to the last one: the import is complete.
    let initial = import.config.init(&mut random::stream(0, &[]), device);
    let (backbone, _) = parameters::load(initial, &import.tensors);
    Ok((backbone, import.config, import.metadata))
}

/// The path of a weight file or run, and the SHA-256 of the file, as `PATH sha256:HEX`.
///
/// # Errors
/// When the file cannot be read.
pub fn identify(path: &Path) -> Result<String, CheckpointError> {
    let file = read::weights_file(path)?;
    let bytes = std::fs::read(&file).map_err(CheckpointError::read(&file))?;
    Ok(format!("{} sha256:{}", path.display(), hex(&Sha256::digest(bytes))))
}

/// Refuses weights that are NaN or infinite, which are worth nothing and make everything that they touch so.
///
/// # Errors
/// Names the first such tensor of the file.
pub fn check_finite(path: &Path, tensors: &TensorMap) -> Result<(), CheckpointError> {
    for (tensor, data) in tensors {
        let count = data.iter::<f32>().filter(|value| !value.is_finite()).count();
        if count > 0 {
            let total = data.num_elements();
            return Err(CheckpointError::NonFinite {
                path: path.into(),
                tensor: tensor.clone(),
                count,
                total,
            });
        }
    }
    Ok(())
}

/// Writes float tensors and metadata as safetensors (f32, little endian), replacing the file in one go.
///
/// # Errors
/// When the file cannot be written.
pub fn write_safetensors(
    path: &Path,
    tensors: &TensorMap,
    metadata: &BTreeMap<String, String>,
) -> Result<(), CheckpointError> {
    write_file(path, &safetensors::encode(tensors, metadata))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let folder = atomic::parent(path);
    std::fs::create_dir_all(folder).map_err(CheckpointError::write(folder))?;
    atomic::write(path, bytes).map_err(CheckpointError::write(path))
}
