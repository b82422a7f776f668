//! `scrl bench detector`

use std::sync::Arc;

use anyhow::Result;
use burn::module::Module;
use scrl_core::random::{Rng, RngExt};
use scrl_core::structures::{BoxXyxy, Size};
use scrl_core::transforms::normalize::{IMAGENET_MEAN, IMAGENET_STD};
use scrl_transfer::data::{Sample, collate};
use scrl_transfer::detection::{Architecture, BackboneConfig, DetectorConfig, Norm, Target};
use scrl_transfer::inference::detect_batch;
use scrl_transfer::mask::{ObjectMask, Segmentation};
use scrl_transfer::train::Training;
use scrl_transfer::{InitWeights, SolverConfig, TransferConfig};
use serde_json::{Value, json};

use super::{SEED, peak_gib, random_stream, set_up, time};
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

    let mut training = Some(Training::start(&config, &InitWeights::Random, &training_device)?);
    let mut loss = f64::NAN;
    let train = time(&args.run, &device, || {
        let state = training.take().expect("every step gives the state back");
        let batch = collate(samples.clone(), &training_device);
        let (state, losses) = state.step(batch, config.solver.lr, SEED, false);
        training = Some(state);
        loss = losses.read().total();
        Ok(())
    })?;
    let model = training.expect("every step gives the state back").model.valid();
    let _weights = scrl_ops::keep_weights();
    let mut detections = 0;
    let infer = time(&args.run, &device, || {
        let found = detect_batch(&model, collate(samples.clone(), &device));
        detections = found.iter().map(|(_, found)| found.len()).sum();
        Ok(())
    })?;
    let mut line = json!({
        "bench": "detector",
        "arch": args.arch.name(),
        "batch": args.batch,
        "height": args.height,
        "width": args.width,
        "classes": args.classes,
        "boxes": args.boxes,
        "masks": args.masks,
        "precision": args.run.precision,
        "threads": args.run.threads,
        "steps": args.run.steps,
        "train_step_seconds": train.seconds,
        "train_images_per_second": args.batch as f64 / train.seconds,
        "infer_step_seconds": infer.seconds,
        "infer_images_per_second": args.batch as f64 / infer.seconds,
        "detections": detections,
        "peak_gib": peak_gib(),
        "loss": loss,
    });
    train.list_kernels(&mut line, "train_kernels")?;
    infer.list_kernels(&mut line, "infer_kernels")?;
    Ok(line)
}

/// torchvision's `fasterrcnn_resnet50_fpn` or `maskrcnn_resnet50_fpn` with nothing frozen.
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
            architecture: if args.masks { Architecture::MaskRcnn } else { Architecture::FasterRcnn },
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
    let boxes: Vec<BoxXyxy> = (0..args.boxes).map(|_| object(size, rng)).collect();
    let labels = (0..args.boxes).map(|_| rng.random_range(0..args.classes - 1)).collect();
    let masks =
        if args.masks { boxes.iter().map(|bbox| Some(diamond(bbox, size))).collect() } else { Vec::new() };
    Sample { index, pixels, size, source: size, target: Target { boxes, labels, masks } }
}

/// A mask of half of a box.
fn diamond(bbox: &BoxXyxy, size: Size) -> ObjectMask {
    let [x1, y1, x2, y2] = bbox.to_array().map(f64::from);
    let (x, y) = ((x1 + x2) / 2.0, (y1 + y2) / 2.0);
    let segmentation = Arc::new(Segmentation::Polygons(vec![vec![x, y1, x2, y, x, y2, x1, y]]));
    ObjectMask { segmentation, source: size, input: size, mirrored: false }
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
