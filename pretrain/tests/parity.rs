//! Training against PyTorch; see `fixtures/parity/generate.py`, whose hashes give both sides the same weights, pixels
//! and boxes.

#[path = "../../ops/tests/support/device.rs"]
mod device;

#[path = "parity/inputs.rs"]
mod inputs;

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Param;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use scrl_core::checkpoint::weights::read_safetensors;
use scrl_core::config::parse;
use scrl_core::models::parameters::{TensorMap, collect, load};
use scrl_core::random::stream;
use scrl_core::solver::Optimizer;
use scrl_pretrain::PretrainConfig;
use scrl_pretrain::heads::Mlp;
use scrl_pretrain::image_views::{ImageViews, stack_views};
use scrl_pretrain::loss::{cross_entropy, symmetric_loss};
use scrl_pretrain::methods::bootstrap::Bootstrap;
use scrl_pretrain::methods::{self, Method, StepSettings};
use scrl_pretrain::metrics;
use scrl_pretrain::pooling::{Pooling, Regions};
use scrl_pretrain::schedule::Schedule;

use inputs::{CLASSES, Inputs};

/// Of tests without a case.
const INPUTS: Inputs = Inputs { seed: 0, images: 4 };
const STEPS: usize = 10;
/// Elements that the fixture keeps of a tensor, before its sum and its norm.
const KEPT: usize = 16;

/// Of a loss, relative: ten times what 32 and 64 bits in PyTorch differ by.
const LOSS_TOLERANCE: f64 = 2e-5;
/// Of a weight or a running statistic, relative to the tensor's largest element. Most weights move by 1e-3 with SGD and
/// by 1e-2 with LARS.
const VALUE_TOLERANCE: f64 = 5e-5;
/// The same on a GPU, which chooses its kernels by time and so sums in another order on every run. Biases start at zero and are
/// sums of gradients; this is twice what those differ by between 32 and 64 bits in PyTorch.
const VALUE_TOLERANCE_ON_GPU: f64 = 2e-4;
/// Of a momentum buffer on a GPU: where the input of a ReLU is zero but for rounding, one value more or less is part of a gradient,
/// which has been up to 3e-3 of the largest.
const BUFFER_TOLERANCE_ON_GPU: f64 = 1e-2;
/// Of a momentum buffer, relative to its largest element: buffers are gradients, whose rounding no learning rate scales
/// down; 32 and 64 bits in PyTorch differ by 1e-4.
const BUFFER_TOLERANCE: f64 = 1e-3;

impl Inputs {
    fn tensor<const D: usize>(self, name: &str, shape: [usize; D], factor: f32) -> Tensor<D> {
        let values = self.noise(name, shape.iter().product()).into_iter().map(|value| value * factor);
        Tensor::from_data(TensorData::new(values.collect(), shape), &device())
    }
}

fn device() -> Device {
    device::device().autodiff()
}

fn fixture() -> TensorMap {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/parity.safetensors");
    read_safetensors(&path).unwrap().0
}

fn numbers(data: &TensorData) -> Vec<f64> {
    data.iter::<f64>().collect()
}

/// The settings of `generate.py`'s cases: learning rate after scaling, images a batch and micro-batches.
fn config(
    method: &str,
    lr: f64,
    compat: &str,
    [batch_size, accumulate]: [usize; 2],
    optimizer: &str,
) -> PretrainConfig {
    let base_lr = lr * 256.0 / batch_size as f64;
    let text = format!(
        "method = \"{method}\"\ncompat = \"{compat}\"\n\
         model = {{ arch = \"resnet18\", width = 0.125 }}\nheads = {{ hidden = 32, output = 16 }}\n\
         optimizer = {{ {optimizer} }}\nema = {{ base = 0.9 }}\nsupervised = {{ label_smoothing = 0.1 }}\n\
         [schedule]\nepochs = 2\nbatch_size = {batch_size}\nbase_lr = {base_lr}\nwarmup_epochs = 0.4\n\
         accumulate = {accumulate}\n"
    );
    parse::<PretrainConfig>(&text, Path::new("test.toml"), &[]).unwrap().validate().unwrap()
}

const LARS: &str = "kind = \"lars\", trust = 0.02, weight_decay = 0.5";

/// Networks with the weights of the fixture's script.
fn networks(config: &PretrainConfig, inputs: Inputs) -> Box<dyn Method> {
    let mut method = methods::init(config, CLASSES, None, &mut stream(1, &[]), &device());
    let tensors: BTreeMap<String, TensorMap> = method
        .tensors()
        .into_iter()
        .map(|(part, network)| {
            let prefix = if part == "target" && !config.compat.is_fixed() { "target" } else { "online" };
            (part.to_string(), inputs.network(prefix, &network))
        })
        .collect();
    method.load(&tensors).unwrap();
    method
}

/// Some elements, the sum and the norm of a tensor, each with the size that its deviation is relative to.
fn summary(data: &TensorData) -> Vec<(f64, f64)> {
    let values = numbers(data);
    let count = values.len().min(KEPT);
    let largest = values.iter().fold(1e-3f64, |max, value| max.max(value.abs()));
    let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let size = largest * (values.len() as f64).sqrt();
    let kept = (0..count).map(|index| (values[index * values.len() / count], largest));
    kept.chain([(values.iter().sum(), size * (values.len() as f64).sqrt()), (norm, size)]).collect()
}

/// Checks every tensor of a part of a case; returns the largest deviation.
fn compare(fixture: &TensorMap, part: &str, found: &TensorMap, tolerance: f64) -> f64 {
    let prefix = format!("{part}/");
    let expected: Vec<_> = fixture.keys().filter_map(|key| key.strip_prefix(&prefix)).collect();
    assert_eq!(expected, found.keys().collect::<Vec<_>>(), "{part}");
    let mut worst = 0f64;
    for path in expected {
        let expected = numbers(&fixture[&format!("{prefix}{path}")]);
        let found = summary(&found[path]);
        assert_eq!(found.len(), expected.len());
        for (index, ((value, size), expected)) in found.into_iter().zip(expected).enumerate() {
            let deviation = (value - expected).abs() / size;
            worst = worst.max(deviation);
            assert!(
                deviation <= tolerance,
                "{part}/{path}, {index}: {value} is not {expected} ({deviation:.1e})"
            );
        }
    }
    worst
}

/// Runs a case of the fixture and compares losses, networks and momentum.
fn follows(case: &str, config: PretrainConfig, seed: u64) {
    let (fixture, inputs) = (fixture(), Inputs { seed, images: config.schedule.batch_size });
    let (mut method, mut optimizer) = (networks(&config, inputs), config.new_optimizer());
    let schedule = Schedule::new(&config, STEPS / 2);
    assert_eq!(schedule.total_steps, STEPS as u64);
    let losses = numbers(&fixture[&format!("{case}/losses")]);
    let mut worst = 0f64;
    for (step, expected) in losses.into_iter().enumerate() {
        let report = method.step(&inputs.batch(step), schedule.settings(step as u64), &mut optimizer);
        let Some(report) = report else {
            assert!(expected.is_nan(), "{case}: step {step} did nothing");
            continue;
        };
        let loss = f64::from(report.loss.into_scalar::<f32>());
        let deviation = (loss / expected - 1.0).abs();
        worst = worst.max(deviation);
        assert!(deviation <= LOSS_TOLERANCE, "{case}, step {step}: loss {loss} is not {expected}");
    }
    let mut largest = vec![worst];
    let on_cpu = device::device() == Device::flex();
    let (tolerance, buffers) = match on_cpu {
        true => (VALUE_TOLERANCE, BUFFER_TOLERANCE),
        false => (VALUE_TOLERANCE_ON_GPU, BUFFER_TOLERANCE_ON_GPU),
    };
    for (part, found) in method.tensors() {
        let part = if part == "classifier" { "online" } else { part };
        largest.push(compare(&fixture, &format!("{case}/{part}"), &found, tolerance));
    }
    largest.push(compare(&fixture, &format!("{case}/optimizer"), &optimizer.state(), buffers));
    let largest: Vec<String> = largest.into_iter().map(|deviation| format!("{deviation:.1e}")).collect();
    println!("{case}: largest deviations of losses, networks and momentum: {}", largest.join(", "));
}

#[test]
fn ten_steps_of_scrl_with_lars_follow_pytorch() {
    follows("scrl", config("scrl", 0.01, "fixed", [4, 1], LARS), 0);
}

#[test]
fn ten_steps_of_byol_with_sgd_follow_pytorch() {
    follows("byol", config("byol", 1e-4, "fixed", [4, 1], "weight_decay = 0.1"), 1);
}

#[test]
fn ten_steps_with_the_official_quirks_follow_pytorch() {
    follows("scrl_official", config("scrl", 0.02, "official", [4, 1], LARS), 4);
}

#[test]
fn ten_steps_in_two_micro_batches_each_follow_pytorch() {
    follows("scrl_accumulated", config("scrl", 0.01, "fixed", [8, 2], LARS), 3);
}

#[test]
fn ten_steps_of_classification_with_smoothed_labels_follow_pytorch() {
    let nesterov = "weight_decay = 0.1, nesterov = true";
    follows("supervised", config("supervised", 1e-4, "fixed", [4, 1], nesterov), 0);
}

fn assert_close(found: impl IntoIterator<Item = f64>, expected: &TensorData, tolerance: f64, name: &str) {
    let (found, expected): (Vec<f64>, _) = (found.into_iter().collect(), numbers(expected));
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(0f64, |max, value| max.max(value.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() <= tolerance * largest, "{name}: {found} is not {expected}");
    }
}

#[test]
fn a_head_and_the_symmetric_loss_follow_pytorch_forward_and_backward() {
    let (fixture, inputs) = (fixture(), INPUTS);
    let head = Mlp::init(8, 32, 16, &mut stream(1, &[]), &device());
    let initial = inputs.network("head", &collect(&head));
    let (head, report) = load(head, &initial);
    assert!(report.is_complete());
    let input = inputs.tensor("head.input", [12, 8], 1.0).require_grad();
    let output = head.forward(input.clone());
    let loss = symmetric_loss(output.clone(), inputs.tensor("head.target", [12, 16], 1.0));
    let gradients = loss.backward();
    let close = |found: &TensorData, name: &str| {
        assert_close(found.iter::<f64>(), &fixture[name], 2e-5, name);
    };
    close(&output.into_data(), "head.output");
    close(&loss.into_data(), "head.loss");
    close(&input.grad(&gradients).unwrap().into_data(), "head.input_gradient");
    let statistics = collect(&head).into_iter().filter(|(path, _)| path.contains("running"));
    statistics.for_each(|(path, data)| close(&data, &format!("head.after.{path}")));
    // The first momentum is the gradient. A bias before a batch norm has none but rounding.
    let mut optimizer = Optimizer::new(Default::default());
    let gradients = GradientsParams::from_grads(gradients, &head);
    optimizer.step(0.0, head, gradients);
    let gradients = optimizer.state();
    assert_eq!(gradients.len(), 5);
    for (path, data) in gradients {
        match path.as_str() {
            "linear1.bias" => assert!(data.iter::<f64>().all(|value| value.abs() < 1e-6)),
            _ => close(&data, &format!("head.gradient.{path}")),
        }
    }
}

#[test]
fn cross_entropy_and_hits_follow_pytorch() {
    let fixture = fixture();
    let labels: Vec<i64> = (0..9).map(|row| 2 * row % CLASSES as i64).collect();
    let labels = Tensor::<1, Int>::from_ints(labels.as_slice(), &device());
    for smoothing in ["0.0", "0.1", "0.4"] {
        let logits = INPUTS.tensor("logits", [9, CLASSES], 3.0).require_grad();
        let loss = cross_entropy(logits.clone(), labels.clone(), smoothing.parse().unwrap());
        let gradient = logits.grad(&loss.backward()).unwrap().into_data();
        let name = format!("cross_entropy.{smoothing}");
        assert_close(loss.into_data().iter::<f64>(), &fixture[&name], 1e-6, &name);
        let name = format!("cross_entropy_gradient.{smoothing}");
        assert_close(gradient.iter::<f64>(), &fixture[&name], 1e-5, &name);
    }
    let logits = INPUTS.tensor("logits", [9, CLASSES], 3.0);
    let hits = metrics::hits(logits.inner(), labels.inner()).into_data();
    assert_close(hits.iter::<f64>(), &fixture["hits"], 0.0, "hits");
}

#[test]
fn learning_rate_and_target_momentum_follow_pytorch_and_the_official_code_runs_a_step_ahead() {
    let fixture = fixture();
    let settings = |compat| {
        let schedule = Schedule::new(&config("scrl", 0.4, compat, [4, 1], LARS), STEPS / 2);
        (0..STEPS as u64).map(|step| schedule.settings(step)).collect::<Vec<StepSettings>>()
    };
    let expected = numbers(&fixture["learning_rates"]);
    for (compat, expected) in [("fixed", &expected[..STEPS]), ("official", &expected[1..])] {
        for (settings, expected) in settings(compat).iter().zip(expected) {
            // The fixture is read in 32 bits.
            assert!((settings.lr - expected).abs() < 2e-8, "{} is not {expected}", settings.lr);
        }
    }
    let momenta = settings("fixed").into_iter().map(|settings| settings.ema_momentum);
    assert_close(momenta, &fixture["ema_momenta"], 1e-7, "ema_momenta");
}

#[test]
fn the_target_starts_as_a_copy_or_on_its_own_and_always_on_its_own_with_the_official_code() {
    let is_copy = |config: &PretrainConfig| {
        let method = methods::init(config, 0, None, &mut stream(1, &[]), &device());
        let [(_, online), (_, target)] = <[_; 2]>::try_from(method.tensors()).unwrap();
        target.iter().all(|(path, data)| online[path] == *data)
    };
    let copy = config("byol", 0.1, "fixed", [4, 1], "");
    assert!(is_copy(&copy));
    let mut independent = copy.clone();
    independent.ema.target_init = scrl_pretrain::config::TargetInit::Independent;
    assert!(!is_copy(&independent));
    assert!(!is_copy(&config("byol", 0.1, "official", [4, 1], "")));
}

/// The loss of BYOL on a part of a batch.
fn byol_loss(byol: &Bootstrap, part: &[ImageViews]) -> Tensor<1> {
    let views = [0, 1].map(|view| stack_views(part, view, &device()));
    byol.loss(Tensor::cat(views.to_vec(), 0), &Regions::WholeMap, &mut |_| ())
}

#[test]
fn an_update_in_micro_batches_moves_against_the_mean_of_their_gradients() {
    const LR: f64 = 0.01;
    let inputs = INPUTS;
    let config = config("byol", 0.1, "fixed", [4, 2], "momentum = 0.0");
    let init = || Bootstrap::init(&config, Pooling::WholeMap, None, &mut stream(1, &[]), &device());
    let (reference, mut byol, batch) = (init(), init(), inputs.batch(0));
    let losses: Vec<Tensor<1>> =
        batch.chunks(INPUTS.images / 2).map(|part| byol_loss(&reference, part)).collect();
    let mean = losses.iter().map(|loss| f64::from(loss.clone().into_scalar::<f32>())).sum::<f64>() / 2.0;
    let gradients: Vec<GradientsParams> =
        losses.iter().map(|loss| GradientsParams::from_grads(loss.backward(), reference.encoder())).collect();
    let settings = StepSettings { lr: LR, ema_momentum: 0.9 };
    let gradients_found = byol.gradients(&batch, &mut |_| ()).unwrap();
    let loss = gradients_found.report.loss.clone();
    byol.apply(gradients_found, settings, &mut Optimizer::new(config.optimizer.clone()));
    assert!((f64::from(loss.into_scalar::<f32>()) - mean).abs() < 1e-6);

    fn assert_moved<const D: usize>(
        before: &Param<Tensor<D>>,
        after: &Param<Tensor<D>>,
        grads: &[GradientsParams],
    ) {
        let [first, second] = [0, 1].map(|part: usize| grads[part].get::<D>(before.id).unwrap());
        let step = (first + second).mul_scalar(LR / 2.0);
        let largest = step.clone().abs().max().into_scalar::<f32>();
        let found = before.val().inner() - after.val().inner();
        let gap = (found - step).abs().max().into_scalar::<f32>();
        assert!(largest > 1e-5 && gap < 1e-6 + 1e-4 * largest, "{gap} of {largest}");
    }
    let (before, after) = (reference.encoder(), byol.encoder());
    assert_moved(&before.conv1.weight, &after.conv1.weight, &gradients);
    assert_moved(&before.layer4[1].conv2.weight, &after.layer4[1].conv2.weight, &gradients);
    assert_moved(&before.bn1.weight, &after.bn1.weight, &gradients);
}

#[test]
fn a_resumed_run_in_micro_batches_continues_to_the_bit() {
    let config = config("scrl", 0.01, "official", [4, 2], LARS);
    let schedule = Schedule::new(&config, STEPS / 2);
    let run = |method: &mut dyn Method, optimizer: &mut Optimizer, steps: std::ops::Range<usize>| {
        for step in steps {
            method.step(&INPUTS.batch(step), schedule.settings(step as u64), optimizer).unwrap();
        }
    };
    let (mut reference, mut optimizer) = (networks(&config, INPUTS), config.new_optimizer());
    run(&mut *reference, &mut optimizer, 0..2);
    let saved: BTreeMap<String, TensorMap> =
        reference.tensors().into_iter().map(|(part, tensors)| (part.to_string(), tensors)).collect();
    let mut resumed = networks(&config, Inputs { seed: 9, ..INPUTS });
    resumed.load(&saved).unwrap();
    let mut resumed_optimizer = config.new_optimizer();
    resumed_optimizer.load_state(optimizer.state(), &device());
    run(&mut *reference, &mut optimizer, 2..4);
    run(&mut *resumed, &mut resumed_optimizer, 2..4);
    assert_eq!(reference.tensors(), resumed.tensors());
    assert_eq!(optimizer.state(), resumed_optimizer.state());
}
