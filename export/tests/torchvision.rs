//! Exported detectors find what torchvision finds: its state dict, its images, its detections, from the fixtures of the
//! crate `transfer`. Where there is no ONNX Runtime, the tests say so and pass, unless `SCRL_REQUIRE_ONNXRUNTIME` is set.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use scrl_core::checkpoint::weights::write_safetensors;
use scrl_core::models::{Arch, parameters};
use scrl_core::random::stream;
use scrl_core::structures::Size;
use scrl_core::transforms::normalize::{IMAGENET_MEAN, IMAGENET_STD};
use scrl_export::{
    DetectorInfo, DetectorInputs, DetectorOptions, ImageBatch, OnnxDetector, export_detector,
    validate_detector,
};
use scrl_transfer::data::Category;
use scrl_transfer::data::Preprocessing;
use scrl_transfer::detection::{
    AnchorConfig, BackboneConfig, Detection, Detector, DetectorConfig, FpnConfig, Norm, RoiHeadsConfig,
    RpnConfig, TestConfig, Variant,
};
use scrl_transfer::{DetectorMetadata, load_state_dict};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use support::has_runtime;

#[derive(Deserialize)]
struct WholeDetector {
    cases: BTreeMap<String, WholeDetectorCase>,
}

#[derive(Deserialize)]
struct WholeDetectorCase {
    first: u32,
    sizes: Vec<[u32; 2]>,
    detections: Vec<Expected>,
}

#[derive(Deserialize)]
struct Small {
    end_to_end: BTreeMap<String, SmallCase>,
}

#[derive(Deserialize)]
struct SmallCase {
    detections: Vec<Expected>,
}

/// Labels count the background.
#[derive(Deserialize)]
struct Expected {
    boxes: Vec<[f32; 4]>,
    scores: Vec<f32>,
    labels: Vec<usize>,
}

fn fixture<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../transfer/tests/fixtures").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The fixtures' numbers in [-1, 1): the finaliser of MurmurHash3 of index and key.
fn noise(index: usize, key: u32) -> f64 {
    let mut h = (index as u32).wrapping_mul(2_654_435_761).wrapping_add(key.wrapping_mul(40_503));
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^= h >> 16;
    f64::from(h) / 2f64.powi(31) - 1.0
}

/// A detector with each tensor's values by offset and scale, by way of a state dict.
fn detector(config: &DetectorConfig, formula: impl Fn(&str, &[usize]) -> (f64, f64)) -> Detector {
    let mut tensors = parameters::collect(&config.init(&mut stream(0, &[]), &Device::flex()));
    for (key, (name, data)) in tensors.iter_mut().enumerate() {
        let shape = data.shape().to_vec();
        let (offset, scale) = formula(name, &shape);
        let value = |index| (offset + scale * noise(index, key as u32)) as f32;
        *data = TensorData::new((0..shape.iter().product()).map(value).collect::<Vec<f32>>(), shape);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    load_state_dict(&path, config, &Device::flex()).unwrap()
}

/// A uniform weight's bound.
fn bound(name: &str, shape: &[usize], gains: &[(&str, f64)]) -> f64 {
    let gain = gains.iter().find(|(part, _)| name.contains(part)).map_or(1.0, |(_, gain)| *gain);
    gain * (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt()
}

/// Exports the detector and opens the file.
fn exported(model: &Detector, folder: &Path) -> (OnnxDetector, DetectorInfo) {
    let categories = (1..=model.config().num_classes as u64).map(|id| Category { id, name: format!("{id}") });
    let metadata = DetectorMetadata {
        config: model.config().clone(),
        categories: categories.collect(),
        preprocessing: Preprocessing::default(),
    };
    let info = DetectorInfo { label_offset: 1, ..DetectorInfo::new(metadata) };
    let path = folder.join("detector.onnx");
    export_detector(model, &info, &path, &DetectorOptions::default()).unwrap();
    (OnnxDetector::open(&path, 0).unwrap(), info)
}

/// Convolutions sum in another order, which is about 1e-5 relative after twenty layers; the fixtures' scripts make sure
/// that no decision depends on that. Scores that are closer than that may change places.
#[track_caller]
fn assert_same(name: &str, found: &[Detection], expected: &Expected) {
    assert!(expected.scores.len() > 15 && found.len() == expected.scores.len(), "{name}: {}", found.len());
    let mut open: Vec<&Detection> = found.iter().collect();
    for (index, corners) in expected.boxes.iter().enumerate() {
        let (label, score) = (expected.labels[index], expected.scores[index]);
        let is_this = |detection: &&Detection| {
            let distances = detection.bbox.to_array().into_iter().zip(corners).map(|(a, e)| (a - e).abs());
            let near = (detection.score - score).abs() < 1e-4 && distances.fold(0.0, f32::max) < 1e-2;
            near && detection.class + 1 == label
        };
        let place = open.iter().position(is_this);
        open.remove(
            place.unwrap_or_else(|| panic!("{name}: no {label} of {score} at {corners:?}: {open:?}")),
        );
    }
}

fn size([height, width]: [u32; 2]) -> Size {
    Size { width, height }
}

#[test]
fn torchvisions_whole_resnet_50_detector_finds_the_same_in_one_and_in_two_padded_images() {
    if !has_runtime() {
        return;
    }
    let config = DetectorConfig {
        rpn: RpnConfig { pre_nms_test: 150, post_nms_test: 80, ..DetectorConfig::torchvision().rpn },
        num_classes: 90,
        ..DetectorConfig::torchvision()
    };
    let gains = [
        ("cls_score", 0.15),
        ("cls_logits", 0.3),
        ("rpn.head.bbox_pred", 0.2),
        ("bbox_pred", 0.3),
        ("fpn", 0.5),
    ];
    let model = detector(&config, |name, shape| match name.rsplit('.').next().unwrap() {
        "running_var" => (1.0, 0.5),
        "running_mean" => (0.0, 0.3),
        "bias" => (0.0, 0.1),
        _ if shape.len() == 1 => (if name.contains(".bn3.") { 0.4 } else { 1.0 }, 0.2),
        _ => (0.0, bound(name, shape, &gains)),
    });
    let folder = tempfile::tempdir().unwrap();
    let (detector, info) = exported(&model, folder.path());
    for (name, case) in fixture::<WholeDetector>("fasterrcnn_resnet50_fpn/expected.json").cases {
        let image = |(n, &own): (usize, &[u32; 2])| (whole_image(case.first + n as u32, own), size(own));
        let images: Vec<_> = case.sizes.iter().enumerate().map(image).collect();
        let found = detector.detect_batch(&ImageBatch::pad(&images, 32)).unwrap();
        for (found, expected) in found.iter().zip(&case.detections) {
            assert_same(&name, found, expected);
        }
    }
    let random = vec![(vec![size([97, 131]), size([64, 64])], 1)];
    let inputs = DetectorInputs { random, blank: false, ..Default::default() };
    let report = validate_detector(&folder.path().join("detector.onnx"), &model, &info, &inputs).unwrap();
    assert!(report.total.matched > 40, "{}", report.table());
}

/// Blocks of eight pixels and noise, normalised; `[3, H, W]`.
fn whole_image(number: u32, [height, width]: [u32; 2]) -> Vec<f32> {
    let (height, width, key) = (height as usize, width as usize, 100_000 + number);
    let value = |c: usize, y: usize, x: usize| noise((c * height + y) * width + x, key) as f32;
    let pixel = |index: usize| {
        let (c, y, x) = (index / (height * width), index / width % height, index % width);
        let pixel = 0.5 + 0.3 * value(c, y / 8 * 8, x / 8 * 8) + 0.15 * value(c, y, x);
        (pixel - IMAGENET_MEAN[c]) / IMAGENET_STD[c]
    };
    (0..3 * height * width).map(pixel).collect()
}

#[test]
fn both_variants_find_what_torchvision_with_their_numbers_finds() {
    if !has_runtime() {
        return;
    }
    for (name, variant) in [("torchvision", Variant::Torchvision), ("detectron2", Variant::Detectron2)] {
        let config = DetectorConfig {
            backbone: BackboneConfig {
                arch: Arch::ResNet18,
                norm: Norm::FrozenBatchNorm,
                ..Default::default()
            },
            fpn: FpnConfig { channels: 64, ..Default::default() },
            roi_heads: RoiHeadsConfig { box_head_dim: 128, canonical_box_size: 56.0, ..Default::default() },
            anchors: AnchorConfig { sizes: vec![16.0, 32.0, 64.0, 96.0, 128.0], ..Default::default() },
            test: TestConfig { nms: 0.3, detections_per_image: 60, ..Default::default() },
            rpn: RpnConfig { pre_nms_test: 100, post_nms_test: 50, ..Default::default() },
            variant,
            num_classes: 3,
            ..Default::default()
        };
        let gains = [("cls_score", 0.1), ("cls_logits", 0.3), ("bbox_pred", 0.3), ("fpn", 0.5)];
        let model = detector(&config, |name, shape| match name.rsplit('.').next().unwrap() {
            "running_var" => (1.0, 0.2),
            "running_mean" | "bias" => (0.0, 0.1),
            _ if shape.len() == 1 => (if name.contains(".bn2.") { 0.5 } else { 1.0 }, 0.1),
            _ => (0.0, bound(name, shape, &gains)),
        });
        let folder = tempfile::tempdir().unwrap();
        let (detector, _) = exported(&model, folder.path());
        let sizes = [[96, 128], [80, 112], [96, 96]];
        let image = |(n, &own): (usize, &[u32; 2])| (small_image(n, own), size(own));
        let images: Vec<_> = sizes.iter().enumerate().map(image).collect();
        let found = detector.detect_batch(&ImageBatch::pad(&images, 32)).unwrap();
        for (found, expected) in
            found.iter().zip(&fixture::<Small>("detection/detection.json").end_to_end[name].detections)
        {
            assert_same(name, found, expected);
        }
    }
}

/// A corner of an image of 96×128 pixels of blocks and noise; `[3, H, W]`.
fn small_image(number: usize, [height, width]: [u32; 2]) -> Vec<f32> {
    let (height, width) = (height as usize, width as usize);
    let value = |c: usize, y: usize, x: usize| noise((c * 96 + y) * 128 + x, 1000 + number as u32) as f32;
    let pixel = |index: usize| {
        let (c, y, x) = (index / (height * width), index / width % height, index % width);
        value(c, y / 8 * 8, x / 8 * 8) + 0.5 * value(c, y, x)
    };
    (0..3 * height * width).map(pixel).collect()
}
