use std::path::Path;

use onnx_ir::Message;

use super::*;

const DIMS: [Dim; 2] = [Dim::Symbol("batch"), Dim::Fixed(3)];

fn info() -> ModelInfo {
    let properties = BTreeMap::from([("key".to_string(), "value".to_string())]);
    ModelInfo { opset: 17, description: String::new(), properties }
}

#[test]
fn outputs_get_their_names_in_every_node_that_reads_them() {
    let mut graph = Graph::new("test");
    let x = graph.input("x", Element::Float, &DIMS);
    let a = graph.node("a", "Relu", &[&x], vec![]);
    let b = graph.node("b", "Add", &[&a, &x], vec![]);
    graph.output("first", Element::Float, &a, &DIMS);
    graph.output("second", Element::Float, &b, &DIMS);
    graph.output("again", Element::Float, &a, &DIMS);
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
    let info = value_info("x", Element::Float, &DIMS);
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
    graph.output("y", Element::Float, &w, &[Dim::Fixed(2)]);
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
