//! Exported backbones in ONNX Runtime. Where none can be found, the tests that need it say so and pass, unless
//! `SCRL_REQUIRE_ONNXRUNTIME` is set.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use burn_onnx::export::{AxisSpec, InputSpec, OnnxExporter};
use onnx_ir::{Message, ModelProto};
use ort::value::TensorRef;
use scrl_core::checkpoint::weights::BackboneMetadata;
use scrl_core::models::{Arch, Level, ResNet, ResNetConfig, parameters};
use scrl_core::random::{RngExt, standard_normal, stream};
use scrl_core::transforms::RgbImage;
use scrl_export::runtime::{Runtime, RuntimeError, runtime};
use scrl_export::{
    BackboneOutput, ExportError, ExportOptions, ValidationInputs, export_backbone, validate_backbone,
};

/// Batch norms as operators of their own, so that every parameter is in the file.
const SEPARATE: ExportOptions = ExportOptions { opset: 17, fold_batch_norm: false };

struct Case {
    config: ResNetConfig,
    model: ResNet,
    metadata: BackboneMetadata,
    folder: tempfile::TempDir,
}

impl Case {
    fn new(arch: Arch, width: f64) -> Self {
        let config = ResNetConfig { arch, width };
        let metadata = BackboneMetadata {
            arch,
            width,
            method: "scrl".to_string(),
            epoch: 12.5,
            image_size: 64,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            init: None,
            config_hash: "0123abcd".to_string(),
        };
        Self { config, model: random_model(&config), metadata, folder: tempfile::tempdir().unwrap() }
    }

    fn export(&self, output: BackboneOutput) -> PathBuf {
        self.export_with(output, &ExportOptions::default())
    }

    fn export_with(&self, output: BackboneOutput, options: &ExportOptions) -> PathBuf {
        let path = self.folder.path().join(format!("{}.onnx", output.name()));
        let report =
            export_backbone(&self.model, &self.config, &self.metadata, output, &path, options).unwrap();
        assert_eq!(report.bytes, std::fs::metadata(&path).unwrap().len());
        path
    }

    fn validate(&self, path: &Path) -> Result<scrl_export::ValidationReport, ExportError> {
        validate_backbone(path, &self.model, &self.metadata, &ValidationInputs::new(64))
    }
}

/// A model on an autodiff device whose batch norms have random statistics, scales and shifts.
fn random_model(config: &ResNetConfig) -> ResNet {
    let mut rng = stream(5, &[]);
    let model = config.init(&mut rng, &Device::flex().autodiff());
    let mut tensors = parameters::collect(&model);
    for (path, data) in &mut tensors {
        let norm = path.contains("bn") || path.contains("downsample.1");
        let shape = data.shape().to_vec();
        if !norm {
            continue;
        }
        let positive = path.ends_with("weight") || path.ends_with("running_var");
        let mut sample =
            || if positive { rng.random_range(0.5..1.5) } else { 0.2 * standard_normal(&mut rng) };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| sample()).collect();
        *data = TensorData::new(values, shape);
    }
    let (model, report) = parameters::load(model, &tensors);
    assert!(report.is_complete(), "{report:?}");
    model
}

/// ONNX Runtime, or `None` with a note when this machine has none and cannot fetch one.
fn onnx_runtime() -> Option<&'static Runtime> {
    match runtime() {
        Ok(runtime) => Some(runtime),
        Err(error @ RuntimeError::NotFound { .. })
            if std::env::var_os("SCRL_REQUIRE_ONNXRUNTIME").is_none() =>
        {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn read(path: &Path) -> ModelProto {
    ModelProto::parse_from_bytes(&std::fs::read(path).unwrap()).unwrap()
}

fn tamper(path: &Path, change: impl FnOnce(&mut ModelProto)) {
    let mut model = read(path);
    change(&mut model);
    std::fs::write(path, model.write_to_bytes().unwrap()).unwrap();
}

/// Sets one value of an initialiser.
fn set_weight(model: &mut ModelProto, name: &str, value: f32) {
    let tensor =
        model.graph.mut_or_insert_default().initializer.iter_mut().find(|tensor| tensor.name == name);
    let tensor = tensor.unwrap();
    let mut bytes = tensor.raw_data.to_vec();
    bytes[..4].copy_from_slice(&value.to_le_bytes());
    tensor.raw_data = bytes.into();
}

#[test]
fn every_output_of_a_resnet_18_and_a_resnet_50_is_reproduced_by_onnx_runtime() {
    if onnx_runtime().is_none() {
        return;
    }
    for (arch, width, cases) in [(Arch::ResNet18, 0.25, [3, 3, 12]), (Arch::ResNet50, 0.125, [3, 3, 12])] {
        let case = Case::new(arch, width);
        for (output, expected) in BackboneOutput::ALL.into_iter().zip(cases) {
            for fold_batch_norm in [true, false] {
                let options = ExportOptions { fold_batch_norm, ..Default::default() };
                let report = case.validate(&case.export_with(output, &options)).unwrap();
                assert!(report.passed);
                assert_eq!(report.cases.len(), expected);
                // Outputs that vanish would agree whatever the weights are.
                assert!(report.cases.iter().all(|case| case.tolerance > 1.1e-4), "{report:?}");
            }
        }
    }
}

#[test]
fn an_odd_size_gives_the_rounded_up_feature_maps() {
    if onnx_runtime().is_none() {
        return;
    }
    let case = Case::new(Arch::ResNet18, 0.25);
    let report = case.validate(&case.export(BackboneOutput::Pyramid)).unwrap();
    let odd = report.cases.iter().filter(|case| case.name == "random 3×3×101×75");
    let shapes: Vec<_> = odd.map(|case| (case.output.as_str(), case.shape.clone())).collect();
    let expected = [
        ("c2", vec![3, 16, 26, 19]),
        ("c3", vec![3, 32, 13, 10]),
        ("c4", vec![3, 64, 7, 5]),
        ("c5", vec![3, 128, 4, 3]),
    ];
    assert_eq!(shapes, expected);
}

#[test]
fn a_real_image_file_is_compared_too() {
    if onnx_runtime().is_none() {
        return;
    }
    let case = Case::new(Arch::ResNet18, 0.25);
    let pixels = (0..90 * 70 * 3).map(|i: u32| (i * i / 7 % 256) as u8).collect();
    let image = case.folder.path().join("scene.png");
    RgbImage::from_raw(90, 70, pixels).unwrap().save(&image).unwrap();
    let inputs =
        ValidationInputs { random: vec![], images: vec![image.clone()], ..ValidationInputs::new(64) };
    let path = case.export(BackboneOutput::Pooled);
    let report = validate_backbone(&path, &case.model, &case.metadata, &inputs).unwrap();
    let names: Vec<_> = report.cases.iter().map(|case| (case.name.as_str(), case.shape.clone())).collect();
    assert_eq!(names, [("scene.png", vec![1, 128])]);
    std::fs::remove_file(image).unwrap();
    let error = validate_backbone(&path, &case.model, &case.metadata, &inputs).unwrap_err();
    assert!(matches!(error, ExportError::Image(_)), "{error}");
}

#[test]
fn one_wrong_or_undefined_weight_is_a_mismatch() {
    if onnx_runtime().is_none() {
        return;
    }
    let case = Case::new(Arch::ResNet18, 0.25);
    let damages = [
        ("layer4.1.conv2.weight", 1.0),
        ("conv1.weight", f32::NAN),
        ("layer2.0.downsample.1.running_mean", 9.0),
    ];
    for (name, value) in damages {
        let path = case.export_with(BackboneOutput::C5, &SEPARATE);
        tamper(&path, |model| set_weight(model, name, value));
        let error = case.validate(&path).unwrap_err();
        let ExportError::Mismatch { report, .. } = &error else { panic!("{name}: {error}") };
        assert!(!report.passed && report.max_abs_error > report.cases[0].tolerance, "{name}");
        let text = error.to_string();
        assert!(text.contains("c5.onnx` does not reproduce the model: 3 of 3 comparisons failed"), "{text}");
    }
}

#[test]
fn metadata_that_was_changed_is_reported_by_key() {
    if onnx_runtime().is_none() {
        return;
    }
    let case = Case::new(Arch::ResNet18, 0.25);
    let path = case.export(BackboneOutput::C5);
    tamper(&path, |model| {
        let property = model.metadata_props.iter_mut().find(|property| property.key == "scrl.mean").unwrap();
        property.value = "0,0,0".to_string();
    });
    let error = case.validate(&path).unwrap_err().to_string().replace(&path.display().to_string(), "FILE");
    assert_eq!(
        error,
        "`FILE` has the metadata scrl.mean = Some(\"0,0,0\") instead of \"0.485,0.456,0.406\"; export the model again"
    );
}

#[test]
fn a_file_that_is_no_model_is_an_error_that_names_it() {
    if onnx_runtime().is_none() {
        return;
    }
    let case = Case::new(Arch::ResNet18, 0.25);
    let path = case.folder.path().join("text.onnx");
    std::fs::write(&path, "not a model").unwrap();
    let error = case.validate(&path).unwrap_err().to_string();
    assert!(error.starts_with("ONNX Runtime cannot open `") && error.contains("text.onnx"), "{error}");
}

#[test]
fn the_file_names_its_weights_by_module_path_and_leaves_batch_and_size_free() {
    let case = Case::new(Arch::ResNet50, 0.125);
    let model = read(&case.export_with(BackboneOutput::Pyramid, &SEPARATE));
    let mut names: Vec<_> = model.graph.initializer.iter().map(|tensor| tensor.name.clone()).collect();
    names.sort();
    let expected: Vec<_> = parameters::collect(&case.model).into_keys().collect();
    assert_eq!(names, expected);
    let dims = |value: &onnx_ir::ValueInfoProto| -> Vec<String> {
        let dims = &value.type_.tensor_type().shape.dim;
        let text = dims.iter().map(|dim| match dim.has_dim_value() {
            true => dim.dim_value().to_string(),
            false => dim.dim_param().to_string(),
        });
        text.collect()
    };
    assert_eq!(dims(&model.graph.input[0]), ["batch", "3", "height", "width"]);
    assert_eq!(dims(&model.graph.output[3]), ["batch", "256", "c5_height", "c5_width"]);
    assert_eq!(
        (model.producer_name.as_str(), model.ir_version, model.opset_import[0].version),
        ("scrl", 8, 17)
    );
    let property = |key: &str| model.metadata_props.iter().find(|p| p.key == key).unwrap().value.clone();
    assert_eq!(property("scrl.mean"), "0.485,0.456,0.406");
    assert_eq!(property("scrl.color_order"), "RGB");
    assert_eq!(property("scrl.kind"), "backbone");
    assert_eq!(property("scrl.arch"), "resnet50");
    assert_eq!(property("scrl.width"), "0.125");
    assert_eq!(property("scrl.image_size"), "64");
    assert_eq!(property("scrl.output"), "pyramid");
}

#[test]
fn folded_batch_norms_leave_one_node_and_two_tensors_a_convolution() {
    let case = Case::new(Arch::ResNet18, 0.25);
    let model = read(&case.export(BackboneOutput::C5));
    let count = |operator: &str| model.graph.node.iter().filter(|node| node.op_type == operator).count();
    assert_eq!((count("Conv"), count("BatchNormalization")), (20, 0));
    assert_eq!(model.graph.initializer.len(), 40);
}

#[test]
fn a_model_of_another_architecture_is_refused() {
    let mut case = Case::new(Arch::ResNet18, 0.25);
    case.metadata.width = 0.5;
    let path = case.folder.path().join("x.onnx");
    let export = |case: &Case| {
        let (output, options) = (BackboneOutput::C5, ExportOptions::default());
        export_backbone(&case.model, &case.config, &case.metadata, output, &path, &options)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        export(&case),
        "the model is a resnet18 of width 0.25, its metadata says a resnet18 of width 0.5; load both from the same \
         checkpoint"
    );
    case.config.width = 0.5;
    assert!(export(&case).contains("a ResNet with 128 channels in C5"));
    assert!(!path.exists());
}

#[test]
fn burns_own_exporter_gives_the_same_numbers() {
    let Some(runtime) = onnx_runtime() else { return };
    if runtime.library.is_some() {
        // Older ones are refused: see `load`.
        let version = runtime.version.as_deref().expect("a library that was loaded tells its version");
        let minor: u32 = version.split('.').nth(1).unwrap().parse().unwrap();
        assert!(version.starts_with("1.") && minor >= ort::MINOR_VERSION, "{version}");
    }
    for (arch, width) in [(Arch::ResNet18, 0.25), (Arch::ResNet50, 0.125)] {
        let case = Case::new(arch, width);
        let ours = case.export_with(BackboneOutput::C5, &SEPARATE);
        let captured = case.folder.path().join("captured.onnx");
        capture(&case.model.clone().valid()).save(&captured).unwrap();
        let mut rng = stream(1, &[]);
        let values: Vec<f32> = (0..3 * 3 * 64 * 64).map(|_| standard_normal(&mut rng)).collect();
        let run = |path: &Path| -> Vec<f32> {
            let mut session = runtime.session(path, 0).unwrap();
            let images = TensorRef::from_array_view(([3usize, 3, 64, 64], values.as_slice())).unwrap();
            let outputs = session.run(ort::inputs![images]).unwrap();
            outputs[0].try_extract_tensor::<f32>().unwrap().1.to_vec()
        };
        let (ours, theirs) = (run(&ours), run(&captured));
        let largest = theirs.iter().fold(0f32, |a, b| a.max(b.abs()));
        assert_eq!(ours.len(), theirs.len());
        assert!(largest > 0.1);
        // The same operators on the same weights in the same runtime; only its fusions may differ.
        let error = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= 1e-5 * largest, "{error} of {largest}");
    }
}

fn capture(model: &ResNet) -> burn_onnx::export::OnnxModel {
    let device = Device::flex();
    let [sample, second] = [1, 2].map(|batch| Tensor::<4>::zeros([batch, 3, 64, 64], &device));
    let axes = [AxisSpec::dynamic("batch"), AxisSpec::Static, AxisSpec::Static, AxisSpec::Static];
    let forward = |model: &ResNet, images: Tensor<4>| model.forward(images).at(Level::C5);
    OnnxExporter::new().export_dynamic(model, sample, second, &[InputSpec::new(axes)], forward).unwrap()
}
