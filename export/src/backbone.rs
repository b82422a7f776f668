//! ResNet backbones as ONNX files.
//!
//! Input `images`: `[batch, 3, height, width]`, RGB, already normalised with the mean and standard deviation in the
//! file's metadata. Batch, height and width are free. Outputs by [`BackboneOutput`]:
//! - `c2` to `c5`: `[batch, channels, ⌈height/s⌉, ⌈width/s⌉]` with s = 4, 8, 16, 32
//! - `pooled`: `[batch, channels of C5]`, the mean of `c5` over its pixels

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Tensor;
use onnx_ir::ModelProto;
use scrl_core::checkpoint::weights::BackboneMetadata;
use scrl_core::models::{Block, Features, Level, NamedLayer, ResNet, ResNetConfig};
use serde::{Deserialize, Serialize};

use crate::ExportError;
use crate::graph::{self, Attribute, Dim, Element, Graph, ModelInfo, Value};
use crate::layers::{conv_norm, relu};

/// What the exported backbone returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackboneOutput {
    /// The last feature map.
    C5,
    /// The last feature map, averaged over its pixels.
    Pooled,
    /// All four feature maps.
    Pyramid,
}

impl BackboneOutput {
    /// Every choice.
    pub const ALL: [BackboneOutput; 3] =
        [BackboneOutput::C5, BackboneOutput::Pooled, BackboneOutput::Pyramid];

    /// `c5`, `pooled` or `pyramid`.
    pub fn name(self) -> &'static str {
        match self {
            BackboneOutput::C5 => "c5",
            BackboneOutput::Pooled => "pooled",
            BackboneOutput::Pyramid => "pyramid",
        }
    }

    /// The inverse of [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|output| output.name() == name)
    }

    /// Names of the graph's outputs, in order.
    pub fn tensors(self) -> &'static [&'static str] {
        match self {
            BackboneOutput::C5 => &["c5"],
            BackboneOutput::Pooled => &["pooled"],
            BackboneOutput::Pyramid => &["c2", "c3", "c4", "c5"],
        }
    }
}

/// Choices of [`export_backbone`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportOptions {
    /// ONNX operator set, 17 to 21. The operators used mean the same in all of them; older runtimes read older sets.
    pub opset: i64,
    /// Batch norms become part of the convolutions before them.
    pub fold_batch_norm: bool,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self { opset: 17, fold_batch_norm: true }
    }
}

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct ExportReport {
    /// The ONNX file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Number of nodes.
    pub nodes: usize,
    /// Number of initialisers.
    pub initializers: usize,
    /// Number of values in all initialisers: weights and running statistics.
    pub parameters: usize,
    /// Names of the outputs.
    pub outputs: Vec<String>,
    /// ONNX operator set.
    pub opset: i64,
    /// Time it took.
    pub seconds: f64,
}

/// Writes a backbone with its running statistics to an ONNX file; an existing file is replaced at the very end.
///
/// # Errors
/// When `config`, `metadata` and the model are of different networks, a weight is not finite, the model is larger than
/// an ONNX file can be, or the file cannot be written.
pub fn export_backbone(
    model: &ResNet,
    config: &ResNetConfig,
    metadata: &BackboneMetadata,
    output: BackboneOutput,
    path: &Path,
    options: &ExportOptions,
) -> Result<ExportReport, ExportError> {
    let start = Instant::now();
    check_architecture(model, config, metadata)?;
    let graph = backbone_graph(&model.valid(), config, output, options)?;
    let (nodes, initializers, parameters) = (graph.nodes(), graph.initializers(), graph.parameters());
    let proto = finish(graph, metadata, output, options)?;
    let bytes = graph::save(&proto, path)?;
    let outputs = output.tensors().iter().map(|name| name.to_string()).collect();
    let seconds = start.elapsed().as_secs_f64();
    tracing::info!(path = %path.display(), bytes, nodes, seconds, "exported the backbone");
    let (path, opset) = (path.to_path_buf(), options.opset);
    Ok(ExportReport { path, bytes, nodes, initializers, parameters, outputs, opset, seconds })
}

fn check_architecture(
    model: &ResNet,
    config: &ResNetConfig,
    metadata: &BackboneMetadata,
) -> Result<(), ExportError> {
    let name = |config: &ResNetConfig| format!("a {} of width {}", config.arch, config.width);
    let expected = ResNetConfig { arch: metadata.arch, width: metadata.width };
    if *config != expected {
        return Err(ExportError::Architecture { found: name(config), expected: name(&expected) });
    }
    let channels = last_channels(model);
    if channels != config.channels()[3] {
        let found = format!("a ResNet with {channels} channels in C5");
        let expected = format!("{} with {}", name(config), config.channels()[3]);
        return Err(ExportError::Architecture { found, expected });
    }
    Ok(())
}

fn last_channels(model: &ResNet) -> usize {
    let last = model.layer4.last().and_then(|block| block.body().pop());
    last.map_or(0, |layer| layer.conv.weight.dims()[0])
}

fn backbone_graph(
    model: &ResNet,
    config: &ResNetConfig,
    output: BackboneOutput,
    options: &ExportOptions,
) -> Result<Graph, ExportError> {
    let mut graph = Graph::new("backbone");
    let dims = [Dim::Symbol("batch"), Dim::Fixed(3), Dim::Symbol("height"), Dim::Symbol("width")];
    let images = graph.input("images", Element::Float, &dims);
    let stages = resnet(&mut graph, "", model, &images, options.fold_batch_norm)?;
    let channels = config.channels();
    if output == BackboneOutput::Pooled {
        let average = graph.node("avgpool", "GlobalAveragePool", &[&stages[3]], vec![]);
        let flat = graph.node("flatten", "Flatten", &[&average], vec![("axis", Attribute::Int(1))]);
        graph.output("pooled", Element::Float, &flat, &[Dim::Symbol("batch"), Dim::Fixed(channels[3])]);
        return Ok(graph);
    }
    let maps = [
        ("c2", "c2_height", "c2_width"),
        ("c3", "c3_height", "c3_width"),
        ("c4", "c4_height", "c4_width"),
        ("c5", "c5_height", "c5_width"),
    ];
    for (stage, (name, height, width)) in maps.into_iter().enumerate() {
        if output.tensors().contains(&name) {
            let size = [Dim::Symbol(height), Dim::Symbol(width)];
            let dims = [Dim::Symbol("batch"), Dim::Fixed(channels[stage]), size[0], size[1]];
            graph.output(name, Element::Float, &stages[stage], &dims);
        }
    }
    Ok(graph)
}

/// The nodes of a ResNet; returns C2 to C5. `prefix` goes before every name; with `fold` its batch norms become part of
/// the convolutions.
///
/// # Errors
/// When a weight is not finite.
pub fn resnet(
    graph: &mut Graph,
    prefix: &str,
    model: &ResNet,
    images: &Value,
    fold: bool,
) -> Result<[Value; 4], ExportError> {
    let (stem, norm) = (format!("{prefix}conv1"), format!("{prefix}bn1"));
    let x = conv_norm(graph, (&stem, &model.conv1), (&norm, &model.bn1), images, fold)?;
    let x = relu(graph, &format!("{prefix}relu"), &x);
    let pool = vec![
        ("kernel_shape", Attribute::Ints(vec![3; 2])),
        ("strides", Attribute::Ints(vec![2; 2])),
        ("pads", Attribute::Ints(vec![1; 4])),
    ];
    let x = graph.node(&format!("{prefix}maxpool"), "MaxPool", &[&x], pool);
    let c2 = layer(graph, &format!("{prefix}layer1"), &model.layer1, x, fold)?;
    let c3 = layer(graph, &format!("{prefix}layer2"), &model.layer2, c2.clone(), fold)?;
    let c4 = layer(graph, &format!("{prefix}layer3"), &model.layer3, c3.clone(), fold)?;
    let c5 = layer(graph, &format!("{prefix}layer4"), &model.layer4, c4.clone(), fold)?;
    Ok([c2, c3, c4, c5])
}

fn layer(
    graph: &mut Graph,
    path: &str,
    blocks: &[Block],
    input: Value,
    fold: bool,
) -> Result<Value, ExportError> {
    let mut blocks = blocks.iter().enumerate();
    blocks.try_fold(input, |x, (index, block)| residual(graph, &format!("{path}.{index}"), block, &x, fold))
}

fn residual(
    graph: &mut Graph,
    path: &str,
    block: &Block,
    input: &Value,
    fold: bool,
) -> Result<Value, ExportError> {
    let layer = |graph: &mut Graph, layer: NamedLayer, x: &Value| {
        let [conv, norm] = layer.keys.map(|key| format!("{path}.{key}"));
        conv_norm(graph, (&conv, layer.conv), (&norm, layer.norm), x, fold)
    };
    let mut x = input.clone();
    for (index, named) in block.body().into_iter().enumerate() {
        if index > 0 {
            x = relu(graph, &format!("{path}.relu{index}"), &x);
        }
        x = layer(graph, named, &x)?;
    }
    let identity = match block.shortcut() {
        Some(shortcut) => layer(graph, shortcut, input)?,
        None => input.clone(),
    };
    let sum = graph.node(&format!("{path}.add"), "Add", &[&x, &identity], vec![]);
    Ok(relu(graph, &format!("{path}.relu"), &sum))
}

fn finish(
    graph: Graph,
    metadata: &BackboneMetadata,
    output: BackboneOutput,
    options: &ExportOptions,
) -> Result<ModelProto, ExportError> {
    let description = format!(
        "{} backbone of width {}, pretrained by {}. Input `images`: [batch, 3, height, width], RGB, \
         (pixel / 255 - scrl.mean) / scrl.std.",
        metadata.arch, metadata.width, metadata.method
    );
    graph.finish(ModelInfo { opset: options.opset, description, properties: properties(metadata, output) })
}

/// The metadata of an exported backbone, as key and value pairs.
pub fn properties(metadata: &BackboneMetadata, output: BackboneOutput) -> BTreeMap<String, String> {
    let list = |values: [f32; 3]| values.map(|value| value.to_string()).join(",");
    let pairs = [
        ("scrl.kind", "backbone".to_string()),
        ("scrl.tool_version", env!("CARGO_PKG_VERSION").to_string()),
        ("scrl.arch", metadata.arch.name().to_string()),
        ("scrl.width", metadata.width.to_string()),
        ("scrl.method", metadata.method.clone()),
        ("scrl.epoch", metadata.epoch.to_string()),
        ("scrl.config_hash", metadata.config_hash.clone()),
        ("scrl.image_size", metadata.image_size.to_string()),
        ("scrl.mean", list(metadata.mean)),
        ("scrl.std", list(metadata.std)),
        ("scrl.color_order", "RGB".to_string()),
        ("scrl.output", output.name().to_string()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

/// One output of a backbone, on the host.
pub(crate) struct OutputTensor {
    pub name: String,
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

impl OutputTensor {
    pub fn new<const D: usize>(name: &str, tensor: Tensor<D>) -> Self {
        let shape = tensor.dims().to_vec();
        Self { name: name.to_string(), shape, values: tensor.into_data().iter::<f32>().collect() }
    }
}

/// What an exported backbone returns, from the model's own feature maps.
pub(crate) fn select(output: BackboneOutput, features: Features) -> Vec<OutputTensor> {
    if output == BackboneOutput::Pooled {
        let map = features.at(Level::C5);
        let [batch, channels, ..] = map.dims();
        let pooled = map.mean_dims(&[2, 3]).reshape([batch, channels]);
        return vec![OutputTensor::new("pooled", pooled)];
    }
    let maps = features.iter().map(|(level, map)| (level.name().to_lowercase(), map.clone()));
    let kept = maps.filter(|(name, _)| output.tensors().contains(&name.as_str()));
    kept.map(|(name, map)| OutputTensor::new(&name, map)).collect()
}
