//! What an ONNX file says about itself, without running it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use onnx_ir::{Message, ModelProto, ValueInfoProto};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::ExportError;

/// An input or output of a graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signature {
    /// Its name.
    pub name: String,
    /// `float32`, `int64`, …
    pub element: String,
    /// Sizes, or the names of those that are free; `?` for one without a name.
    pub shape: Vec<String>,
}

/// A file's description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OnnxSummary {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// What wrote it, with its version.
    pub producer: String,
    /// Free text for people.
    pub description: String,
    /// Version of the standard operators.
    pub opset: i64,
    /// What it takes.
    pub inputs: Vec<Signature>,
    /// What it returns.
    pub outputs: Vec<Signature>,
    /// How many nodes of each operator.
    pub operators: BTreeMap<String, usize>,
    /// Number of values in all initialisers.
    pub parameters: u64,
    /// Key and value pairs.
    pub properties: BTreeMap<String, String>,
}

/// Reads an ONNX file, of any program.
///
/// # Errors
/// When the file cannot be read or is not an ONNX model.
pub fn inspect(path: &Path) -> Result<OnnxSummary, ExportError> {
    let model = read_model(path)?;
    let failed = |source| ExportError::Io { action: "read", path: path.to_path_buf(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    let standard = model.opset_import.iter().find(|set| set.domain.is_empty());
    let mut operators = BTreeMap::new();
    for node in &model.graph.node {
        let domain = if node.domain.is_empty() { String::new() } else { format!("{}.", node.domain) };
        *operators.entry(format!("{domain}{}", node.op_type)).or_insert(0) += 1;
    }
    let initializers = &model.graph.initializer;
    let is_weight = |value: &&ValueInfoProto| !initializers.iter().any(|tensor| tensor.name == value.name);
    Ok(OnnxSummary {
        path: path.to_path_buf(),
        bytes,
        producer: format!("{} {}", model.producer_name, model.producer_version).trim().to_string(),
        description: model.doc_string.clone(),
        opset: standard.map_or(0, |set| set.version),
        inputs: model.graph.input.iter().filter(is_weight).map(signature).collect(),
        outputs: model.graph.output.iter().map(signature).collect(),
        operators,
        parameters: initializers.iter().map(|tensor| tensor.dims.iter().product::<i64>() as u64).sum(),
        properties: model.metadata_props.iter().map(|p| (p.key.clone(), p.value.clone())).collect(),
    })
}

/// Reads and checks what every model has.
pub(crate) fn read_model(path: &Path) -> Result<ModelProto, ExportError> {
    let failed = |source| ExportError::Io { action: "read", path: path.to_path_buf(), source };
    let broken = |reason: String| ExportError::NotOnnx { path: path.to_path_buf(), reason };
    let bytes = std::fs::read(path).map_err(failed)?;
    let model = ModelProto::parse_from_bytes(&bytes).map_err(|error| broken(error.to_string()))?;
    match model.graph.is_none() || model.opset_import.is_empty() {
        true => Err(broken("it has no graph".to_string())),
        false => Ok(model),
    }
}

fn signature(value: &ValueInfoProto) -> Signature {
    let tensor = value.type_.tensor_type();
    let shape = tensor.shape.dim.iter().map(|dim| match dim.has_dim_value() {
        true => dim.dim_value().to_string(),
        false if dim.dim_param().is_empty() => "?".to_string(),
        false => dim.dim_param().to_string(),
    });
    Signature { name: value.name.clone(), element: element(tensor.elem_type), shape: shape.collect() }
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// When the file cannot be read.
pub fn file_sha256(path: &Path) -> Result<String, ExportError> {
    let failed = |source| ExportError::Io { action: "read", path: path.to_path_buf(), source };
    let mut hasher = Sha256::new();
    let mut file = File::open(path).map_err(failed)?;
    io::copy(&mut file, &mut hasher).map_err(failed)?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A name for a number of TensorProto.DataType.
fn element(code: i32) -> String {
    let known = [
        (1, "float32"),
        (2, "uint8"),
        (6, "int32"),
        (7, "int64"),
        (9, "bool"),
        (10, "float16"),
        (11, "float64"),
    ];
    let name = known.into_iter().find(|(number, _)| *number == code);
    name.map_or(format!("type {code}"), |(_, name)| name.to_string())
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} [{}]", self.name, self.element, self.shape.join(", "))
    }
}

impl fmt::Display for OnnxSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.path.display())?;
        let size = self.bytes as f64 / 1e6;
        let nodes: usize = self.operators.values().sum();
        writeln!(
            f,
            "  {size:.1} MB, {} parameters, {nodes} nodes, opset {}, by {}",
            self.parameters, self.opset, self.producer
        )?;
        if !self.description.is_empty() {
            writeln!(f, "  {}", self.description)?;
        }
        let lists = [("inputs", &self.inputs), ("outputs", &self.outputs)];
        for (title, signatures) in lists {
            writeln!(f, "{title}")?;
            for signature in signatures {
                writeln!(f, "  {signature}")?;
            }
        }
        let counts: Vec<String> =
            self.operators.iter().map(|(name, count)| format!("{name} {count}")).collect();
        writeln!(f, "operators\n  {}", counts.join(", "))?;
        writeln!(f, "metadata")?;
        for (key, value) in &self.properties {
            writeln!(f, "  {key} = {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Dim, Element, Graph, ModelInfo, save};

    #[test]
    fn a_file_is_described_by_its_inputs_outputs_operators_and_metadata() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.onnx");
        let mut graph = Graph::new("test");
        let dims = [Dim::Symbol("batch"), Dim::Fixed(3), Dim::Any];
        let x = graph.input("x", Element::Float, &dims);
        let y = graph.node("a", "Relu", &[&x], vec![]);
        let shift = graph.floats(&[1.0; 3], &[3, 1]);
        let y = graph.node("b", "Add", &[&y, &shift], vec![]);
        graph.output("y", Element::Float, &y, &dims);
        let properties = BTreeMap::from([("scrl.kind".to_string(), "test".to_string())]);
        let info = ModelInfo { opset: 18, description: "a test".to_string(), properties };
        let bytes = save(&graph.finish(info).unwrap(), &path).unwrap();
        let summary = inspect(&path).unwrap();
        assert_eq!((summary.bytes, summary.opset, summary.parameters), (bytes, 18, 3));
        assert_eq!(summary.inputs[0].to_string(), "x: float32 [batch, 3, ?]");
        assert_eq!(summary.operators, BTreeMap::from([("Add".to_string(), 1), ("Relu".to_string(), 1)]));
        let text = summary.to_string();
        for part in ["y: float32 [batch, 3, ?]", "Add 1, Relu 1", "scrl.kind = test", "a test", "opset 18"] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
    }

    #[test]
    fn what_is_no_model_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.onnx");
        for content in ["", "not a model"] {
            std::fs::write(&path, content).unwrap();
            let error = inspect(&path).unwrap_err().to_string();
            assert!(error.contains("x.onnx` is not an ONNX model"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(inspect(&path).unwrap_err().to_string().starts_with("cannot read `"));
    }
}
