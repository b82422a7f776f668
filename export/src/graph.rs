//! A builder of ONNX graphs: named initialisers, nodes, dynamic dimensions, metadata.
//!
//! Values and initialisers share one namespace. A node's first output carries the node's own name, and graph outputs
//! get their public names when the graph is finished.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use burn::tensor::{TensorData, f16};
use onnx_ir::{AttributeProto, AttributeType, GraphProto, ModelProto, TensorProto, ValueInfoProto};
use protobuf::MessageField;

use crate::ExportError;

mod file;

pub use file::save;

/// The operator sets that the builder's nodes are valid in.
pub const OPSETS: std::ops::RangeInclusive<i64> = 17..=21;

/// An edge of the graph: an input, an initialiser or the output of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value(String);

impl Value {
    /// An optional input of a node that is not given.
    pub fn absent() -> Self {
        Self(String::new())
    }

    /// Its name in the file, unless it is an output of the graph.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// Type of the numbers of a graph input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 32-bit floats.
    Float,
    /// 64-bit integers.
    Int64,
}

impl Element {
    /// The number in TensorProto.DataType.
    fn code(self) -> i32 {
        match self {
            Element::Float => FLOAT,
            Element::Int64 => INT64,
        }
    }
}

/// One dimension of a graph input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Known at export.
    Fixed(usize),
    /// Known when the model runs; equal names mean equal sizes.
    Symbol(&'static str),
    /// Known when the model runs.
    Any,
}

/// An attribute of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    Int(i64),
    Ints(Vec<i64>),
    Float(f32),
    Text(&'static str),
}

/// What a finished file says about itself.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// One of [`OPSETS`].
    pub opset: i64,
    /// Free text for people.
    pub description: String,
    /// Key and value pairs for programs.
    pub properties: BTreeMap<String, String>,
}

/// An ONNX graph under construction.
#[derive(Debug)]
pub struct Graph {
    proto: GraphProto,
    names: BTreeSet<String>,
    outputs: Vec<(Value, String)>,
    /// Constants by type, shape and bytes, so that equal ones are stored once.
    constants: HashMap<(i32, Vec<i64>, Vec<u8>), Value>,
    half: bool,
}

impl Graph {
    pub fn new(name: &str) -> Self {
        let proto = GraphProto { name: name.to_string(), ..Default::default() };
        let (names, outputs, constants) = (BTreeSet::new(), Vec::new(), HashMap::new());
        Self { proto, names, outputs, constants, half: false }
    }

    /// Stores weights as 16-bit floats from now on; what computes with them must be between
    /// [`narrow`](Self::narrow) and [`widen`](Self::widen).
    pub fn with_half_weights(self, half: bool) -> Self {
        Self { half, ..self }
    }

    /// Adds an input.
    ///
    /// # Panics
    /// When the name is taken, as every method that names something.
    pub fn input(&mut self, name: &str, element: Element, dims: &[Dim]) -> Value {
        let value = self.claim(name);
        self.proto.input.push(value_info(name, element, dims));
        value
    }

    /// Makes a value an output of the graph under a name of its own.
    pub fn output(&mut self, name: &str, element: Element, value: &Value, dims: &[Dim]) {
        self.claim(name);
        self.proto.output.push(value_info(name, element, dims));
        self.outputs.push((value.clone(), name.to_string()));
    }

    /// Adds weights: an initialiser of 32-bit floats, or of 16-bit floats in a graph with half weights.
    ///
    /// # Errors
    /// When a value is not finite, or not in the range of 16-bit floats where these are stored.
    pub fn initializer(&mut self, name: &str, data: TensorData) -> Result<Value, ExportError> {
        let data = data.convert::<f32>();
        let finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
        if !data.as_slice::<f32>().is_ok_and(finite) {
            return Err(ExportError::NotFinite { name: name.to_string() });
        }
        let dims = data.shape().iter().map(|&dim| dim as i64).collect();
        let (data_type, data) = if self.half { (FLOAT16, data.convert::<f16>()) } else { (FLOAT, data) };
        if self.half && !data.as_slice::<f16>().is_ok_and(|values| values.iter().all(|v| v.is_finite())) {
            return Err(ExportError::HalfRange { name: name.to_string() });
        }
        let mut tensor = TensorProto { name: name.to_string(), data_type, dims, ..Default::default() };
        // ONNX's raw data are little endian, as every platform that the exporter runs on.
        tensor.raw_data = data.as_bytes().to_vec().into();
        self.proto.initializer.push(tensor);
        Ok(self.claim(name))
    }

    /// A constant of 64-bit integers of this shape, stored once however often it is asked for.
    pub fn ints(&mut self, values: &[i64], shape: &[usize]) -> Value {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(INT64, shape, bytes)
    }

    /// A constant of 32-bit floats of this shape, stored once however often it is asked for.
    pub fn floats(&mut self, values: &[f32], shape: &[usize]) -> Value {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(FLOAT, shape, bytes)
    }

    fn constant(&mut self, data_type: i32, shape: &[usize], bytes: Vec<u8>) -> Value {
        let dims: Vec<i64> = shape.iter().map(|&dim| dim as i64).collect();
        let key = (data_type, dims.clone(), bytes.clone());
        if let Some(value) = self.constants.get(&key) {
            return value.clone();
        }
        let name = format!("constant.{}", self.constants.len());
        let mut tensor = TensorProto { name: name.clone(), data_type, dims, ..Default::default() };
        tensor.raw_data = bytes.into();
        self.proto.initializer.push(tensor);
        let value = self.claim(&name);
        self.constants.insert(key, value.clone());
        value
    }

    /// The value as 16-bit floats where weights are stored so; else the value itself.
    pub fn narrow(&mut self, name: &str, value: &Value) -> Value {
        self.convert(name, value, FLOAT16)
    }

    /// The inverse of [`narrow`](Self::narrow).
    pub fn widen(&mut self, name: &str, value: &Value) -> Value {
        self.convert(name, value, FLOAT)
    }

    fn convert(&mut self, name: &str, value: &Value, data_type: i32) -> Value {
        if !self.half {
            return value.clone();
        }
        let name = self.unused(name);
        self.node(&name, "Cast", &[value], vec![("to", Attribute::Int(data_type.into()))])
    }

    /// This name or, if it is taken, this name with the first free number.
    pub fn unused(&self, name: &str) -> String {
        let numbered = (2..).map(|number| format!("{name}_{number}"));
        let mut names = std::iter::once(name.to_string()).chain(numbered);
        names.find(|name| !self.names.contains(name)).expect("numbers do not end")
    }

    /// Adds a node with one output.
    pub fn node(
        &mut self,
        name: &str,
        operator: &str,
        inputs: &[&Value],
        attributes: Vec<(&str, Attribute)>,
    ) -> Value {
        let output = self.claim(name);
        self.proto.node.push(Default::default());
        let node = self.proto.node.last_mut().expect("a node was pushed");
        node.name = name.to_string();
        node.op_type = operator.to_string();
        node.input = inputs.iter().map(|value| value.0.clone()).collect();
        node.output = vec![name.to_string()];
        node.attribute = attributes.into_iter().map(|(name, value)| attribute(name, value)).collect();
        output
    }

    /// Adds a node with two outputs; the second is called `NAME.SECOND`.
    pub fn node_with_two_outputs(
        &mut self,
        name: &str,
        operator: &str,
        inputs: &[&Value],
        attributes: Vec<(&str, Attribute)>,
        second: &str,
    ) -> [Value; 2] {
        let first = self.node(name, operator, inputs, attributes);
        let second = self.claim(&format!("{name}.{second}"));
        let node = self.proto.node.last_mut().expect("a node was pushed");
        node.output.push(second.0.clone());
        [first, second]
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.proto.node.len()
    }

    /// Number of initialisers.
    pub fn initializers(&self) -> usize {
        self.proto.initializer.len()
    }

    /// Number of values in all initialisers.
    pub fn parameters(&self) -> usize {
        self.proto.initializer.iter().map(|tensor| tensor.dims.iter().product::<i64>() as usize).sum()
    }

    /// The complete model.
    ///
    /// # Errors
    /// When the operator set is not supported or the weights do not fit into one file.
    pub fn finish(mut self, info: ModelInfo) -> Result<ModelProto, ExportError> {
        if !OPSETS.contains(&info.opset) {
            let (lowest, highest) = (*OPSETS.start(), *OPSETS.end());
            return Err(ExportError::Opset { found: info.opset, lowest, highest });
        }
        let bytes = self.proto.initializer.iter().map(|tensor| tensor.raw_data.len() as u64).sum();
        if bytes > i32::MAX as u64 {
            return Err(ExportError::TooLarge { bytes });
        }
        self.name_outputs();
        let mut model = ModelProto {
            ir_version: ir_version(info.opset),
            producer_name: "scrl".to_string(),
            producer_version: env!("CARGO_PKG_VERSION").to_string(),
            doc_string: info.description,
            graph: MessageField::some(self.proto),
            ..Default::default()
        };
        model.opset_import.push(Default::default());
        model.opset_import[0].version = info.opset;
        for (key, value) in info.properties {
            model.metadata_props.push(Default::default());
            let property = model.metadata_props.last_mut().expect("a property was pushed");
            (property.key, property.value) = (key, value);
        }
        Ok(model)
    }

    /// Gives each output's value its public name. What is not a node's output, or an output twice, goes through a copy.
    fn name_outputs(&mut self) {
        let mut renamed: BTreeMap<String, String> = BTreeMap::new();
        for (value, name) in std::mem::take(&mut self.outputs) {
            let produced = self.proto.node.iter().any(|node| node.output.contains(&value.0));
            if produced && !renamed.contains_key(&value.0) {
                renamed.insert(value.0, name);
            } else {
                self.proto.node.push(Default::default());
                let node = self.proto.node.last_mut().expect("a node was pushed");
                (node.name, node.op_type) = (name.clone(), "Identity".to_string());
                (node.input, node.output) = (vec![value.0], vec![name]);
            }
        }
        for node in &mut self.proto.node {
            for value in node.input.iter_mut().chain(&mut node.output) {
                if let Some(name) = renamed.get(value) {
                    *value = name.clone();
                }
            }
        }
    }

    fn claim(&mut self, name: &str) -> Value {
        assert!(self.names.insert(name.to_string()), "the graph already has a value `{name}`");
        Value(name.to_string())
    }
}

/// TensorProto.DataType.FLOAT.
pub(crate) const FLOAT: i32 = 1;
/// TensorProto.DataType.INT64.
pub(crate) const INT64: i32 = 7;
/// TensorProto.DataType.FLOAT16.
pub(crate) const FLOAT16: i32 = 10;

/// The oldest format version that allows this operator set (onnx/onnx, docs/Versioning.md).
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=18 => 8,
        19..=20 => 9,
        _ => 10,
    }
}

fn value_info(name: &str, element: Element, dims: &[Dim]) -> ValueInfoProto {
    let mut info = ValueInfoProto { name: name.to_string(), ..Default::default() };
    let tensor = info.type_.mut_or_insert_default().mut_tensor_type();
    tensor.elem_type = element.code();
    let shape = tensor.shape.mut_or_insert_default();
    for dim in dims {
        shape.dim.push(Default::default());
        let last = shape.dim.last_mut().expect("a dimension was pushed");
        match dim {
            Dim::Fixed(size) => last.set_dim_value(*size as i64),
            Dim::Symbol(name) => last.set_dim_param(name.to_string()),
            Dim::Any => {}
        }
    }
    info
}

pub(crate) fn attribute(name: &str, value: Attribute) -> AttributeProto {
    let mut proto = AttributeProto { name: name.to_string(), ..Default::default() };
    proto.type_ = match value {
        Attribute::Int(value) => {
            proto.i = value;
            AttributeType::INT.into()
        }
        Attribute::Ints(values) => {
            proto.ints = values;
            AttributeType::INTS.into()
        }
        Attribute::Float(value) => {
            proto.f = value;
            AttributeType::FLOAT.into()
        }
        Attribute::Text(value) => {
            proto.s = value.as_bytes().to_vec().into();
            AttributeType::STRING.into()
        }
    };
    proto
}

#[cfg(test)]
mod tests;
