//! Decoding, clipping and choosing boxes, as `scrl_transfer::detection::BoxCoder` and its users compute them.
//!
//! Boxes are `[..., 4]`: x1, y1, x2, y2 in pixels of the padded input.

use crate::graph::Value;
use crate::part::Part;

/// Limit of the decoded `dw` and `dh`, `ln(1000 / 16)`.
const MAX_LOG_SCALE: f32 = 4.135_166_6;

/// The boxes that `deltas` make of `reference`; both broadcast.
pub(super) fn decode(part: &mut Part, reference: &Value, deltas: &Value, weights: [f32; 4]) -> Value {
    let low = part.slice(reference, -1, 0, 2);
    let high = part.slice(reference, -1, 2, 4);
    let size = part.op("Sub", &[&high, &low]);
    let half = part.float(0.5);
    let half_size = part.op("Mul", &[&size, &half]);
    let centre = part.op("Add", &[&low, &half_size]);
    let shift = weighted(part, deltas, 0, [weights[0], weights[1]]);
    let shift = part.op("Mul", &[&shift, &size]);
    let centre = part.op("Add", &[&shift, &centre]);
    let growth = weighted(part, deltas, 2, [weights[2], weights[3]]);
    let limit = part.float(MAX_LOG_SCALE);
    let growth = part.op("Min", &[&growth, &limit]);
    let growth = part.op("Exp", &[&growth]);
    let growth = part.op("Mul", &[&growth, &half]);
    let reach = part.op("Mul", &[&growth, &size]);
    let low = part.op("Sub", &[&centre, &reach]);
    let high = part.op("Add", &[&centre, &reach]);
    part.concat(&[low, high], -1)
}

/// Two of the four deltas, divided by their weights.
fn weighted(part: &mut Part, deltas: &Value, start: i64, weights: [f32; 2]) -> Value {
    let values = part.slice(deltas, -1, start, start + 2);
    if weights == [1.0; 2] {
        return values;
    }
    let weights = part.graph.floats(&weights, &[2]);
    part.op("Div", &[&values, &weights])
}

/// The boxes within the image; `limits` are width, height, width, height and broadcast.
pub(super) fn clip(part: &mut Part, boxes: &Value, limits: &Value) -> Value {
    let zero = part.float(0.0);
    let above = part.op("Max", &[boxes, &zero]);
    part.op("Min", &[&above, limits])
}

/// Width and height of each box; the last dimension goes.
pub(super) fn sides(part: &mut Part, boxes: &Value) -> [Value; 2] {
    let low = part.slice(boxes, -1, 0, 2);
    let high = part.slice(boxes, -1, 2, 4);
    let size = part.op("Sub", &[&high, &low]);
    [0, 1].map(|axis| {
        let axis = part.int(axis);
        part.gather(&size, &axis, -1)
    })
}

/// Whether each box is at least `min_size` pixels, and not nothing, wide and high; the last dimension goes.
pub(super) fn usable(part: &mut Part, boxes: &Value, min_size: f32) -> Value {
    let [width, height] = sides(part, boxes);
    let shorter = part.op("Min", &[&width, &height]);
    let least = part.float(min_size);
    part.op(if min_size > 0.0 { "GreaterOrEqual" } else { "Greater" }, &[&shorter, &least])
}
