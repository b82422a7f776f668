//! What a weight file says about itself, as strings under `scrl.*`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::models::{Arch, ResNetConfig};
use crate::transforms::normalize::{IMAGENET_MEAN, IMAGENET_STD};

/// Order of the colour channels of every network here.
const COLOR_ORDER: &str = "RGB";

/// Pixel values before mean and standard deviation are applied.
const RANGE: &str = "0..1";

/// Where a backbone's weights come from and what images they expect.
#[derive(Clone, Debug, PartialEq)]
pub struct BackboneMetadata {
    /// Depth of the network.
    pub arch: Arch,
    /// Factor on its channels.
    pub width: f64,
    /// `scrl`, `byol`, `supervised`, or `unknown` for files of other programs.
    pub method: String,
    /// Passes over the training data.
    pub epoch: f64,
    /// Side of the training views in pixels.
    pub image_size: u32,
    /// Mean of the normalisation, RGB in `[0, 1]`.
    pub mean: [f32; 3],
    /// Standard deviation of the normalisation, RGB in `[0, 1]`.
    pub std: [f32; 3],
    /// Hash of the configuration that made them; empty for files of other programs.
    pub config_hash: String,
    /// Path and SHA-256 of the weights that the training started from; none for random ones.
    pub init: Option<String>,
}

impl BackboneMetadata {
    /// What is assumed of a file without metadata: ImageNet's normalisation and 224-pixel images.
    pub fn unknown(config: ResNetConfig) -> Self {
        Self {
            arch: config.arch,
            width: config.width,
            method: "unknown".to_string(),
            epoch: 0.0,
            image_size: 224,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
            config_hash: String::new(),
            init: None,
        }
    }

    /// What a detector's file tells of its backbone: the normalisation.
    pub(super) fn of_detector(
        config: ResNetConfig,
        map: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, String> {
        let Some(json) = map.get("scrl.preprocessing") else { return Ok(None) };
        let problem = |error| format!("metadata `scrl.preprocessing` cannot be understood: {error}");
        let preprocessing: Preprocessing = serde_json::from_str(json).map_err(problem)?;
        Ok(Some(Self {
            method: "detector".to_string(),
            mean: preprocessing.mean,
            std: preprocessing.std,
            ..Self::unknown(config)
        }))
    }

    pub(super) fn to_map(&self) -> BTreeMap<String, String> {
        let triple = |values: [f32; 3]| values.map(|value| value.to_string()).join(",");
        let entries = [
            ("arch", self.arch.name().to_string()),
            ("width", self.width.to_string()),
            ("method", self.method.clone()),
            ("epoch", self.epoch.to_string()),
            ("image_size", self.image_size.to_string()),
            ("mean", triple(self.mean)),
            ("std", triple(self.std)),
            ("config_hash", self.config_hash.clone()),
            ("color_order", COLOR_ORDER.to_string()),
            ("range", RANGE.to_string()),
            ("version", env!("CARGO_PKG_VERSION").to_string()),
        ];
        let init = self.init.iter().map(|init| ("init", init.clone()));
        entries.into_iter().chain(init).map(|(key, value)| (format!("scrl.{key}"), value)).collect()
    }

    /// `None` for a file of another program, an error naming the key for a broken entry.
    pub(super) fn from_map(map: &BTreeMap<String, String>) -> Result<Option<Self>, String> {
        if !map.contains_key("scrl.arch") {
            return Ok(None);
        }
        constant(map, "color_order", COLOR_ORDER)?;
        constant(map, "range", RANGE)?;
        let arch = text(map, "arch")?;
        let known = Arch::ALL.into_iter().find(|known| known.name() == arch);
        Ok(Some(Self {
            arch: known.ok_or_else(|| format!("metadata `scrl.arch` has the unknown value `{arch}`"))?,
            width: number(map, "width")?,
            method: text(map, "method")?.to_string(),
            epoch: number(map, "epoch")?,
            image_size: number(map, "image_size")?,
            mean: triple(map, "mean")?,
            std: triple(map, "std")?,
            config_hash: text(map, "config_hash")?.to_string(),
            init: map.get("scrl.init").cloned(),
        }))
    }
}

/// The part of a detector's preprocessing that concerns its backbone.
#[derive(Deserialize)]
struct Preprocessing {
    mean: [f32; 3],
    std: [f32; 3],
}

/// Refuses another value than the one that every network here has; files without the entry pass.
fn constant(map: &BTreeMap<String, String>, key: &str, expected: &str) -> Result<(), String> {
    match map.get(&format!("scrl.{key}")) {
        Some(found) if found != expected => {
            Err(format!("metadata `scrl.{key}` is `{found}`, only `{expected}` is supported"))
        }
        _ => Ok(()),
    }
}

fn text<'a>(map: &'a BTreeMap<String, String>, key: &str) -> Result<&'a str, String> {
    map.get(&format!("scrl.{key}"))
        .map(String::as_str)
        .ok_or_else(|| format!("metadata `scrl.{key}` is missing"))
}

fn number<T: std::str::FromStr>(map: &BTreeMap<String, String>, key: &str) -> Result<T, String> {
    let value = text(map, key)?;
    value.parse().map_err(|_| format!("metadata `scrl.{key}` is `{value}`, expected a number"))
}

fn triple(map: &BTreeMap<String, String>, key: &str) -> Result<[f32; 3], String> {
    let value = text(map, key)?;
    let numbers: Option<Vec<f32>> = value.split(',').map(|part| part.trim().parse().ok()).collect();
    numbers
        .and_then(|numbers| numbers.try_into().ok())
        .ok_or_else(|| format!("metadata `scrl.{key}` is `{value}`, expected three numbers"))
}
