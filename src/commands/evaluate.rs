//! `scrl evaluate`

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use scrl_core::config;
use scrl_core::engine::Monitor;
use scrl_core::engine::atomic;
use scrl_ops::Group;
use scrl_transfer::data::voc;
use scrl_transfer::evaluation::{
    evaluate_detections, evaluate_files, evaluate_voc_files, write_results, write_voc_files,
};
use scrl_transfer::inference::{EvaluateOptions, detect_with, match_classes};
use scrl_transfer::{DataSource, TransferConfig};
use serde_json::Value;

use super::{Ending, detector, print_metrics};
use crate::cli::EvaluateArgs;

pub fn run(args: EvaluateArgs, group: &Group, monitor: Monitor) -> Result<Ending> {
    let (Some(ground_truth), Some(detections)) = (&args.ground_truth, &args.detections) else {
        return evaluate_detector(&args, group, monitor);
    };
    let text = serde_json::to_string_pretty(&judge(ground_truth, args.split.as_deref(), detections)?)?;
    println!("{text}");
    write(args.out.as_deref(), &text)?;
    Ok(Ending::Done)
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

fn evaluate_detector(args: &EvaluateArgs, group: &Group, mut monitor: Monitor) -> Result<Ending> {
    let detector = detector::open(&args.detector, &args.device, args.precision)?;
    let source = data_source(args)?;
    let dataset = Arc::new(match_classes(detector.categories(), source.load(detector.labels())?)?);
    let options = EvaluateOptions { batch_size: args.batch, ..Default::default() };
    let detect = |samples| detector.detect(samples);
    let found = detect_with(detect, &dataset, detector.preprocessing(), options, group, &mut monitor)?;
    let Some(detections) = found else { return Ok(Ending::Interrupted) };
    if !group.is_root() {
        return Ok(Ending::Done);
    }
    let metrics = evaluate_detections(&dataset, &detections)?;
    if let Some(path) = &args.detections_out {
        match &source {
            DataSource::Voc { split, .. } => write_voc_files(path, split, &dataset, &detections)?,
            _ => write_results(path, &dataset, &detections)?,
        }
    }
    print_metrics(&metrics);
    write(args.out.as_deref(), &serde_json::to_string_pretty(&metrics)?)?;
    Ok(Ending::Done)
}

/// The data that are asked for, else the run's own.
fn data_source(args: &EvaluateArgs) -> Result<DataSource> {
    if let Some(folder) = &args.data {
        let [_, val] = DataSource::detect(folder, [None, None])?;
        return Ok(val);
    }
    let run = args.detector.run.as_ref().context("pass --data")?;
    let settings = config::load::<TransferConfig>(&run.join("config.toml"), &[])?;
    settings.data.val.context("the run's config.toml names no validation data; pass --data")
}

fn write(out: Option<&Path>, text: &str) -> Result<()> {
    match out {
        Some(path) => {
            atomic::write(path, text.as_bytes()).with_context(|| format!("cannot write `{}`", path.display()))
        }
        None => Ok(()),
    }
}
