//! `scrl evaluate`

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use scrl_core::config;
use scrl_core::engine::Monitor;
use scrl_transfer::evaluate::{EvaluateOptions, evaluate_weights};
use scrl_transfer::evaluation::coco::evaluate_files;
use scrl_transfer::{DataSource, TransferConfig};

use super::{Ending, print_metrics};
use crate::cli::EvaluateArgs;
use crate::device;

pub fn run(args: EvaluateArgs, monitor: Monitor) -> Result<Ending> {
    match (&args.run, &args.ground_truth, &args.detections) {
        (Some(run), ..) => evaluate_run(run, &args, monitor),
        (None, Some(ground_truth), Some(detections)) => {
            let metrics = evaluate_files(ground_truth, detections)?;
            let text = serde_json::to_string_pretty(&metrics)?;
            println!("{text}");
            write(args.out.as_deref(), &text)?;
            Ok(Ending::Done)
        }
        _ => unreachable!("clap demands --run or both files"),
    }
}

fn evaluate_run(run: &Path, args: &EvaluateArgs, mut monitor: Monitor) -> Result<Ending> {
    let device = device::parse(&args.device)?;
    let source = match &args.data {
        Some(folder) => {
            let [_, val] = DataSource::detect(folder, [None, None])?;
            val
        }
        None => {
            let settings = config::load::<TransferConfig>(&run.join("config.toml"), &[])?;
            settings.data.val.context("the run's config.toml names no validation data; pass --data")?
        }
    };
    let dataset = Arc::new(source.load()?);
    let options = EvaluateOptions::default();
    let Some(evaluation) = evaluate_weights(run, &dataset, options, &device, &mut monitor)? else {
        return Ok(Ending::Interrupted);
    };
    print_metrics(&evaluation.metrics);
    write(args.out.as_deref(), &serde_json::to_string_pretty(&evaluation.metrics)?)?;
    Ok(Ending::Done)
}

fn write(out: Option<&Path>, text: &str) -> Result<()> {
    match out {
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
        }
        None => Ok(()),
    }
}
