//! The detector against torchvision: see `fixtures/detection/generate.py`.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use scrl_core::models::Arch;
use scrl_core::models::parameters::{self, TensorMap};
use scrl_core::random::stream;
use scrl_core::structures::{BoxXyxy, Size};
use scrl_transfer::detection::{
    AnchorGenerator, BoxCoder, DetectorConfig, FasterRcnn, Match, Matcher, Norm, Pooler, Target, Variant,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    anchors: Vec<AnchorCase>,
    coder: CoderCase,
    matcher: MatcherCase,
    levels: LevelCase,
    end_to_end: BTreeMap<String, EndToEnd>,
}

#[derive(Deserialize)]
struct AnchorCase {
    sizes: Vec<f32>,
    image: [usize; 2],
    grids: Vec<[usize; 2]>,
    boxes: Vec<[f32; 4]>,
    every: usize,
}

#[derive(Deserialize)]
struct CoderCase {
    proposals: Vec<[f32; 4]>,
    targets: Vec<[f32; 4]>,
    deltas: Vec<[f32; 4]>,
    cases: Vec<WeightedCoderCase>,
}

#[derive(Deserialize)]
struct WeightedCoderCase {
    weights: [f32; 4],
    encoded: Vec<[f32; 4]>,
    decoded: Vec<[f32; 4]>,
}

#[derive(Deserialize)]
struct MatcherCase {
    candidates: Vec<[f32; 4]>,
    targets: Vec<[f32; 4]>,
    strict: Vec<i64>,
    low_quality: Vec<i64>,
}

#[derive(Deserialize)]
struct LevelCase {
    boxes: Vec<[f32; 4]>,
    levels: BTreeMap<String, Vec<usize>>,
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

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/detection/detection.json")).expect("the fixture is valid")
}

fn bbox([x1, y1, x2, y2]: [f32; 4]) -> BoxXyxy {
    BoxXyxy::new(x1, y1, x2, y2)
}

fn boxes(rows: &[[f32; 4]]) -> Vec<BoxXyxy> {
    rows.iter().copied().map(bbox).collect()
}

#[track_caller]
fn assert_near(actual: [f32; 4], expected: [f32; 4], tolerance: f32) {
    let near = actual.iter().zip(expected).all(|(a, e)| (a - e).abs() <= tolerance * e.abs().max(1.0));
    assert!(near, "{actual:?} is not {expected:?}");
}

#[test]
fn anchors_are_those_of_torchvision() {
    for case in fixture().anchors {
        let sizes = [case.sizes, vec![1.0; 5]].concat()[..5].to_vec();
        let config = DetectorConfig { anchor_sizes: sizes, ..DetectorConfig::torchvision() };
        let anchors = AnchorGenerator::new(&config).generate(case.image, &case.grids);
        let chosen: Vec<_> = anchors.boxes.iter().step_by(case.every).collect();
        assert_eq!(chosen.len(), case.boxes.len());
        for (anchor, expected) in chosen.into_iter().zip(case.boxes) {
            assert_eq!(anchor.to_array(), expected);
        }
    }
}

#[test]
fn box_deltas_are_those_of_torchvision() {
    let CoderCase { proposals, targets, deltas, cases } = fixture().coder;
    for case in cases {
        let coder = BoxCoder { weights: case.weights };
        for (index, &proposal) in proposals.iter().enumerate() {
            let encoded = coder.encode(&bbox(proposal), &bbox(targets[index]));
            assert_near(encoded, case.encoded[index], 1e-5);
            let decoded = coder.decode(&bbox(proposal), deltas[index]);
            assert_near(decoded.to_array(), case.decoded[index], 1e-5);
        }
    }
}

#[test]
fn matches_are_those_of_torchvision() {
    let case = fixture().matcher;
    let code = |found: &Match| match found {
        Match::Target(index) => *index as i64,
        Match::Background => -1,
        Match::Ignored => -2,
    };
    for (matcher, expected) in [(Matcher::PROPOSALS, case.strict), (Matcher::ANCHORS, case.low_quality)] {
        let found = matcher.assign(&boxes(&case.candidates), &boxes(&case.targets));
        assert_eq!(found.iter().map(code).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn pooling_levels_are_those_of_torchvision() {
    let case = fixture().levels;
    for (canonical, expected) in case.levels {
        let config = DetectorConfig { canonical_box_size: canonical.parse().unwrap(), ..Default::default() };
        let found: Vec<usize> = boxes(&case.boxes).iter().map(|b| Pooler::new(&config).level(b)).collect();
        assert_eq!(found, expected, "canonical size {canonical}");
    }
}

const SIZES: [Size; 3] =
    [Size { width: 128, height: 96 }, Size { width: 112, height: 80 }, Size { width: 96, height: 96 }];
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
/// sure that no decision hangs on that.
fn assert_detections(variant: &str) {
    let expected = &fixture().end_to_end[variant].detections;
    let device = Device::flex();
    let found = detector(variant, &device).detect(images(&device), &SIZES);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
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
    let expected = &fixture().end_to_end[variant];
    let device = Device::flex().autodiff();
    let model = detector(variant, &device);
    let losses = model.forward_train(images(&device), &SIZES, &targets(), &mut stream(0, &[]));
    let found = [
        ("loss_objectness", &losses.rpn_objectness),
        ("loss_rpn_box_reg", &losses.rpn_box),
        ("loss_classifier", &losses.classifier),
        ("loss_box_reg", &losses.box_regression),
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
        arch: Arch::ResNet18,
        variant: if variant == "torchvision" { Variant::Torchvision } else { Variant::Detectron2 },
        num_classes: 3,
        fpn_channels: 64,
        box_head_dim: 128,
        anchor_sizes: vec![16.0, 32.0, 64.0, 96.0, 128.0],
        canonical_box_size: 56.0,
        box_nms: 0.3,
        detections_per_image: 60,
        rpn_pre_nms_train: 120,
        rpn_pre_nms_test: 100,
        rpn_post_nms_train: 60,
        rpn_post_nms_test: 50,
        rpn_batch: 100_000,
        roi_batch: 100_000,
        norm: Norm::FrozenBatchNorm,
        ..Default::default()
    };
    let model = config.init(&mut stream(0, &[]), device);
    let weights: TensorMap = parameters::collect(&model)
        .into_iter()
        .enumerate()
        .map(|(key, (name, tensor))| {
            let shape = tensor.shape().to_vec();
            let values = formula(&name, &shape, key as u32);
            (name, TensorData::new(values, shape))
        })
        .collect();
    let (model, report) = parameters::load(model, &weights);
    assert!(report.is_complete(), "{report:?}");
    model
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

/// Pseudo-random number in [-1, 1) from (index, key) alone; the finaliser of MurmurHash3.
fn noise(index: usize, key: u32) -> f64 {
    let mut h = (index as u32).wrapping_mul(2_654_435_761).wrapping_add(key.wrapping_mul(40_503));
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^= h >> 16;
    h as f64 / 2f64.powi(31) - 1.0
}

/// Blocks of eight pixels and noise, zero outside each image's size.
fn images(device: &Device) -> Tensor<4> {
    let (height, width) = (96, 128);
    let mut pixels = vec![0.0; SIZES.len() * 3 * height * width];
    for (n, size) in SIZES.iter().enumerate() {
        let value =
            |c: usize, y: usize, x: usize| noise((c * height + y) * width + x, 1000 + n as u32) as f32;
        for c in 0..3 {
            for y in 0..size.height as usize {
                for x in 0..size.width as usize {
                    pixels[((n * 3 + c) * height + y) * width + x] =
                        value(c, y / 8 * 8, x / 8 * 8) + 0.5 * value(c, y, x);
                }
            }
        }
    }
    Tensor::from_data(TensorData::new(pixels, [SIZES.len(), 3, height, width]), device)
}

fn targets() -> Vec<Target> {
    let first = [[10.0, 12.0, 50.0, 60.0], [60.0, 20.0, 120.0, 90.0], [30.5, 40.25, 62.0, 72.0]];
    vec![
        Target { boxes: boxes(&first), labels: vec![0, 2, 1] },
        Target { boxes: boxes(&[[5.0, 8.0, 45.0, 40.0]]), labels: vec![1] },
        Target::default(),
    ]
}

/// L2 norm of each trainable parameter's gradient by path; `None` where it has none.
fn gradient_norms<M: Module>(model: &M, gradients: &Gradients) -> BTreeMap<String, Option<f32>> {
    struct Norms<'a> {
        path: Vec<String>,
        gradients: &'a Gradients,
        norms: BTreeMap<String, Option<f32>>,
    }
    impl ModuleVisitor for Norms<'_> {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name.to_string());
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                let gradient = param.val().grad(self.gradients);
                let norm = gradient.map(|g| g.square().sum().sqrt().into_scalar::<f32>());
                self.norms.insert(self.path.join("."), norm);
            }
        }
    }
    let mut visitor = Norms { path: Vec::new(), gradients, norms: BTreeMap::new() };
    model.visit(&mut visitor);
    visitor.norms
}

fn tiny() -> DetectorConfig {
    DetectorConfig {
        arch: Arch::ResNet18,
        width: 0.125,
        num_classes: 3,
        fpn_channels: 16,
        box_head_dim: 32,
        anchor_sizes: vec![8.0, 16.0, 32.0, 64.0, 96.0],
        canonical_box_size: 56.0,
        rpn_post_nms_train: 100,
        rpn_post_nms_test: 50,
        rpn_batch: 64,
        roi_batch: 64,
        fpn_norm: true,
        ..Default::default()
    }
}

#[test]
fn training_on_two_images_reaches_every_parameter_and_lowers_the_loss() {
    let device = Device::flex().autodiff();
    let mut model = tiny().init(&mut stream(1, &[]), &device);
    let mut optimizer = SgdConfig::new().init();
    let batch = images(&device).narrow(0, 0, 2);
    let mut rng = stream(2, &[]);
    let mut history = Vec::new();
    for _ in 0..15 {
        let losses = model.forward_train(batch.clone(), &SIZES[..2], &targets()[..2], &mut rng);
        assert!(losses.foreground_rois > 0 && losses.foreground_anchors > 0);
        history.push(losses.total().into_scalar::<f32>());
        let gradients = losses.total().backward();
        if history.len() == 1 {
            for (name, norm) in gradient_norms(&model, &gradients) {
                let norm = norm.unwrap_or_else(|| panic!("{name} has no gradient"));
                assert!(norm.is_finite(), "the gradient of {name} is {norm}");
            }
        }
        let gradients = GradientsParams::from_grads(gradients, &model);
        model = optimizer.step(0.05, model, gradients);
    }
    let (first, last) = (history[0], history[14]);
    assert!(last < 0.6 * first, "the loss went from {first} to {last}: {history:?}");
}

#[test]
fn a_batch_without_any_object_trains_with_finite_losses() {
    let device = Device::flex().autodiff();
    let model = tiny().init(&mut stream(1, &[]), &device);
    let none = vec![Target::default(); 3];
    let losses = model.forward_train(images(&device), &SIZES, &none, &mut stream(2, &[]));
    assert_eq!((losses.foreground_rois, losses.foreground_anchors), (0, 0));
    assert_eq!(losses.box_regression.clone().into_scalar::<f32>(), 0.0);
    let norms = gradient_norms(&model, &losses.total().backward());
    assert!(norms.values().all(|norm| norm.is_some_and(f32::is_finite)), "{norms:?}");
}

#[test]
fn the_same_stream_gives_the_same_losses_to_the_bit() {
    let device = Device::flex().autodiff();
    let losses = || {
        let model = tiny().init(&mut stream(1, &[]), &device);
        let losses = model.forward_train(images(&device), &SIZES, &targets(), &mut stream(2, &[]));
        losses.total().into_scalar::<f32>()
    };
    assert_eq!(losses().to_bits(), losses().to_bits());
}

#[test]
fn a_network_that_has_diverged_detects_nothing_and_does_not_panic() {
    let device = Device::flex();
    let model = tiny().init(&mut stream(1, &[]), &device);
    let mut weights = parameters::collect(&model);
    let bias = weights.get_mut("rpn.head.bbox_pred.bias").unwrap();
    *bias = TensorData::new(vec![f32::NAN; 12], [12]);
    let (model, _) = parameters::load(model, &weights);
    assert_eq!(model.detect(images(&device), &SIZES), vec![Vec::new(); 3]);
}

#[test]
fn frozen_stages_and_batch_norms_stay_frozen_with_a_new_backbone() {
    let device = Device::flex().autodiff();
    let config = DetectorConfig { freeze_at: 2, norm: Norm::FrozenBatchNorm, ..tiny() };
    let model = config.init(&mut stream(1, &[]), &device);
    let body = config.backbone().init(&mut stream(3, &[]), &device);
    let model = model.with_backbone(body.clone());
    assert_eq!(parameters::collect(&model.backbone.body), parameters::collect(&body));
    let losses = model.forward_train(images(&device), &SIZES, &targets(), &mut stream(2, &[]));
    let norms = gradient_norms(&model, &losses.total().backward());
    let trained = |name: &str| norms.contains_key(name);
    assert!(!trained("backbone.body.conv1.weight") && !trained("backbone.body.layer1.0.conv1.weight"));
    assert!(!trained("backbone.body.layer4.1.bn2.weight"));
    assert!(
        trained("backbone.body.layer2.0.conv1.weight") && trained("backbone.fpn.inner_blocks.0.1.weight")
    );
}

#[test]
fn paths_are_the_keys_of_torchvisions_state_dict() {
    let config = DetectorConfig { fpn_norm: false, ..tiny() };
    let keys: Vec<String> =
        parameters::collect(&config.init(&mut stream(0, &[]), &Device::flex())).into_keys().collect();
    for key in [
        "backbone.body.layer1.0.bn1.running_mean",
        "backbone.fpn.inner_blocks.3.0.bias",
        "backbone.fpn.layer_blocks.0.0.weight",
        "rpn.head.conv.0.0.weight",
        "rpn.head.cls_logits.bias",
        "rpn.head.bbox_pred.weight",
        "roi_heads.box_head.fc6.weight",
        "roi_heads.box_predictor.cls_score.bias",
        "roi_heads.box_predictor.bbox_pred.weight",
    ] {
        assert!(keys.iter().any(|k| k == key), "{key} is missing from {keys:?}");
    }
}
