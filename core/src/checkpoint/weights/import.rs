//! A backbone out of a file of any layout, with an account of every key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;

use super::super::error::CheckpointError;
use super::super::metadata::BackboneMetadata;
use super::check_finite;
use super::layout::Layout;
use super::read::{read_tensors, weights_file};
use super::report::{KeyReport, ShapeMismatch};
use super::shapes::{Shapes, expected_shapes, infer_arch, infer_width};
use crate::models::parameters::TensorMap;
use crate::models::{Arch, ResNetConfig};

/// What the caller knows about a file that the file itself does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// The network's depth; `None` infers it from the tensors.
    pub arch: Option<Arch>,
    /// What stands before the network's keys, where a file holds several networks, for example `module.encoder_q.`.
    pub prefix: Option<String>,
    /// The weights expect blue, green, red: the stem's input channels are reversed.
    pub bgr: bool,
}

/// A backbone read from a file.
#[derive(Clone, Debug)]
pub struct Import {
    /// The file, also where a run directory was given.
    pub path: PathBuf,
    /// The network.
    pub config: ResNetConfig,
    /// What the file says about itself, or what is assumed.
    pub metadata: BackboneMetadata,
    /// Whether this program wrote the metadata.
    pub has_metadata: bool,
    /// How the file names tensors.
    pub layout: Layout,
    /// What stood before the network's keys.
    pub prefix: String,
    /// The tensors that fit, under torchvision's keys.
    pub tensors: TensorMap,
    /// What became of every key.
    pub report: KeyReport,
}

impl Import {
    /// The import itself where every tensor of the network is there and nothing of it is left over.
    ///
    /// # Errors
    /// Names the keys that do not fit.
    pub fn complete(self) -> Result<Self, CheckpointError> {
        if self.report.is_complete() {
            return Ok(self);
        }
        Err(CheckpointError::Mismatch {
            path: self.path,
            arch: self.config.arch.name(),
            width: self.config.width,
            problem: self.report.problem(),
        })
    }

    /// Logs where the tensors come from and what was left out.
    pub fn log(&self) {
        let report = &self.report;
        tracing::info!(
            "weights `{}`: {} of width {}, {} layout, prefix `{}`: {} tensors matched, {} missing, {} of another \
             shape, {} left over; left out: {} of the classifier, {} batch counters, {} outside the backbone",
            self.path.display(),
            self.config.arch,
            self.config.width,
            self.layout.name(),
            self.prefix,
            report.matched.len(),
            report.missing.len(),
            report.mismatched.len(),
            report.unused.len(),
            report.classifier.len(),
            report.counters.len(),
            report.outside.len(),
        );
        if self.may_be_bgr() {
            tracing::warn!(
                "`{}` has detectron2's keys and no metadata: if it was trained on BGR images (detectron2's default), \
                 convert it first with `scrl convert --bgr`",
                self.path.display()
            );
        }
    }

    /// Whether the file is of a program whose images are blue, green, red by default.
    pub fn may_be_bgr(&self) -> bool {
        self.layout == Layout::Detectron2 && !self.has_metadata
    }
}

/// Reads a backbone from a safetensors or PyTorch file, or from a run directory, and accounts for every key.
///
/// Layout and prefix are found by the keys: torchvision's and detectron2's names, the official SCRL code's numbered
/// children, below any prefix (`module.`, `state_dict.`, `backbone.bottom_up.`, `online_network_state_dict.encoder.`).
/// Of several networks the one that is not a moving average is taken. Depth and width are inferred from the tensors and
/// compared with the metadata. A partial fit is not an error here: see [`Import::complete`].
///
/// # Errors
/// When the file cannot be read, holds no ResNet or several, or is of another depth than asked for.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Import, CheckpointError> {
    let path = weights_file(path)?;
    let (tensors, map) = read_tensors(&path)?;
    let format = |problem: String| CheckpointError::format(&path, problem);
    let metadata = BackboneMetadata::from_map(&map).map_err(format)?;
    let has_metadata = metadata.is_some();
    let (layout, prefix) = find_network(&tensors, options.prefix.as_deref()).map_err(format)?;
    let network = Network::split(tensors, layout, &prefix);
    let config = network.config(&path, options.arch, metadata.as_ref())?;
    let metadata = match metadata {
        Some(metadata) => metadata,
        None => BackboneMetadata::of_detector(config, &map)
            .map_err(format)?
            .unwrap_or_else(|| BackboneMetadata::unknown(config)),
    };
    let (mut tensors, report) = network.fit(config).map_err(format)?;
    if options.bgr
        && let Some(stem) = tensors.get_mut("conv1.weight")
    {
        *stem = reversed_channels(stem);
    }
    check_finite(&path, &tensors)?;
    Ok(Import { config, metadata, has_metadata, layout, prefix, tensors, report, path })
}

/// The layout and the prefix of the network to take.
fn find_network(tensors: &TensorMap, wanted: Option<&str>) -> Result<(Layout, String), String> {
    let wanted = wanted.map(|prefix| prefix.trim_end_matches('.'));
    let mut found: Vec<(Layout, &str)> = Layout::ALL
        .into_iter()
        .flat_map(|layout| {
            tensors.keys().filter_map(move |key| Some((layout, key.strip_suffix(layout.anchor())?)))
        })
        .filter(|(_, prefix)| prefix.is_empty() || prefix.ends_with('.'))
        .filter(|(_, prefix)| wanted.is_none_or(|wanted| prefix.trim_end_matches('.') == wanted))
        .collect();
    if found.len() > 1 && found.iter().any(|(_, prefix)| !is_moving_average(prefix)) {
        found.retain(|(_, prefix)| !is_moving_average(prefix));
    }
    match (&found[..], wanted) {
        ([(layout, prefix)], _) => Ok((*layout, prefix.to_string())),
        ([], Some(wanted)) => {
            Err(format!("it has no ResNet below the prefix `{wanted}`; {}", some_keys(tensors)))
        }
        ([], None) => Err(format!(
            "it has no keys like torchvision's `layer1.0.conv1.weight`, detectron2's `res2.0.conv1.weight` or the \
             official SCRL code's `encoder.4.0.conv1.weight`; {}",
            some_keys(tensors)
        )),
        (several, _) => {
            let prefixes: Vec<String> = several.iter().map(|(_, prefix)| format!("`{prefix}`")).collect();
            Err(format!(
                "it holds several networks, below {}; choose one with `scrl convert --prefix`",
                prefixes.join(" and ")
            ))
        }
    }
}

/// Whether a network is the slowly following copy of another one, by the usual names of such copies.
fn is_moving_average(prefix: &str) -> bool {
    prefix.split('.').any(|part| {
        let named = ["target", "momentum", "teacher"].iter().any(|name| part.contains(name));
        named || part == "encoder_k" || part.split('_').any(|word| word == "ema")
    })
}

fn some_keys(tensors: &TensorMap) -> String {
    let keys: Vec<String> = tensors.keys().take(3).map(|key| format!("`{key}`")).collect();
    match tensors.len() {
        0 => "it holds no tensor at all".to_string(),
        count => format!("its {count} keys start with {}", keys.join(", ")),
    }
}

/// A file's tensors, sorted into what is a ResNet's by name and what is not.
struct Network {
    /// By torchvision's key: the file's key and the tensor.
    named: BTreeMap<String, (String, TensorData)>,
    report: KeyReport,
}

impl Network {
    fn split(tensors: TensorMap, layout: Layout, prefix: &str) -> Self {
        let mut network = Network { named: BTreeMap::new(), report: KeyReport::default() };
        let report = &mut network.report;
        for (key, data) in tensors {
            let Some(local) = key.strip_prefix(prefix) else {
                report.outside.push(key);
                continue;
            };
            if local.ends_with("num_batches_tracked") {
                report.counters.push(key);
                continue;
            }
            match layout.to_torchvision(local) {
                Some(name) if name.starts_with("fc.") => report.classifier.push(key),
                Some(name) => drop(network.named.insert(name, (key, data))),
                None => report.unused.push(key),
            }
        }
        network
    }

    /// Depth and width; what tensors, metadata and the caller say must agree.
    fn config(
        &self,
        path: &Path,
        wanted: Option<Arch>,
        metadata: Option<&BackboneMetadata>,
    ) -> Result<ResNetConfig, CheckpointError> {
        let shapes: Shapes =
            self.named.iter().map(|(name, (_, data))| (name.clone(), data.shape().to_vec())).collect();
        let format = |problem: String| CheckpointError::format(path, problem);
        let inferred = infer_arch(&shapes);
        let width = infer_width(&shapes).map_err(format)?;
        let promised = metadata.map(|metadata| ResNetConfig { arch: metadata.arch, width: metadata.width });
        let other = |expectation, expected, found, fix| {
            Err(CheckpointError::OtherArch { path: path.to_path_buf(), expectation, expected, found, fix })
        };
        if let (Some(wanted), Some(found)) =
            (wanted, inferred.as_ref().ok().or(promised.as_ref().map(|p| &p.arch)))
            && wanted != *found
        {
            let fix = "leave --arch out or give other weights";
            return other("--arch asks for a", wanted.to_string(), found.to_string(), fix);
        }
        if let (Some(promised), Ok(arch)) = (promised, &inferred) {
            let found = ResNetConfig { arch: *arch, width };
            if (found.arch, found.stem_channels()) != (promised.arch, promised.stem_channels()) {
                let fix = "the metadata was edited or belongs to another file; write the file again";
                return other("its metadata promises a", describe(promised), describe(found), fix);
            }
        }
        match (promised, wanted) {
            (Some(promised), _) => Ok(promised),
            (None, Some(arch)) => Ok(ResNetConfig { arch, width }),
            (None, None) => Ok(ResNetConfig { arch: inferred.map_err(format)?, width }),
        }
    }

    /// The tensors that are the network's, by name and shape, and the account of all keys.
    fn fit(self, config: ResNetConfig) -> Result<(TensorMap, KeyReport), String> {
        let Network { mut named, mut report } = self;
        let mut tensors = TensorMap::new();
        for (name, expected) in expected_shapes(config) {
            let Some((key, data)) = named.remove(&name) else {
                report.missing.push(name);
                continue;
            };
            if !data.dtype().is_float() {
                return Err(format!(
                    "tensor `{key}` holds integers, expected floats; give weights that are not quantised"
                ));
            }
            let found = data.shape().to_vec();
            if found == expected {
                report.matched.push((key, name.clone()));
                tensors.insert(name, data);
            } else {
                report.mismatched.push(ShapeMismatch { key: name, expected, found });
            }
        }
        report.unused.extend(named.into_values().map(|(key, _)| key));
        report.unused.sort();
        Ok((tensors, report))
    }
}

fn describe(config: ResNetConfig) -> String {
    format!("{} of width {}", config.arch, config.width)
}

/// `[out, channels, height, width]` with the channels in the other order.
pub fn reversed_channels(weight: &TensorData) -> TensorData {
    let shape = weight.shape().to_vec();
    let values: Vec<f32> = weight.iter().collect();
    let area = shape[2] * shape[3];
    let reversed = values
        .chunks(shape[1] * area)
        .flat_map(|output| output.chunks(area).rev().flatten().copied())
        .collect::<Vec<f32>>();
    TensorData::new(reversed, shape)
}
