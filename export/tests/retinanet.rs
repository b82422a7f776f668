//! RetinaNet as an ONNX file, in ONNX Runtime.

mod support;

use std::path::{Path, PathBuf};

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use onnx_ir::ModelProto;
use protobuf::Message;
use scrl_core::models::{Arch, parameters};
use scrl_core::random::{RngExt, standard_normal, stream};
use scrl_export::ExportError;
use scrl_export::detector::{DetectorInfo, DetectorOptions, export_detector};
use scrl_export::validation::detector::{DetectorInputs, DetectorReport, validate_detector};
use scrl_transfer::DetectorMetadata;
use scrl_transfer::data::{Category, Preprocessing};
use scrl_transfer::detection::{
    AnchorConfig, BackboneConfig, Detector, DetectorConfig, FpnConfig, RetinaNet, RetinaNetConfig, TestConfig,
};

use support::{Change, apply, has_runtime};

fn config() -> DetectorConfig {
    DetectorConfig {
        backbone: BackboneConfig { arch: Arch::ResNet18, width: 0.25, ..Default::default() },
        fpn: FpnConfig { channels: 32, ..Default::default() },
        anchors: AnchorConfig { sizes: vec![8.0, 16.0, 32.0, 64.0, 128.0], ..Default::default() },
        test: TestConfig { detections_per_image: 100, ..Default::default() },
        num_classes: 3,
        retinanet: RetinaNetConfig { convolutions: 2, pre_nms: 200, ..Default::default() },
        ..DetectorConfig::retinanet()
    }
}

/// Weights of unit gain, batch norms with statistics of their own; then class logits of deviation 1 around −3 and deltas of
/// deviation 0.5, on the anchors of a noisy image, so that a few hundred anchors score above the threshold.
fn model() -> Detector {
    let mut rng = stream(5, &[]);
    let model = RetinaNet::init(&config(), &mut rng, &Device::flex());
    let mut tensors = parameters::collect(&model);
    for (path, data) in &mut tensors {
        let shape = data.shape().to_vec();
        let fan_in: usize = shape[1..].iter().product();
        let mut sample = || match shape.len() {
            1 if path.ends_with("running_var") => rng.random_range(0.5..1.5),
            1 if path.ends_with("weight") => rng.random_range(0.5..1.0),
            1 => 0.1 * standard_normal(&mut rng),
            _ => 1.2 * standard_normal(&mut rng) / (fan_in as f32).sqrt(),
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| sample()).collect();
        *data = TensorData::new(values, shape);
    }
    let (mut model, report) = parameters::load(model, &tensors);
    assert!(report.is_complete(), "{report:?}");
    let pixels: Vec<f32> = (0..3 * 96 * 128).map(|_| standard_normal(&mut rng)).collect();
    let images = Tensor::<4>::from_data(TensorData::new(pixels, [1, 3, 96, 128]), &Device::flex());
    let (predictions, _) = model.predict(images);
    let deviation = |values: Tensor<1>| {
        let centred = values.clone() - values.mean();
        centred.square().mean().sqrt().into_scalar::<f32>()
    };
    let (logits, deltas) =
        (deviation(predictions.logits.flatten(0, 2)), deviation(predictions.deltas.flatten(0, 2)));
    let scores = &mut model.head.classification_head.cls_logits;
    scores.weight = Param::from_tensor(scores.weight.val().div_scalar(logits));
    scores.bias =
        scores.bias.take().map(|bias| Param::from_tensor(bias.val().mul_scalar(0.0).sub_scalar(3.0)));
    let boxes = &mut model.head.regression_head.bbox_reg;
    boxes.weight = Param::from_tensor(boxes.weight.val().mul_scalar(0.5 / deltas));
    Detector::RetinaNet(model)
}

fn info() -> DetectorInfo {
    let categories = (0..3).map(|id| Category { id: id + 1, name: format!("class {id}") }).collect();
    let preprocessing = Preprocessing { min_size: 96, max_size: 160, ..Default::default() };
    DetectorInfo::new(DetectorMetadata { config: config(), categories, preprocessing })
}

fn export(folder: &Path, options: &DetectorOptions) -> PathBuf {
    let path = folder.join("retinanet.onnx");
    let report = export_detector(&model(), &info(), &path, options).unwrap();
    assert_eq!(report.outputs, ["boxes", "scores", "labels", "num_detections"]);
    path
}

fn validate(path: &Path) -> Result<DetectorReport, ExportError> {
    validate_detector(path, &model(), &info(), &DetectorInputs::default())
}

#[test]
fn onnx_runtime_reproduces_every_tensor_and_detection() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for fold_batch_norm in [true, false] {
        let options = DetectorOptions { fold_batch_norm, ..Default::default() };
        let report = validate(&export(folder.path(), &options)).unwrap();
        assert!(
            report.total.matched > 100,
            "{} detections are too few to prove anything",
            report.total.matched
        );
        assert!(report.cases.iter().all(|case| case.passed));
        let batches: Vec<usize> = report.cases.iter().map(|case| case.detections.len()).collect();
        assert!(batches.contains(&1) && batches.iter().any(|&images| images > 1), "{batches:?}");
    }
}

/// Changes a file and expects the validation to refuse it.
fn assert_caught(name: &str, change: impl Fn(&mut ModelProto)) {
    let folder = tempfile::tempdir().unwrap();
    let path = export(folder.path(), &DetectorOptions::default());
    let mut model = ModelProto::parse_from_bytes(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut model);
    std::fs::write(&path, model.write_to_bytes().unwrap()).unwrap();
    match validate(&path) {
        Err(ExportError::DetectorMismatch { report, .. }) => assert!(!report.passed, "{name}"),
        Err(error) => panic!("{name}: {error}"),
        Ok(report) => panic!("{name} was not noticed: {} detections matched", report.total.matched),
    }
}

/// Sets every value of the constant or weight of this name.
fn set(model: &mut ModelProto, name: &str, value: &[u8]) {
    let tensors = &mut model.graph.mut_or_insert_default().initializer;
    let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name}"));
    let count = tensor.raw_data.len() / value.len();
    tensor.raw_data = value.repeat(count).into();
}

/// The name of an input of the only node of this kind.
fn input(model: &ModelProto, kind: &str, place: usize) -> String {
    let nodes: Vec<_> = model.graph.node.iter().filter(|node| node.op_type == kind).collect();
    assert_eq!(nodes.len(), 1, "{kind}");
    nodes[0].input[place].clone()
}

#[test]
fn a_changed_weight_threshold_or_node_is_noticed() {
    if !has_runtime() {
        return;
    }
    for weight in [
        "backbone.fpn.extra_blocks.p7.bias",
        "head.classification_head.conv.1.0.bias",
        "head.regression_head.bbox_reg.bias",
    ] {
        assert_caught(weight, |model| set(model, weight, &2f32.to_le_bytes()));
    }
    assert_caught("IoU of suppression", |model| {
        let name = input(model, "NonMaxSuppression", 3);
        set(model, &name, &0.9f32.to_le_bytes());
    });
    assert_caught("score threshold", |model| {
        let name = input(model, "NonMaxSuppression", 4);
        set(model, &name, &0.2f32.to_le_bytes());
    });
    assert_caught("detections per class", |model| {
        let name = input(model, "NonMaxSuppression", 2);
        set(model, &name, &3i64.to_le_bytes());
    });
    assert_caught("sigmoid", |model| {
        let nodes = &mut model.graph.mut_or_insert_default().node;
        nodes
            .iter_mut()
            .filter(|node| node.op_type == "Sigmoid")
            .for_each(|node| node.op_type = "Tanh".into());
    });
}

#[test]
fn a_change_of_any_single_node_is_noticed() {
    use Change::{Floats, Ints, Operation};
    if !has_runtime() {
        return;
    }
    for (node, change) in [
        ("detections.p3.Min", Ints(1, &[150])),
        ("detections.p4.Mod", Ints(1, &[4])),
        ("detections.p4.Div", Ints(1, &[4])),
        ("detections.p5.decode.Min", Floats(1, &[3.0])),
        ("detections.p3.anchors.Add_2", Operation("Sub")),
        ("detections.clip.Max", Floats(1, &[2.0])),
        ("detections.usable.Greater", Floats(1, &[6.0])),
        ("detections.nms.NonMaxSuppression", Ints(2, &[60])),
        ("detections.nms.NonMaxSuppression", Floats(3, &[0.51])),
        ("detections.nms.NonMaxSuppression", Floats(4, &[0.06])),
        ("detections.best.Min", Ints(1, &[99])),
        ("image_limits.Gather", Ints(1, &[0, 1, 0, 1])),
    ] {
        assert_caught(node, |model| apply(model, node, &change));
    }
}
