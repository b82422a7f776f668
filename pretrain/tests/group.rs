//! Several processes, here threads, against one: weights after a few steps.

use std::path::Path;

use burn::tensor::Device;
use scrl_core::data::sampler::shares;
use scrl_core::models::parameters::TensorMap;
use scrl_core::random::{standard_normal, stream};
use scrl_core::solver::Optimizer;
use scrl_core::structures::BoxXyxy;
use scrl_ops::{Group, threads};
use scrl_pretrain::PretrainConfig;
use scrl_pretrain::box_generator::MatchedBox;
use scrl_pretrain::image_views::{ImageViews, ViewPixels};
use scrl_pretrain::methods::{self, StepSettings};

const SIDE: u32 = 48;
const IMAGES: usize = 8;
/// Data sets that are tried; see [`TOLERANCE`].
const SEEDS: u64 = 3;
const STEPS: usize = 5;

/// Relative to the largest element of a tensor. Sums are grouped by processes, which makes 1e-6 after five steps. But where the
/// input of a ReLU is zero but for rounding, one value more or less is part of a gradient, and that is up to 1e-3. So most of the
/// data sets keep within this, and all within [`FLIPPED`].
const TOLERANCE: f32 = 1e-4;
const FLIPPED: f32 = 1e-2;
/// The least that a tensor's largest element counts as: biases start at zero and move by 1e-3 in these steps.
const SIZE: f32 = 0.02;

/// Images with one to three boxes; `without` have none.
fn batch(seed: u64, step: usize, without: &[usize]) -> Vec<ImageViews> {
    let image = |index: usize| {
        let view = |view: u64| {
            let mut rng = stream(seed, &[view, step as u64, index as u64]);
            ViewPixels::square((0..3 * SIDE * SIDE).map(|_| standard_normal(&mut rng)).collect(), SIDE)
        };
        let matched = |number: usize| {
            let shift = 3.0 * number as f32;
            MatchedBox {
                view1: BoxXyxy::new(1.0 + shift, 2.0, 28.0 + shift, 35.0),
                view2: BoxXyxy::new(4.0, 1.0 + shift, 42.0, 38.0 + shift),
            }
        };
        let count = if without.contains(&index) { 0 } else { 1 + (index + step) % 3 };
        ImageViews {
            views: vec![view(0), view(1)],
            boxes: (0..count).map(matched).collect(),
            label: Some(index % 3),
        }
    };
    (0..IMAGES).map(image).collect()
}

fn config(method: &str, accumulate: usize) -> PretrainConfig {
    let text = format!(
        "method = \"{method}\"\n[model]\narch = \"resnet18\"\nwidth = 0.125\n[augment]\nview_size = {SIDE}\n\
         [boxes]\nmin_size = 8.0\n[heads]\nhidden = 16\noutput = 8\npool_level = \"c4\"\n[optimizer]\nweight_decay = 1e-4\n[densecl]\nqueue = 32\n\
         [schedule]\nepochs = 1\nbatch_size = {IMAGES}\naccumulate = {accumulate}\nbase_lr = 0.1\n"
    );
    let config: PretrainConfig = scrl_core::config::parse(&text, Path::new("test.toml"), &[]).unwrap();
    config.validate().unwrap()
}

struct Trained {
    tensors: Vec<(&'static str, TensorMap)>,
    /// The sum over the ranks of each step's loss.
    losses: Vec<f64>,
    regions: usize,
}

fn train(method: &str, accumulate: usize, without: &[usize], seed: u64, group: &Group) -> Trained {
    let config = config(method, accumulate);
    let device = Device::flex().autodiff();
    let mut network = methods::init(&config, 3, None, &mut stream(1, &[]), &device);
    network.join(group);
    let mut optimizer = Optimizer::new(config.optimizer.clone());
    let (mut losses, mut regions) = (Vec::new(), 0);
    for step in 0..STEPS {
        let whole = batch(seed, step, without);
        let places = shares(IMAGES, accumulate, group).into_iter().flatten();
        let own: Vec<ImageViews> = places.map(|place| whole[place].clone()).collect();
        let settings = StepSettings { lr: 1e-4, ema_momentum: 0.9 };
        let report = network.step(&own, settings, &mut optimizer).expect("some image has boxes");
        let mut loss = [f64::from(report.loss.into_scalar::<f32>())];
        group.sum_f64(&mut loss);
        losses.push(loss[0]);
        regions += group.sum(report.regions);
    }
    Trained { tensors: network.tensors(), losses, regions }
}

/// The largest deviation of a loss or of an element of a tensor, relative, and where it is.
fn deviation(found: &Trained, expected: &Trained) -> (f32, String) {
    assert_eq!(found.regions, expected.regions);
    let losses = found.losses.iter().zip(&expected.losses);
    let losses = losses.map(|(found, expected)| ((found - expected).abs() / expected.abs()) as f32);
    let mut worst = (losses.fold(0.0, f32::max), "losses".to_string());
    for ((part, found), (_, expected)) in found.tensors.iter().zip(&expected.tensors) {
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (path, expected) in expected {
            let [found, expected] =
                [&found[path], expected].map(|data| data.iter::<f32>().collect::<Vec<_>>());
            let largest = expected.iter().fold(SIZE, |largest, value| largest.max(value.abs()));
            for (found, expected) in found.iter().zip(&expected) {
                let deviation = (found - expected).abs() / largest;
                // Also where it is not a number.
                if deviation > worst.0 || deviation.is_nan() {
                    worst = (deviation, format!("{part}.{path}"));
                }
            }
        }
    }
    worst
}

/// Compares groups of 1 to 4 with one process; on every rank the weights are the same to the bit.
fn assert_equal_for_any_number(method: &str, without: &[usize]) {
    for accumulate in [1, 2] {
        let alone = |seed| train(method, accumulate, without, seed, &Group::alone());
        let alone: Vec<Trained> = (0..SEEDS).map(alone).collect();
        for size in 1..=4 {
            let what = format!("{method} in {accumulate} micro-batches on {size} processes");
            let mut deviations: Vec<(f32, String)> = alone
                .iter()
                .zip(0..)
                .map(|(alone, seed)| {
                    let ranks = threads(size, |group| train(method, accumulate, without, seed, &group));
                    assert!(
                        ranks.iter().all(|rank| rank.tensors == ranks[0].tensors),
                        "{what}: the ranks differ"
                    );
                    deviation(&ranks[0], alone)
                })
                .collect();
            deviations.sort_by(|a, b| a.0.total_cmp(&b.0));
            let most = &deviations[deviations.len() / 2];
            assert!(most.0 < TOLERANCE, "{what}: {deviations:?}");
            assert!(deviations.iter().all(|(deviation, _)| *deviation < FLIPPED), "{what}: {deviations:?}");
        }
    }
}

#[test]
fn any_number_of_processes_trains_scrl_alike() {
    // An image without boxes; then a process without any: with four, each has two images of a batch.
    assert_equal_for_any_number("scrl", &[1]);
    assert_equal_for_any_number("scrl", &[2, 3]);
}

#[test]
fn any_number_of_processes_trains_byol_alike() {
    assert_equal_for_any_number("byol", &[]);
}

#[test]
fn any_number_of_processes_trains_a_classifier_alike() {
    assert_equal_for_any_number("supervised", &[]);
}

#[test]
fn any_number_of_processes_trains_densecl_alike() {
    assert_equal_for_any_number("densecl", &[]);
}
