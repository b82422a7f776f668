//! Times the convolutions, batch normalisations and pooling of a ResNet, forward and backward, against Burn's own.
//!
//! `cargo bench -p scrl-ops --bench conv2d -- [resnet18|resnet50] [batch] [conv|norm|pool] [ours]`

use burn::tensor::{Device, Distribution, Tensor, module, ops::ConvOptions};
use scrl_ops::{Conv2dOptions, conv2d};
use std::time::{Duration, Instant};

/// A layer of a network for images of 224 pixels and how often it occurs.
#[derive(Clone, Copy)]
struct Layer {
    channels: [usize; 2],
    size: usize,
    kernel: usize,
    stride: usize,
    count: usize,
}

const fn layer(channels: [usize; 2], size: usize, kernel: usize, stride: usize, count: usize) -> Layer {
    Layer { channels, size, kernel, stride, count }
}

const RESNET18: &[Layer] = &[
    layer([3, 64], 224, 7, 2, 1),
    layer([64, 64], 56, 3, 1, 4),
    layer([64, 128], 56, 3, 2, 1),
    layer([64, 128], 56, 1, 2, 1),
    layer([128, 128], 28, 3, 1, 3),
    layer([128, 256], 28, 3, 2, 1),
    layer([128, 256], 28, 1, 2, 1),
    layer([256, 256], 14, 3, 1, 3),
    layer([256, 512], 14, 3, 2, 1),
    layer([256, 512], 14, 1, 2, 1),
    layer([512, 512], 7, 3, 1, 3),
];


const RESNET50: &[Layer] = &[
    layer([3, 64], 224, 7, 2, 1),
    layer([64, 64], 56, 1, 1, 1),
    layer([64, 64], 56, 3, 1, 3),
    layer([64, 256], 56, 1, 1, 4),
    layer([256, 64], 56, 1, 1, 2),
    layer([256, 128], 56, 1, 1, 1),
    layer([128, 128], 56, 3, 2, 1),
    layer([128, 512], 28, 1, 1, 4),
    layer([256, 512], 56, 1, 2, 1),
    layer([512, 128], 28, 1, 1, 3),
    layer([128, 128], 28, 3, 1, 3),
    layer([512, 256], 28, 1, 1, 1),
    layer([256, 256], 28, 3, 2, 1),
    layer([256, 1024], 14, 1, 1, 6),
    layer([512, 1024], 28, 1, 2, 1),
    layer([1024, 256], 14, 1, 1, 5),
    layer([256, 256], 14, 3, 1, 5),
    layer([1024, 512], 14, 1, 1, 1),
    layer([512, 512], 14, 3, 2, 1),
    layer([512, 2048], 7, 1, 1, 3),
    layer([1024, 2048], 14, 1, 2, 1),
    layer([2048, 512], 7, 1, 1, 2),
    layer([512, 512], 7, 3, 1, 2),
];

impl Layer {
    fn padding(self) -> usize {
        self.kernel / 2
    }

    fn output(self) -> usize {
        (self.size + 2 * self.padding() - self.kernel) / self.stride + 1
    }

    fn flops(self, batch: usize) -> f64 {
        let [channels, out] = self.channels;
        2.0 * (batch * channels * out * self.kernel.pow(2) * self.output().pow(2)) as f64
    }
}

/// The shortest forward and backward time of some runs.
fn time(mut run: impl FnMut() -> (Duration, Duration)) -> [f64; 2] {
    let start = Instant::now();
    let mut best = [f64::INFINITY; 2];
    let mut runs = 0;
    while runs < 3 || (start.elapsed() < Duration::from_millis(400) && runs < 30) {
        let (forward, backward) = run();
        best = [best[0].min(forward.as_secs_f64()), best[1].min(backward.as_secs_f64())];
        runs += 1;
    }
    best
}

/// Times `operator` and its backward pass for an output gradient of ones.
fn time_operator<const D: usize>(input: &Tensor<D>, operator: impl Fn(Tensor<D>) -> Tensor<D>) -> [f64; 2] {
    time(|| {
        let input = input.clone().require_grad();
        let start = Instant::now();
        let output = operator(input);
        let forward = start.elapsed();
        let start = Instant::now();
        let _gradients = output.backward();
        (forward, start.elapsed())
    })
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Default, device)
}

fn convolution(layer: Layer, batch: usize, device: &Device, ours: bool) -> [f64; 2] {
    let [channels, out] = layer.channels;
    let input = random([batch, channels, layer.size, layer.size], device);
    // The stem's input is the image, which needs no gradient.
    let stem = channels == 3;
    let weight = random([out, channels, layer.kernel, layer.kernel], device).require_grad();
    let (stride, padding) = ([layer.stride; 2], [layer.padding(); 2]);
    time_operator(&input, |tracked| {
        let input = if stem { input.clone() } else { tracked };
        if ours {
            conv2d(input, weight.clone(), None, Conv2dOptions { stride, padding, ..Default::default() })
        } else {
            module::conv2d(input, weight.clone(), None, ConvOptions::new(stride, padding, [1, 1], 1))
        }
    })
}

type Timing = fn(Layer, usize, &Device, bool) -> [f64; 2];

fn table(title: &str, layers: &[Layer], batch: usize, timing: Timing, sides: &[bool]) {
    let device = Device::flex().autodiff();
    println!("{title}, batch {batch}: milliseconds forward + backward (GFLOP/s)");
    let mut totals = vec![[0.0; 2]; sides.len()];
    let mut flops = 0.0;
    let only = std::env::var("ONLY").ok().map(|v| v.parse::<usize>().unwrap());
    for (i, &layer) in layers.iter().enumerate() {
        if only.is_some_and(|o| o != i) { continue; }
        let [channels, out] = layer.channels;
        let shape = format!("{channels}→{out} {}px k{} s{}", layer.size, layer.kernel, layer.stride);
        print!("{shape:>22} ×{}", layer.count);
        flops += layer.count as f64 * layer.flops(batch);
        for (side, total) in sides.iter().zip(&mut totals) {
            let seconds = timing(layer, batch, &device, *side);
            for pass in 0..2 {
                total[pass] += layer.count as f64 * seconds[pass];
            }
            print!("{}", show(*side, seconds, layer.flops(batch), channels == 3));
        }
        println!();
    }
    print!("{:>22}   ", "all");
    for (side, total) in sides.iter().zip(&totals) {
        print!("{}", show(*side, *total, flops, false));
    }
    println!();
}

fn show(ours: bool, [forward, backward]: [f64; 2], flops: f64, stem: bool) -> String {
    let name = if ours { "ours" } else { "burn" };
    let gradients = if stem { 1.0 } else { 2.0 };
    format!(
        "   {name} {:8.2} ({:4.0}) + {:8.2} ({:4.0})",
        forward * 1e3,
        flops / forward * 1e-9,
        backward * 1e3,
        gradients * flops / backward * 1e-9
    )
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let batch = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(8);
    let sides: &[bool] = if has("ours") { &[true] } else { &[true, false] };
    for (name, layers) in [("resnet18", RESNET18), ("resnet50", RESNET50)] {
        let chosen = has(name) || !(has("resnet18") || has("resnet50"));
        for (kind, timing) in [("conv", convolution as Timing)] {
            if chosen && (has(kind) || !(has("conv") || has("norm"))) {
                table(&format!("{name} {kind}"), layers, batch, timing, sides);
            }
        }
    }
}
