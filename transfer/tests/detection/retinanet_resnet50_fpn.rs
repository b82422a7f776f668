//! torchvision's full `retinanet_resnet50_fpn`, loaded from a state dict: `fixtures/retinanet_resnet50_fpn`.

use crate::device::device;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use burn::tensor::Device;
use scrl_core::checkpoint::weights::write_safetensors;
use scrl_core::models::parameters;
use scrl_core::random::stream;
use scrl_transfer::detection::{
    BackboneConfig, Detector, DetectorConfig, FpnConfig, Norm, RetinaNetConfig, Target, TestConfig,
};
use scrl_transfer::{InitWeights, load_state_dict};

use crate::fasterrcnn_resnet50_fpn::{
    Fixture, LOSS, Objects, assert_gradients, assert_same, images, torchvision_values,
};
use crate::support::*;

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| fixture("retinanet_resnet50_fpn/expected.json"));

/// torchvision gives the background a logit, too, which no target ever has: 91 classes.
fn config() -> DetectorConfig {
    DetectorConfig {
        test: TestConfig { detections_per_image: 1000, ..Default::default() },
        backbone: BackboneConfig {
            norm: Norm::FrozenBatchNorm,
            frozen_norm_epsilon: 0.0,
            ..Default::default()
        },
        num_classes: 91,
        retinanet: RetinaNetConfig { pre_nms: 60, ..Default::default() },
        ..DetectorConfig::retinanet()
    }
}

/// The detector by way of a file in torchvision's layout; with `old`, under the keys of its published file.
fn detector(device: &Device, old: bool) -> Detector {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("retinanet_resnet50_fpn.safetensors");
    let model = filled(config().init(&mut stream(0, &[]), device), formula);
    let mut tensors = parameters::collect(&model);
    assert_eq!(tensors.len(), FIXTURE.keys);
    if old {
        tensors = tensors.into_iter().map(|(key, data)| (old_key(&key), data)).collect();
    }
    write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    assert!(matches!(InitWeights::parse(path.to_str().unwrap()).unwrap(), InitWeights::Detector(_)));
    load_state_dict(&path, &config(), device).unwrap()
}

/// `head.classification_head.conv.3.0.weight` once was `head.classification_head.conv.6.weight`.
fn old_key(key: &str) -> String {
    match key.split('.').collect::<Vec<_>>()[..] {
        ["head", head, "conv", index, "0", kind] => {
            format!("head.{head}.conv.{}.{kind}", 2 * index.parse::<usize>().unwrap())
        }
        _ => key.to_string(),
    }
}

fn formula(name: &str, shape: &[usize], key: u32) -> Vec<f32> {
    let gains = [("cls_logits", 0.15), ("bbox_reg", 0.1), ("fpn", 0.5)];
    let gain = gains.iter().find(|(part, _)| name.contains(part)).map_or(1.0, |(_, gain)| *gain);
    match name.ends_with("cls_logits.bias") {
        true => (0..shape[0]).map(|index| (-4.0 + noise(index, key)) as f32).collect(),
        false => torchvision_values(name, shape, key, gain),
    }
}

#[test]
fn detections_of_one_and_of_two_images_of_odd_sizes_are_torchvisions() {
    let device = device();
    let model = detector(&device, true);
    for (name, case) in &FIXTURE.cases {
        let found = model.detect(images(case, &device), &sizes(&case.sizes));
        assert_eq!(found.len(), case.detections.len());
        for (found, expected) in found.iter().zip(&case.detections) {
            assert!(expected.scores.len() > 20, "the case has real detections");
            assert_eq!(found.len(), expected.scores.len(), "{name}");
            // There is no background to count.
            assert_same(name, found, expected, 0);
        }
    }
}

#[test]
fn losses_and_the_gradient_of_every_parameter_are_torchvisions() {
    let device = device().autodiff();
    let model = detector(&device, false);
    let keys: Vec<String> = parameters::collect(&model).into_keys().collect();
    for (name, case) in &FIXTURE.cases {
        let target = |objects: &Objects| Target {
            boxes: boxes(&objects.boxes),
            labels: objects.labels.clone(),
            masks: Vec::new(),
        };
        let targets: Vec<Target> = case.targets.iter().map(target).collect();
        let losses =
            model.forward_train(images(case, &device), &sizes(&case.sizes), &targets, &mut stream(0, &[]));
        for (part, term) in
            [("classification", "loss_classification"), ("bbox_regression", "loss_box_regression")]
        {
            let (loss, expected) =
                (losses.term(term).unwrap().clone().into_scalar::<f32>(), case.losses[part]);
            assert!((loss - expected).abs() < LOSS * expected, "{name}: {part} is {loss}, not {expected}");
        }
        assert!(losses.count("foreground_anchors").unwrap() > 0);
        let found = gradients_by_path(&model, &losses.total().backward());
        assert_gradients(name, &case.gradients, &keys, &found);
    }
}

#[test]
fn a_batch_without_any_object_trains_with_finite_losses_on_every_parameter() {
    let device = device().autodiff();
    let config = DetectorConfig {
        fpn: FpnConfig { channels: 16, ..Default::default() },
        backbone: BackboneConfig {
            arch: scrl_core::models::Arch::ResNet18,
            width: 0.125,
            ..Default::default()
        },
        num_classes: 3,
        ..DetectorConfig::retinanet()
    };
    let model = config.init(&mut stream(1, &[]), &device);
    let losses = model.forward_train(
        support_images(&device),
        &SIZES,
        &vec![Target::default(); 3],
        &mut stream(2, &[]),
    );
    assert_eq!(losses.counts, [("foreground_anchors", 0)]);
    assert_eq!(losses.term("loss_box_regression").unwrap().clone().into_scalar::<f32>(), 0.0);
    let norms = gradient_norms(&model, &losses.total().backward());
    assert!(norms.values().all(|norm| norm.is_some_and(f32::is_finite)), "{norms:?}");
}

fn support_images(device: &Device) -> burn::tensor::Tensor<4> {
    crate::support::images(device)
}
