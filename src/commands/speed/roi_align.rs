//! `scrl bench roi-align`

use anyhow::{Context, Result};
use burn::tensor::{Tensor, TensorData};
use scrl_core::random::{Rng, RngExt};
use scrl_ops::{ImageBox, RoiAlignOptions, roi_align};
use serde_json::{Value, json};

use super::{normal, peak_gib, random_stream, set_up, time};
use crate::cli::BenchRoiAlignArgs;

/// Input-image pixels per feature-map pixel, as of P2.
const STRIDE: f32 = 4.0;
/// As torchvision's Faster R-CNN pools.
const OPTIONS: RoiAlignOptions =
    RoiAlignOptions { output_size: [7, 7], spatial_scale: 1.0 / STRIDE, sampling_ratio: 2, aligned: false };
/// Sides of boxes in input-image pixels: those that P2 is responsible for.
const SIDES: [f32; 2] = [16.0, 112.0];

pub fn run(args: &BenchRoiAlignArgs) -> Result<Value> {
    let device = set_up(&args.run)?;
    let training = device.clone().autodiff();
    let mut rng = random_stream();
    let shape = [args.batch, args.channels, args.height, args.width];
    let features = TensorData::new(normal(shape.iter().product(), &mut rng), shape);
    let boxes = random_boxes(args, &mut rng);
    let inference = Tensor::<4>::from_data(features.clone(), &device);
    let forward = time(&args.run, &device, || {
        std::hint::black_box(roi_align(inference.clone(), &boxes, OPTIONS));
        Ok(())
    })?;
    let features = Tensor::<4>::from_data(features, &training);
    let shape = [args.rois, args.channels, OPTIONS.output_size[0], OPTIONS.output_size[1]];
    let gradient = TensorData::new(normal(shape.iter().product(), &mut rng), shape);
    let gradient = Tensor::<4>::from_data(gradient, &training);
    let both = time(&args.run, &device, || {
        let features = features.clone().require_grad();
        let pooled = roi_align(features.clone(), &boxes, OPTIONS);
        let gradients = (pooled * gradient.clone()).sum().backward();
        std::hint::black_box(features.grad(&gradients).context("RoIAlign has a gradient")?);
        Ok(())
    })?;
    let mut line = json!({
        "bench": "roi-align",
        "rois": args.rois,
        "batch": args.batch,
        "channels": args.channels,
        "height": args.height,
        "width": args.width,
        "threads": args.run.threads,
        "steps": args.run.steps,
        "forward_seconds": forward.seconds,
        "forward_backward_seconds": both.seconds,
        "peak_gib": peak_gib(),
    });
    forward.list_kernels(&mut line, "forward_kernels")?;
    both.list_kernels(&mut line, "forward_backward_kernels")?;
    Ok(line)
}

/// As many boxes as asked for, on the images in turn.
fn random_boxes(args: &BenchRoiAlignArgs, rng: &mut Rng) -> Vec<ImageBox> {
    let mut side = |cells: usize| {
        let length = cells as f32 * STRIDE;
        let side = rng.random_range(SIDES[0]..SIDES[1]).min(length);
        let start = rng.random::<f32>() * (length - side);
        (start, start + side)
    };
    let mut on_image = |roi: usize| {
        let ((x1, x2), (y1, y2)) = (side(args.width), side(args.height));
        ImageBox { image: roi % args.batch, corners: [x1, y1, x2, y2] }
    };
    (0..args.rois).map(&mut on_image).collect()
}
