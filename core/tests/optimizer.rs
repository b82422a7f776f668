//! The optimiser against PyTorch and against LARS' formula; see `fixtures/optimizer/generate.py`.

#[path = "../../ops/tests/support/device.rs"]
mod device;

use std::path::Path;

use burn::module::{Module, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use scrl_core::checkpoint::weights::read_safetensors;
use scrl_core::models::layers::{BatchNorm, Init, Linear};
use scrl_core::models::parameters::{self, TensorMap};
use scrl_core::random::stream;
use scrl_core::solver::{Optimizer, OptimizerConfig, OptimizerKind};

/// Paths equal the fixture's names.
#[derive(Module, Debug)]
struct Net {
    first: Linear,
    second: Linear,
}

const LRS: [f64; 5] = [0.1, 0.05, 0.2, 0.1, 0.025];

/// Relative to the largest element: five updates in f32 on either side differ only by their rounding.
const TOLERANCE: f32 = 1e-6;

fn device() -> Device {
    device::device().autodiff()
}

fn fixture() -> TensorMap {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/optimizer/optimizer.safetensors");
    read_safetensors(&path).unwrap().0
}

/// The entries `PREFIX.path`, by path.
fn part(fixture: &TensorMap, prefix: &str) -> TensorMap {
    let entries = fixture.iter().filter_map(|(name, data)| {
        let path = name.strip_prefix(prefix)?.strip_prefix('.')?;
        Some((path.to_string(), data.clone()))
    });
    entries.collect()
}

fn net(fixture: &TensorMap) -> Net {
    let (device, mut rng) = (device(), stream(0, &[]));
    let net = Net {
        first: Linear::init([3, 4], true, Init::TorchDefault, &mut rng, &device),
        second: Linear::init([4, 2], false, Init::TorchDefault, &mut rng, &device),
    };
    let (net, report) = parameters::load(net, &part(fixture, "initial"));
    assert!(report.is_complete(), "{report:?}");
    net
}

fn register<const D: usize>(grads: &mut GradientsParams, id: ParamId, data: &TensorData) {
    grads.register(id, Tensor::<D>::from_data(data.clone(), &device::device()));
}

fn grads(net: &Net, fixture: &TensorMap, step: usize) -> GradientsParams {
    let values = part(fixture, &format!("grad.{step}"));
    let mut grads = GradientsParams::new();
    register::<2>(&mut grads, net.first.weight.id, &values["first.weight"]);
    register::<1>(&mut grads, net.first.bias.as_ref().unwrap().id, &values["first.bias"]);
    register::<2>(&mut grads, net.second.weight.id, &values["second.weight"]);
    grads
}

fn assert_close(found: &TensorMap, expected: &TensorMap, case: &str) {
    for (path, expected) in expected {
        let (found, expected) =
            (found[path].try_to_vec::<f32>().unwrap(), expected.try_to_vec::<f32>().unwrap());
        let scale = expected.iter().fold(1e-3f32, |max, value| max.max(value.abs()));
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() <= TOLERANCE * scale, "{case}, {path}: {a} is not {b}");
        }
    }
}

fn follows(case: &str, config: OptimizerConfig) {
    let fixture = fixture();
    let (mut net, mut optimizer) = (net(&fixture), Optimizer::new(config));
    for (step, lr) in LRS.into_iter().enumerate() {
        let grads = grads(&net, &fixture, step);
        net = optimizer.step(lr, net, grads);
        let expected = part(&fixture, &format!("{case}.{step}"));
        assert_eq!(expected.len(), 3);
        assert_close(&parameters::collect(&net), &expected, &format!("{case}, step {step}"));
    }
}

fn sgd(momentum: f64, weight_decay: f64, nesterov: bool) -> OptimizerConfig {
    OptimizerConfig { momentum, weight_decay, nesterov, decay_norm_and_bias: true, ..Default::default() }
}

fn lars() -> OptimizerConfig {
    OptimizerConfig { kind: OptimizerKind::Lars, weight_decay: 0.01, trust: 0.1, ..Default::default() }
}

#[test]
fn sgd_follows_pytorch_with_momentum_decay_and_nesterov() {
    follows("plain", sgd(0.0, 0.0, false));
    follows("momentum", sgd(0.9, 0.0, false));
    follows("decay", sgd(0.9, 0.01, false));
    follows("nesterov", sgd(0.9, 0.01, true));
}

#[test]
fn lars_follows_its_formula_and_spares_biases_and_zero_weights() {
    follows("lars", lars());
}

#[test]
fn decay_spares_biases_unless_asked_for() {
    let fixture = fixture();
    let net = net(&fixture);
    let grads = grads(&net, &fixture, 0);
    let spared = Optimizer::new(OptimizerConfig { decay_norm_and_bias: false, ..sgd(0.9, 0.5, false) })
        .step(0.1, net, grads);
    let found = parameters::collect(&spared)["first.bias"].try_to_vec::<f32>().unwrap();
    let initial = fixture["initial.first.bias"].try_to_vec::<f32>().unwrap();
    let grad = fixture["grad.0.first.bias"].try_to_vec::<f32>().unwrap();
    for ((found, initial), grad) in found.iter().zip(&initial).zip(&grad) {
        assert!((found - (initial - 0.1 * grad)).abs() < 1e-6);
    }
}

#[test]
fn a_restored_optimizer_continues_to_the_bit() {
    let fixture = fixture();
    for config in [sgd(0.9, 0.01, true), lars()] {
        let mut reference = (net(&fixture), Optimizer::new(config.clone()));
        for (step, lr) in LRS.into_iter().enumerate().take(2) {
            let grads = grads(&reference.0, &fixture, step);
            reference.0 = reference.1.step(lr, reference.0, grads);
        }
        let (weights, state) = (parameters::collect(&reference.0), reference.1.state());
        let mut paths: Vec<_> = state.keys().map(String::as_str).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["first.bias", "first.weight", "second.weight"]);
        let mut resumed = (parameters::load(net(&fixture), &weights).0, Optimizer::new(config));
        resumed.1.load_state(state, &device());
        for (step, lr) in LRS.into_iter().enumerate().skip(2) {
            for (net, optimizer) in [&mut reference, &mut resumed].map(|(net, optimizer)| (net, optimizer)) {
                let grads = grads(net, &fixture, step);
                *net = optimizer.step(lr, net.clone(), grads);
            }
        }
        assert_eq!(parameters::collect(&reference.0), parameters::collect(&resumed.0));
    }
}

#[test]
fn updated_parameters_are_leaves_with_the_same_ids_and_train_on() {
    let fixture = fixture();
    let mut net = net(&fixture);
    let mut optimizer = Optimizer::new(sgd(0.9, 0.0, false));
    let input = || Tensor::<2>::ones([5, 3], &device());
    let loss = |net: &Net| net.second.forward(net.first.forward(input())).sub_scalar(1.0).square().mean();
    let ids = [net.first.weight.id, net.second.weight.id];
    let mut losses = Vec::new();
    for _ in 0..30 {
        let value = loss(&net);
        losses.push(value.clone().inner().into_scalar::<f32>());
        let grads = GradientsParams::from_grads(value.backward(), &net);
        assert_eq!(grads.len(), 3);
        net = optimizer.step(0.02, net, grads);
    }
    assert_eq!(ids, [net.first.weight.id, net.second.weight.id]);
    assert!(net.first.weight.val().is_require_grad());
    assert!(losses[29] < 0.1 * losses[0], "{losses:?}");
}

/// Batch normalisation between two layers, the first of which is frozen.
#[derive(Module, Debug)]
struct Normed {
    frozen: Linear,
    norm: BatchNorm,
    head: Linear,
}

#[test]
fn frozen_parameters_and_running_statistics_are_left_alone() {
    let (device, mut rng) = (device(), stream(3, &[]));
    let mut net = Normed {
        frozen: Linear::init([3, 4], true, Init::TorchDefault, &mut rng, &device).freeze(),
        norm: BatchNorm::init(4, &device),
        head: Linear::init([4, 1], true, Init::TorchDefault, &mut rng, &device),
    };
    let mut optimizer = Optimizer::new(OptimizerConfig { weight_decay: 0.1, ..lars() });
    let input =
        Tensor::<2>::from_data(TensorData::new((0..24).map(|i| (i as f32).sin()).collect(), [8, 3]), &device);
    let output = net.head.forward(net.norm.forward(net.frozen.forward(input)));
    let grads = GradientsParams::from_grads(output.square().mean().backward(), &net);
    let before = parameters::collect(&net);
    net = optimizer.step(0.1, net, grads);
    let after = parameters::collect(&net);
    let changed: Vec<&str> =
        after.iter().filter(|(path, data)| before[*path] != **data).map(|(path, _)| path.as_str()).collect();
    assert_eq!(changed, ["head.bias", "head.weight", "norm.bias", "norm.weight"]);
    assert!(!net.frozen.weight.val().is_require_grad());
    assert!(after.contains_key("norm.running_mean"));
}

#[test]
fn the_gradient_norm_is_known_where_asked_for_and_always_with_lars() {
    let fixture = fixture();
    let expected: f64 = part(&fixture, "grad.0")
        .values()
        .flat_map(|data| data.try_to_vec::<f32>().unwrap())
        .map(|value| f64::from(value).powi(2))
        .sum::<f64>()
        .sqrt();
    let step = |optimizer: &mut Optimizer| {
        let net = net(&fixture);
        let grads = grads(&net, &fixture, 0);
        optimizer.step(0.1, net, grads);
        optimizer.last_grad_norm()
    };
    let mut sgd = Optimizer::new(sgd(0.9, 0.0, false));
    assert_eq!(step(&mut sgd), None);
    sgd.request_grad_norm();
    for norm in [step(&mut sgd), step(&mut Optimizer::new(lars()))] {
        assert!((norm.unwrap() / expected - 1.0).abs() < 1e-6, "{norm:?} is not {expected}");
    }
    assert_eq!(step(&mut sgd), None, "a request holds for one step");
}

#[test]
fn momentum_of_another_shape_is_dropped() {
    let fixture = fixture();
    let mut optimizer = Optimizer::new(sgd(0.9, 0.0, false));
    let foreign = [("first.weight".to_string(), TensorData::new(vec![9.0f32; 6], [2, 3]))].into();
    optimizer.load_state(foreign, &device());
    let net = net(&fixture);
    let grads = grads(&net, &fixture, 0);
    let net = optimizer.step(LRS[0], net, grads);
    assert_close(&parameters::collect(&net), &part(&fixture, "momentum.0"), "first step");
    let param: &Param<Tensor<2>> = &net.first.weight;
    assert_eq!(optimizer.state()["first.weight"].shape().to_vec(), param.dims().to_vec());
}
