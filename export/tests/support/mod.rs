//! What the tests with ONNX Runtime share.

#[allow(dead_code)]
pub mod detector;

use onnx_ir::ModelProto;
use scrl_export::runtime::{RuntimeError, runtime};

/// Whether there is ONNX Runtime; says so where this machine has none and cannot download it. `SCRL_REQUIRE_ONNXRUNTIME`
/// makes that a failure.
pub fn has_runtime() -> bool {
    match runtime() {
        Ok(_) => true,
        Err(error @ RuntimeError::NotFound { .. })
            if std::env::var_os("SCRL_REQUIRE_ONNXRUNTIME").is_none() =>
        {
            eprintln!("skipped: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

/// Changes one thing about a node of a file: the number in one of its inputs, its operation, or an attribute.
#[allow(dead_code)]
pub enum Change {
    Floats(usize, &'static [f32]),
    Ints(usize, &'static [i64]),
    Operation(&'static str),
    Int(&'static str, i64),
    Float(&'static str, f32),
    Text(&'static str, &'static str),
}

#[allow(dead_code)]
pub fn apply(model: &mut ModelProto, node: &str, change: &Change) {
    let graph = model.graph.mut_or_insert_default();
    let index =
        graph.node.iter().position(|known| known.name == node).unwrap_or_else(|| panic!("no node {node}"));
    let mut constant = |place: usize, bytes: Vec<u8>| {
        // Of its own, since equal constants are stored once.
        let old = graph.node[index].input[place].clone();
        let mut tensor = graph
            .initializer
            .iter()
            .find(|tensor| tensor.name == old)
            .unwrap_or_else(|| panic!("{old}"))
            .clone();
        assert_eq!(tensor.raw_data.len(), bytes.len(), "{node} has another number of values");
        assert_ne!(tensor.raw_data.to_vec(), bytes, "{node} is not changed");
        tensor.name = "changed".to_string();
        tensor.raw_data = bytes.into();
        graph.initializer.push(tensor);
        graph.node[index].input[place] = "changed".to_string();
    };
    match change {
        Change::Floats(place, values) => {
            constant(*place, values.iter().flat_map(|value| value.to_le_bytes()).collect());
        }
        Change::Ints(place, values) => {
            constant(*place, values.iter().flat_map(|value| value.to_le_bytes()).collect());
        }
        Change::Operation(kind) => graph.node[index].op_type = kind.to_string(),
        Change::Int(name, _) | Change::Float(name, _) | Change::Text(name, _) => {
            let attributes = &mut graph.node[index].attribute;
            let attribute = attributes.iter_mut().find(|attribute| attribute.name == *name).unwrap();
            match change {
                Change::Int(_, value) => attribute.i = *value,
                Change::Float(_, value) => attribute.f = *value,
                Change::Text(_, value) => attribute.s = value.as_bytes().to_vec().into(),
                _ => {}
            }
        }
    }
}
