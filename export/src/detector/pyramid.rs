//! From images to the pyramid: normalisation, backbone, FPN.

use scrl_transfer::data::Preprocessing;
use scrl_transfer::detection::{BackboneWithFpn, ConvNorm, Fpn};

use super::InputKind;
use crate::ExportError;
use crate::backbone::resnet;
use crate::graph::{Attribute, Graph, Value};
use crate::layers::{conv, conv_norm, relu};
use crate::part::Part;

/// C2 to C5, and P2 to P6 or P3 to P7.
pub(crate) struct Pyramid {
    pub stages: [Value; 4],
    pub levels: Vec<Value>,
}

/// The images as the backbone takes them.
///
/// What is beyond an image's own size becomes zero after the normalisation, which is what padding a normalised image
/// makes of it.
pub(super) fn normalize(
    graph: &mut Graph,
    images: &Value,
    image_sizes: Option<&Value>,
    input: InputKind,
    preprocessing: &Preprocessing,
) -> Value {
    if input == InputKind::Normalized {
        return images.clone();
    }
    let mut part = Part::new(graph, "transform");
    let scale = part.float(255.0);
    let mean = part.graph.floats(&preprocessing.mean, &[1, 3, 1, 1]);
    let std = part.graph.floats(&preprocessing.std, &[1, 3, 1, 1]);
    let unit = part.op("Div", &[images, &scale]);
    let centred = part.op("Sub", &[&unit, &mean]);
    let normalized = part.op("Div", &[&centred, &std]);
    let Some(sizes) = image_sizes else { return normalized };
    let rows = inside(&mut part, &normalized, sizes, 0, [1, 3]);
    let columns = inside(&mut part, &normalized, sizes, 1, [1, 2]);
    let inside = part.op("And", &[&rows, &columns]);
    let zero = part.float(0.0);
    part.op("Where", &[&inside, &normalized, &zero])
}

/// Which rows (`side` 0) or columns (1) of each image are its own, with dimensions of one at `axes`.
fn inside(part: &mut Part, images: &Value, sizes: &Value, side: i64, axes: [i64; 2]) -> Value {
    let count = part.size(images, 2 + side);
    let count = part.reshape(&count, &[]);
    let [zero, one] = [0, 1].map(|value| part.int(value));
    let numbers = part.op("Range", &[&zero, &count, &one]);
    let numbers = part.unsqueeze(&numbers, &[0]);
    let side = part.ints(&[side]);
    let own = part.gather(sizes, &side, 1);
    let inside = part.op("Less", &[&numbers, &own]);
    part.unsqueeze(&inside, &axes)
}

/// The backbone's and the pyramid's nodes.
pub(crate) fn pyramid(
    graph: &mut Graph,
    model: &BackboneWithFpn,
    images: &Value,
    fold: bool,
) -> Result<Pyramid, ExportError> {
    let stages = resnet(graph, "backbone.body.", &model.body, images, fold)?;
    let levels = fpn(graph, &model.fpn, &stages, fold)?;
    Ok(Pyramid { stages, levels })
}

/// P2 to P6 of C2 to C5, or P3 to P7 of C3 to C5.
fn fpn(graph: &mut Graph, model: &Fpn, stages: &[Value; 4], fold: bool) -> Result<Vec<Value>, ExportError> {
    let mut levels = Vec::with_capacity(5);
    let mut merged: Option<Value> = None;
    let first = stages.len() - model.inner_blocks.len();
    for (level, stage) in stages[first..].iter().enumerate().rev() {
        let path = format!("backbone.fpn.inner_blocks.{level}");
        let lateral = block(graph, &path, &model.inner_blocks[level], stage, fold)?;
        let sum = match merged {
            Some(top) => {
                let mut part = Part::new(graph, path);
                let top = upsample(&mut part, &top, &lateral);
                part.op("Add", &[&lateral, &top])
            }
            None => lateral,
        };
        let path = format!("backbone.fpn.layer_blocks.{level}");
        levels.push(block(graph, &path, &model.layer_blocks[level], &sum, fold)?);
        merged = Some(sum);
    }
    levels.reverse();
    let coarsest = levels[levels.len() - 1].clone();
    if let Some(extra) = &model.extra_blocks {
        let p6 = conv(graph, "backbone.fpn.extra_blocks.p6", &extra.p6, &coarsest)?;
        let active = relu(graph, "backbone.fpn.extra_blocks.relu", &p6);
        let p7 = conv(graph, "backbone.fpn.extra_blocks.p7", &extra.p7, &active)?;
        levels.extend([p6, p7]);
        return Ok(levels);
    }
    let subsample =
        vec![("kernel_shape", Attribute::Ints(vec![1; 2])), ("strides", Attribute::Ints(vec![2; 2]))];
    levels.push(graph.node("backbone.fpn.extra_blocks", "MaxPool", &[&coarsest], subsample));
    Ok(levels)
}

fn block(
    graph: &mut Graph,
    path: &str,
    (layer, norm): &ConvNorm,
    input: &Value,
    fold: bool,
) -> Result<Value, ExportError> {
    let paths = [format!("{path}.0"), format!("{path}.1")];
    match norm {
        Some(norm) => conv_norm(graph, (&paths[0], layer), (&paths[1], norm), input, fold),
        None => conv(graph, &paths[0], layer, input),
    }
}

/// Nearest neighbours, to the height and width of `like`.
fn upsample(part: &mut Part, input: &Value, like: &Value) -> Value {
    let [own, other] = [input, like].map(|value| part.op("Shape", &[value]));
    let own = part.slice(&own, 0, 0, 2);
    let other = part.slice(&other, 0, 2, 4);
    let sizes = part.concat(&[own, other], 0);
    let attributes = vec![
        ("mode", Attribute::Text("nearest")),
        ("coordinate_transformation_mode", Attribute::Text("asymmetric")),
        ("nearest_mode", Attribute::Text("floor")),
    ];
    part.op_with("Resize", &[input, &Value::absent(), &Value::absent(), &sizes], attributes)
}
