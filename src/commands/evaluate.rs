//! `scrl evaluate`

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use scrl_core::config;
use scrl_core::engine::Monitor;
use scrl_transfer::data::voc;
use scrl_transfer::evaluate::{EvaluateOptions, evaluate_weights};
use scrl_transfer::evaluation::{evaluate_files, evaluate_voc_files, write_results, write_voc_files};
use scrl_transfer::{DataSource, TransferConfig};
use serde_json::Value;

use super::{Ending, print_metrics};
use crate::cli::EvaluateArgs;
use crate::device;

pub fn run(args: EvaluateArgs, monitor: Monitor) -> Result<Ending> {
    match (&args.run, &args.ground_truth, &args.detections) {
        (Some(run), ..) => evaluate_run(run, &args, monitor),
        (None, Some(ground_truth), Some(detections)) => {
            let metrics = judge(ground_truth, args.split.as_deref(), detections)?;
            let text = serde_json::to_string_pretty(&metrics)?;
            println!("{text}");
            write(args.out.as_deref(), &text)?;
            Ok(Ending::Done)
        }
        _ => unreachable!("clap demands --run or both files"),
    }
}

/// The figures of the official tools: COCO's for files, VOC's for a folder.
fn judge(ground_truth: &Path, split: Option<&str>, detections: &Path) -> Result<Value> {
    match (ground_truth.is_dir(), split) {
        (true, Some(split)) => Ok(evaluate_voc_files(ground_truth, split, detections)?.by_name()),
        (true, None) => {
            let splits = voc::split_names(ground_truth)?.join(", ");
            bail!("`{}` is a VOC folder; say which split with --split: {splits}", ground_truth.display())
        }
        (false, Some(_)) => {
            bail!("--split is for VOC folders, and `{}` is a file", ground_truth.display())
        }
        (false, None) => Ok(evaluate_files(ground_truth, detections)?.official()),
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
    if let Some(path) = &args.detections_out {
        match &source {
            DataSource::Voc { split, .. } => write_voc_files(path, split, &dataset, &evaluation.detections)?,
            _ => write_results(path, &dataset, &evaluation.detections)?,
        }
    }
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
