//! A small detector of both variants against torchvision's classes: `fixtures/detection`.

use crate::device::device;
use std::collections::BTreeMap;

use burn::tensor::Device;
use scrl_core::models::Arch;
use scrl_core::random::stream;
use scrl_transfer::detection::{
    AnchorConfig, BackboneConfig, DetectorConfig, FasterRcnn, FpnConfig, Norm, RoiHeadsConfig, RpnConfig,
    TestConfig, Variant,
};
use serde::Deserialize;

use crate::support::*;

#[derive(Deserialize)]
struct Fixture {
    end_to_end: BTreeMap<String, EndToEnd>,
}

#[derive(Deserialize)]
struct EndToEnd {
    detections: Vec<Detections>,
    losses: BTreeMap<String, f32>,
    gradient_norms: BTreeMap<String, f32>,
}

#[derive(Deserialize)]
struct Detections {
    boxes: Vec<[f32; 4]>,
    scores: Vec<f32>,
    labels: Vec<usize>,
}

fn end_to_end(variant: &str) -> EndToEnd {
    fixture::<Fixture>("detection/detection.json").end_to_end.remove(variant).unwrap()
}

const GRADIENTS: usize = 8;

#[test]
fn the_torchvision_variant_reproduces_torchvisions_detections() {
    assert_detections("torchvision");
}

#[test]
fn the_detectron2_variant_reproduces_detections_of_torchvision_with_detectron2s_numbers() {
    assert_detections("detectron2");
}

#[test]
fn the_torchvision_variant_reproduces_torchvisions_losses_and_gradients() {
    assert_losses("torchvision");
}

#[test]
fn the_detectron2_variant_reproduces_losses_of_torchvision_with_detectron2s_numbers() {
    assert_losses("detectron2");
}

/// Convolutions sum in another order, which is about 1e-5 relative after twenty layers; the fixture's script makes
/// sure that no decision depends on that.
fn assert_detections(variant: &str) {
    let expected = end_to_end(variant).detections;
    let device = device();
    let found = detector(variant, &device).detect(images(&device), &SIZES);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found.len(), expected.scores.len());
        for (index, detection) in found.iter().enumerate() {
            assert_eq!(detection.class + 1, expected.labels[index], "detection {index}");
            assert!(
                (detection.score - expected.scores[index]).abs() < 1e-4,
                "detection {index}: {detection:?}"
            );
            let corners = detection.bbox.to_array().into_iter().zip(expected.boxes[index]);
            let difference = corners.map(|(a, e)| (a - e).abs()).fold(0.0, f32::max);
            assert!(difference < 1e-2, "detection {index}: {detection:?}");
        }
    }
}

fn assert_losses(variant: &str) {
    let expected = end_to_end(variant);
    let device = device().autodiff();
    let model = detector(variant, &device);
    let losses = model.forward_train(images(&device), &SIZES, &targets(), &mut stream(0, &[]));
    let found = [
        ("loss_objectness", losses.term("loss_rpn_objectness").unwrap()),
        ("loss_rpn_box_reg", losses.term("loss_rpn_box").unwrap()),
        ("loss_classifier", losses.term("loss_classifier").unwrap()),
        ("loss_box_reg", losses.term("loss_box_regression").unwrap()),
    ];
    for (name, loss) in found {
        let (loss, expected) = (loss.clone().into_scalar::<f32>(), expected.losses[name]);
        assert!((loss - expected).abs() < 1e-4 * expected, "{name} is {loss}, not {expected}");
    }
    let norms = gradient_norms(&model, &losses.total().backward());
    assert_eq!(expected.gradient_norms.len(), GRADIENTS);
    for (name, &expected) in &expected.gradient_norms {
        let norm = norms[name].unwrap_or_else(|| panic!("{name} has no gradient"));
        assert!((norm - expected).abs() < 1e-3 * expected, "gradient of {name}: {norm}, not {expected}");
    }
}

/// The fixture's network with its weights by formula.
fn detector(variant: &str, device: &Device) -> FasterRcnn {
    let config = DetectorConfig {
        backbone: BackboneConfig { arch: Arch::ResNet18, norm: Norm::FrozenBatchNorm, ..Default::default() },
        fpn: FpnConfig { channels: 64, ..Default::default() },
        roi_heads: RoiHeadsConfig {
            box_head_dim: 128,
            canonical_box_size: 56.0,
            batch: 100_000,
            ..Default::default()
        },
        anchors: AnchorConfig { sizes: vec![16.0, 32.0, 64.0, 96.0, 128.0], ..Default::default() },
        test: TestConfig { nms: 0.3, detections_per_image: 60, ..Default::default() },
        rpn: RpnConfig {
            pre_nms_train: 120,
            pre_nms_test: 100,
            post_nms_train: 60,
            post_nms_test: 50,
            batch: 100_000,
            ..Default::default()
        },
        variant: if variant == "torchvision" { Variant::Torchvision } else { Variant::Detectron2 },
        num_classes: 3,
        ..Default::default()
    };
    filled(FasterRcnn::init(&config, &mut stream(0, &[]), device), formula)
}

fn formula(name: &str, shape: &[usize], key: u32) -> Vec<f32> {
    let fan_in: usize = shape[1..].iter().product();
    let gains = [("cls_score", 0.1), ("cls_logits", 0.3), ("bbox_pred", 0.3), ("fpn", 0.5)];
    let gain = gains.iter().find(|(part, _)| name.contains(part)).map_or(1.0, |(_, gain)| *gain);
    let (offset, scale) = if name.ends_with("running_var") {
        (1.0, 0.2)
    } else if name.ends_with("running_mean") || name.ends_with("bias") {
        (0.0, 0.1)
    } else if shape.len() == 1 {
        (if name.contains(".bn2.") { 0.5 } else { 1.0 }, 0.1)
    } else {
        (0.0, gain * (6.0 / fan_in as f64).sqrt())
    };
    (0..shape.iter().product()).map(|index| (offset + scale * noise(index, key)) as f32).collect()
}
