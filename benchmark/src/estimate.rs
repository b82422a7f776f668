//! The matrix of a plan with the time and the disk space that it should take: `--dry-run`.
//!
//! Times of cells that are done already in the folder are those cells'; the others come from a few timed steps of the
//! real training on this machine, in a temporary folder. Batches may be cut there, and time then taken in proportion.

mod measure;

/// Adds a line to a text.
macro_rules! say {
    ($text:expr, $($line:tt)*) => { writeln!($text, $($line)*).expect("writing to a string") };
}

use std::fmt::Write as _;
use std::path::Path;

use crate::error::{BenchmarkError, Result};
use scrl_synth as synth;

use super::budget;
use super::graph::{Cell, CellKey, Graph, Sources, SweepResult};
use super::host::Host;
use super::job::Job;
use super::plan::{DataPlan, ResolvedPlan};
use super::record::Done;
use super::run;
use super::words::duration;
use measure::{Measured, Temporary};

/// Bytes of a detection in a results file, and detections of an image at most.
const RESULT_BYTES: f64 = 100.0 * 100.0;

/// Cells that take the same time.
struct Group {
    name: String,
    cells: usize,
    steps: u64,
    /// Seconds and bytes of one cell.
    each: Option<(f64, f64)>,
    source: String,
}

/// The matrix as a text.
///
/// # Errors
/// When the plan's images cannot be counted, or a timed step fails.
pub fn dry_run(
    plan: &ResolvedPlan,
    out: &Path,
    devices: &[String],
    jobs: Option<usize>,
    host: &Host,
) -> Result<String> {
    let mut text = String::new();
    let temporary = Temporary::new()?;
    let sources = reachable(plan, out, &temporary)?;
    let missing = missing(plan, &sources);
    let counts = if missing.is_empty() { run::image_counts(plan, &sources)? } else { Default::default() };
    let arms = if missing.is_empty() { budget::equalise(plan, counts)? } else { plan.arms.clone() };
    let graph = Graph { plan, arms: &arms, sources: &sources, out };
    write_matrix(&mut text, plan, out);
    if !missing.is_empty() {
        say!(text, "\nTime and disk space are unknown: not there: {}.", missing.join(", "));
        return Ok(text);
    }
    let mut groups = Vec::new();
    for cell in graph.cells(&SweepResult::default())? {
        add(&mut groups, &cell, counts.of_job(&cell.job, plan.plan.pretrain_images), out)?;
    }
    let device = (host.device)(&devices[0]).map_err(BenchmarkError::Refused)?;
    let mut measured = Measured::new(&temporary, device, counts, plan.plan.pretrain_images);
    for (group, cell) in &mut groups {
        if group.each.is_none() {
            group.each = measured.cell(&cell.job)?;
            group.source = measured.words.clone();
        }
    }
    let groups: Vec<Group> = groups.into_iter().map(|(group, _)| group).collect();
    write_groups(&mut text, &groups, jobs.unwrap_or(devices.len()));
    if let Some(sweep) = &plan.plan.sweep {
        let pretrained = arms.iter().filter(|arm| arm.recipe().is_some()).count();
        say!(
            text,
            "The sweep comes before that and is not counted: {} pretrainings and {} fine-tunings.",
            pretrained * sweep.base_lr.len(),
            pretrained * sweep.base_lr.len() + arms.len() * plan.transfers.len() * sweep.transfer_lr.len()
        );
    }
    for line in budget::unfairness(&arms, plan.subject(), counts, plan.plan.pretrain_images) {
        say!(text, "Not alike: {line}.");
    }
    Ok(text)
}

/// The plan's images; of scenes that are not written yet, a few that are like them.
fn reachable(plan: &ResolvedPlan, out: &Path, temporary: &Temporary) -> Result<Sources> {
    match &plan.plan.data {
        DataPlan::Synth(settings) if !synth::is_complete(&out.join("data"), settings) => {
            let few = measure::few_scenes(settings);
            synth::overwrite(&few, &temporary.path().join("data"))?;
            run::sources(plan, temporary.path())
        }
        _ => run::sources(plan, out),
    }
}

fn missing(plan: &ResolvedPlan, sources: &Sources) -> Vec<String> {
    let own = plan.transfers.iter().filter_map(|transfer| transfer.data.as_ref());
    let folders = sources.unlabelled.iter().chain(&sources.classes).chain(&sources.detection).chain(own);
    let mut seen = std::collections::BTreeSet::new();
    let folders = folders.filter(|path| seen.insert(path.as_path()));
    folders.filter(|path| !path.is_dir()).map(|path| format!("`{}`", path.display())).collect()
}

fn write_matrix(text: &mut String, plan: &ResolvedPlan, out: &Path) {
    let list = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    say!(text, "plan         {}", plan.path.display());
    say!(text, "folder       {}", out.display());
    say!(text, "inits        {}", plan.plan.inits.join(", "));
    for transfer in &plan.transfers {
        let shares: Vec<_> =
            transfer.fractions.iter().map(|f| super::graph::percent(*f).to_string()).collect();
        say!(text, "fine-tuning  {}: {} % of the labels", transfer.name, shares.join(", "));
    }
    say!(text, "seeds        {} (pretrainings: {})", list(&plan.plan.seeds), list(plan.pretrain_seeds()));
    say!(text, "length       {}", budget::describe(plan.plan.budget));
}

/// Counts a cell, and takes its cost where it is done already.
fn add(groups: &mut Vec<(Group, Cell)>, cell: &Cell, steps: u64, out: &Path) -> Result<()> {
    let name = match &cell.key {
        CellKey::Pretrain { init, .. } => format!("pretrain {init}"),
        CellKey::Transfer { dataset, .. } => format!("fine-tune {dataset}"),
        CellKey::Export { .. } | CellKey::Detector { .. } => "export and validate".into(),
    };
    let done = Done::read(&out.join("cells").join(format!("{}.done.json", cell.id)))?;
    let done = done.filter(|done| done.settings == cell.settings);
    let at = groups.iter().position(|(group, _)| group.name == name).unwrap_or_else(|| {
        groups.push((Group { name, cells: 0, steps, each: None, source: String::new() }, cell.clone()));
        groups.len() - 1
    });
    let group = &mut groups[at].0;
    group.cells += 1;
    if let (Some(done), None) = (done, group.each) {
        group.each = Some((done.cost.total_seconds(), measure::size(&out.join(&cell.id)) as f64));
        group.source = format!("{} is done", cell.id);
    }
    Ok(())
}

fn write_groups(text: &mut String, groups: &[Group], slots: usize) {
    say!(
        text,
        "\n{:<28} {:>5} {:>9} {:>10} {:>10}  from",
        "work",
        "cells",
        "steps",
        "time each",
        "disk each"
    );
    let (mut seconds, mut bytes) = (0.0, 0.0);
    for group in groups {
        let (time, disk) = match group.each {
            Some((s, b)) => {
                seconds += s * group.cells as f64;
                bytes += b * group.cells as f64;
                (duration(s), size_words(b))
            }
            None => ("unknown".into(), "unknown".into()),
        };
        say!(
            text,
            "{:<28} {:>5} {:>9} {time:>10} {disk:>10}  {}",
            group.name,
            group.cells,
            group.steps,
            group.source
        );
    }
    let cells: usize = groups.iter().map(|group| group.cells).sum();
    say!(text, "\n{cells} cells, {} of work, {} on disk.", duration(seconds), size_words(bytes));
    if slots > 1 {
        say!(
            text,
            "{slots} at a time: {} if they do not slow each other down.",
            duration(seconds / slots as f64)
        );
    }
}

fn size_words(bytes: f64) -> String {
    match bytes {
        b if b >= 1e9 => format!("{:.1} GB", b / 1e9),
        b => format!("{:.1} MB", b / 1e6),
    }
}

impl budget::ImageCounts {
    /// Optimiser updates of a job.
    fn of_job(self, job: &Job, images: super::plan::PretrainImages) -> u64 {
        match job {
            Job::Pretrain(job) => {
                budget::Length::of(&job.settings, self.of(job.settings.method, images)).steps
            }
            Job::Transfer(job) => job.settings.iterations,
            Job::Export(_) | Job::Detector(_) => 0,
        }
    }
}
