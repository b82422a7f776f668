//! `scrl inspect dataset`

mod files;
mod pages;
mod report;
mod splits;
mod statistics;

use std::path::Path;

use anyhow::{Context, Result};

use scrl_core::engine::atomic;

use crate::cli::InspectDatasetArgs;
use crate::commands::Ending;

use files::FileFacts;
use report::{DatasetReport, SplitReport};
use splits::Split;

pub fn run(args: &InspectDatasetArgs) -> Result<Ending> {
    let (format, splits) = splits::find(&args.data, &args.splits)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make `{}`", args.out.display()))?;
    let mut facts: Vec<Vec<FileFacts>> = Vec::new();
    let mut reports = Vec::new();
    for split in &splits {
        tracing::info!(split = split.name, images = split.images.len(), "decoding");
        let found = files::examine(split);
        reports.push(SplitReport::new(split, &found));
        facts.push(found);
    }
    let duplicates = files::duplicates(&splits, &facts);
    let report = DatasetReport::new(&args.data, format, reports, duplicates);
    let path = args.out.join("report.json");
    atomic::write(&path, serde_json::to_string_pretty(&report)?.as_bytes())
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    report.print();
    for (split, facts) in splits.iter().zip(&facts) {
        draw(split, facts, args)?;
    }
    println!("{}", path.display());
    Ok(Ending::Done)
}

fn draw(split: &Split, facts: &[FileFacts], args: &InspectDatasetArgs) -> Result<()> {
    for (number, page) in (1..).zip(pages::draw(split, facts, args.images, args.seed)?) {
        let path = args.out.join(format!("{}_{number}.png", file_name(&split.name)));
        page.save(&path).with_context(|| format!("cannot write `{}`", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// A split's name where it may stand in a file name.
fn file_name(split: &str) -> String {
    split.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

/// A path below `root`, as reports name it.
fn shown(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}
