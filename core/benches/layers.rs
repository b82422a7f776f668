//! Times batch norm at the sizes of ResNet-50 and whole small backbones.
//!
//! `cargo bench -p scrl-core --bench layers -- [FILTER]`

use std::hint::black_box;
use std::time::Duration;

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{
    BatchSize, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use scrl_core::models::layers::BatchNorm;
use scrl_core::models::{Arch, Level, ResNetConfig};
use scrl_core::random::stream;

/// Images a batch.
const BATCH: usize = 2;
/// Channels and side of some outputs of ResNet-50 for images of 224 pixels.
const MAPS: [[usize; 2]; 5] = [[64, 112], [256, 56], [512, 28], [1024, 14], [2048, 7]];

fn random(shape: [usize; 4], device: &Device) -> Tensor<4> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn batch_norm(criterion: &mut Criterion) {
    let training = Device::flex().autodiff();
    for [channels, side] in MAPS {
        let shape = [BATCH, channels, side, side];
        let values = Throughput::Elements(shape.iter().product::<usize>() as u64);
        let id = BenchmarkId::from_parameter(format!("{channels}x{side}x{side}"));
        let norm = BatchNorm::init(channels, &training);
        let input = random(shape, &training);

        let mut group = criterion.benchmark_group("batch_norm/forward");
        group.sampling_mode(SamplingMode::Flat).throughput(values.clone());
        group.bench_function(id.clone(), |bencher| bencher.iter(|| black_box(norm.forward(input.clone()))));
        group.finish();

        let mut group = criterion.benchmark_group("batch_norm/backward");
        group.sampling_mode(SamplingMode::Flat).throughput(values);
        group.bench_function(id, |bencher| {
            let forward = || norm.forward(input.clone().require_grad());
            bencher.iter_batched(forward, |output| black_box(output.backward()), BatchSize::PerIteration);
        });
    }
}

/// Evaluation without gradients, and forward with backward.
fn backbones(criterion: &mut Criterion) {
    let device = Device::flex();
    let training = device.clone().autodiff();
    let mut group = criterion.benchmark_group("backbone");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(BATCH as u64));
    for arch in [Arch::ResNet18, Arch::ResNet50] {
        let config = ResNetConfig::new(arch);
        let shape = [BATCH, 3, 128, 128];
        let (model, images) = (config.init(&mut stream(0, &[]), &device), random(shape, &device));
        group.bench_function(BenchmarkId::new("evaluation", arch), |bencher| {
            bencher.iter(|| black_box(model.forward(images.clone()).at(Level::C5)));
        });
        let (model, images) = (config.init(&mut stream(0, &[]), &training), random(shape, &training));
        group.bench_function(BenchmarkId::new("training", arch), |bencher| {
            bencher.iter(|| black_box(model.forward(images.clone()).at(Level::C5).backward()));
        });
    }
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = layers;
    config = short();
    targets = batch_norm, backbones
}
criterion_main!(layers);
