//! The weights that a run's backbone starts from.

use std::path::Path;

use burn::tensor::Device;
use scrl_core::checkpoint::weights::{self, BackboneMetadata, ImportOptions};
use scrl_core::models::{Backbone, ResNetConfig};
use scrl_core::transforms::normalize::{IMAGENET_MEAN, IMAGENET_STD};

use crate::config::PretrainConfig;
use crate::error::PretrainError;

/// Checks, before a run is opened, that `--init` holds every tensor of the configured backbone.
///
/// # Errors
/// When the file cannot be read, lacks tensors, or is of another depth or width.
pub fn check_init(path: &Path, settings: &PretrainConfig) -> Result<(), PretrainError> {
    let import = weights::import(path, &ImportOptions::default())?.complete()?;
    check_arch(path, import.config, settings)
}

/// The backbone of a weight file or a run, on `device`; heads are not taken over.
pub(crate) fn load_encoder(
    path: &Path,
    settings: &PretrainConfig,
    device: &Device,
) -> Result<Backbone, PretrainError> {
    let (encoder, found, metadata) = weights::load_backbone(path, device)?;
    check_arch(path, found, settings)?;
    tracing::info!(
        "the backbone starts from `{}` (method {}, epoch {}); heads start from random weights",
        path.display(),
        metadata.method,
        metadata.epoch
    );
    warn_about_preprocessing(path, &metadata);
    Ok(encoder)
}

fn check_arch(path: &Path, found: ResNetConfig, settings: &PretrainConfig) -> Result<(), PretrainError> {
    let expected = settings.model;
    // Widths that round to the same number of channels are one network.
    if (found.arch, found.stem_channels()) == (expected.arch, expected.stem_channels()) {
        return Ok(());
    }
    let name = |config: ResNetConfig| format!("{} of width {}", config.arch, config.width);
    Err(PretrainError::OtherArch { path: path.to_path_buf(), found: name(found), expected: name(expected) })
}

fn warn_about_preprocessing(path: &Path, metadata: &BackboneMetadata) {
    if (metadata.mean, metadata.std) != (IMAGENET_MEAN, IMAGENET_STD) {
        tracing::warn!(
            "`{}` was trained with mean {:?} and std {:?}; this run uses {IMAGENET_MEAN:?} and {IMAGENET_STD:?}",
            path.display(),
            metadata.mean,
            metadata.std
        );
    }
}
