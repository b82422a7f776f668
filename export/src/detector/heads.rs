//! From proposals to class scores and boxes: the pooler, the box head and its predictor; and the mask head.
//!
//! N images in the batch, R proposals of an image, Q proposals of the whole batch, K foreground classes.

use scrl_transfer::detection::{DetectorConfig, MASK_SIDE, RoiHeads};

use super::LOWEST;
use super::boxes::sides;
use super::postprocess::Detections;
use super::proposals::{Proposals, level_name};
use crate::ExportError;
use crate::graph::{Attribute, Graph, Value};
use crate::layers::{conv, conv_transpose, linear, relu};
use crate::part::Part;

/// Side of the grid that the box head sees.
const POOLED: i64 = 7;
/// Side of the grid that the mask head sees.
const MASK_POOLED: i64 = 14;

/// Regions of the whole batch, ordered by the level that they are pooled from.
pub(super) struct Rois {
    /// Rows (image, place among its regions), `[Q, 2]`.
    pub places: Value,
    /// `[Q, 4]`
    pub boxes: Value,
    /// `[Q, C, side, side]`
    pub pooled: Value,
}

/// What the predictor says about each of the [`Rois`].
pub(super) struct BoxOutputs {
    /// `[Q, K + 1]`, the background first.
    pub logits: Value,
    /// `[Q, 4 · (K + 1)]`
    pub deltas: Value,
}

/// Pools each proposal from one level of P2 to P5.
pub(super) fn pool(
    graph: &mut Graph,
    proposals: &Proposals,
    levels: &[Value],
    config: &DetectorConfig,
) -> Rois {
    let mut part = Part::new(graph, "roi_heads.box_roi_pool");
    let lowest = part.float(LOWEST);
    let found = part.op("Greater", &[&proposals.scores, &lowest]);
    pool_found(part, &proposals.boxes, &found, levels, config, POOLED)
}

/// Pools the boxes, `[N, R, 4]`, that are `found`, `[N, R]`, each into `side × side` cells.
fn pool_found(
    mut part: Part,
    boxes: &Value,
    found: &Value,
    levels: &[Value],
    config: &DetectorConfig,
    side: i64,
) -> Rois {
    let path = part.path().to_string();
    let places = part.op("NonZero", &[found]);
    let places = part.transpose(&places, &[1, 0]);
    let boxes = part.gather_nd(boxes, &places, 0);
    let zero = part.int(0);
    let images = part.gather(&places, &zero, 1);
    let numbers = level_numbers(&mut part.part("level"), &boxes, config.roi_heads.canonical_box_size);
    let (mut order, mut pooled) = (Vec::new(), Vec::new());
    for (level, map) in levels.iter().take(4).enumerate() {
        let mut part = part.part(level_name(level));
        let map = part.graph.widen(&format!("{path}.{}.Cast", level_name(level)), map);
        let number = part.int(level as i64);
        let here = part.op("Equal", &[&numbers, &number]);
        let here = part.op("NonZero", &[&here]);
        let here = part.reshape(&here, &[-1]);
        let [boxes, images] = [&boxes, &images].map(|rows| part.gather(rows, &here, 0));
        pooled.push(part.op_with("RoiAlign", &[&map, &boxes, &images], roi_align(level, config, side)));
        order.push(here);
    }
    let order = part.concat(&order, 0);
    Rois {
        places: part.gather(&places, &order, 0),
        boxes: part.gather(&boxes, &order, 0),
        pooled: part.concat(&pooled, 0),
    }
}

/// 0 for P2 to 3 for P5, of each box.
fn level_numbers(part: &mut Part, boxes: &Value, canonical_size: f32) -> Value {
    let [width, height] = sides(part, boxes);
    let area = part.op("Mul", &[&width, &height]);
    let side = part.op("Sqrt", &[&area]);
    let canonical = part.float(canonical_size);
    let ratio = part.op("Div", &[&side, &canonical]);
    // ⌊4 + log2(ratio) + 1e-6⌋ is at least k when the ratio is at least 2^(k - 4 - 1e-6).
    let steps = [3, 4, 5].map(|level| {
        let least = part.float(2f64.powf(f64::from(level) - 4.0 - 1e-6) as f32);
        let reached = part.op("GreaterOrEqual", &[&ratio, &least]);
        part.cast_to_int(&reached)
    });
    let sum = part.op("Add", &[&steps[0], &steps[1]]);
    part.op("Add", &[&sum, &steps[2]])
}

fn roi_align(level: usize, config: &DetectorConfig, side: i64) -> Vec<(&'static str, Attribute)> {
    let numerics = config.variant.numerics();
    let coordinates = if numerics.aligned { "half_pixel" } else { "output_half_pixel" };
    vec![
        ("coordinate_transformation_mode", Attribute::Text(coordinates)),
        ("mode", Attribute::Text("avg")),
        ("output_height", Attribute::Int(side)),
        ("output_width", Attribute::Int(side)),
        ("sampling_ratio", Attribute::Int(numerics.sampling_ratio.into())),
        ("spatial_scale", Attribute::Float(1.0 / (4 << level) as f32)),
    ]
}

/// The box head and its predictor.
pub(super) fn box_head(
    graph: &mut Graph,
    heads: &RoiHeads,
    pooled: &Value,
) -> Result<BoxOutputs, ExportError> {
    let flat = vec![("axis", Attribute::Int(1))];
    let x = graph.node("roi_heads.box_head.flatten", "Flatten", &[pooled], flat);
    let x = graph.narrow("roi_heads.box_head.Cast", &x);
    let x = linear(graph, "roi_heads.box_head.fc6", &heads.box_head.fc6, &x)?;
    let x = relu(graph, "roi_heads.box_head.relu6", &x);
    let x = linear(graph, "roi_heads.box_head.fc7", &heads.box_head.fc7, &x)?;
    let x = relu(graph, "roi_heads.box_head.relu7", &x);
    let logits = linear(graph, "roi_heads.box_predictor.cls_score", &heads.box_predictor.cls_score, &x)?;
    let deltas = linear(graph, "roi_heads.box_predictor.bbox_pred", &heads.box_predictor.bbox_pred, &x)?;
    Ok(BoxOutputs {
        logits: graph.widen("roi_heads.box_predictor.cls_score.Cast", &logits),
        deltas: graph.widen("roi_heads.box_predictor.bbox_pred.Cast", &deltas),
    })
}

/// The mask of each detection, `[N, D, 28, 28]`, zero beyond an image's detections; none without a mask head.
pub(super) fn masks(
    graph: &mut Graph,
    heads: &RoiHeads,
    found: &Detections,
    levels: &[Value],
    config: &DetectorConfig,
) -> Result<Option<Value>, ExportError> {
    let (Some(head), Some(predictor)) = (&heads.mask_head, &heads.mask_predictor) else { return Ok(None) };
    let mut part = Part::new(graph, "roi_heads.mask_roi_pool");
    let most = part.ints(&(0..config.test.detections_per_image as i64).collect::<Vec<_>>());
    let count = part.unsqueeze(&found.count, &[1]);
    let is_there = part.op("Less", &[&most, &count]);
    let rois = pool_found(part, &found.boxes, &is_there, levels, config, MASK_POOLED);
    let mut x = graph.narrow("roi_heads.mask_head.Cast", &rois.pooled);
    for (number, (convolution, _)) in head.iter().enumerate() {
        x = conv(graph, &format!("roi_heads.mask_head.{number}.0"), convolution, &x)?;
        x = relu(graph, &format!("roi_heads.mask_head.{number}.1"), &x);
    }
    let x = conv_transpose(graph, "roi_heads.mask_predictor.conv5_mask", &predictor.conv5_mask, &x)?;
    let x = relu(graph, "roi_heads.mask_predictor.relu", &x);
    let last = "roi_heads.mask_predictor.mask_fcn_logits";
    let logits = conv(graph, last, &predictor.mask_fcn_logits, &x)?;
    let logits = graph.widen(&format!("{last}.Cast"), &logits);
    let mut part = Part::new(graph, "roi_heads.masks");
    let labels = part.gather_nd(&found.labels, &rois.places, 0);
    let one = part.int(1);
    let classes = part.op("Add", &[&labels, &one]);
    let classes = part.unsqueeze(&classes, &[1]);
    let logits = part.gather_nd(&logits, &classes, 1);
    let cells = part.op("Sigmoid", &[&logits]);
    let rows = part.op("Shape", &[&found.scores]);
    let side = part.ints(&[MASK_SIDE as i64; 2]);
    let shape = part.concat(&[rows, side], 0);
    let none = part.filled(0.0, &shape);
    Ok(Some(part.op("ScatterND", &[&none, &rois.places, &cells])))
}
