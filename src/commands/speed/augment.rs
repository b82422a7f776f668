//! `scrl bench augment`

use std::time::Instant;

use anyhow::Result;
use scrl_core::data::image_folder::ImageFolder;
use scrl_core::models::{Arch, ResNetConfig};
use scrl_core::random::stream;
use scrl_pretrain::augment::AugmentConfig;
use scrl_pretrain::config::ScheduleConfig;
use scrl_pretrain::image_views::load_views;
use scrl_pretrain::{MethodKind, PretrainConfig};
use serde_json::{Value, json};

use super::{SEED, peak_gib};
use crate::cli::BenchAugmentArgs;
use crate::threads;

pub fn run(args: &BenchAugmentArgs) -> Result<Value> {
    threads::start(1)?;
    let folder = ImageFolder::scan(std::slice::from_ref(&args.data))?;
    let images = folder.samples.len().min(args.images);
    let prepare = load_views(&config(args.size), &folder);
    let start = Instant::now();
    for index in 0..images {
        std::hint::black_box(prepare(index, &mut stream(SEED, &[index as u64]))?);
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({
        "bench": "augment",
        "images": images,
        "size": args.size,
        "threads": 1,
        "seconds": seconds,
        "images_per_second": images as f64 / seconds,
        "peak_gib": peak_gib(),
    }))
}

/// BYOL's data path: two views, without boxes.
fn config(size: u32) -> PretrainConfig {
    PretrainConfig {
        method: MethodKind::Byol,
        seed: SEED,
        compat: Default::default(),
        precision: Default::default(),
        init: None,
        model: ResNetConfig::new(Arch::ResNet50),
        data: Default::default(),
        augment: AugmentConfig { view_size: size, ..Default::default() },
        boxes: Default::default(),
        heads: Default::default(),
        optimizer: Default::default(),
        schedule: ScheduleConfig {
            epochs: 1,
            batch_size: 2,
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
