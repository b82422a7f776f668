//! Times the operators forward and backward, convolutions and pooling beside Burn's own.
//!
//! `cargo bench -p scrl-ops --bench operators -- [FILTER]`, for example `conv2d/backward/ours`. An element of the
//! convolutions' throughput is one multiplication or addition.

use std::hint::black_box;
use std::time::Duration;

use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, Distribution, Tensor, module};
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group,
    criterion_main, measurement::WallTime,
};
use scrl_ops::{
    Conv2dOptions, ImageBox, MaxPool2dOptions, RoiAlignOptions, batched_nms, conv2d, max_pool2d, nms,
    roi_align,
};

/// Images a batch.
const BATCH: usize = 2;

/// A convolution of ResNet-50 for images of 224 pixels.
#[derive(Clone, Copy)]
struct Layer {
    channels: [usize; 2],
    size: usize,
    kernel: usize,
    stride: usize,
}

const fn layer(channels: [usize; 2], size: usize, kernel: usize, stride: usize) -> Layer {
    Layer { channels, size, kernel, stride }
}

/// Every kind that occurs, except 1×1 layers that differ from another only by exchanged channels.
const LAYERS: &[Layer] = &[
    layer([3, 64], 224, 7, 2),
    layer([64, 64], 56, 1, 1),
    layer([64, 64], 56, 3, 1),
    layer([64, 256], 56, 1, 1),
    layer([128, 128], 56, 3, 2),
    layer([128, 512], 28, 1, 1),
    layer([256, 512], 56, 1, 2),
    layer([128, 128], 28, 3, 1),
    layer([256, 256], 28, 3, 2),
    layer([256, 1024], 14, 1, 1),
    layer([512, 1024], 28, 1, 2),
    layer([256, 256], 14, 3, 1),
    layer([512, 512], 14, 3, 2),
    layer([512, 2048], 7, 1, 1),
    layer([1024, 2048], 14, 1, 2),
    layer([512, 512], 7, 3, 1),
];

/// The pooling behind the stem.
const POOL: Layer = layer([64, 64], 112, 3, 2);

impl Layer {
    fn name(self) -> String {
        let [channels, out] = self.channels;
        format!("{channels}to{out}_{}px_k{}_s{}", self.size, self.kernel, self.stride)
    }

    fn padding(self) -> usize {
        self.kernel / 2
    }

    /// Multiplications and additions of one pass.
    fn flops(self) -> u64 {
        let output = (self.size + 2 * self.padding() - self.kernel) / self.stride + 1;
        let [channels, out] = self.channels;
        2 * (BATCH * channels * out * self.kernel.pow(2) * output.pow(2)) as u64
    }

    fn convolve(self, input: Tensor<4>, weight: Tensor<4>, side: Side) -> Tensor<4> {
        let (stride, padding) = ([self.stride; 2], [self.padding(); 2]);
        match side {
            Side::Ours => {
                conv2d(input, weight, None, Conv2dOptions { stride, padding, ..Default::default() })
            }
            Side::Burn => module::conv2d(input, weight, None, ConvOptions::new(stride, padding, [1, 1], 1)),
        }
    }

    fn pool(self, input: Tensor<4>, side: Side) -> Tensor<4> {
        let (kernel, stride, padding) = ([self.kernel; 2], [self.stride; 2], [self.padding(); 2]);
        match side {
            Side::Ours => max_pool2d(input, MaxPool2dOptions { kernel, stride, padding }),
            Side::Burn => {
                let options = MaxPoolOptions::new(kernel).with_stride(stride).with_padding(padding);
                module::max_pool2d(input, options)
            }
        }
    }
}

/// Whose operator.
#[derive(Clone, Copy)]
enum Side {
    Ours,
    Burn,
}

impl Side {
    const ALL: [(Side, &str); 2] = [(Side::Ours, "ours"), (Side::Burn, "burn")];
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat);
    group
}

/// Times the backward pass of what `forward` gives, for an output gradient of ones.
fn backward<const D: usize>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    forward: impl Fn() -> Tensor<D>,
) {
    group.bench_function(id, |bencher| {
        bencher.iter_batched(&forward, |output| black_box(output.backward()), BatchSize::PerIteration);
    });
}

fn convolutions(criterion: &mut Criterion) {
    let device = Device::flex();
    let training = device.clone().autodiff();
    for &layer in LAYERS {
        let [channels, out] = layer.channels;
        let (input, weight) =
            ([BATCH, channels, layer.size, layer.size], [out, channels, layer.kernel, layer.kernel]);
        for (side, name) in Side::ALL {
            let mut group = group(criterion, "conv2d/forward");
            group.throughput(Throughput::Elements(layer.flops()));
            let (x, w) = (random(input, &device), random(weight, &device));
            group.bench_function(BenchmarkId::new(name, layer.name()), |bencher| {
                bencher.iter(|| black_box(layer.convolve(x.clone(), w.clone(), side)));
            });
        }
        for (side, name) in Side::ALL {
            let mut group = group(criterion, "conv2d/backward");
            // The stem's input is the image, which needs no gradient.
            let stem = channels == 3;
            group.throughput(Throughput::Elements(layer.flops() * if stem { 1 } else { 2 }));
            let (x, w) = (random(input, &training), random(weight, &training).require_grad());
            backward(&mut group, BenchmarkId::new(name, layer.name()), || {
                let x = if stem { x.clone() } else { x.clone().require_grad() };
                layer.convolve(x, w.clone(), side)
            });
        }
    }
}

fn pooling(criterion: &mut Criterion) {
    let device = Device::flex();
    let training = device.clone().autodiff();
    let shape = [BATCH, POOL.channels[0], POOL.size, POOL.size];
    let values = Throughput::Elements(shape.iter().product::<usize>() as u64);
    for (side, name) in Side::ALL {
        let id = || BenchmarkId::new(name, POOL.name());
        let mut forward = group(criterion, "max_pool2d/forward");
        forward.throughput(values.clone());
        let input = random(shape, &device);
        forward.bench_function(id(), |bencher| {
            bencher.iter(|| black_box(POOL.pool(input.clone(), side)));
        });
        forward.finish();
        let mut group = group(criterion, "max_pool2d/backward");
        group.throughput(values.clone());
        let input = random(shape, &training);
        backward(&mut group, id(), || POOL.pool(input.clone().require_grad(), side));
    }
}

/// A deterministic draw from `[0, 1)`: the fractions of multiples of an irrational number.
fn spread(index: usize, factor: f32) -> f32 {
    (index as f32 * factor).fract()
}

/// Boxes with sides of 16 to 112 pixels in an image of `size`, `[x1, y1, x2, y2]`.
fn boxes(count: usize, size: [f32; 2]) -> Vec<[f32; 4]> {
    (0..count)
        .map(|index| {
            let [width, height] = [0.618_034, 0.754_878].map(|factor| 16.0 + 96.0 * spread(index, factor));
            let (x, y) = (spread(index, 0.569_84) * size[0], spread(index, 0.324_718) * size[1]);
            [x, y, (x + width).min(size[0]), (y + height).min(size[1])]
        })
        .collect()
}

/// RoIAlign as SCRL uses it on C5 and as Faster R-CNN uses it on P2.
fn roi_aligns(criterion: &mut Criterion) {
    let device = Device::flex();
    let training = device.clone().autodiff();
    let options = |side, scale, sampling_ratio| RoiAlignOptions {
        output_size: [side; 2],
        spatial_scale: scale,
        sampling_ratio,
        aligned: false,
    };
    let cases = [
        ("scrl_1x1", [8, 512, 7, 7], 80, options(1, 1.0 / 32.0, -1)),
        ("detector_7x7", [2, 256, 60, 80], 128, options(7, 0.25, 2)),
    ];
    for (name, shape, count, options) in cases {
        let [batch, _, height, width] = shape;
        let size = [width, height].map(|side| side as f32 / options.spatial_scale);
        let on_image = |(index, corners)| ImageBox { image: index % batch, corners };
        let rois: Vec<ImageBox> = boxes(count, size).into_iter().enumerate().map(on_image).collect();
        let throughput = Throughput::Elements(count as u64);

        let features = random(shape, &device);
        let mut forward = group(criterion, "roi_align/forward");
        forward.throughput(throughput.clone());
        forward.bench_function(name, |bencher| {
            bencher.iter(|| black_box(roi_align(features.clone(), &rois, options)));
        });
        forward.finish();

        let features = random(shape, &training);
        let mut group = group(criterion, "roi_align/backward");
        group.throughput(throughput);
        backward(&mut group, BenchmarkId::from_parameter(name), || {
            roi_align(features.clone().require_grad(), &rois, options)
        });
    }
}

fn suppression(criterion: &mut Criterion) {
    let mut group = group(criterion, "nms");
    for count in [500, 2000] {
        let boxes = boxes(count, [640.0, 480.0]);
        let scores: Vec<f32> = (0..count).map(|index| spread(index, 0.445_042)).collect();
        let classes: Vec<usize> = (0..count).map(|index| index % 80).collect();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("one_class", count), |bencher| {
            bencher.iter(|| black_box(nms(&boxes, &scores, 0.7)));
        });
        group.bench_function(BenchmarkId::new("80_classes", count), |bencher| {
            bencher.iter(|| black_box(batched_nms(&boxes, &scores, &classes, 0.5)));
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
    name = operators;
    config = short();
    targets = convolutions, pooling, roi_aligns, suppression
}
criterion_main!(operators);
