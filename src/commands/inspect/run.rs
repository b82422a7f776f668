//! `scrl inspect run`

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use scrl_transfer::train::PRECISION_RECALL_FILE;
use serde_json::Value;

use crate::cli::InspectRunArgs;
use crate::commands::Ending;
use scrl_figures::run::{self, Curve, draw};

/// Fields of an event that place it and are not curves themselves.
const PLACES: [&str; 2] = ["step", "epoch"];

/// A run by the name of its folder, with what it logged.
struct Run {
    name: String,
    events: Vec<Value>,
}

pub fn run(args: &InspectRunArgs) -> Result<Ending> {
    let runs = args.runs.iter().map(|path| Run::read(path)).collect::<Result<Vec<_>>>()?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create `{}`", args.out.display()))?;
    let mut drawn = 0;
    for (kind, field) in fields(&runs) {
        let curves: Vec<Curve> = runs.iter().filter_map(|run| run.curve(&kind, &field)).collect();
        if curves.is_empty() {
            continue;
        }
        let title = format!("{kind}: {field}");
        let file = args.out.join(format!("{kind}-{field}.svg").replace(['/', ' '], "-"));
        draw(&file, &title, "step", &field, &curves)?;
        for Curve { name, points } in &curves {
            let ((first, start), (last, end)) = (points[0], points[points.len() - 1]);
            println!("{title} of {name}: {start:.4} at step {first} to {end:.4} at step {last}");
        }
        drawn += 1;
    }
    for path in args.runs.iter().filter(|path| path.join(PRECISION_RECALL_FILE).is_file()) {
        let folder = args.out.join(name_of(path));
        for file in run::write(path, &folder)? {
            println!("{}", file.display());
        }
    }
    ensure!(drawn > 0, "no value was logged more than once; there is nothing to draw yet");
    println!("{}: {drawn} curves", args.out.display());
    Ok(Ending::Done)
}

/// The name of a run's folder.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

impl Run {
    fn read(path: &Path) -> Result<Self> {
        let file = path.join("metrics.jsonl");
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read `{}`; pass the folder of a run", file.display()))?;
        // A line that is being written is not JSON yet.
        let events = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Self { name: name_of(path), events })
    }

    /// The field by step; `None` with fewer than two points.
    fn curve(&self, kind: &str, field: &str) -> Option<Curve> {
        let of_kind = self.events.iter().filter(|event| event["kind"] == kind);
        let points: Vec<(f64, f64)> =
            of_kind.filter_map(|event| Some((event["step"].as_f64()?, event[field].as_f64()?))).collect();
        (points.len() > 1).then(|| Curve { name: self.name.clone(), points })
    }
}

/// Kinds of events and their numbers, in alphabetical order.
fn fields(runs: &[Run]) -> BTreeSet<(String, String)> {
    let events = runs.iter().flat_map(|run| &run.events);
    let pairs = events.filter_map(|event| Some((event["kind"].as_str()?, event.as_object()?)));
    pairs
        .flat_map(|(kind, event)| {
            let numbers =
                event.iter().filter(|(key, value)| value.is_number() && !PLACES.contains(&key.as_str()));
            numbers.map(move |(key, _)| (kind.to_string(), key.clone()))
        })
        .collect()
}
