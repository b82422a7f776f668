//! What differs between two configurations.

use std::fmt;

use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

/// A setting that two configurations give different values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Dotted path of the setting.
    pub key: String,
    /// The first configuration's value, as JSON; `not set` where it has none.
    pub then: String,
    /// The second's.
    pub now: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` was {} and is {}", self.key, self.then, self.now)
    }
}

/// The settings in which two configurations differ, in alphabetical order of tables.
///
/// # Panics
/// When the type has no JSON form (keys that are not strings).
pub fn changes<T: Serialize>(then: &T, now: &T) -> Vec<Change> {
    let json = |config: &T| serde_json::to_value(config).expect("a configuration type has a JSON form");
    let mut found = Vec::new();
    compare(String::new(), &json(then), &json(now), &mut found);
    found
}

fn compare(key: String, then: &Value, now: &Value, found: &mut Vec<Change>) {
    if then == now {
        return;
    }
    let (Value::Object(first), Value::Object(second)) = (then, now) else {
        let text = |value: &Value| if value.is_null() { "not set".to_string() } else { value.to_string() };
        found.push(Change { key, then: text(then), now: text(now) });
        return;
    };
    let keys: std::collections::BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    for name in keys {
        let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        let of = |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or_default();
        compare(path, &of(first), &of(second), found);
    }
}

/// A run that cannot go on with other settings than it was started with.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the run was started with other settings: {}; {advice}", listed(changes))]
pub struct ChangedSettings {
    /// What differs.
    pub changes: Vec<Change>,
    /// What to do.
    pub advice: String,
}

fn listed(changes: &[Change]) -> String {
    let lines: Vec<String> = changes.iter().map(Change::to_string).collect();
    lines.join(", ")
}

impl ChangedSettings {
    /// The error of a resume whose settings are not those of the run; those that are in `prolonging` may differ when a run
    /// is prolonged.
    pub fn on_resume(changes: Vec<Change>, prolonging: &[&str]) -> Self {
        let prolongs = changes.iter().all(|change| prolonging.contains(&&*change.key));
        let advice = match prolongs && !changes.is_empty() {
            true => "add --prolong to go on under the longer schedule, or resume with the run's config.toml",
            false => "resume with the run's config.toml, or start a new run",
        };
        Self { changes, advice: advice.into() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_are_named_by_their_path_with_both_values() {
        let then = json!({"batch": 2, "solver": {"lr": 0.1, "gamma": 0.5}, "seed": 0});
        let now = json!({"batch": 4, "solver": {"lr": 0.1, "gamma": 0.5, "steps": [1]}, "seed": 0});
        let found = changes(&then, &now);
        let text: Vec<String> = found.iter().map(Change::to_string).collect();
        assert_eq!(text, ["`batch` was 2 and is 4", "`solver.steps` was not set and is [1]"]);
        assert_eq!(changes(&then, &then), []);
        let error = ChangedSettings::on_resume(found.clone(), &["batch"]);
        assert!(!error.to_string().contains("--prolong"), "{error}");
        let error = ChangedSettings::on_resume(found[..1].to_vec(), &["batch"]);
        assert!(error.to_string().contains("add --prolong"), "{error}");
    }
}
