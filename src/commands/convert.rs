//! `scrl convert`

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Result, bail};
use scrl_core::checkpoint::weights::{self, Import, ImportOptions, KeyReport, Layout};
use scrl_transfer::weights::convert_detector;

use super::Ending;
use crate::cli::ConvertArgs;

/// Keys that a row of the table names.
const NAMED_KEYS: usize = 3;

pub fn run(args: ConvertArgs) -> Result<Ending> {
    if args.to.exists() && !args.overwrite {
        bail!("`{}` exists; give another --to, or --overwrite", args.to.display());
    }
    if args.detector {
        return detector(&args);
    }
    let options = ImportOptions { arch: args.arch, prefix: args.prefix.clone(), bgr: args.bgr };
    let import = weights::import(&args.from, &options)?;
    let layout = Layout::from(args.layout);
    print!("{}", describe(&import));
    if args.keys {
        print!("{}", key_pairs(&import.report, layout));
    }
    check(&import, &args)?;
    weights::write_backbone(&args.to, &import.tensors, &import.metadata, layout)?;
    println!(
        "\n{}: {} tensors in {}'s layout, for RGB images in [0, 1] with mean {:?} and std {:?}",
        args.to.display(),
        import.tensors.len(),
        layout.name(),
        import.metadata.mean,
        import.metadata.std
    );
    if import.may_be_bgr() && !args.bgr {
        tracing::warn!(
            "the file has detectron2's keys and no metadata: if it was trained on BGR images (detectron2's default), \
             convert it again with --bgr"
        );
    }
    Ok(Ending::Done)
}

/// A whole detector.
fn detector(args: &ConvertArgs) -> Result<Ending> {
    let layout = Layout::from(args.layout);
    let converted = convert_detector(&args.from, layout, args.bgr)?;
    println!("{}: a detector in {}'s layout\n", args.from.display(), converted.found.name());
    let renamed: Vec<String> = converted.renamed.iter().map(|(source, _)| source.clone()).collect();
    let mut text = String::new();
    row(&mut text, "matched", &renamed, false);
    row(&mut text, "left over", &converted.unused, true);
    row(&mut text, "settings, left out", &converted.left_out, false);
    print!("{text}");
    if args.keys {
        println!();
        converted.renamed.iter().for_each(|(source, key)| println!("{source} -> {key}"));
    }
    if !converted.unused.is_empty() && !args.allow_unused {
        bail!(
            "`{}` has {} tensors that are not a detector's or have no name in {}'s layout; nothing is written; pass --allow-unused \
             to leave them out",
            args.from.display(),
            converted.unused.len(),
            layout.name()
        );
    }
    weights::write_tensors(&args.to, &converted.tensors, &converted.metadata)?;
    println!("\n{}: {} tensors in {}'s layout", args.to.display(), converted.tensors.len(), layout.name());
    if converted.found == Layout::Detectron2 && !args.bgr {
        tracing::warn!(
            "detectron2's detectors expect BGR images in [0, 255] by default: convert it again with --bgr if this one does"
        );
    }
    Ok(Ending::Done)
}

/// Refuses what would be converted in part without having been asked to.
fn check(import: &Import, args: &ConvertArgs) -> Result<()> {
    let report = &import.report;
    let mut fixes = Vec::new();
    if !report.mismatched.is_empty() {
        fixes.push("give weights of a ResNet whose layers have these shapes");
    }
    if !report.missing.is_empty() && !args.allow_missing {
        fixes.push("pass --allow-missing to write the others");
    }
    if !report.unused.is_empty() && !args.allow_unused {
        fixes.push("pass --allow-unused to leave the rest out");
    }
    if fixes.is_empty() {
        return Ok(());
    }
    bail!(
        "`{}` does not fit a {} of width {}: {}; nothing is written; {}",
        import.path.display(),
        import.config.arch,
        import.config.width,
        report.problem(),
        fixes.join("; ")
    )
}

/// What was found, as a table of counts and keys.
fn describe(import: &Import) -> String {
    let (report, config) = (&import.report, import.config);
    let place = match import.prefix.as_str() {
        "" => String::new(),
        prefix => format!(", below `{prefix}`"),
    };
    let mut text = format!(
        "{}: {} of width {}, {} layout{place}\n",
        import.path.display(),
        config.arch,
        config.width,
        import.layout.name()
    );
    if import.has_metadata {
        let metadata = &import.metadata;
        line(
            &mut text,
            format!("method {}, epoch {}, {} px", metadata.method, metadata.epoch, metadata.image_size),
        );
    }
    line(&mut text, format!("\n{:<26} {:>5}  keys", "", "count"));
    let matched: Vec<String> = report.matched.iter().map(|(_, key)| key.clone()).collect();
    let mismatched: Vec<String> = report.mismatched.iter().map(ToString::to_string).collect();
    let local = |keys: &[String]| -> Vec<String> {
        keys.iter().map(|key| key.strip_prefix(import.prefix.as_str()).unwrap_or(key).to_string()).collect()
    };
    let (classifier, counters) = (local(&report.classifier), local(&report.counters));
    for (title, keys, all) in [
        ("matched", &matched, false),
        ("missing", &report.missing, true),
        ("of another shape", &mismatched, true),
        ("left over", &report.unused, true),
        ("classifier, left out", &classifier, false),
        ("batch counters, left out", &counters, false),
    ] {
        row(&mut text, title, keys, all);
    }
    let groups = groups(&report.outside, import.prefix.matches('.').count());
    let row = format!("{:<26} {:>5}  {}", "outside, left out", report.outside.len(), groups.join(", "));
    line(&mut text, row.trim_end().to_string());
    text
}

/// The first `depth` parts of the keys, with the number of keys below each.
fn groups(keys: &[String], depth: usize) -> Vec<String> {
    let mut counts = BTreeMap::new();
    for key in keys {
        let group = key.split('.').take(depth.max(1)).collect::<Vec<_>>().join(".");
        *counts.entry(group).or_insert(0) += 1;
    }
    counts.into_iter().map(|(group, count): (_, usize)| format!("{group} ({count})")).collect()
}

/// A count and the first keys; all of them, one a line, where they are what the user must look at.
fn row(text: &mut String, title: &str, keys: &[String], all: bool) {
    let shown = if all { keys.len() } else { keys.len().min(NAMED_KEYS) };
    let (separator, more) = match (all, keys.len() - shown) {
        (true, _) => (format!("\n{:34}", ""), String::new()),
        (false, 0) => (", ".to_string(), String::new()),
        (false, rest) => (", ".to_string(), format!(", … ({rest} more)")),
    };
    let named = keys[..shown].join(&separator);
    line(text, format!("{title:<26} {:>5}  {named}{more}", keys.len()).trim_end().to_string());
}

/// Every matched key of the file beside the one that is written.
fn key_pairs(report: &KeyReport, layout: Layout) -> String {
    let mut text = "\n".to_string();
    for (source, key) in &report.matched {
        line(&mut text, format!("{source} -> {}", layout.key_for(key).unwrap_or_default()));
    }
    text
}

/// Writing to a string cannot fail.
fn line(text: &mut String, line: String) {
    let _ = writeln!(text, "{line}");
}
