//! What runs log in `metrics.jsonl`.

use std::fs;
use std::path::Path;

use crate::error::{Context, Result};
use serde_json::Value;

/// A run's events in order; of lines that a killed attempt left twice, the last counts.
///
/// # Errors
/// When the run has no `metrics.jsonl`.
pub fn read(run: &Path) -> Result<Vec<Value>> {
    let path = run.join("metrics.jsonl");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let mut events: Vec<Value> = Vec::new();
    for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let step = event["step"].as_u64();
        while events.last().is_some_and(|last| last["step"].as_u64() > step) {
            events.pop();
        }
        let same = |other: &Value| other["step"] == event["step"] && other["kind"] == event["kind"];
        events.retain(|other| !same(other));
        events.push(event);
    }
    Ok(events)
}

/// A field of a kind of event by step.
pub fn curve(events: &[Value], kind: &str, field: &str) -> Vec<(f64, f64)> {
    let of_kind = events.iter().filter(|event| event["kind"] == kind);
    of_kind.filter_map(|event| Some((event["step"].as_f64()?, event[field].as_f64()?))).collect()
}

/// The last value of a field of a kind of event.
pub fn last(events: &[Value], kind: &str, field: &str) -> Option<f64> {
    events.iter().rev().find(|event| event["kind"] == kind)?[field].as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_steps_that_were_logged_twice_the_last_attempt_counts() {
        let folder = tempfile::tempdir().unwrap();
        let line = |step: u64, loss: f64| format!("{{\"kind\":\"train\",\"step\":{step},\"loss\":{loss}}}\n");
        let text =
            [line(1, 9.0), line(2, 8.0), line(3, 7.0), line(1, 5.0), line(2, 4.0), "{\"torn".into()].concat();
        fs::write(folder.path().join("metrics.jsonl"), text).unwrap();
        let events = read(folder.path()).unwrap();
        assert_eq!(curve(&events, "train", "loss"), [(1.0, 5.0), (2.0, 4.0)]);
        assert_eq!(last(&events, "train", "loss"), Some(4.0));
        assert_eq!(last(&events, "health", "loss"), None);
    }
}
