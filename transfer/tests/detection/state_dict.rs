//! Whole detectors from other people's files: `fixtures/fasterrcnn_resnet50_fpn/small.pth`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::{Device, TensorData};
use scrl_core::checkpoint::weights::write_safetensors;
use scrl_core::models::Arch;
use scrl_core::models::parameters::{self, TensorMap};
use scrl_core::random::stream;
use scrl_transfer::detection::{
    Architecture, BackboneConfig, DetectorConfig, FasterRcnn, FpnConfig, RoiHeadsConfig, Variant,
};
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

/// detectron2's names of a Mask R-CNN with a normalised pyramid (`MODEL.FPN.NORM`), as its `GeneralizedRCNN` prints them.
fn detectron2_key(key: &str) -> String {
    let fixed = [
        ("rpn.head.conv.0.0.", "proposal_generator.rpn_head.conv."),
        ("rpn.head.cls_logits.", "proposal_generator.rpn_head.objectness_logits."),
        ("rpn.head.bbox_pred.", "proposal_generator.rpn_head.anchor_deltas."),
        ("roi_heads.box_head.fc6.", "roi_heads.box_head.fc1."),
        ("roi_heads.box_head.fc7.", "roi_heads.box_head.fc2."),
        ("roi_heads.mask_head.0.0.", "roi_heads.mask_head.mask_fcn1."),
        ("roi_heads.mask_head.1.0.", "roi_heads.mask_head.mask_fcn2."),
        ("roi_heads.mask_head.2.0.", "roi_heads.mask_head.mask_fcn3."),
        ("roi_heads.mask_head.3.0.", "roi_heads.mask_head.mask_fcn4."),
        ("roi_heads.mask_predictor.conv5_mask.", "roi_heads.mask_head.deconv."),
        ("roi_heads.mask_predictor.mask_fcn_logits.", "roi_heads.mask_head.predictor."),
    ];
    if let Some((ours, theirs)) = fixed.iter().find(|(ours, _)| key.starts_with(ours)) {
        return key.replace(ours, theirs);
    }
    if let Some(rest) = key.strip_prefix("backbone.fpn.") {
        let [kind, place, part, leaf] = rest.split('.').collect::<Vec<_>>()[..] else { panic!("{key}") };
        let block = if kind == "inner_blocks" { "fpn_lateral" } else { "fpn_output" };
        let norm = if part == "1" { "norm." } else { "" };
        return format!("backbone.{block}{}.{norm}{leaf}", place.parse::<usize>().unwrap() + 2);
    }
    match key.strip_prefix("backbone.body.") {
        Some(rest) => {
            let parts: Vec<&str> = rest.split('.').collect();
            let norm = |name: &str| name.strip_prefix("bn").map(|number| format!("conv{number}.norm"));
            let inside = match parts[..] {
                ["conv1", leaf] => format!("stem.conv1.{leaf}"),
                ["bn1", leaf] => format!("stem.conv1.norm.{leaf}"),
                [stage, block, "downsample", "0", leaf] => {
                    format!("res{}.{block}.shortcut.{leaf}", stage[5..].parse::<usize>().unwrap() + 1)
                }
                [stage, block, "downsample", "1", leaf] => {
                    format!("res{}.{block}.shortcut.norm.{leaf}", stage[5..].parse::<usize>().unwrap() + 1)
                }
                [stage, block, layer, leaf] => {
                    let layer = norm(layer).unwrap_or_else(|| layer.to_string());
                    format!("res{}.{block}.{layer}.{leaf}", stage[5..].parse::<usize>().unwrap() + 1)
                }
                _ => panic!("{key}"),
            };
            format!("backbone.bottom_up.{inside}")
        }
        None => key.to_string(),
    }
}

/// The rows of a tensor.
fn rows(data: &TensorData) -> Vec<Vec<f32>> {
    let values: Vec<f32> = data.iter::<f32>().collect();
    values.chunks(values.len() / data.shape()[0]).map(<[f32]>::to_vec).collect()
}

#[test]
fn a_mask_rcnn_of_detectron2_loads_whole_with_its_background_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model_final.safetensors");
    let small = small(3);
    let config = DetectorConfig {
        architecture: Architecture::MaskRcnn,
        variant: Variant::Detectron2,
        fpn: FpnConfig { channels: 16, norm: true },
        ..small
    };
    let model =
        filled(FasterRcnn::init(&config, &mut stream(0, &[]), &Device::flex()), |name, shape, key| {
            (0..shape.iter().product::<usize>()).map(|i| noise(i, key + name.len() as u32) as f32).collect()
        });
    let ours = parameters::collect(&model);
    let theirs: TensorMap = ours
        .iter()
        .map(|(key, data)| {
            let (mut rows, mut shape) = (rows(data), data.shape().to_vec());
            match key.as_str() {
                key if key.contains("box_predictor.cls_score") => rows.rotate_left(1),
                key if key.contains("box_predictor.bbox_pred") => drop(rows.drain(..4)),
                key if key.contains("mask_fcn_logits") => drop(rows.drain(..1)),
                _ => {}
            }
            shape[0] = rows.len();
            (format!("model.{}", detectron2_key(key)), TensorData::new(rows.concat(), shape))
        })
        .chain([("model.pixel_mean".to_string(), TensorData::new(vec![0.0_f32; 3], [3, 1, 1]))])
        .collect();
    for key in [
        "backbone.fpn_lateral5.norm.weight",
        "roi_heads.mask_head.mask_fcn1.bias",
        "backbone.bottom_up.stem.conv1.norm.bias",
    ] {
        assert!(theirs.contains_key(&format!("model.{key}")), "{key}");
    }
    write_safetensors(&path, &theirs, &BTreeMap::new()).unwrap();
    assert_eq!(InitWeights::parse(path.to_str().unwrap()).unwrap(), InitWeights::Detector(path.clone()));
    let found = parameters::collect(&load_state_dict(&path, &config, &Device::flex()).unwrap());
    assert_eq!(found.keys().collect::<Vec<_>>(), ours.keys().collect::<Vec<_>>());
    for (key, expected) in &ours {
        // There are no boxes and no mask of the background.
        let background = match key.as_str() {
            key if key.contains("box_predictor.bbox_pred") => 4,
            key if key.contains("mask_fcn_logits") => 1,
            _ => 0,
        };
        let (found, expected) = (rows(&found[key]), rows(expected));
        assert!(found[..background].iter().flatten().all(|&value| value == 0.0), "{key}");
        assert_eq!(found[background..], expected[background..], "{key}");
    }
}
