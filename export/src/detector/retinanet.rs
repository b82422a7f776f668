//! RetinaNet: both heads, the best scores of each level, suppression within each class.
//!
//! N images in the batch, A anchors over all levels, K classes, P candidates of an image over all levels.

use scrl_transfer::detection::{AnchorGenerator, DetectorConfig, RetinaNetHead};

use super::boxes::{clip, decode, usable};
use super::postprocess::{Detections, NOTHING, finish};
use super::proposals::{anchors, by_anchor};
use crate::ExportError;
use crate::graph::{Graph, Value};
use crate::layers::{Convolution, relu};
use crate::part::Part;

/// What the heads say about every anchor, level by level.
pub(super) struct HeadOutputs {
    /// `[N, anchors of the level · K]`
    pub logits: Vec<Value>,
    /// The same through the sigmoid.
    pub probabilities: Vec<Value>,
    /// `[N, anchors of the level, 4]`
    pub deltas: Vec<Value>,
}

/// P3 to P7.
pub(super) const LEVELS: [&str; 5] = ["p3", "p4", "p5", "p6", "p7"];

/// Both heads on every level.
pub(super) fn heads(
    graph: &mut Graph,
    head: &RetinaNetHead,
    levels: &[Value],
) -> Result<HeadOutputs, ExportError> {
    let (classification, regression) = (&head.classification_head, &head.regression_head);
    let scoring = "head.classification_head";
    let mut scores = tower(graph, scoring, &classification.conv)?;
    scores.last =
        Some(Convolution::new(graph, &format!("{scoring}.cls_logits"), &classification.cls_logits)?);
    let moving = "head.regression_head";
    let mut boxes = tower(graph, moving, &regression.conv)?;
    boxes.last = Some(Convolution::new(graph, &format!("{moving}.bbox_reg"), &regression.bbox_reg)?);
    let mut outputs = HeadOutputs { logits: Vec::new(), probabilities: Vec::new(), deltas: Vec::new() };
    for (map, name) in levels.iter().zip(LEVELS) {
        let logits = scores.node(graph, name, map);
        let deltas = boxes.node(graph, name, map);
        let logits = by_anchor(graph, scoring, name, &logits, &[0, -1]);
        outputs.probabilities.push(Part::new(graph, format!("{scoring}.{name}")).op("Sigmoid", &[&logits]));
        outputs.logits.push(logits);
        outputs.deltas.push(by_anchor(graph, moving, name, &deltas, &[0, -1, 4]));
    }
    Ok(outputs)
}

/// The convolutions of a head.
struct Tower {
    path: String,
    hidden: Vec<Convolution>,
    last: Option<Convolution>,
}

fn tower(
    graph: &mut Graph,
    path: &str,
    layers: &[Vec<scrl_core::models::Conv2d>],
) -> Result<Tower, ExportError> {
    let layers = layers.iter().flatten().enumerate();
    let hidden =
        layers.map(|(index, layer)| Convolution::new(graph, &format!("{path}.conv.{index}.0"), layer));
    Ok(Tower { path: path.to_string(), hidden: hidden.collect::<Result<_, _>>()?, last: None })
}

impl Tower {
    fn node(&self, graph: &mut Graph, level: &str, map: &Value) -> Value {
        let mut x = map.clone();
        for (index, layer) in self.hidden.iter().enumerate() {
            x = layer.node(graph, &format!("{}.conv.{index}.0.{level}", self.path), &x);
            x = relu(graph, &format!("{}.conv.{index}.1.{level}", self.path), &x);
        }
        match &self.last {
            Some(last) => last.node(graph, &format!("{}.last.{level}", self.path), &x),
            None => x,
        }
    }
}

/// The detections of every image, best first; `limits`, `[N, 1, 4]`, are its own width, height, width, height.
pub(super) fn detections(
    graph: &mut Graph,
    outputs: &HeadOutputs,
    levels: &[Value],
    images: &Value,
    limits: &Value,
    config: &DetectorConfig,
) -> Detections {
    let numerics = config.variant.numerics();
    let generator = AnchorGenerator::new(config);
    let classes = config.num_classes;
    let mut part = Part::new(graph, "detections");
    let (mut boxes, mut scores, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for (level, map) in levels.iter().enumerate() {
        let mut part = part.part(LEVELS[level]);
        let cell: Vec<[f32; 4]> = generator.cell_anchors(level).iter().map(|b| b.to_array()).collect();
        let anchors = anchors(&mut part.part("anchors"), &cell, level, images, map, numerics);
        let [best, indices] = part.largest(&outputs.probabilities[level], config.retinanet.pre_nms);
        let count = part.int(classes as i64);
        let rows = part.op("Div", &[&indices, &count]);
        labels.push(part.op("Mod", &[&indices, &count]));
        let anchors = part.op("Gather", &[&anchors, &rows]);
        let deltas = part.gather_rows(&outputs.deltas[level], &rows);
        boxes.push(decode(&mut part.part("decode"), &anchors, &deltas, [1.0; 4]));
        scores.push(best);
    }
    let [boxes, scores, labels] = [boxes, scores, labels].map(|values| part.concat(&values, 1));
    let boxes = clip(&mut part.part("clip"), &boxes, limits);
    let usable = usable(&mut part.part("usable"), &boxes, 0.0);
    let scores = suppressed(&mut part.part("nms"), [&boxes, &scores, &labels, &usable], config);
    let mut part = part.part("best");
    let [scores, indices] = part.largest(&scores, config.test.detections_per_image);
    let [boxes, labels] = [&boxes, &labels].map(|values| part.gather_rows(values, &indices));
    finish(&mut part, &boxes, &scores, &labels, config)
}

/// The scores, `[N, P]`, of what suppression within each image and class keeps; [`NOTHING`] else.
fn suppressed(
    part: &mut Part,
    [boxes, scores, labels, usable]: [&Value; 4],
    config: &DetectorConfig,
) -> Value {
    let classes: Vec<i64> = (0..config.num_classes as i64).collect();
    let classes = part.graph.ints(&classes, &[1, config.num_classes, 1]);
    let [of_label, by_score, usable] = [labels, scores, usable].map(|values| part.unsqueeze(values, &[1]));
    let of_class = part.op("Equal", &[&of_label, &classes]);
    let takes_part = part.op("And", &[&of_class, &usable]);
    let nothing = part.float(NOTHING);
    let by_class = part.op("Where", &[&takes_part, &by_score, &nothing]);
    let (limit, threshold) = (config.test.detections_per_image, config.test.score_threshold);
    let kept = part.suppress(boxes, &by_class, limit, config.test.nms, threshold);
    part.keep(scores, &kept, NOTHING)
}
