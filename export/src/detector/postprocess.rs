//! From the predictor's outputs to detections: decoding, suppression within each class, the best of each image.
//!
//! N images in the batch, R proposals of an image, Q proposals of the whole batch, K foreground classes, D detections.

use scrl_transfer::detection::DetectorConfig;

use super::boxes::{clip, decode, usable};
use super::heads::{BoxOutputs, Rois};
use super::proposals::Proposals;
use crate::graph::{Attribute, Graph, Value};
use crate::part::Part;

/// The score of what is not a detection; probabilities are at least 0.
pub(super) const NOTHING: f32 = -1.0;

/// The graph's outputs; zero beyond `count`.
pub(super) struct Detections {
    /// `[N, D, 4]`
    pub boxes: Value,
    /// `[N, D]`
    pub scores: Value,
    /// `[N, D]`, 64-bit integers.
    pub labels: Value,
    /// `[N]`, 64-bit integers.
    pub count: Value,
}

/// One box for each proposal and class, in every image's own rows.
struct Candidates {
    /// `[N, R, K, 4]`
    boxes: Value,
    /// `[N, R, K]`; [`NOTHING`] where there is none.
    scores: Value,
}

/// The detections of every image, best first; `limits` as in [`proposals`](super::proposals::proposals).
pub(super) fn detections(
    graph: &mut Graph,
    outputs: &BoxOutputs,
    rois: &Rois,
    proposals: &Proposals,
    limits: &Value,
    config: &DetectorConfig,
) -> Detections {
    let mut part = Part::new(graph, "roi_heads.detections");
    let candidates = candidates(&mut part, outputs, rois, proposals, limits, config);
    let scores = suppressed(&mut part.part("nms"), &candidates, config);
    best(&mut part.part("best"), &candidates.boxes, &scores, config)
}

fn candidates(
    part: &mut Part,
    outputs: &BoxOutputs,
    rois: &Rois,
    proposals: &Proposals,
    limits: &Value,
    config: &DetectorConfig,
) -> Candidates {
    let classes = config.num_classes as i64;
    let probabilities = part.op_with("Softmax", &[&outputs.logits], vec![("axis", Attribute::Int(1))]);
    let probabilities = part.slice(&probabilities, 1, 1, classes + 1);
    let deltas = part.reshape(&outputs.deltas, &[0, classes + 1, 4]);
    let deltas = part.slice(&deltas, 1, 1, classes + 1);
    let reference = part.unsqueeze(&rois.boxes, &[1]);
    let boxes = decode(&mut part.part("decode"), &reference, &deltas, config.roi_heads.box_weights);
    let zero = part.int(0);
    let images = part.gather(&rois.places, &zero, 1);
    let limits = part.gather(limits, &images, 0);
    let boxes = clip(&mut part.part("clip"), &boxes, &limits);
    let usable = usable(&mut part.part("usable"), &boxes, config.variant.numerics().min_detection_size);
    let nothing = part.float(NOTHING);
    let scores = part.op("Where", &[&usable, &probabilities, &nothing]);
    let rows = part.op("Shape", &[&proposals.scores]);
    Candidates {
        boxes: spread(part, &boxes, &rois.places, &rows, &[classes, 4], 0.0),
        scores: spread(part, &scores, &rois.places, &rows, &[classes], NOTHING),
    }
}

/// Rows of the whole batch, `[Q, ...]`, to their places in `[N, R, ...]`; `rows` are N and R, `tail` the rest.
fn spread(part: &mut Part, values: &Value, places: &Value, rows: &Value, tail: &[i64], other: f32) -> Value {
    let tail = part.ints(tail);
    let shape = part.concat(&[rows.clone(), tail], 0);
    let others = part.filled(other, &shape);
    part.op("ScatterND", &[&others, places, values])
}

/// The scores, `[N, R · K]`, of what suppression within each image and class keeps; [`NOTHING`] else.
fn suppressed(part: &mut Part, candidates: &Candidates, config: &DetectorConfig) -> Value {
    let classes = config.num_classes as i64;
    let boxes = part.transpose(&candidates.boxes, &[0, 2, 1, 3]);
    let count = part.size(&candidates.scores, 1);
    let [any, four] = [-1, 4].map(|size| part.ints(&[size]));
    let shape = part.concat(&[any.clone(), count.clone(), four], 0);
    let boxes = part.op("Reshape", &[&boxes, &shape]);
    let scores = part.transpose(&candidates.scores, &[0, 2, 1]);
    let shape = part.concat(&[any.clone(), count.clone()], 0);
    let scores = part.op("Reshape", &[&scores, &shape]);
    let by_class = part.unsqueeze(&scores, &[1]);
    let (limit, threshold) = (config.test.detections_per_image, config.test.score_threshold);
    let kept = part.suppress(&boxes, &by_class, limit, config.test.nms, threshold);
    let scores = part.keep(&scores, &kept, NOTHING);
    let classes = part.ints(&[classes]);
    let shape = part.concat(&[any, classes, count], 0);
    let scores = part.op("Reshape", &[&scores, &shape]);
    let scores = part.transpose(&scores, &[0, 2, 1]);
    part.op_with("Flatten", &[&scores], vec![("axis", Attribute::Int(1))])
}

/// The best D of `scores`, `[N, R · K]`.
fn best(part: &mut Part, boxes: &Value, scores: &Value, config: &DetectorConfig) -> Detections {
    let [scores, indices] = part.largest(scores, config.test.detections_per_image);
    let boxes = part.reshape(boxes, &[0, -1, 4]);
    let boxes = part.gather_rows(&boxes, &indices);
    let classes = part.int(config.num_classes as i64);
    let labels = part.op("Mod", &[&indices, &classes]);
    finish(part, &boxes, &scores, &labels, config)
}

/// The outputs of detections that are sorted already: `boxes` `[N, D', 4]`, `scores` `[N, D']`, [`NOTHING`] where there is
/// none, `labels` `[N, D']`, with D' at most D.
pub(super) fn finish(
    part: &mut Part,
    boxes: &Value,
    scores: &Value,
    labels: &Value,
    config: &DetectorConfig,
) -> Detections {
    let (zero, none) = (part.float(0.0), part.int(0));
    let half = part.float(NOTHING / 2.0);
    let found = part.op("Greater", &[scores, &half]);
    let rows = part.unsqueeze(&found, &[-1]);
    let boxes = part.op("Where", &[&rows, boxes, &zero]);
    let scores = part.op("Where", &[&found, scores, &zero]);
    let labels = part.op("Where", &[&found, labels, &none]);
    let count = part.cast_to_int(&found);
    let axis = part.ints(&[1]);
    let keep = vec![("keepdims", Attribute::Int(0))];
    let count = part.op_with("ReduceSum", &[&count, &axis], keep);
    let missing = missing(part, &scores, config.test.detections_per_image);
    Detections {
        boxes: pad(part, &boxes, &missing, 3),
        scores: pad(part, &scores, &missing, 2),
        labels: pad(part, &labels, &missing, 2),
        count,
    }
}

/// How many columns are missing to D.
fn missing(part: &mut Part, scores: &Value, limit: usize) -> Value {
    let limit = part.ints(&[limit as i64]);
    let available = part.size(scores, 1);
    part.op("Sub", &[&limit, &available])
}

/// Zeros after the entries of axis 1.
fn pad(part: &mut Part, value: &Value, missing: &Value, rank: usize) -> Value {
    let before = part.ints(&vec![0; rank + 1]);
    let pads = match rank {
        2 => part.concat(&[before, missing.clone()], 0),
        _ => {
            let after = part.ints(&vec![0; rank - 2]);
            part.concat(&[before, missing.clone(), after], 0)
        }
    };
    part.op("Pad", &[value, &pads])
}
