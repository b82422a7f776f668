//! A builder of ONNX graphs: named initialisers, nodes, dynamic dimensions, metadata.
//!
//! Values and initialisers share one namespace. A node's first output carries the node's own name, and graph outputs
//! get their public names when the graph is finished.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use burn::tensor::TensorData;
use onnx_ir::{AttributeProto, AttributeType, GraphProto, Message, ModelProto, TensorProto, ValueInfoProto};
use protobuf::MessageField;

use crate::ExportError;

/// The operator sets that the builder's nodes are valid in.
pub const OPSETS: std::ops::RangeInclusive<i64> = 17..=21;

/// An edge of the graph: an input, an initialiser or the output of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value(String);

/// One dimension of a graph input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Known at export.
    Fixed(usize),
    /// Known when the model runs; equal names mean equal sizes.
    Symbol(&'static str),
}

/// An attribute of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    Int(i64),
    Ints(Vec<i64>),
    Float(f32),
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
}

impl Graph {
    pub fn new(name: &str) -> Self {
        let proto = GraphProto { name: name.to_string(), ..Default::default() };
        Self { proto, names: BTreeSet::new(), outputs: Vec::new() }
    }

    /// Adds a 32-bit float input.
    ///
    /// # Panics
    /// When the name is taken, as every method that names something.
    pub fn input(&mut self, name: &str, dims: &[Dim]) -> Value {
        let value = self.claim(name);
        self.proto.input.push(value_info(name, dims));
        value
    }

    /// Makes a 32-bit float value an output of the graph under a name of its own.
    pub fn output(&mut self, name: &str, value: &Value, dims: &[Dim]) {
        self.claim(name);
        self.proto.output.push(value_info(name, dims));
        self.outputs.push((value.clone(), name.to_string()));
    }

    /// Adds an initialiser of 32-bit floats.
    ///
    /// # Errors
    /// When a value is not finite.
    pub fn initializer(&mut self, name: &str, data: TensorData) -> Result<Value, ExportError> {
        let data = data.convert::<f32>();
        let finite = data.as_slice::<f32>().is_ok_and(|values| values.iter().all(|v| v.is_finite()));
        if !finite {
            return Err(ExportError::NotFinite { name: name.to_string() });
        }
        let dims = data.shape().iter().map(|&dim| dim as i64).collect();
        let mut tensor = TensorProto { name: name.to_string(), data_type: FLOAT, dims, ..Default::default() };
        // ONNX's raw data are little endian, as every platform that the exporter runs on.
        tensor.raw_data = data.as_bytes().to_vec().into();
        self.proto.initializer.push(tensor);
        Ok(self.claim(name))
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

    /// Gives each output's value its public name. What is no node's output, or an output twice, goes through a copy.
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
const FLOAT: i32 = 1;

/// The oldest format version that allows this operator set (onnx/onnx, docs/Versioning.md).
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=18 => 8,
        19..=20 => 9,
        _ => 10,
    }
}

fn value_info(name: &str, dims: &[Dim]) -> ValueInfoProto {
    let mut info = ValueInfoProto { name: name.to_string(), ..Default::default() };
    let tensor = info.type_.mut_or_insert_default().mut_tensor_type();
    tensor.elem_type = FLOAT;
    let shape = tensor.shape.mut_or_insert_default();
    for dim in dims {
        shape.dim.push(Default::default());
        let last = shape.dim.last_mut().expect("a dimension was pushed");
        match dim {
            Dim::Fixed(size) => last.set_dim_value(*size as i64),
            Dim::Symbol(name) => last.set_dim_param(name.to_string()),
        }
    }
    info
}

fn attribute(name: &str, value: Attribute) -> AttributeProto {
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
    };
    proto
}

/// Writes a model to a file: all of it or, after an error, nothing. Returns the number of bytes.
///
/// # Errors
/// When the folder does not exist or cannot be written to.
pub fn save(model: &ModelProto, path: &Path) -> Result<u64, ExportError> {
    let failed = |source: io::Error| ExportError::Io { action: "write", path: path.to_path_buf(), source };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".export-");
    // A temporary file is private to its user; an exported model gets the permissions of any new file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temporary = builder.tempfile_in(folder).map_err(failed)?;
    write(model, temporary.as_file_mut()).map_err(failed)?;
    let file = temporary.persist(path).map_err(|error| failed(error.error))?;
    Ok(file.metadata().map_err(failed)?.len())
}

fn write(model: &ModelProto, file: &mut File) -> io::Result<()> {
    let mut writer = BufWriter::new(&mut *file);
    model.write_to_writer(&mut writer)?;
    writer.flush()?;
    drop(writer);
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIMS: [Dim; 2] = [Dim::Symbol("batch"), Dim::Fixed(3)];

    fn info() -> ModelInfo {
        let properties = BTreeMap::from([("key".to_string(), "value".to_string())]);
        ModelInfo { opset: 17, description: String::new(), properties }
    }

    #[test]
    fn outputs_get_their_names_in_every_node_that_reads_them() {
        let mut graph = Graph::new("test");
        let x = graph.input("x", &DIMS);
        let a = graph.node("a", "Relu", &[&x], vec![]);
        let b = graph.node("b", "Add", &[&a, &x], vec![]);
        graph.output("first", &a, &DIMS);
        graph.output("second", &b, &DIMS);
        graph.output("again", &a, &DIMS);
        let model = graph.finish(info()).unwrap();
        let nodes: Vec<_> = model.graph.node.iter().map(|n| (n.input.clone(), n.output.clone())).collect();
        let names = |list: &[&str]| list.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        assert_eq!(
            nodes,
            [
                (names(&["x"]), names(&["first"])),
                (names(&["first", "x"]), names(&["second"])),
                (names(&["first"]), names(&["again"])),
            ]
        );
    }

    #[test]
    fn dynamic_dimensions_keep_their_symbols_and_fixed_ones_their_sizes() {
        let info = value_info("x", &DIMS);
        let dims = &info.type_.tensor_type().shape.dim;
        assert_eq!((dims[0].dim_param(), dims[1].dim_value()), ("batch", 3));
        assert!(!dims[0].has_dim_value());
    }

    #[test]
    fn an_initialiser_that_is_not_finite_is_refused_by_its_name() {
        let mut graph = Graph::new("test");
        let data = TensorData::new(vec![1.0, f32::NAN], [2]);
        let error = graph.initializer("bn1.running_var", data).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`bn1.running_var` holds a value that is not finite; the training diverged, export an earlier checkpoint"
        );
    }

    #[test]
    fn an_unknown_opset_is_refused_with_the_supported_range() {
        let error = Graph::new("test").finish(ModelInfo { opset: 9, ..info() }).unwrap_err();
        assert_eq!(error.to_string(), "opset 9 is not supported; choose one from 17 to 21");
    }

    #[test]
    fn a_saved_model_reads_back_equal_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        let mut graph = Graph::new("test");
        let w = graph.initializer("w", TensorData::new(vec![1.0f32, 2.0], [2])).unwrap();
        graph.output("y", &w, &[Dim::Fixed(2)]);
        assert_eq!((graph.initializers(), graph.parameters()), (1, 2));
        let model = graph.finish(info()).unwrap();
        let bytes = save(&model, &path).unwrap();
        let read = std::fs::read(&path).unwrap();
        assert_eq!(read.len() as u64, bytes);
        assert_eq!(ModelProto::parse_from_bytes(&read).unwrap(), model);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_does_not_exist_is_named_in_the_error() {
        let model = Graph::new("test").finish(info()).unwrap();
        let error = save(&model, Path::new("no-such-folder/model.onnx")).unwrap_err();
        assert!(error.to_string().starts_with("cannot write `no-such-folder/model.onnx`"), "{error}");
    }
}
