//! Exported Mask R-CNN in ONNX Runtime. Where none can be found, the tests say so and pass, unless `SCRL_REQUIRE_ONNXRUNTIME` is
//! set.

mod support;

use burn::tensor::Device;
use onnx_ir::{Message, ModelProto};
use ort::value::TensorRef;
use scrl_core::models::Arch;
use scrl_core::structures::Size;
use scrl_core::transforms::RgbImage;
use scrl_export::runtime::runtime;
use scrl_export::{DetectorInputs, DetectorOptions, ExportError, InputKind, OnnxDetector, validate_detector};
use scrl_transfer::data::{Sample, collate};
use scrl_transfer::detection::{Architecture, DetectorConfig, Target, TestConfig, Variant};
use scrl_transfer::inference::detect_batch;
use scrl_transfer::mask::Mask;

use support::detector::{Case, assert_reproduced, small};
use support::has_runtime;

fn config(variant: Variant) -> DetectorConfig {
    DetectorConfig { architecture: Architecture::MaskRcnn, ..small(Arch::ResNet18, 0.25, variant) }
}

#[test]
fn masks_of_both_variants_are_reproduced_on_every_size_and_batch() {
    if !has_runtime() {
        return;
    }
    let plain = DetectorOptions::default();
    for (variant, options) in [
        (Variant::Detectron2, plain),
        (Variant::Torchvision, DetectorOptions { input: InputKind::Raw, image_sizes: false, ..plain }),
        (Variant::Torchvision, DetectorOptions { half: true, ..plain }),
    ] {
        let report = Case::new(config(variant)).validate(&options).unwrap();
        let masks = report.stages.iter().find(|stage| stage.name == "masks");
        assert!(masks.is_some_and(|stage| stage.passed()), "{}", report.table());
        if !options.half {
            assert_reproduced(&report);
        }
    }
}

#[test]
fn a_wrong_weight_of_the_mask_head_is_blamed_on_the_masks() {
    if !has_runtime() {
        return;
    }
    let case = Case::new(config(Variant::Detectron2));
    for name in ["roi_heads.mask_head.2.0.bias", "roi_heads.mask_predictor.conv5_mask.bias"] {
        let path = case.export(&DetectorOptions::default());
        let mut model = ModelProto::parse_from_bytes(&std::fs::read(&path).unwrap()).unwrap();
        let tensors = &mut model.graph.mut_or_insert_default().initializer;
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
        let wrong: Vec<u8> = tensor.raw_data.chunks_exact(4).flat_map(|_| 2f32.to_le_bytes()).collect();
        tensor.raw_data = wrong.into();
        std::fs::write(&path, model.write_to_bytes().unwrap()).unwrap();
        let error =
            validate_detector(&path, &case.model, &case.info, &DetectorInputs::default()).unwrap_err();
        let ExportError::DetectorMismatch { report, .. } = &error else { panic!("{name}: {error}") };
        assert_eq!(report.first_difference().map(|stage| stage.name.as_str()), Some("masks"), "{error}");
    }
}

#[test]
fn pictures_have_the_masks_that_the_model_gives_them() {
    if !has_runtime() {
        return;
    }
    let case = Case::new(config(Variant::Torchvision));
    let detector = OnnxDetector::open(&case.export(&DetectorOptions::default()), 1).unwrap();
    let value = |i: u32| (i / 3 % 120 / 9 * 37 + i / 360 / 7 * 91 + i % 3 * 50) as u8;
    let picture = RgbImage::from_raw(120, 90, (0..120 * 90 * 3).map(value).collect()).unwrap();
    let found = detector.detect(std::slice::from_ref(&picture)).unwrap().remove(0);
    let source = Size { width: 120, height: 90 };
    let (pixels, size) = case.info.metadata.preprocessing.apply(&picture);
    let sample = Sample { index: 0, pixels, size, source, target: Target::default() };
    let (_, expected) = detect_batch(&case.model, collate(vec![sample], &Device::flex())).remove(0);
    let mut compared = 0;
    for found in &found {
        // Where a box is at the edge of two pixels, its mask may move by one.
        let Some(own) = expected.iter().find(|own| {
            let near = own.bbox.to_array().into_iter().zip(found.bbox.to_array());
            own.class == found.class && near.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-3
        }) else {
            continue;
        };
        let [a, b] =
            [found, own].map(|found| found.mask.as_ref().and_then(Mask::pixels).unwrap().to_bitmap());
        assert_eq!(a.len(), 120 * 90);
        let differ = a.iter().zip(&b).filter(|(a, b)| a != b).count();
        compared += usize::from(differ == 0);
    }
    assert!(
        compared > 10 && compared * 10 >= found.len() * 9,
        "{compared} of {} masks are equal",
        found.len()
    );
}

#[test]
fn images_without_detections_have_masks_of_zeros() {
    if !has_runtime() {
        return;
    }
    let config = config(Variant::Detectron2);
    let test = TestConfig { score_threshold: 0.9999, detections_per_image: 20, ..config.test };
    let case = Case::new(DetectorConfig { test, ..config });
    let path = case.export(&DetectorOptions::default());
    let mut session = runtime().unwrap().session(&path, 0).unwrap();
    let (images, sizes) = (vec![0.5f32; 2 * 3 * 64 * 64], [64i64, 64, 50, 40]);
    let images = TensorRef::from_array_view(([2usize, 3, 64, 64], images.as_slice())).unwrap();
    let sizes = TensorRef::from_array_view(([2usize, 2], sizes.as_slice())).unwrap();
    let outputs = session.run(ort::inputs!["images" => images, "image_sizes" => sizes]).unwrap();
    let (shape, masks) = outputs["masks"].try_extract_tensor::<f32>().unwrap();
    assert_eq!((shape.to_vec(), masks.iter().all(|&v| v == 0.0)), (vec![2, 20, 28, 28], true));
}
