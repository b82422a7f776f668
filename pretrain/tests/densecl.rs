//! DenseCL against PyTorch; see `fixtures/densecl/generate.py`, whose hashes give both sides the same weights, queues and
//! pixels.

#[path = "parity/inputs.rs"]
mod inputs;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use scrl_core::checkpoint::weights::read_safetensors;
use scrl_core::config::parse;
use scrl_core::models::parameters::TensorMap;
use scrl_core::random::stream;
use scrl_core::solver::Optimizer;
use scrl_pretrain::PretrainConfig;
use scrl_pretrain::methods::{self, Method};
use scrl_pretrain::schedule::Schedule;

use inputs::Inputs;

const STEPS: usize = 10;
/// Elements that the fixture keeps of a tensor, before its sum and its norm; queues are kept whole.
const KEPT: usize = 16;

/// Of a loss, relative: 32 and 64 bits in PyTorch differ by 7e-7.
const LOSS_TOLERANCE: f64 = 1e-5;
/// Of a weight or a running statistic, relative to the tensor's largest element. 32 and 64 bits differ by 7e-7; weights
/// move by 2e-3 to 5e-3.
const VALUE_TOLERANCE: f64 = 1e-5;
/// Of a queue's element, relative to its largest one; 32 and 64 bits differ by 2e-6.
const QUEUE_TOLERANCE: f64 = 2e-5;
/// Of a momentum buffer, relative to its largest element; 32 and 64 bits differ by 1e-5.
const BUFFER_TOLERANCE: f64 = 2e-4;

/// The settings of `generate.py`.
fn config(level: &str, [batch_size, accumulate]: [usize; 2]) -> PretrainConfig {
    let base_lr = 1e-3 * 256.0 / batch_size as f64;
    let text = format!(
        "method = \"densecl\"\nmodel = {{ arch = \"resnet18\", width = 0.125 }}\n\
         heads = {{ hidden = 32, output = 16, pool_level = \"{level}\" }}\ndensecl = {{ queue = 12 }}\n\
         optimizer = {{ weight_decay = 0.01, decay_norm_and_bias = true }}\nema = {{ base = 0.9 }}\n\
         [schedule]\nepochs = 2\nbatch_size = {batch_size}\nbase_lr = {base_lr}\nwarmup_epochs = 0.4\n\
         accumulate = {accumulate}\n"
    );
    parse::<PretrainConfig>(&text, Path::new("test.toml"), &[]).unwrap().validate().unwrap()
}

/// Networks and queues with the values of the fixture's script.
fn networks(config: &PretrainConfig, inputs: Inputs) -> Box<dyn Method> {
    let mut method = methods::init(config, 0, None, &mut stream(1, &[]), &Device::flex().autodiff());
    let tensors = method.tensors().into_iter().map(|(part, map)| {
        // The key network starts as a copy of the other.
        let mut values = inputs.network(if part == "key" { "query" } else { part }, &map);
        if part == "queues" {
            values.insert("next".to_string(), TensorData::new(vec![0f32], [1]));
        }
        (part.to_string(), values)
    });
    method.load(&tensors.collect()).unwrap();
    method
}

fn numbers(data: &TensorData) -> Vec<f64> {
    data.iter::<f64>().collect()
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

/// Checks every tensor of a part of a case.
fn compare(fixture: &TensorMap, part: &str, found: &TensorMap, tolerance: f64) -> f64 {
    let prefix = format!("{part}/");
    let expected: Vec<_> = fixture.keys().filter_map(|key| key.strip_prefix(&prefix)).collect();
    assert_eq!(expected, found.keys().collect::<Vec<_>>(), "{part}");
    let mut worst = 0f64;
    for path in expected {
        let expected = numbers(&fixture[&format!("{prefix}{path}")]);
        let found = match part.ends_with("/queues") {
            true => numbers(&found[path]).into_iter().map(|value| (value, 1.0)).collect(),
            false => summary(&found[path]),
        };
        assert_eq!(found.len(), expected.len(), "{part}/{path}");
        for ((value, size), expected) in found.into_iter().zip(expected) {
            let deviation = (value - expected).abs() / size;
            worst = worst.max(deviation);
            assert!(deviation <= tolerance, "{part}/{path}: {value} is not {expected} ({deviation:.1e})");
        }
    }
    worst
}

/// Runs a case of the fixture and compares losses, networks, queues and momentum. `unused` are the layers above the
/// compared map: no gradient reaches them, and the script leaves them out.
fn follows(case: &str, config: PretrainConfig, seed: u64, unused: Option<&str>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/densecl/densecl.safetensors");
    let fixture = read_safetensors(&path).unwrap().0;
    let inputs = Inputs { seed, images: config.schedule.batch_size };
    let (mut method, mut optimizer) = (networks(&config, inputs), config.new_optimizer());
    let schedule = Schedule::new(&config, STEPS / 2);
    let mut worst = 0f64;
    for (step, expected) in numbers(&fixture[&format!("{case}/losses")]).into_iter().enumerate() {
        let settings = schedule.settings(step as u64);
        assert_eq!(settings.ema_momentum, 0.9, "the momentum stays");
        let report = method.step(&inputs.batch(step), settings, &mut optimizer).unwrap();
        let loss = f64::from(report.loss.into_scalar::<f32>());
        let deviation = (loss / expected - 1.0).abs();
        worst = worst.max(deviation);
        assert!(deviation <= LOSS_TOLERANCE, "{case}, step {step}: loss {loss} is not {expected}");
    }
    let mut largest = vec![worst];
    for (part, mut found) in method.tensors() {
        if let Some(unused) = unused {
            found.retain(|path, _| !path.starts_with(unused));
        }
        let tolerance = if part == "queues" { QUEUE_TOLERANCE } else { VALUE_TOLERANCE };
        largest.push(compare(&fixture, &format!("{case}/{part}"), &found, tolerance));
    }
    largest.push(compare(&fixture, &format!("{case}/optimizer"), &optimizer.state(), BUFFER_TOLERANCE));
    let largest: Vec<String> = largest.into_iter().map(|deviation| format!("{deviation:.1e}")).collect();
    println!("{case}: largest deviations of losses, query, key, queues and momentum: {}", largest.join(", "));
}

#[test]
fn ten_steps_follow_pytorch_while_the_queues_turn_over_three_times() {
    follows("densecl", config("c5", [4, 1]), 0, None);
}

#[test]
fn ten_steps_of_c4_in_two_micro_batches_each_follow_pytorch() {
    follows("densecl_c4", config("c4", [8, 2]), 1, Some("encoder.layer4"));
}

#[test]
fn networks_and_queues_resume_to_the_bit_in_the_middle_of_a_queue() {
    let config = config("c5", [4, 2]);
    let inputs = Inputs { seed: 3, images: 4 };
    let schedule = Schedule::new(&config, STEPS / 2);
    let run = |method: &mut dyn Method, optimizer: &mut Optimizer, steps: std::ops::Range<usize>| {
        for step in steps {
            method.step(&inputs.batch(step), schedule.settings(step as u64), optimizer).unwrap();
        }
    };
    let (mut reference, mut optimizer) = (networks(&config, inputs), config.new_optimizer());
    run(&mut *reference, &mut optimizer, 0..2);
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("last");
    let mut parts = reference.tensors();
    parts.push(("optimizer", optimizer.state()));
    scrl_core::checkpoint::state::save(&checkpoint, &parts, &2u64).unwrap();
    let (saved, step): (BTreeMap<String, TensorMap>, u64) =
        scrl_core::checkpoint::state::load(&checkpoint).unwrap();
    assert_eq!((step, saved["queues"]["next"].iter::<f32>().next()), (2, Some(8.0)), "8 of 12 rows are new");
    let mut resumed = methods::init(&config, 0, None, &mut stream(9, &[]), &Device::flex().autodiff());
    resumed.load(&saved).unwrap();
    let mut resumed_optimizer = config.new_optimizer();
    resumed_optimizer.load_state(saved["optimizer"].clone(), &Device::flex().autodiff());
    run(&mut *reference, &mut optimizer, 2..5);
    run(&mut *resumed, &mut resumed_optimizer, 2..5);
    assert_eq!(reference.tensors(), resumed.tensors());
    assert_eq!(optimizer.state(), resumed_optimizer.state());
}

#[test]
fn a_checkpoint_with_queues_of_another_length_is_refused() {
    let short = config("c5", [4, 1]);
    let mut long = short.clone();
    long.densecl.queue = 16;
    let inputs = Inputs { seed: 3, images: 4 };
    let saved = networks(&short, inputs).tensors().into_iter().map(|(part, map)| (part.to_string(), map));
    let error = networks(&long, inputs).load(&saved.collect()).unwrap_err().to_string();
    assert!(error.contains("queues have other sizes"), "{error}");
}
