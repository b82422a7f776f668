//! Whole detectors as ONNX files, in standard operators.
//!
//! N images in the batch, H and W in pixels, D the most detections of an image. Batch, height and width are free.
//!
//! Inputs:
//! - `images`: `[N, 3, H, W]`, RGB, of [`InputKind`]; each image in the top-left corner
//! - `image_sizes`: `[N, 2]`, 64-bit integers, height and width of each image without its padding; not with
//!   [`DetectorOptions::image_sizes`] off, when no image is padded
//!
//! Outputs, zero beyond an image's detections:
//! - `boxes`: `[N, D, 4]`, x1, y1, x2, y2 in pixels of the input
//! - `scores`: `[N, D]`, descending
//! - `labels`: `[N, D]`, 64-bit integers, index of the class from 0
//! - `num_detections`: `[N]`, 64-bit integers
//! - `masks`: `[N, D, 28, 28]`, of Mask R-CNN: the probability of each cell of a detection's box to belong to the object. In the image
//!   they are what [`SoftMask::paste`](scrl_transfer::mask::SoftMask::paste) makes of them

mod boxes;
mod heads;
mod metadata;
mod postprocess;
mod proposals;
pub(crate) mod pyramid;
mod retinanet;

use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use scrl_transfer::detection::{Detector, FasterRcnn, MASK_SIDE, RetinaNet};

use crate::backbone::ExportReport;
use crate::graph::{self, Dim, Element, Graph, ModelInfo, Value};
use crate::part::Part;
use crate::{ExportError, backbone};

pub use metadata::{DetectorInfo, InputKind};

/// The score of what is not a proposal, below every logit.
pub(crate) const NO_SCORE: f32 = -3e38;
/// Between [`NO_SCORE`] and every logit.
const LOWEST: f32 = -1e38;

/// Choices of [`export_detector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectorOptions {
    /// ONNX operator set, 17 to 21.
    pub opset: i64,
    /// What the pixels are.
    pub input: InputKind,
    /// Whether there is an input `image_sizes`.
    pub image_sizes: bool,
    /// Batch norms become part of the convolutions before them.
    pub fold_batch_norm: bool,
    /// Weights, convolutions and fully connected layers in 16-bit floats; boxes and all decisions stay in 32 bits.
    pub half: bool,
}

impl Default for DetectorOptions {
    fn default() -> Self {
        Self {
            opset: backbone::ExportOptions::default().opset,
            input: InputKind::Normalized,
            image_sizes: true,
            fold_batch_norm: true,
            half: false,
        }
    }
}

/// Outputs of every exported detector.
pub const OUTPUTS: [&str; 4] = ["boxes", "scores", "labels", "num_detections"];

/// The further output of detectors with masks.
pub const MASKS: &str = "masks";

/// Writes a detector with its running statistics to an ONNX file; an existing file is replaced at the very end.
///
/// # Errors
/// When a weight is not finite, the model is larger than an ONNX file can be, or the file cannot be written.
pub fn export_detector(
    model: &Detector,
    info: &DetectorInfo,
    path: &Path,
    options: &DetectorOptions,
) -> Result<ExportReport, ExportError> {
    let start = Instant::now();
    let mut graph = Graph::new("detector").with_half_weights(options.half);
    build(&mut graph, &model.valid(), info, options)?;
    let (nodes, initializers, parameters) = (graph.nodes(), graph.initializers(), graph.parameters());
    let (description, properties) = (info.description(options), info.properties(options));
    let proto = graph.finish(ModelInfo { opset: options.opset, description, properties })?;
    let outputs = proto.graph.output.iter().map(|output| output.name.clone()).collect();
    let bytes = graph::save(&proto, path)?;
    let seconds = start.elapsed().as_secs_f64();
    tracing::info!(path = %path.display(), bytes, nodes, seconds, "exported the detector");
    let (path, opset) = (path.to_path_buf(), options.opset);
    Ok(ExportReport { path, bytes, nodes, initializers, parameters, outputs, opset, seconds })
}

/// The names that [`export_detector`] gives the values between the parts of a detector.
///
/// # Errors
/// See [`export_detector`].
pub(crate) fn part_names(
    model: &Detector,
    info: &DetectorInfo,
    options: &DetectorOptions,
) -> Result<PartNames, ExportError> {
    let mut graph = Graph::new("detector").with_half_weights(options.half);
    build(&mut graph, &model.valid(), info, options)
}

/// Values between the parts of an exported detector.
pub(crate) struct PartNames {
    /// `c2` to `c5` and the levels of the pyramid, each by its name and by that of its value, which is of 16-bit floats in
    /// a file of such weights.
    pub maps: Vec<(&'static str, String)>,
    /// What lies behind the pyramid.
    pub heads: HeadNames,
}

/// Values behind the pyramid.
pub(crate) enum HeadNames {
    FasterRcnn(FasterRcnnNames),
    RetinaNet(RetinaNetNames),
}

/// Values between the parts of Faster R-CNN.
pub(crate) struct FasterRcnnNames {
    /// Of each level, `[N, A]`.
    pub objectness: Vec<String>,
    /// Of each level, `[N, A, 4]`.
    pub deltas: Vec<String>,
    /// `[N, R, 4]`
    pub proposals: String,
    /// `[N, R]`
    pub proposal_scores: String,
    /// `[Q, 2]`, integers.
    pub roi_places: String,
    /// `[Q, 4]`
    pub rois: String,
    /// `[Q, K + 1]`
    pub class_logits: String,
    /// `[Q, 4 · (K + 1)]`
    pub box_deltas: String,
}

/// Values between the parts of RetinaNet, of each level.
pub(crate) struct RetinaNetNames {
    /// `[N, A · K]`
    pub logits: Vec<String>,
    /// `[N, A · K]`
    pub probabilities: Vec<String>,
    /// `[N, A, 4]`
    pub deltas: Vec<String>,
}

fn names(values: &[Value]) -> Vec<String> {
    values.iter().map(|value| value.name().to_string()).collect()
}

/// Adds inputs, nodes and outputs.
fn build(
    graph: &mut Graph,
    model: &Detector,
    info: &DetectorInfo,
    options: &DetectorOptions,
) -> Result<PartNames, ExportError> {
    let batch = Dim::Symbol("batch");
    let dims = [batch, Dim::Fixed(3), Dim::Symbol("height"), Dim::Symbol("width")];
    let images = graph.input("images", Element::Float, &dims);
    let sizes =
        options.image_sizes.then(|| graph.input("image_sizes", Element::Int64, &[batch, Dim::Fixed(2)]));
    let preprocessing = &info.metadata.preprocessing;
    let x = pyramid::normalize(graph, &images, sizes.as_ref(), options.input, preprocessing);
    let x = graph.narrow("transform.Cast", &x);
    let pyramid = pyramid::pyramid(graph, model.backbone(), &x, options.fold_batch_norm)?;
    let limits = limits(&mut Part::new(graph, "image_limits"), &images, sizes.as_ref());
    let levels = crate::pyramid::level_names(model.backbone());
    let maps = ["c2", "c3", "c4", "c5"]
        .into_iter()
        .zip(&pyramid.stages)
        .chain(levels.into_iter().zip(&pyramid.levels));
    let maps = maps.map(|(name, value)| (name, value.name().to_string())).collect();
    let place = Place { images, limits, pyramid };
    let heads = match model {
        Detector::FasterRcnn(model) => HeadNames::FasterRcnn(faster_rcnn(graph, model, place)?),
        Detector::RetinaNet(model) => HeadNames::RetinaNet(retinanet(graph, model, place)?),
    };
    Ok(PartNames { maps, heads })
}

/// What every detector's heads start from.
struct Place {
    images: Value,
    limits: Value,
    pyramid: pyramid::Pyramid,
}

fn faster_rcnn(
    graph: &mut Graph,
    model: &FasterRcnn,
    Place { images, limits, pyramid }: Place,
) -> Result<FasterRcnnNames, ExportError> {
    let config = &model.config;
    let rpn = proposals::rpn_head(graph, &model.rpn, &pyramid.levels)?;
    let proposals = proposals::proposals(graph, &rpn, &pyramid.levels, &images, &limits, config);
    let rois = heads::pool(graph, &proposals, &pyramid.levels, config);
    let outputs = heads::box_head(graph, &model.roi_heads, &rois.pooled)?;
    let found = postprocess::detections(graph, &outputs, &rois, &proposals, &limits, config);
    found.add_outputs(graph, config.test.detections_per_image);
    if let Some(masks) = heads::masks(graph, &model.roi_heads, &found, &pyramid.levels, config)? {
        let (most, side) = (Dim::Fixed(config.test.detections_per_image), Dim::Fixed(MASK_SIDE));
        graph.output(MASKS, Element::Float, &masks, &[Dim::Symbol("batch"), most, side, side]);
    }
    let name = |value: &Value| value.name().to_string();
    Ok(FasterRcnnNames {
        objectness: names(&rpn.objectness),
        deltas: names(&rpn.deltas),
        proposals: name(&proposals.boxes),
        proposal_scores: name(&proposals.scores),
        roi_places: name(&rois.places),
        rois: name(&rois.boxes),
        class_logits: name(&outputs.logits),
        box_deltas: name(&outputs.deltas),
    })
}

fn retinanet(
    graph: &mut Graph,
    model: &RetinaNet,
    Place { images, limits, pyramid }: Place,
) -> Result<RetinaNetNames, ExportError> {
    let config = &model.config;
    let outputs = retinanet::heads(graph, &model.head, &pyramid.levels)?;
    let found = retinanet::detections(graph, &outputs, &pyramid.levels, &images, &limits, config);
    found.add_outputs(graph, config.test.detections_per_image);
    Ok(RetinaNetNames {
        logits: names(&outputs.logits),
        probabilities: names(&outputs.probabilities),
        deltas: names(&outputs.deltas),
    })
}

impl postprocess::Detections {
    fn add_outputs(&self, graph: &mut Graph, most: usize) {
        let (batch, most) = (Dim::Symbol("batch"), Dim::Fixed(most));
        graph.output("boxes", Element::Float, &self.boxes, &[batch, most, Dim::Fixed(4)]);
        graph.output("scores", Element::Float, &self.scores, &[batch, most]);
        graph.output("labels", Element::Int64, &self.labels, &[batch, most]);
        graph.output("num_detections", Element::Int64, &self.count, &[batch]);
    }
}

/// Width, height, width, height of each image without its padding, `[N, 1, 4]`.
fn limits(part: &mut Part, images: &Value, sizes: Option<&Value>) -> Value {
    let limits = match sizes {
        Some(sizes) => {
            let order = part.ints(&[1, 0, 1, 0]);
            part.gather(sizes, &order, 1)
        }
        None => {
            let shape = part.op("Shape", &[images]);
            let order = part.ints(&[3, 2, 3, 2]);
            let limits = part.gather(&shape, &order, 0);
            let batch = part.size(images, 0);
            let four = part.ints(&[4]);
            let shape = part.concat(&[batch, four], 0);
            part.op("Expand", &[&limits, &shape])
        }
    };
    let limits = part.cast_to_float(&limits);
    part.unsqueeze(&limits, &[1])
}
