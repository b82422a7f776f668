//! torchvision's full `maskrcnn_resnet50_fpn`, loaded from a state dict: `fixtures/maskrcnn_resnet50_fpn`.

use crate::device::device;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use burn::tensor::Device;
use scrl_core::checkpoint::weights::write_safetensors;
use scrl_core::models::parameters;
use scrl_core::random::stream;
use scrl_core::structures::Size;
use scrl_transfer::detection::{
    Architecture, Detection, Detector, DetectorConfig, FasterRcnn, RoiHeadsConfig, RpnConfig, Target, Variant,
};
use scrl_transfer::load_state_dict;
use scrl_transfer::mask::{Mask, ObjectMask, Rle, Segmentation};
use serde::Deserialize;

use crate::fasterrcnn_resnet50_fpn::{Case, Gradient, LOSS, assert_gradients, formula, images};
use crate::support::*;

#[derive(Deserialize)]
struct Fixture {
    keys: usize,
    cases: BTreeMap<String, MaskCase>,
}

#[derive(Deserialize)]
struct MaskCase {
    first: u32,
    sizes: Vec<[u32; 2]>,
    targets: Vec<MaskObjects>,
    detections: Vec<MaskDetections>,
    losses: BTreeMap<String, f32>,
    gradients: BTreeMap<String, Gradient>,
}

/// Labels count the background.
#[derive(Deserialize)]
struct MaskObjects {
    boxes: Vec<[f32; 4]>,
    labels: Vec<usize>,
    polygons: Vec<Vec<Vec<f64>>>,
}

#[derive(Deserialize)]
struct MaskDetections {
    boxes: Vec<[f32; 4]>,
    scores: Vec<f32>,
    labels: Vec<usize>,
    masks: Vec<ExpectedMask>,
}

#[derive(Deserialize)]
struct ExpectedMask {
    /// Sums of the 28 × 28 cells times noise.
    projections: Vec<f64>,
    /// COCO's run lengths of the pixels above one half.
    counts: String,
    /// Pixels within 1e-3 of one half.
    doubtful: usize,
}

/// torchvision's own runs with 32 and 64 bits differ by 1.3e-5 in scores, 1e-3 pixels in boxes and 1e-4 in cells; a sum of 784
/// cells times noise in [-1, 1) by less than 784 times that, and in practice by its root.
const SCORE: f32 = 1e-4;
const PIXELS: f32 = 1e-2;
const CELLS: f64 = 1e-2;

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| fixture("maskrcnn_resnet50_fpn/expected.json"));

fn config() -> DetectorConfig {
    DetectorConfig {
        architecture: Architecture::MaskRcnn,
        rpn: RpnConfig {
            pre_nms_train: 200,
            pre_nms_test: 150,
            post_nms_train: 100,
            post_nms_test: 80,
            batch: 100_000,
            ..DetectorConfig::torchvision().rpn
        },
        roi_heads: RoiHeadsConfig { batch: 100_000, ..DetectorConfig::torchvision().roi_heads },
        num_classes: 90,
        ..DetectorConfig::torchvision()
    }
}

/// The detector by way of a file in torchvision's layout; with `old`, under the keys of its published file.
fn detector(device: &Device, old: bool) -> Detector {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("maskrcnn_resnet50_fpn.safetensors");
    let model = filled(FasterRcnn::init(&config(), &mut stream(0, &[]), device), formula);
    let mut tensors = parameters::collect(&model);
    assert_eq!(tensors.len(), FIXTURE.keys);
    if old {
        tensors = tensors.into_iter().map(|(key, data)| (old_key(&key), data)).collect();
        assert!(tensors.contains_key("roi_heads.mask_head.mask_fcn4.bias"));
    }
    write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    load_state_dict(&path, &config(), device).unwrap()
}

/// `MaskRCNNHeads._load_from_state_dict` of torchvision, backwards.
fn old_key(key: &str) -> String {
    match key.strip_prefix("roi_heads.mask_head.").and_then(|rest| rest.split_once(".0.")) {
        Some((number, kind)) => {
            format!("roi_heads.mask_head.mask_fcn{}.{kind}", number.parse::<usize>().unwrap() + 1)
        }
        None => key.replace("rpn.head.conv.0.0.", "rpn.head.conv."),
    }
}

impl MaskCase {
    fn plain(&self) -> Case {
        Case::of_images(self.first, &self.sizes)
    }
}

#[test]
fn detections_and_their_masks_are_torchvisions() {
    let device = device();
    let model = detector(&device, true);
    for (name, case) in &FIXTURE.cases {
        let found = model.detect(images(&case.plain(), &device), &sizes(&case.sizes));
        assert_eq!(found.len(), case.detections.len());
        for ((found, expected), size) in found.iter().zip(&case.detections).zip(sizes(&case.sizes)) {
            assert!(expected.scores.len() > 20, "the case has real detections");
            assert_eq!(found.len(), expected.scores.len(), "{name}");
            assert_same(name, found, expected, size);
        }
    }
}

/// Each expected detection once, with its mask.
fn assert_same(case: &str, found: &[Detection], expected: &MaskDetections, size: Size) {
    let mut open: Vec<&Detection> = found.iter().collect();
    for (index, corners) in expected.boxes.iter().enumerate() {
        let (label, score) = (expected.labels[index], expected.scores[index]);
        let is_this = |detection: &&Detection| {
            let distances = detection.bbox.to_array().into_iter().zip(corners).map(|(a, e)| (a - e).abs());
            let near = (detection.score - score).abs() < SCORE && distances.fold(0.0, f32::max) < PIXELS;
            near && detection.class + 1 == label
        };
        let place =
            open.iter().position(is_this).unwrap_or_else(|| panic!("{case}: nothing like {corners:?}"));
        assert_mask(&format!("{case}, detection {index}"), open.remove(place), &expected.masks[index], size);
    }
}

fn assert_mask(what: &str, found: &Detection, expected: &ExpectedMask, size: Size) {
    let Some(Mask::Cells(cells)) = &found.mask else { panic!("{what} has no cells") };
    for (place, projection) in expected.projections.iter().enumerate() {
        let noisy = |(index, &cell): (usize, &f32)| f64::from(cell) * noise(index, 20_000 + place as u32);
        let sum: f64 = cells.cells.iter().enumerate().map(noisy).sum();
        assert!((sum - projection).abs() < CELLS, "{what}: the cells give {sum}, not {projection}");
    }
    let pixels = cells.paste(&found.bbox, size, Variant::Torchvision).to_bitmap();
    let expected_pixels = Rle::from_compressed(&expected.counts, size).unwrap().to_bitmap();
    let differ = pixels.iter().zip(&expected_pixels).filter(|(a, b)| a != b).count();
    assert!(differ <= expected.doubtful, "{what}: {differ} pixels differ, {} may", expected.doubtful);
}

#[test]
fn losses_and_the_gradient_of_every_parameter_are_torchvisions() {
    let device = device().autodiff();
    let model = detector(&device, false);
    let keys: Vec<String> = parameters::collect(&model).into_keys().collect();
    for (name, case) in &FIXTURE.cases {
        let batch = images(&case.plain(), &device);
        let sizes = sizes(&case.sizes);
        let targets: Vec<Target> =
            case.targets.iter().zip(&sizes).map(|(o, size)| target(o, *size)).collect();
        let losses = model.forward_train(batch, &sizes, &targets, &mut stream(0, &[]));
        let parts = [
            ("loss_objectness", "loss_rpn_objectness"),
            ("loss_rpn_box_reg", "loss_rpn_box"),
            ("loss_classifier", "loss_classifier"),
            ("loss_box_reg", "loss_box_regression"),
            ("loss_mask", "loss_mask"),
        ];
        for (part, own) in parts {
            let (loss, expected) =
                (losses.term(own).unwrap().clone().into_scalar::<f32>(), case.losses[part]);
            assert!((loss - expected).abs() < LOSS * expected, "{name}: {part} is {loss}, not {expected}");
        }
        let found = gradients_by_path(&model, &losses.total().backward());
        assert_gradients(name, &case.gradients, &keys, &found);
    }
}

fn target(objects: &MaskObjects, size: Size) -> Target {
    let mask = |polygons: &Vec<Vec<f64>>| ObjectMask {
        segmentation: Arc::new(Segmentation::Polygons(polygons.clone())),
        source: size,
        input: size,
        mirrored: false,
    };
    Target {
        boxes: boxes(&objects.boxes),
        labels: objects.labels.iter().map(|label| label - 1).collect(),
        masks: objects.polygons.iter().map(|polygons| Some(mask(polygons))).collect(),
    }
}
