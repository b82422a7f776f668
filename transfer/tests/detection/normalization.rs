//! What batch norms do: trained, frozen, frozen by stage, and recomputed.

use crate::device::device;
use std::collections::BTreeMap;
use std::convert::Infallible;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use scrl_core::models::parameters::{self, TensorMap};
use scrl_core::random::stream;
use scrl_transfer::detection::{BackboneConfig, DetectorConfig, FasterRcnn, FpnConfig, Norm, precise_bn};

use crate::support::*;

fn model(config: &DetectorConfig, device: &Device) -> FasterRcnn {
    FasterRcnn::init(config, &mut stream(1, &[]), device)
}

/// Running statistics after one training step's forward pass, and the gradients' norms.
fn step(config: &DetectorConfig) -> (TensorMap, TensorMap, BTreeMap<String, Option<f32>>) {
    let device = device().autodiff();
    let model = model(config, &device);
    let before = statistics(&model);
    let losses = model.forward_train(images(&device), &SIZES, &targets(), &mut stream(2, &[]));
    let norms = gradient_norms(&model, &losses.total().backward());
    (before, statistics(&model), norms)
}

fn statistics(model: &FasterRcnn) -> TensorMap {
    parameters::collect(model).into_iter().filter(|(name, _)| name.contains(".running_")).collect()
}

#[test]
fn freeze_at_freezes_whole_stages_from_the_stem_and_turns_their_norms_into_frozen_ones() {
    let stage = |name: &str| match name.trim_start_matches("backbone.body.") {
        stem if stem.starts_with("conv1.") || stem.starts_with("bn1.") => Some(1),
        layer => layer.strip_prefix("layer").map(|rest| 1 + rest[..1].parse::<usize>().unwrap()),
    };
    for freeze_at in [0, 1, 2, 5] {
        let config = DetectorConfig { backbone: BackboneConfig { freeze_at, ..tiny().backbone }, ..tiny() };
        let (before, after, norms) = step(&config);
        let frozen = |name: &str| name.starts_with("backbone.body.") && stage(name).unwrap() <= freeze_at;
        for name in parameters::collect(&model(&config, &device())).keys() {
            if name.contains(".running_") {
                assert_eq!(before[name] == after[name], frozen(name), "freeze_at {freeze_at}: {name}");
            } else {
                assert_eq!(norms.contains_key(name), !frozen(name), "freeze_at {freeze_at}: {name}");
            }
        }
    }
}

#[test]
fn frozen_norms_train_nothing_while_convolutions_and_the_pyramids_norms_do() {
    let config = DetectorConfig {
        backbone: BackboneConfig { norm: Norm::FrozenBatchNorm, ..tiny().backbone },
        ..tiny()
    };
    let (before, after, norms) = step(&config);
    for name in before.keys() {
        assert_eq!(before[name] == after[name], name.starts_with("backbone.body."), "{name}");
    }
    assert!(!norms.contains_key("backbone.body.layer4.1.bn2.weight"));
    assert!(norms.contains_key("backbone.body.conv1.weight"));
    assert!(norms.contains_key("backbone.fpn.inner_blocks.0.1.weight"));
}

#[test]
fn frozen_stages_and_batch_norms_stay_frozen_with_a_new_backbone() {
    let device = device().autodiff();
    let config = DetectorConfig {
        backbone: BackboneConfig { freeze_at: 2, norm: Norm::FrozenBatchNorm, ..tiny().backbone },
        ..tiny()
    };
    let body = config.resnet().init(&mut stream(3, &[]), &device);
    let model = model(&config, &device).with_backbone(body.clone());
    assert_eq!(parameters::collect(&model.backbone.body), parameters::collect(&body));
    let losses = model.forward_train(images(&device), &SIZES, &targets(), &mut stream(2, &[]));
    let norms = gradient_norms(&model, &losses.total().backward());
    let trained = |name: &str| norms.contains_key(&format!("backbone.body.{name}.weight"));
    assert!(!trained("conv1") && !trained("layer1.0.conv1") && !trained("layer4.1.bn2"));
    assert!(trained("layer2.0.conv1"));
}

#[test]
fn a_frozen_norm_divides_by_the_root_of_variance_and_its_own_epsilon() {
    let device = device();
    let output = |frozen_norm_epsilon: f64| {
        let config = DetectorConfig {
            backbone: BackboneConfig { norm: Norm::FrozenBatchNorm, frozen_norm_epsilon, ..tiny().backbone },
            ..tiny()
        };
        let norm = model(&config, &device).backbone.body.bn1;
        let channels = norm.weight.shape().num_elements();
        floats(norm.forward(Tensor::<4>::full([1, channels, 1, 1], 3.0, &device)))[0]
    };
    // Running mean 0 and variance 1.
    assert_eq!(output(0.0), 3.0);
    assert!((output(3.0) - 1.5).abs() < 1e-6);
}

/// The stem's statistics are known without the network: those of its convolution's output.
#[test]
fn precise_statistics_are_the_averages_of_batch_means_and_unbiased_variances() {
    let device = device().autodiff();
    let model = model(&tiny(), &device);
    let batches: Vec<Tensor<4>> =
        (0..3).map(|key| noise_tensor([2, 3, 64, 96], 900 + key, &device).add_scalar(key as f32)).collect();
    let channels = model.backbone.body.bn1.weight.shape().num_elements();
    let (mut mean, mut variance) = (vec![0.0f64; channels], vec![0.0f64; channels]);
    for batch in &batches {
        let output = model.backbone.body.conv1.forward(batch.clone());
        let values = floats(output.swap_dims(0, 1));
        for (channel, values) in values.chunks(values.len() / channels).enumerate() {
            let count = values.len() as f64;
            let batch_mean = values.iter().map(|&v| v as f64).sum::<f64>() / count;
            let squares: f64 = values.iter().map(|&v| (v as f64 - batch_mean).powi(2)).sum();
            mean[channel] += batch_mean / 3.0;
            variance[channel] += squares / (count - 1.0) / 3.0;
        }
    }
    // A step before, whose statistics leave no trace.
    model.backbone.forward(images(&device));
    let before = parameters::collect(&model);
    precise_bn(&model.backbone, batches.into_iter().map(Ok::<_, Infallible>)).unwrap();
    let after = parameters::collect(&model);
    let found =
        |name: &str| after[&format!("backbone.body.bn1.running_{name}")].clone().try_to_vec().unwrap();
    for (found, expected) in [(found("mean"), mean), (found("var"), variance)] {
        let found: Vec<f32> = found;
        let expected: Vec<f32> = expected.into_iter().map(|value| value as f32).collect();
        assert_near(&found, &expected, 1e-5);
    }
    for (name, value) in &after {
        assert_eq!(*value == before[name], !name.contains(".running_"), "{name}");
    }
    assert!(model.backbone.body.conv1.weight.is_require_grad());
    assert_eq!(model.backbone.body.bn1.momentum, 0.1);
    let valid = model.valid();
    assert_eq!(statistics(&valid), statistics(&model));
}

#[test]
fn precise_statistics_leave_frozen_norms_and_detectors_without_batches_alone() {
    let device = device().autodiff();
    let config = DetectorConfig {
        backbone: BackboneConfig { norm: Norm::FrozenBatchNorm, ..tiny().backbone },
        fpn: FpnConfig { norm: false, ..tiny().fpn },
        ..tiny()
    };
    for (config, batches) in [(config, vec![images(&device)]), (tiny(), Vec::new())] {
        let model = model(&config, &device);
        let before = parameters::collect(&model);
        precise_bn(&model.backbone, batches.into_iter().map(Ok::<_, Infallible>)).unwrap();
        assert_eq!(parameters::collect(&model), before);
    }
}

#[test]
fn an_error_of_the_batches_is_passed_on() {
    let device = device().autodiff();
    let batches = [Ok(images(&device)), Err("the disk is gone")];
    assert_eq!(precise_bn(&model(&tiny(), &device).backbone, batches).unwrap_err(), "the disk is gone");
}
