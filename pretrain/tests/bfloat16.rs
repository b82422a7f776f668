//! Training in bfloat16: as far from 64 bits as PyTorch's autocast is, the same for any number of threads, and resumed to
//! the bit. See `fixtures/bfloat16/generate.py`.

#[path = "parity/inputs.rs"]
#[allow(dead_code)] // the other test binary uses all of it
mod inputs;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Device, TensorData};
use scrl_core::checkpoint::weights::read_safetensors;
use scrl_core::config::parse;
use scrl_core::models::Precision;
use scrl_core::models::parameters::TensorMap;
use scrl_core::random::stream;
use scrl_core::solver::Optimizer;
use scrl_pretrain::PretrainConfig;
use scrl_pretrain::methods::{self, Method, StepSettings};

use inputs::Inputs;

const INPUTS: Inputs = Inputs { seed: 0, images: 4 };
/// Those of the fixture's script.
const BATCHES: [usize; 6] = [0, 1, 2, 3, 5, 6];
/// How far gradients in bfloat16 may be from those in 32 bits, relative to the distance that PyTorch's autocast has from 64
/// bits: for all parameters together, whose rounding errors average out, and for a single one, of which there may be eight
/// numbers.
const ALL: f64 = 1.15;
const SINGLE: f64 = 2.0;

fn config(precision: Precision) -> PretrainConfig {
    let text = format!(
        "method = \"scrl\"\nprecision = \"{precision}\"\nmodel = {{ arch = \"resnet18\", width = 0.125 }}\n\
         heads = {{ hidden = 32, output = 16 }}\nema = {{ base = 0.9 }}\noptimizer = {{ weight_decay = 0.0 }}\n\
         [schedule]\nepochs = 2\nbatch_size = 4\nbase_lr = 0.64\nwarmup_epochs = 0.0\n"
    );
    parse::<PretrainConfig>(&text, Path::new("test.toml"), &[]).unwrap().validate().unwrap()
}

/// Networks with the weights of the fixture's script.
fn networks(precision: Precision) -> Box<dyn Method> {
    let device = Device::flex().autodiff();
    let mut method = methods::init(&config(precision), 0, None, &mut stream(1, &[]), &device);
    let tensors: BTreeMap<String, TensorMap> = method
        .tensors()
        .into_iter()
        .map(|(part, network)| (part.to_string(), INPUTS.network("online", &network)))
        .collect();
    method.load(&tensors).unwrap();
    method
}

/// The loss and the gradients of a batch: the first momentum of an optimiser without decay.
fn step(precision: Precision, batch: usize) -> (f64, TensorMap) {
    let mut method = networks(precision);
    let mut optimizer = Optimizer::new(config(precision).optimizer);
    let settings = StepSettings { lr: 0.0, ema_momentum: 1.0 };
    let report = method.step(&INPUTS.batch(batch), settings, &mut optimizer).unwrap();
    (f64::from(report.loss.into_scalar::<f32>()), optimizer.state())
}

fn squares(data: &TensorData) -> f64 {
    data.iter::<f64>().map(|value| value * value).sum()
}

fn difference(a: &TensorData, b: &TensorData) -> f64 {
    a.iter::<f64>().zip(b.iter::<f64>()).map(|(a, b)| (a - b).powi(2)).sum()
}

#[test]
fn gradients_are_as_far_from_exact_ones_as_those_of_pytorchs_autocast() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bfloat16/bfloat16.safetensors");
    let fixture = read_safetensors(&path).unwrap().0;
    let losses: Vec<f64> = fixture["losses"].iter::<f64>().collect();
    let (mut sums, mut loss_gaps) = (BTreeMap::<String, [f64; 2]>::new(), [0.0f64; 2]);
    for (batch, losses) in BATCHES.into_iter().zip(losses.chunks_exact(2)) {
        let (exact_loss, exact) = step(Precision::F32, batch);
        let (loss, found) = step(Precision::Bf16, batch);
        assert!((exact_loss / losses[0] - 1.0).abs() < 2e-5, "{exact_loss} is not {}", losses[0]);
        loss_gaps[0] += (loss - exact_loss).powi(2);
        loss_gaps[1] += (losses[1] - losses[0]).powi(2);
        for (name, exact) in &exact {
            let sum = sums.entry(name.clone()).or_default();
            sum[0] += squares(exact);
            sum[1] += difference(exact, &found[name]);
        }
    }
    let (mut ours, mut theirs, mut size, mut worst) = (0.0, 0.0, 0.0, (0.0f64, ""));
    for (name, [exact, gap]) in &sums {
        let norms: Vec<f64> = fixture[&format!("norms/{name}")].iter::<f64>().collect();
        // A bias before a batch norm has no gradient but rounding.
        if norms[0] < 1e-6 {
            continue;
        }
        assert!((exact.sqrt() / norms[0] - 1.0).abs() < 1e-3, "{name}: {} is not {}", exact.sqrt(), norms[0]);
        let ratio = gap.sqrt() / norms[1];
        worst = if ratio > worst.0 { (ratio, name) } else { worst };
        (ours, theirs, size) = (ours + gap, theirs + norms[1].powi(2), size + exact);
    }
    let all = (ours / theirs).sqrt();
    println!(
        "distance of all gradients {:.3}, PyTorch's {:.3}; largest ratio of one {:.2}, {}; losses {:.2e}, PyTorch's {:.2e}",
        (ours / size).sqrt(),
        (theirs / size).sqrt(),
        worst.0,
        worst.1,
        loss_gaps[0].sqrt(),
        loss_gaps[1].sqrt()
    );
    assert!(all <= ALL, "the gradients are {all:.2} times as far off as PyTorch's");
    assert!(worst.0 <= SINGLE, "{}: {:.2} times as far off as PyTorch's", worst.1, worst.0);
    assert!(loss_gaps[0] <= ALL.powi(2) * loss_gaps[1], "{loss_gaps:?}");
    assert!(ours > 0.0, "nothing was rounded");
}

fn run(method: &mut dyn Method, optimizer: &mut Optimizer, batches: &[usize]) {
    for &batch in batches {
        let settings = StepSettings { lr: 0.01, ema_momentum: 0.9 };
        method.step(&INPUTS.batch(batch), settings, optimizer).unwrap();
    }
}

/// All tensors after training on some batches with so many threads.
fn trained(threads: usize) -> Vec<(&'static str, TensorMap)> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut method = networks(Precision::Bf16);
        run(&mut *method, &mut Optimizer::new(Default::default()), &BATCHES[..3]);
        method.tensors()
    })
}

#[test]
fn training_is_the_same_to_the_bit_for_any_number_of_threads() {
    assert_eq!(trained(1), trained(3));
}

#[test]
fn what_is_stored_has_32_bits_and_a_resumed_run_continues_to_the_bit() {
    let mut method = networks(Precision::Bf16);
    let mut optimizer = Optimizer::new(Default::default());
    run(&mut *method, &mut optimizer, &BATCHES[..2]);
    let saved: BTreeMap<String, TensorMap> =
        method.tensors().into_iter().map(|(part, tensors)| (part.to_string(), tensors)).collect();
    let momentum = optimizer.state();
    let mut stored = saved.values().flat_map(BTreeMap::values).chain(momentum.values());
    assert!(stored.all(|data| data.dtype() == DType::F32), "a stored tensor is not of 32 bits");
    let mut resumed = networks(Precision::Bf16);
    resumed.load(&saved).unwrap();
    let mut resumed_optimizer = Optimizer::new(Default::default());
    resumed_optimizer.load_state(optimizer.state(), &Device::flex().autodiff());
    run(&mut *method, &mut optimizer, &BATCHES[2..4]);
    run(&mut *resumed, &mut resumed_optimizer, &BATCHES[2..4]);
    assert_eq!(method.tensors(), resumed.tensors());
    assert_eq!(optimizer.state(), resumed_optimizer.state());
}
