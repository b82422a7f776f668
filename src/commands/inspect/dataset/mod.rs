//! `scrl inspect dataset`

mod files;
mod masks;
mod pages;
mod report;
mod splits;
mod statistics;

use std::path::Path;

use anyhow::{Context, Result};

use scrl_core::engine::atomic;
use scrl_transfer::visualize::text;

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
    if let Some(legend) = legend(&splits) {
        let path = args.out.join("legend.txt");
        atomic::write(&path, legend.as_bytes())
            .with_context(|| format!("cannot write `{}`", path.display()))?;
        println!("{}", path.display());
    }
    println!("{}", path.display());
    Ok(Ending::Done)
}

/// The numbers that stand for class names on the pages, by split where there are several.
fn legend(splits: &[Split]) -> Option<String> {
    let of_split = |split: &Split| {
        let names = split.categories.iter().map(|class| class.name.as_str());
        text::legend(names).map(|lines| format!("{}:\n{lines}", split.name))
    };
    let legends: Vec<String> = splits.iter().filter_map(of_split).collect();
    (!legends.is_empty()).then(|| legends.concat())
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
