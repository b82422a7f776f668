//! Exported detectors in ONNX Runtime. Where none can be found, the tests that need it say so and pass, unless
//! `SCRL_REQUIRE_ONNXRUNTIME` is set.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use burn::tensor::Device;
use onnx_ir::{Message, ModelProto};
use ort::value::TensorRef;
use scrl_core::models::Arch;
use scrl_core::structures::Size;
use scrl_core::transforms::RgbImage;
use scrl_export::runtime::runtime;
use scrl_export::{
    DetectorInputs, DetectorOptions, ExportError, ExportOptions, InputKind, OnnxDetector, ValidationInputs,
    export_detector, export_pyramid, validate_detector, validate_pyramid,
};
use scrl_transfer::data::{Preprocessing, Sample, collate};
use scrl_transfer::detection::{Detection, DetectorConfig, FpnConfig, Target, TestConfig, Variant};
use scrl_transfer::inference::detect_batch;

use support::detector::{Case, assert_reproduced, small};
use support::{Change, apply, has_runtime};

fn read(path: &Path) -> ModelProto {
    ModelProto::parse_from_bytes(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn both_variants_are_reproduced_on_every_size_and_batch() {
    if !has_runtime() {
        return;
    }
    for variant in [Variant::Detectron2, Variant::Torchvision] {
        let case = Case::new(small(Arch::ResNet18, 0.25, variant));
        let report = case.validate(&DetectorOptions::default()).unwrap();
        assert_eq!(
            report.cases.iter().map(|case| case.detections.len()).collect::<Vec<_>>(),
            [1, 1, 2, 4, 1]
        );
        assert_reproduced(&report);
    }
}

#[test]
fn raw_pixels_separate_batch_norms_and_no_sizes_are_reproduced_too() {
    if !has_runtime() {
        return;
    }
    let case = Case::new(small(Arch::ResNet50, 0.125, Variant::Detectron2));
    let plain = DetectorOptions::default();
    for options in [
        DetectorOptions { input: InputKind::Raw, ..plain },
        DetectorOptions { input: InputKind::Raw, image_sizes: false, ..plain },
        DetectorOptions { image_sizes: false, fold_batch_norm: false, opset: 21, ..plain },
    ] {
        assert_reproduced(&case.validate(&options).unwrap());
    }
}

#[test]
fn sixteen_bit_weights_halve_the_file_and_find_the_same_within_their_tolerance() {
    if !has_runtime() {
        return;
    }
    let case = Case::new(small(Arch::ResNet18, 0.25, Variant::Torchvision));
    let bytes = std::fs::metadata(case.export(&DetectorOptions::default())).unwrap().len();
    let options = DetectorOptions { half: true, ..Default::default() };
    let report = case.validate(&options).unwrap();
    println!("{}", report.table());
    assert!(report.total.matched > 50);
    let half = std::fs::metadata(case.folder.path().join("detector.onnx")).unwrap().len();
    assert!(half * 100 < bytes * 55, "{half} of {bytes} bytes");
}

#[test]
fn images_without_detections_give_zeros() {
    if !has_runtime() {
        return;
    }
    let config = small(Arch::ResNet18, 0.25, Variant::Detectron2);
    let case =
        Case::new(DetectorConfig { test: TestConfig { score_threshold: 0.9999, ..config.test }, ..config });
    let report = case.validate(&DetectorOptions::default()).unwrap();
    assert_eq!(report.total.matched + report.total.ties, 0, "{}", report.table());
    let mut session = runtime().unwrap().session(&case.folder.path().join("detector.onnx"), 0).unwrap();
    let (images, sizes) = (vec![0.5f32; 2 * 3 * 64 * 64], [64i64, 64, 50, 40]);
    let images = TensorRef::from_array_view(([2usize, 3, 64, 64], images.as_slice())).unwrap();
    let sizes = TensorRef::from_array_view(([2usize, 2], sizes.as_slice())).unwrap();
    let outputs = session.run(ort::inputs!["images" => images, "image_sizes" => sizes]).unwrap();
    let (shape, boxes) = outputs["boxes"].try_extract_tensor::<f32>().unwrap();
    assert_eq!((shape.to_vec(), boxes.iter().all(|&v| v == 0.0)), (vec![2, 100, 4], true));
    let (shape, labels) = outputs["labels"].try_extract_tensor::<i64>().unwrap();
    assert_eq!((shape.to_vec(), labels.iter().all(|&v| v == 0)), (vec![2, 100], true));
    assert_eq!(outputs["num_detections"].try_extract_tensor::<i64>().unwrap().1, [0, 0]);
}

#[test]
fn a_wrong_weight_is_a_mismatch_that_names_the_part_where_it_appears() {
    if !has_runtime() {
        return;
    }
    let case = Case::new(small(Arch::ResNet18, 0.25, Variant::Detectron2));
    let damages = [
        ("backbone.body.layer3.0.conv1.bias", "c4"),
        ("backbone.fpn.layer_blocks.1.0.bias", "p3"),
        ("rpn.head.bbox_pred.bias", "deltas"),
        ("roi_heads.box_predictor.cls_score.bias", "class_logits"),
    ];
    for (name, part) in damages {
        let path = case.export(&DetectorOptions::default());
        let mut model = read(&path);
        let tensors = &mut model.graph.mut_or_insert_default().initializer;
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
        let mut bytes = tensor.raw_data.to_vec();
        for value in bytes.chunks_exact_mut(4) {
            value.copy_from_slice(&2f32.to_le_bytes());
        }
        tensor.raw_data = bytes.into();
        std::fs::write(&path, model.write_to_bytes().unwrap()).unwrap();
        let error =
            validate_detector(&path, &case.model, &case.info, &DetectorInputs::default()).unwrap_err();
        let ExportError::DetectorMismatch { report, .. } = &error else { panic!("{name}: {error}") };
        assert!(!report.passed);
        assert_eq!(report.first_difference().map(|stage| stage.name.as_str()), Some(part), "{error}");
        assert!(error.to_string().contains(&format!("the first difference is in {part}")), "{error}");
    }
}

#[test]
fn a_change_of_any_single_node_is_caught_and_blamed_on_its_part() {
    use Change::{Float, Floats, Int, Ints, Operation, Text};
    if !has_runtime() {
        return;
    }
    let (proposals, found) = ("generated proposals", "generated detections");
    let changes = [
        ("image_limits.Gather", Ints(1, &[0, 1, 0, 1]), proposals),
        ("rpn.p2.Min", Ints(1, &[150]), proposals),
        ("rpn.p3.decode.Min", Floats(1, &[3.0]), proposals),
        ("rpn.p3.decode.Mul", Floats(1, &[0.49]), proposals),
        ("rpn.p2.decode.Mul_3", Floats(1, &[0.51]), proposals),
        ("rpn.p2.anchors.Mul", Ints(1, &[5]), proposals),
        ("rpn.p6.Expand", Ints(0, &[3]), proposals),
        ("rpn.clip.Max", Floats(1, &[2.0]), proposals),
        ("rpn.clip.Min", Operation("Max"), proposals),
        ("rpn.usable.Greater", Floats(1, &[6.0]), proposals),
        ("rpn.nms.NonMaxSuppression", Ints(2, &[60]), proposals),
        ("rpn.nms.NonMaxSuppression", Floats(3, &[0.71]), proposals),
        ("rpn.nms.Min", Ints(1, &[99]), proposals),
        ("roi_heads.box_roi_pool.level.GreaterOrEqual", Floats(1, &[0.6]), "class_logits"),
        ("roi_heads.box_roi_pool.level.Div", Floats(1, &[50.0]), "class_logits"),
        ("roi_heads.box_roi_pool.p2.RoiAlign", Float("spatial_scale", 0.26), "class_logits"),
        ("roi_heads.box_roi_pool.p2.RoiAlign", Int("sampling_ratio", 1), "class_logits"),
        (
            "roi_heads.box_roi_pool.p2.RoiAlign",
            Text("coordinate_transformation_mode", "output_half_pixel"),
            "class_logits",
        ),
        ("roi_heads.detections.Softmax", Operation("LogSoftmax"), found),
        ("roi_heads.detections.decode.Div", Floats(1, &[9.9, 10.0]), found),
        ("roi_heads.detections.decode.Div_2", Floats(1, &[5.0, 5.1]), found),
        ("roi_heads.detections.decode.Min", Floats(1, &[3.0]), found),
        ("roi_heads.detections.clip.Max", Floats(1, &[2.0]), found),
        ("roi_heads.detections.usable.Greater", Floats(1, &[4.0]), found),
        ("roi_heads.detections.nms.NonMaxSuppression", Ints(2, &[50]), found),
        ("roi_heads.detections.nms.NonMaxSuppression", Floats(3, &[0.51]), found),
        ("roi_heads.detections.nms.NonMaxSuppression", Floats(4, &[0.06]), found),
        ("roi_heads.detections.best.Min", Ints(1, &[99]), found),
        ("roi_heads.detections.best.Mod", Ints(1, &[4]), found),
    ];
    let case = Case::new(small(Arch::ResNet18, 0.25, Variant::Detectron2));
    let path = case.export(&DetectorOptions::default());
    let intact = read(&path);
    let inputs = DetectorInputs::default();
    validate_detector(&path, &case.model, &case.info, &inputs).unwrap();
    for (node, change, part) in changes {
        let mut model = intact.clone();
        apply(&mut model, node, &change);
        std::fs::write(&path, model.write_to_bytes().unwrap()).unwrap();
        match validate_detector(&path, &case.model, &case.info, &inputs) {
            Err(ExportError::DetectorMismatch { report, .. }) => {
                let blamed =
                    |name: &str| report.stages.iter().any(|stage| stage.name == name && !stage.passed());
                assert!(blamed(part), "{node} is not blamed on {part}: {}", report.summary());
            }
            Err(error) => panic!("{node}: {error}"),
            Ok(_) => panic!("a change of {node} was not noticed"),
        }
    }
}

#[test]
fn the_file_says_what_the_detector_is_and_finds_objects_in_pictures_of_any_size() {
    if !has_runtime() {
        return;
    }
    let mut case = Case::new(small(Arch::ResNet18, 0.25, Variant::Torchvision));
    case.info.weights_sha256 = Some("ab".repeat(32));
    case.info.protocol = Some("coco_1x".to_string());
    case.info.label_offset = 1;
    for input in [InputKind::Normalized, InputKind::Raw] {
        let options = DetectorOptions { input, ..Default::default() };
        let detector = OnnxDetector::open(&case.export(&options), 1).unwrap();
        assert_eq!((&detector.info, detector.options), (&case.info, options));
        let picture = |width: u32, height: u32| {
            let value = |i: u32| (i / 3 % width / 9 * 37 + i / 3 / width / 7 * 91 + i % 3 * 50) as u8;
            RgbImage::from_raw(width, height, (0..width * height * 3).map(value).collect()).unwrap()
        };
        let pictures = [picture(120, 90), picture(50, 80)];
        let found = detector.detect(&pictures).unwrap();
        let preprocessing = &case.info.metadata.preprocessing;
        let samples: Vec<Sample> = pictures.iter().map(|picture| sample(picture, preprocessing)).collect();
        let expected = detect_batch(&case.model, collate(samples, &Device::flex()));
        for (found, (index, expected)) in found.iter().zip(expected) {
            assert!(found.len() > 10 && found.len().abs_diff(expected.len()) <= 1);
            let best = (&found[0], &expected[0]);
            assert!((best.0.score - best.1.score).abs() < 1e-3 && best.0.class == best.1.class, "{best:?}");
            let (width, height) = pictures[index].dimensions();
            let inside = |d: &Detection| d.bbox.x2 <= width as f32 && d.bbox.y2 <= height as f32;
            assert!(found.iter().all(inside));
        }
        assert_eq!(detector.detect(&[]).unwrap(), Vec::<Vec<Detection>>::new());
    }
}

fn sample(picture: &RgbImage, preprocessing: &Preprocessing) -> Sample {
    let (pixels, size) = preprocessing.apply(picture);
    let source = Size { width: picture.width(), height: picture.height() };
    Sample { index: usize::from(picture.width() == 50), pixels, size, source, target: Target::default() }
}

#[test]
fn a_model_that_is_no_detector_is_refused_by_its_kind() {
    if !has_runtime() {
        return;
    }
    let case = Case::new(small(Arch::ResNet18, 0.25, Variant::Detectron2));
    let path = case.folder.path().join("pyramid.onnx");
    export_pyramid(&case.model, &case.info, &path, &ExportOptions::default()).unwrap();
    let error = OnnxDetector::open(&path, 1).unwrap_err().to_string();
    assert!(error.contains("pyramid.onnx` is not an exported detector: it is a pyramid"), "{error}");
    let mut other = case.info.clone();
    other.metadata.categories[0].name = "another".to_string();
    let path = case.export(&DetectorOptions::default());
    let error = validate_detector(&path, &case.model, &other, &DetectorInputs::default()).unwrap_err();
    assert!(error.to_string().contains("has the metadata scrl.categories"), "{error}");
}

#[test]
fn the_pyramid_is_reproduced_level_by_level() {
    if !has_runtime() {
        return;
    }
    let config = DetectorConfig {
        fpn: FpnConfig { norm: true, ..small(Arch::ResNet18, 0.25, Variant::Detectron2).fpn },
        ..small(Arch::ResNet18, 0.25, Variant::Detectron2)
    };
    let case = Case::new(config);
    let path = case.folder.path().join("pyramid.onnx");
    for fold_batch_norm in [true, false] {
        let options = ExportOptions { fold_batch_norm, ..Default::default() };
        export_pyramid(&case.model, &case.info, &path, &options).unwrap();
        let report = validate_pyramid(&path, &case.model, &case.info, &ValidationInputs::new(64)).unwrap();
        assert_eq!(report.cases.len(), 15);
        let odd: Vec<_> = report.cases[10..].iter().map(|case| case.shape[2..].to_vec()).collect();
        assert_eq!(odd, [[26, 19], [13, 10], [7, 5], [4, 3], [2, 2]]);
        assert!(report.cases.iter().all(|case| case.tolerance > 1.1e-4), "{report:?}");
    }
}

#[test]
fn names_follow_the_modules_and_nothing_is_stored_twice() {
    let case = Case::new(small(Arch::ResNet50, 0.125, Variant::Detectron2));
    let model = read(&case.export(&DetectorOptions::default()));
    let weights: Vec<&str> = model.graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    for name in [
        "backbone.body.conv1.bias",
        "backbone.body.layer1.0.downsample.0.weight",
        "backbone.fpn.inner_blocks.0.0.weight",
        "rpn.head.conv.0.0.weight",
        "roi_heads.box_head.fc6.weight",
        "roi_heads.box_predictor.bbox_pred.bias",
    ] {
        assert!(weights.contains(&name), "{name} is missing");
    }
    let contents: BTreeSet<_> =
        model.graph.initializer.iter().map(|t| (t.data_type, t.dims.clone(), t.raw_data.to_vec())).collect();
    // Equal weights are possible, equal constants are not.
    assert_eq!(contents.len(), weights.len());
    assert!(
        model.graph.node.iter().all(|node| node.domain.is_empty() && node.op_type != "BatchNormalization")
    );
    let used: BTreeSet<&String> = model.graph.node.iter().flat_map(|node| &node.input).collect();
    assert!(model.graph.initializer.iter().all(|tensor| used.contains(&tensor.name)));
    let convolution = model.graph.node.iter().find(|node| node.name == "backbone.body.layer1.0.conv1");
    assert_eq!(convolution.unwrap().op_type, "Conv");
}

/// The checker and the strict shape inference of the Python package `onnx`, where the interpreter named by
/// `SCRL_PYTHON`, else python3, has it.
#[test]
fn the_onnx_package_accepts_every_file() {
    const PROGRAM: &str = "import sys, onnx\n\
        for path in sys.argv[1:]:\n\
        \x20   onnx.checker.check_model(path, full_check=True)\n\
        \x20   model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True)\n\
        \x20   for output in model.graph.output:\n\
        \x20       dims = [d.dim_value or d.dim_param for d in output.type.tensor_type.shape.dim]\n\
        \x20       print(output.name, *dims)";
    let python = std::env::var("SCRL_PYTHON").unwrap_or("python3".to_string());
    let has_onnx = Command::new(&python).args(["-c", "import onnx"]).output();
    if !has_onnx.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: `{python}` has no package onnx; set SCRL_PYTHON to an interpreter that has");
        return;
    }
    let mut paths = Vec::new();
    let folder = tempfile::tempdir().unwrap();
    for variant in [Variant::Detectron2, Variant::Torchvision] {
        let case = Case::new(small(Arch::ResNet18, 0.25, variant));
        for (number, opset) in [17, 21].into_iter().enumerate() {
            let options = DetectorOptions { opset, half: number == 1, ..Default::default() };
            let path = folder.path().join(format!("{variant:?}-{opset}.onnx"));
            export_detector(&case.model, &case.info, &path, &options).unwrap();
            paths.push(path);
        }
        let path = folder.path().join(format!("{variant:?}-pyramid.onnx"));
        export_pyramid(&case.model, &case.info, &path, &ExportOptions::default()).unwrap();
        paths.push(path);
    }
    let output = Command::new(&python).args(["-c", PROGRAM]).args(&paths).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}");
    assert_eq!(text.matches("boxes batch 100 4").count(), 4, "{text}");
}
