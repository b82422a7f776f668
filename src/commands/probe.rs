//! `scrl probe`

use std::path::Path;

use anyhow::{Context, Result};
use scrl_core::config;
use scrl_core::engine::Monitor;
use scrl_core::engine::atomic;
use scrl_core::models::Level;
use scrl_ops::Group;
use scrl_pretrain::PretrainConfig;
use scrl_pretrain::probe::{Accuracy, KnnConfig, LinearConfig, ProbeOptions, ProbeReport, probe};

use super::Ending;
use crate::cli::{ProbeArgs, ProbeLevel};
use crate::device;

pub fn run(args: ProbeArgs, group: &Group, mut monitor: Monitor) -> Result<Ending> {
    let device = device::parse(&args.device)?;
    let weights = args.run.as_ref().or(args.weights.as_ref()).context("pass a run or --weights")?;
    let out = args.out.clone().or_else(|| args.run.as_ref().map(|run| run.join("probe.json")));
    let options =
        ProbeOptions { precision: device::usable(args.precision, &args.device, false)?, ..options(&args) };
    let Some(report) = probe(weights, &options, &device, group, &mut monitor)? else {
        return Ok(Ending::Interrupted);
    };
    if !group.is_root() {
        return Ok(Ending::Done);
    }
    print(&report);
    if let Some(path) = out {
        atomic::write(&path, (serde_json::to_string_pretty(&report)? + "\n").as_bytes())
            .with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(Ending::Done)
}

fn options(args: &ProbeArgs) -> ProbeOptions {
    let both = !args.knn && !args.linear;
    let knn = KnnConfig { k: args.k, temperature: args.temperature };
    let linear = LinearConfig {
        epochs: args.epochs,
        batch_size: args.batch,
        base_lr: args.lr,
        seed: args.seed,
        ..LinearConfig::default()
    };
    ProbeOptions {
        data: args.data.clone(),
        val: args.val.clone(),
        val_fraction: args.val_fraction,
        size: args.size,
        precision: args.precision,
        level: match args.level {
            Some(ProbeLevel::C4) => Level::C4,
            Some(ProbeLevel::C5) => Level::C5,
            None => args.run.as_deref().and_then(trained_level).unwrap_or(Level::C5),
        },
        knn: (args.knn || both).then_some(knn),
        linear: (args.linear || both).then_some(linear),
    }
}

/// The feature map that a pretraining run compares.
fn trained_level(run: &Path) -> Option<Level> {
    let settings = config::load::<PretrainConfig>(&run.join("config.toml"), &[]).ok()?;
    Some(settings.level())
}

fn print(report: &ProbeReport) {
    println!(
        "{} of width {} ({}): {} classes, {} images, {} held out",
        report.arch,
        report.width,
        report.method,
        report.classes.len(),
        report.train_images,
        report.val_images
    );
    let line = |name: &str, accuracy: Accuracy| {
        let top5 = match report.classes.len() > 5 {
            true => format!(", top-5 {:.2} %", 100.0 * accuracy.top5),
            false => String::new(),
        };
        println!("{name:>8}  top-1 {:.2} %{top5}", 100.0 * accuracy.top1);
    };
    if let Some(knn) = &report.knn {
        line("k-NN", knn.accuracy);
    }
    if let Some(linear) = &report.linear {
        line("linear", linear.accuracy);
    }
}
