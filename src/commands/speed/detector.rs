//! `scrl bench detector`

use std::path::PathBuf;

use anyhow::Result;
use burn::module::Module;
use scrl_core::random::{Rng, RngExt};
use scrl_core::structures::{BoxXyxy, Size};
use scrl_core::transforms::normalize::{IMAGENET_MEAN, IMAGENET_STD};
use scrl_transfer::data::{Category, DetectionDataset, DetectionImage};
use scrl_transfer::data::{Sample, collate};
use scrl_transfer::detection::{BackboneConfig, DetectorConfig, Norm, Target};
use scrl_transfer::inference::detect_batch;
use scrl_transfer::train::Training;
use scrl_transfer::{InitWeights, SolverConfig, TransferConfig};
use serde_json::{Value, json};

use super::{SEED, median_seconds, peak_gib, random_stream, set_up};
use crate::cli::BenchDetectorArgs;

/// Sides of objects in pixels, of images at least twice as large.
const OBJECT_SIDES: [f32; 2] = [20.0, 98.0];

pub fn run(args: &BenchDetectorArgs) -> Result<Value> {
    let device = set_up(&args.run)?;
    let training_device = device.clone().autodiff();
    let config = config(args);
    config.validate()?;
    let mut rng = random_stream();
    let samples: Vec<Sample> = (0..args.batch).map(|index| sample(index, args, &mut rng)).collect();
    let dataset = dataset(&samples, args.classes - 1);

    let mut training = Some(Training::start(&config, &InitWeights::Random, &training_device)?);
    let mut loss = f64::NAN;
    let train = median_seconds(args.run.steps, &device, || {
        let state = training.take().expect("every step gives the state back");
        let batch = collate(samples.clone(), &training_device);
        let (state, losses) = state.step(batch, config.solver.lr, SEED, false, &dataset)?;
        training = Some(state);
        loss = losses.total();
        Ok(())
    })?;
    let model = training.expect("every step gives the state back").model.valid();
    let _weights = scrl_ops::keep_weights();
    let mut detections = 0;
    let infer = median_seconds(args.run.steps, &device, || {
        let found = detect_batch(&model, collate(samples.clone(), &device));
        detections = found.iter().map(|(_, found)| found.len()).sum();
        Ok(())
    })?;
    Ok(json!({
        "bench": "detector",
        "arch": args.arch.name(),
        "batch": args.batch,
        "height": args.height,
        "width": args.width,
        "classes": args.classes,
        "boxes": args.boxes,
        "precision": args.run.precision,
        "threads": args.run.threads,
        "steps": args.run.steps,
        "train_step_seconds": train,
        "train_images_per_second": args.batch as f64 / train,
        "infer_step_seconds": infer,
        "infer_images_per_second": args.batch as f64 / infer,
        "detections": detections,
        "peak_gib": peak_gib(),
        "loss": loss,
    }))
}

/// torchvision's `fasterrcnn_resnet50_fpn` with nothing frozen.
fn config(args: &BenchDetectorArgs) -> TransferConfig {
    TransferConfig {
        seed: SEED,
        precision: args.run.precision,
        batch_size: args.batch,
        solver: SolverConfig { lr: 0.001, ..Default::default() },
        model: DetectorConfig {
            backbone: BackboneConfig {
                arch: args.arch,
                norm: Norm::BatchNorm,
                ..DetectorConfig::torchvision().backbone
            },
            num_classes: args.classes - 1,
            ..DetectorConfig::torchvision()
        },
        ..Default::default()
    }
}

/// An image of uniform noise, normalised as photographs are, with random objects.
fn sample(index: usize, args: &BenchDetectorArgs, rng: &mut Rng) -> Sample {
    let size = Size { width: args.width, height: args.height };
    let plane = (size.width * size.height) as usize;
    let mut pixels = Vec::with_capacity(3 * plane);
    for (mean, std) in IMAGENET_MEAN.into_iter().zip(IMAGENET_STD) {
        pixels.extend((0..plane).map(|_| (rng.random::<f32>() - mean) / std));
    }
    let boxes = (0..args.boxes).map(|_| object(size, rng)).collect();
    let labels = (0..args.boxes).map(|_| rng.random_range(0..args.classes - 1)).collect();
    Sample { index, pixels, size, source: size, target: Target { boxes, labels } }
}

fn object(image: Size, rng: &mut Rng) -> BoxXyxy {
    let mut side = |length: u32| {
        let length = length as f32;
        let [least, most] = OBJECT_SIDES.map(|side| side * (length / 200.0).min(1.0));
        let start = rng.random::<f32>() * (length - most - 1.0);
        (start, start + rng.random_range(least..most))
    };
    let ((x1, x2), (y1, y2)) = (side(image.width), side(image.height));
    BoxXyxy::new(x1, y1, x2, y2)
}

/// What a step's errors name.
fn dataset(samples: &[Sample], classes: usize) -> DetectionDataset {
    let image = |sample: &Sample| DetectionImage {
        id: sample.index as u64,
        path: PathBuf::new(),
        file_name: format!("generated image {}", sample.index),
        width: sample.size.width,
        height: sample.size.height,
        objects: Vec::new(),
        annotated: None,
    };
    let category = |id: usize| Category { id: id as u64 + 1, name: format!("class {}", id + 1) };
    DetectionDataset {
        name: "generated".into(),
        images: samples.iter().map(image).collect(),
        categories: (0..classes).map(category).collect(),
        dropped: 0,
    }
}
