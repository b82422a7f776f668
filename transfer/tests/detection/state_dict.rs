//! Whole detectors from other people's files: `fixtures/fasterrcnn_resnet50_fpn/small.pth`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::{Device, TensorData};
use scrl_core::checkpoint::weights::write_safetensors;
use scrl_core::models::Arch;
use scrl_core::models::parameters::{self, TensorMap};
use scrl_core::random::stream;
use scrl_transfer::detection::{BackboneConfig, DetectorConfig, FpnConfig, RoiHeadsConfig, Variant};
use scrl_transfer::weights::init_detector;
use scrl_transfer::{InitWeights, TransferConfig, load_state_dict};

use crate::support::*;

/// The network of `small.pth`.
fn small(num_classes: usize) -> DetectorConfig {
    DetectorConfig {
        backbone: BackboneConfig {
            arch: Arch::ResNet18,
            width: 0.125,
            ..DetectorConfig::torchvision().backbone
        },
        fpn: FpnConfig { channels: 16, ..DetectorConfig::torchvision().fpn },
        roi_heads: RoiHeadsConfig { box_head_dim: 32, ..DetectorConfig::torchvision().roi_heads },
        num_classes,
        ..DetectorConfig::torchvision()
    }
}

fn small_pth() -> PathBuf {
    fixture_path("fasterrcnn_resnet50_fpn/small.pth")
}

/// Some tensors of the file by the script's formula, which are halves there.
#[track_caller]
fn assert_from_file(tensors: &TensorMap) {
    let names: Vec<&String> = tensors.keys().collect();
    for (name, offset, scale) in [
        ("backbone.body.layer2.0.downsample.1.running_var", 1.0, 0.5),
        ("backbone.fpn.inner_blocks.3.0.bias", 0.0, 0.1),
        ("rpn.head.conv.0.0.bias", 0.0, 0.1),
        ("rpn.head.cls_logits.bias", 0.0, 0.1),
        ("roi_heads.box_predictor.cls_score.bias", 0.0, 0.1),
    ] {
        let key = names.iter().position(|found| *found == name).unwrap() as u32;
        let found: Vec<f32> = tensors[name].clone().try_to_vec().unwrap();
        let expected: Vec<f32> = (0..found.len()).map(|i| (offset + scale * noise(i, key)) as f32).collect();
        assert_near(&found, &expected, 1e-3);
    }
}

#[test]
fn torchvisions_pth_with_its_old_keys_and_counters_loads_whole() {
    let model = load_state_dict(&small_pth(), &small(3), &Device::flex()).unwrap();
    assert_from_file(&parameters::collect(&model));
    assert_eq!(model.backbone().body.bn1.epsilon, 0.0);
}

#[test]
fn a_run_starts_from_torchvisions_pth_and_other_classes_keep_a_random_predictor() {
    let init = InitWeights::parse(small_pth().to_str().unwrap()).unwrap();
    assert_eq!(init, InitWeights::Detector(small_pth()));
    let start = |classes: usize| {
        let config = TransferConfig { model: small(classes), ..Default::default() };
        parameters::collect(&init_detector(&config, &init, &Device::flex()).unwrap())
    };
    assert_from_file(&start(3));
    let other = start(7);
    assert_eq!(other["roi_heads.box_predictor.cls_score.weight"].shape().to_vec(), [8, 32]);
    assert_eq!(other["roi_heads.box_head.fc7.weight"], start(3)["roi_heads.box_head.fc7.weight"]);
}

#[test]
fn keys_that_are_missing_left_over_or_of_another_shape_are_named() {
    let device = Device::flex();
    let classes = load_state_dict(&small_pth(), &small(90), &device).unwrap_err().to_string();
    assert!(
        classes.contains("`roi_heads.box_predictor.cls_score.weight` ([4, 32], expected [91, 32])"),
        "{classes}"
    );

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.safetensors");
    let mut tensors = parameters::collect(&small(3).init(&mut stream(0, &[]), &device));
    tensors.remove("rpn.head.bbox_pred.bias");
    tensors.insert("roi_heads.mask_head.weight".into(), TensorData::new(vec![0.0f32], [1]));
    write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    let error = load_state_dict(&path, &small(3), &device).unwrap_err().to_string();
    assert!(error.contains("missing: `rpn.head.bbox_pred.bias`"), "{error}");
    assert!(error.contains("left over: `roi_heads.mask_head.weight`"), "{error}");
}

#[test]
fn paths_are_the_keys_of_torchvisions_state_dict() {
    let config = DetectorConfig {
        fpn: FpnConfig { norm: false, ..tiny().fpn },
        variant: Variant::Detectron2,
        ..tiny()
    };
    let keys: Vec<String> =
        parameters::collect(&config.init(&mut stream(0, &[]), &Device::flex())).into_keys().collect();
    for key in [
        "backbone.body.layer1.0.bn1.running_mean",
        "backbone.fpn.inner_blocks.3.0.bias",
        "rpn.head.conv.0.0.weight",
        "roi_heads.box_predictor.bbox_pred.weight",
    ] {
        assert!(keys.iter().any(|k| k == key), "{key} is missing from {keys:?}");
    }
}
