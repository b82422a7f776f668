//! A detector's feature pyramid as an ONNX file: backbone and FPN.
//!
//! Input `images` as of [`backbone`](crate::backbone), outputs [`level_names`]: `[batch, channels, ⌈height/s⌉, ⌈width/s⌉]`
//! with s = 4 to 64, or 8 to 128.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use scrl_transfer::detection::{BackboneWithFpn, Detector};

use crate::ExportError;
use crate::backbone::{ExportOptions, ExportReport, OutputTensor};
use crate::detector::{DetectorInfo, DetectorOptions, pyramid};
use crate::graph::{self, Dim, Element, Graph, ModelInfo};
use crate::validation::backbone::{Comparison, ImageSettings, ValidationInputs, ValidationReport};

/// The outputs of a detector's pyramid, the finest level first: `p2` to `p6`, or `p3` to `p7` for RetinaNet.
pub fn level_names(model: &BackboneWithFpn) -> Vec<&'static str> {
    let names = ["p2", "p3", "p4", "p5", "p6", "p7"];
    let first = scrl_core::models::Level::ALL.len() - model.fpn.inner_blocks.len();
    names[first..first + 5].to_vec()
}

/// Keys of an exported detector that say nothing about its pyramid.
const HEADS: [&str; 4] = ["scrl.labels", "scrl.label_offset", "scrl.image_sizes", "scrl.precision"];

/// Writes the pyramid of a detector to an ONNX file; an existing file is replaced at the very end.
///
/// # Errors
/// When a weight is not finite, the model is larger than an ONNX file can be, or the file cannot be written.
pub fn export_pyramid(
    model: &Detector,
    info: &DetectorInfo,
    path: &Path,
    options: &ExportOptions,
) -> Result<ExportReport, ExportError> {
    let start = Instant::now();
    let graph = pyramid_graph(&model.backbone().valid(), model.config().fpn.channels, options)?;
    let (nodes, initializers, parameters) = (graph.nodes(), graph.initializers(), graph.parameters());
    let description = format!(
        "{} and FPN of a detector. Input `images`: [batch, 3, height, width], RGB, (pixel / 255 - scrl.mean) / scrl.std.",
        model.config().backbone.arch
    );
    let properties = properties(info, options);
    let proto = graph.finish(ModelInfo { opset: options.opset, description, properties })?;
    let bytes = graph::save(&proto, path)?;
    let outputs = level_names(model.backbone()).into_iter().map(String::from).collect();
    let (path, opset, seconds) = (path.to_path_buf(), options.opset, start.elapsed().as_secs_f64());
    tracing::info!(path = %path.display(), bytes, nodes, seconds, "exported the pyramid");
    Ok(ExportReport { path, bytes, nodes, initializers, parameters, outputs, opset, seconds })
}

fn pyramid_graph(
    model: &BackboneWithFpn,
    channels: usize,
    options: &ExportOptions,
) -> Result<Graph, ExportError> {
    let mut graph = Graph::new("pyramid");
    let batch = Dim::Symbol("batch");
    let dims = [batch, Dim::Fixed(3), Dim::Symbol("height"), Dim::Symbol("width")];
    let images = graph.input("images", Element::Float, &dims);
    let levels = pyramid::pyramid(&mut graph, model, &images, options.fold_batch_norm)?.levels;
    for (name, level) in level_names(model).into_iter().zip(&levels) {
        graph.output(name, Element::Float, level, &[batch, Dim::Fixed(channels), Dim::Any, Dim::Any]);
    }
    Ok(graph)
}

fn properties(info: &DetectorInfo, options: &ExportOptions) -> BTreeMap<String, String> {
    let options = DetectorOptions { fold_batch_norm: options.fold_batch_norm, ..Default::default() };
    let mut properties = info.properties(&options);
    properties.retain(|key, _| !HEADS.contains(&key.as_str()));
    properties.insert("scrl.kind".to_string(), "pyramid".to_string());
    properties
}

/// Runs an exported pyramid in ONNX Runtime and compares its outputs with the model's.
///
/// # Errors
/// [`ExportError::Mismatch`] when an output differs by more than the tolerance; others when ONNX Runtime, the file or an
/// image cannot be used.
pub fn validate_pyramid(
    onnx: &Path,
    model: &Detector,
    info: &DetectorInfo,
    inputs: &ValidationInputs,
) -> Result<ValidationReport, ExportError> {
    let model = model.backbone().valid();
    let device = model.body.conv1.weight.val().device();
    let forward = |images: TensorData| {
        let levels = model.forward(Tensor::from_data(images, &device));
        level_names(&model)
            .into_iter()
            .zip(levels)
            .map(|(name, level)| OutputTensor::new(name, level))
            .collect()
    };
    let preprocessing = &info.metadata.preprocessing;
    let images =
        ImageSettings { side: preprocessing.min_size, mean: preprocessing.mean, std: preprocessing.std };
    Comparison { onnx, forward: &forward, images, inputs }.run(None)
}
