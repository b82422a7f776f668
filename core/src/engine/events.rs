//! A run's figures: one JSON object a line in `metrics.jsonl`, and the same numbers for TensorBoard.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use super::atomic;
use super::error::RunError;
use super::run_dir::RunDir;
use super::tensorboard::EventWriter;

/// Writes figures as they come; each record is on its way to the disk when [`record`](Self::record) returns.
#[derive(Debug)]
pub struct Events(Option<Files>);

#[derive(Debug)]
struct Files {
    path: PathBuf,
    metrics: File,
    tensorboard: EventWriter,
    tensorboard_dir: PathBuf,
}

/// One line of `metrics.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    kind: &'a str,
    step: u64,
    epoch: f64,
    #[serde(flatten)]
    fields: &'a Map<String, Value>,
}

const RESERVED: [&str; 3] = ["kind", "step", "epoch"];

impl Events {
    /// Continues `metrics.jsonl` and starts a new TensorBoard file.
    ///
    /// A resumed run passes the step of its checkpoint as `keep_up_to_step`: later lines, which the run will write
    /// again, are dropped, and TensorBoard is told to forget them. A last line torn by a crash is dropped always.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn open(run: &RunDir, keep_up_to_step: Option<u64>) -> Result<Events, RunError> {
        let path = run.file("metrics.jsonl");
        trim(&path, keep_up_to_step)?;
        let metrics = OpenOptions::new().create(true).append(true).open(&path);
        let metrics = metrics.map_err(RunError::io("open", &path))?;
        let tensorboard_dir = run.path().to_path_buf();
        let tensorboard = start_tensorboard(&tensorboard_dir, keep_up_to_step)
            .map_err(RunError::io("write TensorBoard events in", &tensorboard_dir))?;
        Ok(Events(Some(Files { path, metrics, tensorboard, tensorboard_dir })))
    }

    /// Forgets every record: for a process that leaves the writing to another.
    pub fn nowhere() -> Events {
        Events(None)
    }

    /// Records one event.
    ///
    /// `kind` says what it is about (`train`, `evaluation`), `step` counts optimiser updates and `epoch` passes over the
    /// data. Numeric fields go to TensorBoard as `kind/name`. JSON has no infinities: a value that is not finite is
    /// `null` and TensorBoard does not get it.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn record(
        &mut self,
        kind: &str,
        step: u64,
        epoch: f64,
        fields: Map<String, Value>,
    ) -> Result<(), RunError> {
        if let Some(name) = RESERVED.iter().find(|name| fields.contains_key(**name)) {
            return Err(RunError::ReservedField { name: name.to_string() });
        }
        let Some(files) = &mut self.0 else { return Ok(()) };
        let line = Line { kind, step, epoch, fields: &fields };
        let text =
            serde_json::to_string(&line).map_err(|error| RunError::io("write", &files.path)(error.into()))?;
        // One write a line: a reader sees whole lines, and a crash can tear only the last one.
        files
            .metrics
            .write_all(format!("{text}\n").as_bytes())
            .map_err(RunError::io("write", &files.path))?;
        let scalars: Vec<(String, f64)> = fields
            .iter()
            .filter_map(|(name, value)| Some((format!("{kind}/{name}"), value.as_f64()?)))
            .collect();
        if scalars.is_empty() {
            return Ok(());
        }
        files
            .tensorboard
            .scalars(step, scalars)
            .map_err(RunError::io("write TensorBoard events in", &files.tensorboard_dir))
    }
}

fn start_tensorboard(dir: &Path, keep_up_to_step: Option<u64>) -> std::io::Result<EventWriter> {
    let mut writer = EventWriter::create(dir)?;
    if let Some(step) = keep_up_to_step {
        writer.restart_at(step + 1)?;
    }
    Ok(writer)
}

/// Drops later lines and a torn last one; the file is rewritten only if that changes it.
fn trim(path: &Path, keep_up_to_step: Option<u64>) -> Result<(), RunError> {
    let old = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(RunError::io("read", path)(error)),
    };
    let last = keep_up_to_step.unwrap_or(u64::MAX);
    let keep = |line: &&str| line.ends_with('\n') && step_of(line).is_some_and(|step| step <= last);
    let new: String = old.split_inclusive('\n').filter(keep).collect();
    if new == old { Ok(()) } else { atomic::write(path, new.as_bytes()).map_err(RunError::io("write", path)) }
}

fn step_of(line: &str) -> Option<u64> {
    serde_json::from_str::<Value>(line).ok()?.get("step")?.as_u64()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::run_dir::OpenMode;
    use super::super::tensorboard::{What, tests::read_events};
    use super::*;

    fn fields(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else { panic!("fields are an object") };
        map
    }

    fn lines(run: &RunDir) -> Vec<Value> {
        let text = std::fs::read_to_string(run.file("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn event_files(run: &RunDir) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(run.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = entries
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("events."))
            .collect();
        files.sort();
        files
    }

    fn new_run() -> (tempfile::TempDir, RunDir) {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(&dir.path().join("run"), OpenMode::New).unwrap();
        (dir, run)
    }

    #[test]
    fn a_record_is_one_line_and_its_numbers_reach_tensorboard() {
        let (_dir, run) = new_run();
        let mut events = Events::open(&run, None).unwrap();
        let values = json!({"loss": 0.5, "images": 64, "note": "warm-up", "bad": f64::NAN});
        events.record("train", 7, 0.25, fields(values)).unwrap();
        let text = std::fs::read_to_string(run.file("metrics.jsonl")).unwrap();
        assert!(text.starts_with(r#"{"kind":"train","step":7,"epoch":0.25,"#), "{text}");
        assert_eq!(lines(&run)[0]["loss"], 0.5);
        assert_eq!(lines(&run)[0]["bad"], Value::Null);
        let written = read_events(&event_files(&run)[0]);
        let Some(What::Summary(summary)) = &written[1].what else { panic!("scalars follow the version") };
        let scalars: Vec<_> =
            summary.value.iter().map(|value| (value.tag.as_str(), value.simple_value)).collect();
        assert_eq!(scalars.len(), 2);
        assert!(
            scalars.contains(&("train/loss", Some(0.5))) && scalars.contains(&("train/images", Some(64.0)))
        );
    }

    #[test]
    fn a_resumed_run_forgets_what_came_after_its_checkpoint() {
        let (_dir, run) = new_run();
        let mut events = Events::open(&run, None).unwrap();
        for step in 1..=4 {
            events.record("train", step, 0.0, fields(json!({"loss": step}))).unwrap();
        }
        drop(events);
        let path = run.file("metrics.jsonl");
        let torn = std::fs::read_to_string(&path).unwrap() + "{\"kind\":\"train\",\"st";
        std::fs::write(&path, torn).unwrap();

        let mut events = Events::open(&run, Some(2)).unwrap();
        events.record("train", 3, 0.0, fields(json!({"loss": 30}))).unwrap();
        let seen: Vec<_> =
            lines(&run).iter().map(|line| (line["step"].clone(), line["loss"].clone())).collect();
        assert_eq!(seen, [(json!(1), json!(1)), (json!(2), json!(2)), (json!(3), json!(30))]);
        let files = event_files(&run);
        let restart = &read_events(&files[1])[1];
        assert!(matches!(restart.what, Some(What::SessionLog(_))) && restart.step == 3);
    }

    #[test]
    fn reopening_without_a_step_keeps_every_whole_line() {
        let (_dir, run) = new_run();
        let mut events = Events::open(&run, None).unwrap();
        events.record("train", 9, 0.0, fields(json!({"loss": 1.0}))).unwrap();
        drop(events);
        let path = run.file("metrics.jsonl");
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{{\"kind\"")).unwrap();
        Events::open(&run, None).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
    }

    #[test]
    fn reserved_field_names_are_refused() {
        let (_dir, run) = new_run();
        let mut events = Events::open(&run, None).unwrap();
        let error = events.record("train", 1, 0.0, fields(json!({"step": 2}))).unwrap_err();
        assert_eq!(error.to_string(), "event field `step` is reserved; give it another name");
    }
}
