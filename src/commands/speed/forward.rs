//! `scrl bench forward`

use anyhow::Result;
use burn::tensor::{Tensor, TensorData};
use scrl_core::models::{Level, ResNetConfig};
use serde_json::{Value, json};

use super::{normal, peak_gib, random_stream, set_up, time};
use crate::cli::BenchForwardArgs;

pub fn run(args: &BenchForwardArgs) -> Result<Value> {
    // Without autodiff, batch norms use their running statistics.
    let device = set_up(&args.run)?;
    let mut rng = random_stream();
    let model = ResNetConfig::new(args.arch).init(&mut rng, &device).compute_in(args.run.precision);
    let side = args.size as usize;
    let shape = [args.batch, 3, side, side];
    let images = TensorData::new(normal(shape.iter().product(), &mut rng), shape);
    let images = Tensor::<4>::from_data(images, &device);
    let _weights = scrl_ops::keep_weights();
    let timing = time(&args.run, &device, || {
        std::hint::black_box(model.forward(images.clone()).at(Level::C5));
        Ok(())
    })?;
    let seconds = timing.seconds;
    let mut line = json!({
        "bench": "forward",
        "arch": args.arch.name(),
        "batch": args.batch,
        "size": args.size,
        "precision": args.run.precision,
        "threads": args.run.threads,
        "steps": args.run.steps,
        "median_step_seconds": seconds,
        "images_per_second": args.batch as f64 / seconds,
        "peak_gib": peak_gib(),
    });
    timing.list_kernels(&mut line, "kernels")?;
    Ok(line)
}
