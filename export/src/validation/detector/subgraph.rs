//! Parts of an exported file as models of their own: what is examined are the file's own nodes and numbers.

use std::collections::BTreeSet;
use std::path::Path;

use onnx_ir::{GraphProto, ModelProto, NodeProto, ValueInfoProto};
use ort::session::{Session, SessionInputValue};
use ort::value::Tensor;

use crate::ExportError;
use crate::backbone::OutputTensor;
use crate::detector::PartNames;
use crate::detector_runtime::outputs_of;
use crate::graph::{self, Attribute, FLOAT, FLOAT16, INT64};
use crate::runtime::runtime;

/// A value of a file.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    /// Its name in the file.
    pub name: String,
    pub kind: Kind,
}

/// What a value holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Float,
    /// 16-bit floats, which pass the border of the part as 32-bit floats.
    Half,
    Int,
}

impl Probe {
    pub fn float(name: &str) -> Self {
        Self { name: name.to_string(), kind: Kind::Float }
    }

    pub fn int(name: &str) -> Self {
        Self { name: name.to_string(), kind: Kind::Int }
    }

    /// The feature map of a file whose weights are of 16 bits or not.
    pub fn map(name: &str, half: bool) -> Self {
        Self { name: name.to_string(), kind: if half { Kind::Half } else { Kind::Float } }
    }

    /// The name of what stands for the value outside of the part.
    fn outside(&self) -> String {
        if self.kind == Kind::Half { format!("{}.float", self.name) } else { self.name.clone() }
    }

    fn info(&self) -> ValueInfoProto {
        let mut info = ValueInfoProto { name: self.outside(), ..Default::default() };
        let tensor = info.type_.mut_or_insert_default().mut_tensor_type();
        tensor.elem_type = if self.kind == Kind::Int { INT64 } else { FLOAT };
        info
    }
}

/// The levels of the pyramid; the maps of the backbone come before them.
pub(super) fn level_probes(names: &PartNames, half: bool) -> Vec<Probe> {
    names.maps[4..].iter().map(|(_, name)| Probe::map(name, half)).collect()
}

fn cast(name: String, from: String, to: i32) -> NodeProto {
    NodeProto {
        name: name.clone(),
        op_type: "Cast".to_string(),
        input: vec![from],
        output: vec![name],
        attribute: vec![graph::attribute("to", Attribute::Int(to.into()))],
        ..Default::default()
    }
}

/// The model with more of its values as outputs.
pub(super) fn with_outputs(mut model: ModelProto, probes: &[Probe]) -> ModelProto {
    let graph = model.graph.mut_or_insert_default();
    for probe in probes {
        if probe.kind == Kind::Half {
            graph.node.push(cast(probe.outside(), probe.name.clone(), FLOAT));
        }
        graph.output.push(probe.info());
    }
    model
}

/// The part of a model that computes `outputs` (its own where none is named) from `inputs`, which are values of the model.
pub(super) fn part(mut model: ModelProto, inputs: &[Probe], outputs: &[Probe]) -> ModelProto {
    let graph = model.graph.mut_or_insert_default();
    if !outputs.is_empty() {
        graph.output = outputs.iter().map(Probe::info).collect();
    }
    keep_what_is_needed(graph, inputs);
    for probe in inputs {
        graph.input.push(probe.info());
        if probe.kind == Kind::Half {
            graph.node.insert(0, cast(probe.name.clone(), probe.outside(), FLOAT16));
        }
    }
    model
}

/// Drops nodes, constants and inputs that no output depends on, once the values of `given` come from outside.
fn keep_what_is_needed(graph: &mut GraphProto, given: &[Probe]) {
    let given: BTreeSet<&str> = given.iter().map(|probe| probe.name.as_str()).collect();
    let mut needed: BTreeSet<String> = graph.output.iter().map(|output| output.name.clone()).collect();
    let mut kept = Vec::new();
    for node in std::mem::take(&mut graph.node).into_iter().rev() {
        let makes = |value: &String| needed.contains(value) && !given.contains(value.as_str());
        if node.output.iter().any(makes) {
            needed.extend(node.input.iter().cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
    graph.initializer.retain(|tensor| needed.contains(&tensor.name));
    graph.input.retain(|input| needed.contains(&input.name));
    graph.value_info.clear();
}

/// Values for an input.
#[derive(Clone, Debug)]
pub(super) enum Values {
    Float(Vec<f32>),
    Int(Vec<i64>),
}

/// A model in ONNX Runtime.
pub(super) struct PartSession {
    session: Session,
}

impl PartSession {
    /// # Errors
    /// When the model cannot be written or ONNX Runtime refuses it.
    pub fn open(model: &ModelProto) -> Result<Self, ExportError> {
        let failed = |source| ExportError::Io { action: "write", path: std::env::temp_dir(), source };
        let folder = tempfile::tempdir().map_err(failed)?;
        let path = folder.path().join("part.onnx");
        graph::save(model, &path)?;
        Ok(Self { session: runtime()?.session(&path, 0)? })
    }

    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// All outputs; integers as floats. Inputs that the part does not need are left out.
    ///
    /// # Errors
    /// When ONNX Runtime fails.
    pub fn run(&mut self, inputs: &[(Probe, Vec<usize>, Values)]) -> ort::Result<Vec<OutputTensor>> {
        let known: BTreeSet<String> =
            self.session.inputs().iter().map(|input| input.name().to_string()).collect();
        let mut given: Vec<(String, SessionInputValue<'_>)> = Vec::new();
        for (probe, shape, values) in inputs.iter().filter(|(probe, ..)| known.contains(&probe.outside())) {
            let value = match values {
                Values::Float(values) => Tensor::from_array((shape.clone(), values.clone()))?.into(),
                Values::Int(values) => Tensor::from_array((shape.clone(), values.clone()))?.into(),
            };
            given.push((probe.outside(), value));
        }
        outputs_of(&self.session.run(given)?)
    }
}

/// The values of an output, whatever it is called outside; empty where there is none.
pub(super) fn values<'a>(outputs: &'a [OutputTensor], probe: &Probe) -> &'a [f32] {
    let name = probe.outside();
    let output = outputs.iter().find(|output| output.name == name);
    output.map(|output| output.values.as_slice()).unwrap_or_default()
}

/// The shape of an output; empty where there is none.
pub(super) fn shape<'a>(outputs: &'a [OutputTensor], probe: &Probe) -> &'a [usize] {
    let name = probe.outside();
    let output = outputs.iter().find(|output| output.name == name);
    output.map(|output| output.shape.as_slice()).unwrap_or_default()
}

/// The nodes of the file at `path`.
///
/// # Errors
/// See [`read_model`](crate::inspect::read_model).
pub(super) fn read(path: &Path) -> Result<ModelProto, ExportError> {
    crate::inspect::read_model(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Dim, Element, Graph, ModelInfo};

    /// `out = Relu(a + b) · c`, and a value that nothing needs.
    fn model() -> ModelProto {
        let mut graph = Graph::new("test");
        let a = graph.input("a", Element::Float, &[Dim::Any]);
        let b = graph.floats(&[1.0, -9.0], &[2]);
        let c = graph.floats(&[10.0], &[1]);
        let sum = graph.node("sum", "Add", &[&a, &b], vec![]);
        let relu = graph.node("relu", "Relu", &[&sum], vec![]);
        let scaled = graph.node("scaled", "Mul", &[&relu, &c], vec![]);
        graph.node("unused", "Neg", &[&sum], vec![]);
        graph.output("out", Element::Float, &scaled, &[Dim::Any]);
        graph
            .finish(ModelInfo { opset: 17, description: String::new(), properties: Default::default() })
            .unwrap()
    }

    fn nodes(model: &ModelProto) -> Vec<&str> {
        model.graph.node.iter().map(|node| node.name.as_str()).collect()
    }

    #[test]
    fn a_part_begins_at_its_inputs_and_ends_at_its_outputs() {
        let part = part(model(), &[Probe::float("sum")], &[]);
        assert_eq!(nodes(&part), ["relu", "scaled"]);
        let names: Vec<_> = part.graph.input.iter().map(|input| input.name.as_str()).collect();
        assert_eq!((names, part.graph.initializer.len()), (vec!["sum"], 1));
    }

    #[test]
    fn values_inside_a_model_can_be_outputs_too() {
        let probed = with_outputs(model(), &[Probe::float("sum"), Probe::map("relu", true)]);
        let names: Vec<_> = probed.graph.output.iter().map(|output| output.name.as_str()).collect();
        assert_eq!(names, ["out", "sum", "relu.float"]);
        assert_eq!(nodes(&probed).last(), Some(&"relu.float"));
    }
}
