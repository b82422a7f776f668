//! `scrl bench pretrain`

use anyhow::{Context, Result};
use scrl_core::models::ResNetConfig;
use scrl_core::random::{Rng, RngExt};
use scrl_core::solver::{Optimizer, OptimizerConfig, OptimizerKind};
use scrl_core::structures::BoxXyxy;
use scrl_pretrain::augment::AugmentConfig;
use scrl_pretrain::box_generator::{BoxConfig, MatchedBox};
use scrl_pretrain::config::ScheduleConfig;
use scrl_pretrain::image_views::{ImageViews, ViewPixels};
use scrl_pretrain::methods::{self, StepSettings};
use scrl_pretrain::{MethodKind, PretrainConfig};
use serde_json::{Value, json};

use super::{normal, peak_gib, random_stream, set_up, time};
use crate::cli::{BenchPretrainArgs, OptimizerArg};

/// A recipe's values; they do not change the time of a step.
const STEP: StepSettings = StepSettings { lr: 0.1, ema_momentum: 0.97 };
/// Smallest side of a box, in pixels; half of a view that is smaller than twice that.
const SMALLEST_BOX: f32 = 32.0;

pub fn run(args: &BenchPretrainArgs) -> Result<Value> {
    let device = set_up(&args.run)?.autodiff();
    let config = config(args).validate()?;
    let mut rng = random_stream();
    let batch: Vec<ImageViews> = (0..args.batch).map(|_| sample(args.size, args.boxes, &mut rng)).collect();
    let mut method = methods::init(&config, 0, None, &mut rng, &device);
    let mut optimizer = Optimizer::new(config.optimizer.clone());
    let mut loss = f32::NAN;
    let timing = time(&args.run, &device, || {
        let report = method.step(&batch, STEP, &mut optimizer).context("a batch has boxes")?;
        loss = report.loss.into_scalar::<f32>();
        Ok(())
    })?;
    let seconds = timing.seconds;
    let mut line = json!({
        "bench": "pretrain",
        "arch": args.arch.name(),
        "batch": args.batch,
        "size": args.size,
        "precision": args.run.precision,
        "boxes": args.boxes,
        "optimizer": config.optimizer.kind,
        "threads": args.run.threads,
        "steps": args.run.steps,
        "median_step_seconds": seconds,
        "pairs_per_second": args.batch as f64 / seconds,
        "peak_gib": peak_gib(),
        "loss": loss,
    });
    timing.list_kernels(&mut line, "kernels")?;
    Ok(line)
}

/// The published recipe of SCRL at the size asked for.
fn config(args: &BenchPretrainArgs) -> PretrainConfig {
    let kind = match args.optimizer {
        OptimizerArg::Sgd => OptimizerKind::Sgd,
        OptimizerArg::Lars => OptimizerKind::Lars,
    };
    PretrainConfig {
        method: MethodKind::Scrl,
        seed: super::SEED,
        compat: Default::default(),
        precision: args.run.precision,
        init: None,
        model: ResNetConfig::new(args.arch),
        data: Default::default(),
        augment: AugmentConfig { view_size: args.size, ..Default::default() },
        boxes: BoxConfig { count: args.boxes, min_size: smallest(args.size), ..Default::default() },
        heads: Default::default(),
        optimizer: OptimizerConfig { kind, weight_decay: 1e-6, ..Default::default() },
        schedule: ScheduleConfig {
            epochs: 1,
            batch_size: args.batch,
            base_lr: 1.0,
            warmup_epochs: 0.0,
            accumulate: 1,
        },
        ema: Default::default(),
        supervised: Default::default(),
        densecl: Default::default(),
        log: Default::default(),
    }
}

/// Two views of noise, and boxes anywhere in each.
fn sample(size: u32, boxes: usize, rng: &mut Rng) -> ImageViews {
    let view = |rng: &mut Rng| ViewPixels::square(normal(3 * (size * size) as usize, rng), size);
    let views = (0..2).map(|_| view(rng)).collect();
    let boxes = (0..boxes)
        .map(|_| MatchedBox { view1: random_box(size, rng), view2: random_box(size, rng) })
        .collect();
    ImageViews { views, boxes, label: None }
}

fn random_box(size: u32, rng: &mut Rng) -> BoxXyxy {
    let smallest = smallest(size);
    let mut side = || {
        let start = rng.random::<f32>() * (size as f32 - 1.25 * smallest);
        (start, start + smallest + rng.random::<f32>() * (size as f32 - smallest - start))
    };
    let ((x1, x2), (y1, y2)) = (side(), side());
    BoxXyxy::new(x1, y1, x2, y2)
}

fn smallest(size: u32) -> f32 {
    SMALLEST_BOX.min(size as f32 / 2.0)
}
