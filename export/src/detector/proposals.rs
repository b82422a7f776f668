//! The region proposal network: head, anchors, the best anchors of each level, suppression.
//!
//! N images in the batch, A anchors over all levels, P candidates of an image over all levels, R proposals of an image.

use scrl_transfer::detection::{AnchorGenerator, DetectorConfig, Numerics, Rpn};

use super::boxes::{clip, decode, usable};
use super::{LOWEST, NO_SCORE};
use crate::ExportError;
use crate::graph::{Graph, Value};
use crate::layers::{Convolution, relu};
use crate::part::Part;

/// What the head says about every anchor, level by level.
pub(super) struct RpnOutputs {
    /// Logits, `[N, anchors of the level]`.
    pub objectness: Vec<Value>,
    /// `[N, anchors of the level, 4]`
    pub deltas: Vec<Value>,
}

/// Proposals, best first.
pub(super) struct Proposals {
    /// `[N, R, 4]`, within the images.
    pub boxes: Value,
    /// Logits, `[N, R]`; [`NO_SCORE`] where an image has fewer.
    pub scores: Value,
}

/// The head on every level.
pub(super) fn rpn_head(graph: &mut Graph, rpn: &Rpn, levels: &[Value]) -> Result<RpnOutputs, ExportError> {
    let mut hidden = Vec::new();
    for (index, layer) in rpn.head.conv[0].iter().enumerate() {
        hidden.push(Convolution::new(graph, &format!("rpn.head.conv.{index}.0"), layer)?);
    }
    let logits = Convolution::new(graph, "rpn.head.cls_logits", &rpn.head.cls_logits)?;
    let boxes = Convolution::new(graph, "rpn.head.bbox_pred", &rpn.head.bbox_pred)?;
    let mut outputs = RpnOutputs { objectness: Vec::new(), deltas: Vec::new() };
    for (level, map) in levels.iter().enumerate() {
        let name = level_name(level);
        let mut x = map.clone();
        for (index, layer) in hidden.iter().enumerate() {
            x = layer.node(graph, &format!("rpn.head.conv.{index}.0.{name}"), &x);
            x = relu(graph, &format!("rpn.head.conv.{index}.1.{name}"), &x);
        }
        let objectness = logits.node(graph, &format!("rpn.head.cls_logits.{name}"), &x);
        let deltas = boxes.node(graph, &format!("rpn.head.bbox_pred.{name}"), &x);
        outputs.objectness.push(by_anchor(graph, "rpn.head.cls_logits", name, &objectness, &[0, -1]));
        outputs.deltas.push(by_anchor(graph, "rpn.head.bbox_pred", name, &deltas, &[0, -1, 4]));
    }
    Ok(outputs)
}

/// `p2` to `p6`.
pub(super) fn level_name(level: usize) -> &'static str {
    ["p2", "p3", "p4", "p5", "p6"][level]
}

/// `[N, anchors of a cell · values, H, W]` to one row an anchor, row by row, column by column.
pub(super) fn by_anchor(graph: &mut Graph, path: &str, level: &str, map: &Value, shape: &[i64]) -> Value {
    let map = graph.widen(&format!("{path}.{level}.Cast"), map);
    let mut part = Part::new(graph, format!("{path}.{level}"));
    let last = part.transpose(&map, &[0, 2, 3, 1]);
    part.reshape(&last, shape)
}

/// The proposals of every image; `limits`, `[N, 1, 4]`, are its own width, height, width, height.
pub(super) fn proposals(
    graph: &mut Graph,
    outputs: &RpnOutputs,
    levels: &[Value],
    images: &Value,
    limits: &Value,
    config: &DetectorConfig,
) -> Proposals {
    let numerics = config.variant.numerics();
    let generator = AnchorGenerator::new(config);
    let mut part = Part::new(graph, "rpn");
    let (mut boxes, mut scores, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    for (level, map) in levels.iter().enumerate() {
        let mut part = part.part(level_name(level));
        let cell: Vec<[f32; 4]> = generator.cell_anchors(level).iter().map(|b| b.to_array()).collect();
        let anchors = anchors(&mut part.part("anchors"), &cell, level, images, map, numerics);
        let [best, indices] = part.largest(&outputs.objectness[level], config.rpn.pre_nms_test);
        let anchors = part.op("Gather", &[&anchors, &indices]);
        let deltas = part.gather_rows(&outputs.deltas[level], &indices);
        boxes.push(decode(&mut part.part("decode"), &anchors, &deltas, [1.0; 4]));
        let number = part.ints(&[level as i64]);
        let count = part.size(&best, 1);
        numbers.push(part.op("Expand", &[&number, &count]));
        scores.push(best);
    }
    let boxes = part.concat(&boxes, 1);
    let scores = part.concat(&scores, 1);
    let numbers = part.concat(&numbers, 0);
    let boxes = clip(&mut part.part("clip"), &boxes, limits);
    let usable = usable(&mut part.part("usable"), &boxes, numerics.min_proposal_size);
    best_of_all(&mut part.part("nms"), &boxes, &scores, &usable, &numbers, config)
}

/// Anchors of one level, `[anchors of the level, 4]`; `cell` are those around the origin.
pub(super) fn anchors(
    part: &mut Part,
    cell: &[[f32; 4]],
    level: usize,
    images: &Value,
    map: &Value,
    numerics: Numerics,
) -> Value {
    let columns = shifts(part, level, images, map, 3, numerics);
    let rows = shifts(part, level, images, map, 2, numerics);
    let columns = part.reshape(&columns, &[1, -1, 1, 1]);
    let rows = part.reshape(&rows, &[-1, 1, 1, 1]);
    let x = part.graph.floats(&[1.0, 0.0, 1.0, 0.0], &[4]);
    let y = part.graph.floats(&[0.0, 1.0, 0.0, 1.0], &[4]);
    let columns = part.op("Mul", &[&columns, &x]);
    let rows = part.op("Mul", &[&rows, &y]);
    let shifts = part.op("Add", &[&columns, &rows]);
    let cell = part.graph.floats(cell.as_flattened(), &[cell.len(), 4]);
    let anchors = part.op("Add", &[&cell, &shifts]);
    part.reshape(&anchors, &[-1, 4])
}

/// Positions of the grid's rows (`axis` 2) or columns (3), in pixels.
fn shifts(
    part: &mut Part,
    level: usize,
    images: &Value,
    map: &Value,
    axis: i64,
    numerics: Numerics,
) -> Value {
    let cells = part.size(map, axis);
    let stride = match numerics.strides_from_grid {
        true => {
            let pixels = part.size(images, axis);
            part.op("Div", &[&pixels, &cells])
        }
        false => part.ints(&[4 << level]),
    };
    let cells = part.reshape(&cells, &[]);
    let [zero, one] = [0, 1].map(|value| part.int(value));
    let numbers = part.op("Range", &[&zero, &cells, &one]);
    let positions = part.op("Mul", &[&numbers, &stride]);
    part.cast_to_float(&positions)
}

/// Suppression within each level, then the best over all levels.
///
/// The levels are the classes of one suppression over the whole batch: `boxes` `[N, P, 4]`, `scores` and `usable`
/// `[N, P]`, `numbers` `[P]` the level of each candidate.
fn best_of_all(
    part: &mut Part,
    boxes: &Value,
    scores: &Value,
    usable: &Value,
    numbers: &Value,
    config: &DetectorConfig,
) -> Proposals {
    let count = config.anchors.sizes.len();
    let levels: Vec<i64> = (0..count as i64).collect();
    let levels = part.graph.ints(&levels, &[1, count, 1]);
    let of_level = part.op("Equal", &[numbers, &levels]);
    let usable = part.unsqueeze(usable, &[1]);
    let takes_part = part.op("And", &[&of_level, &usable]);
    let by_level = part.unsqueeze(scores, &[1]);
    let none = part.float(NO_SCORE);
    let by_level = part.op("Where", &[&takes_part, &by_level, &none]);
    let kept = part.suppress(boxes, &by_level, config.rpn.post_nms_test, config.rpn.nms, LOWEST);
    let scores = part.keep(scores, &kept, NO_SCORE);
    let [scores, indices] = part.largest(&scores, config.rpn.post_nms_test);
    Proposals { boxes: part.gather_rows(boxes, &indices), scores }
}
