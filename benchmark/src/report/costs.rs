//! What was exported, and what everything took.

use super::Finished;
use crate::graph::CellKey;
use crate::job::Job;
use crate::statistics::Summary;
use crate::words::duration;
use scrl_figures::document::{Block, Table};

/// The exported files with their proof.
pub fn onnx(finished: &Finished) -> Vec<Block> {
    let mut blocks = backbones(finished);
    if !finished.results.detectors.is_empty() {
        blocks.extend(detectors(finished));
    }
    if !blocks.is_empty() {
        blocks.insert(0, Block::Subheading("ONNX".into()));
    }
    blocks
}

fn detectors(finished: &Finished) -> Vec<Block> {
    let mut table = Table::new(&["file", "inputs compared", "equal detections", "ties"]);
    for detector in &finished.results.detectors {
        table.row([
            format!("[{}]({})", detector.path, detector.path),
            detector.cases.to_string(),
            detector.matched.to_string(),
            detector.ties.to_string(),
        ]);
    }
    let words = "Whole detectors of the first seed with most labels: ONNX Runtime gives the same boxes, classes and scores; a \
                 tie is a detection whose score or overlap lies so close to a threshold that rounding decides.";
    vec![Block::Paragraph(words.into()), Block::Table(table)]
}

fn backbones(finished: &Finished) -> Vec<Block> {
    if finished.results.export.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new(&["file", "outputs compared", "largest error", "allowed"]);
    for export in &finished.results.export {
        table.row([
            format!("[{}]({})", export.path, export.path),
            export.cases.to_string(),
            format!("{:.1e}", export.max_abs_error),
            format!("{:.0e} + {:.0e} · largest value", export.tolerance.absolute, export.tolerance.relative),
        ]);
    }
    vec![
        Block::Paragraph(
            "ONNX Runtime ran each file on random and on real inputs and reproduced the trained backbone's C2 to C5.".into(),
        ),
        Block::Table(table),
    ]
}

/// What each kind of cell took.
pub fn costs(finished: &Finished) -> Vec<Block> {
    let mut kinds: Vec<String> = Vec::new();
    for (cell, _) in finished.done() {
        let kind = group(&cell.key);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let mut table = Table::new(&["work", "cells", "time each", "images/s", "peak GiB", "device", "threads"]);
    let mut total = 0.0;
    for kind in &kinds {
        let costs: Vec<_> = finished
            .done()
            .filter(|(cell, _)| group(&cell.key) == *kind)
            .map(|(_, done)| &done.cost)
            .collect();
        let mean = |values: Vec<f64>| Summary::of(values).map(|summary| summary.mean);
        let seconds: f64 = costs.iter().map(|cost| cost.total_seconds()).sum();
        total += seconds;
        let show =
            |value: Option<f64>, decimals: usize| value.map_or("–".into(), |v| format!("{v:.decimals$}"));
        table.row([
            kind.clone(),
            costs.len().to_string(),
            duration(seconds / costs.len() as f64),
            show(mean(costs.iter().filter_map(|cost| cost.images_per_second).collect()), 1),
            show(mean(costs.iter().filter_map(|cost| cost.peak_gib).collect()), 2),
            costs[0].device.clone(),
            costs[0].threads.to_string(),
        ]);
    }
    vec![
        Block::Paragraph(format!(
            "{} of work in all, cell after cell. Each cell is a process of its own; of one that was interrupted the time \
             follows from its speed. Other work on the machine is not taken off.",
            duration(total)
        )),
        Block::Table(table),
    ]
}

fn group(key: &CellKey) -> String {
    match key {
        CellKey::Transfer { dataset, .. } => format!("fine-tune and evaluate, {dataset}"),
        CellKey::Pretrain { init, .. } => format!("pretrain {init}"),
        CellKey::Export { .. } => "export backbones".into(),
        CellKey::Detector { .. } => "export detectors".into(),
    }
}

/// The recipes that cells ran by, for whoever wants to run one by itself.
pub fn places(finished: &Finished) -> Vec<String> {
    let place = |job: &Job| match job {
        Job::Pretrain(job) => Some(job.run.join("config.toml")),
        Job::Transfer(job) => Some(job.run.join("config.toml")),
        Job::Export(_) | Job::Detector(_) => None,
    };
    finished.done().filter_map(|(cell, _)| Some(place(&cell.job)?.display().to_string())).take(1).collect()
}
