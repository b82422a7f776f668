//! From serde's messages to errors that say where and how to mend.

use std::ops::Range;
use std::path::Path;

use super::{ConfigError, Override};

/// What a configuration was made from.
pub(super) struct Origin<'a> {
    pub path: &'a Path,
    pub text: &'a str,
    pub overrides: &'a [Override<'a>],
}

impl Origin<'_> {
    /// Where the key at `path` was set.
    fn place(&self, path: &[&str], span: Option<Range<usize>>) -> String {
        // Spans of overridden values point into the override, not into the file.
        match self.overrides.iter().rev().find(|setting| setting.touches(path)) {
            Some(setting) if self.owns(setting, path) => format!("override `{}`", setting.text),
            _ => place_in_file(self.path, self.text, span.filter(|span| span.end > 0)),
        }
    }

    /// An override owns what it set and, above that, tables that the file does not have.
    fn owns(&self, setting: &Override<'_>, path: &[&str]) -> bool {
        setting.path.len() <= path.len() || !file_has(self.text, path)
    }
}

fn file_has(text: &str, path: &[&str]) -> bool {
    let Ok(table) = text.parse::<toml::Table>() else { return false };
    let Some((first, rest)) = path.split_first() else { return true };
    let start = table.get(*first);
    rest.iter().fold(start, |value, part| value.and_then(|value| value.get(part))).is_some()
}

/// `FILE:LINE`, or `FILE` without a span.
pub(super) fn place_in_file(path: &Path, text: &str, span: Option<Range<usize>>) -> String {
    match span {
        Some(span) => {
            let end = span.start.min(text.len());
            let line = 1 + text.as_bytes()[..end].iter().filter(|&&byte| byte == b'\n').count();
            format!("{}:{line}", path.display())
        }
        None => path.display().to_string(),
    }
}

/// Turns serde's message into an error that says where and how to mend it.
pub(super) fn explain(error: &toml::de::Error, origin: &Origin<'_>) -> ConfigError {
    let message = error.message();
    let shown = error.to_string();
    let parent = shown.lines().rev().find_map(|line| line.strip_prefix("in `")?.strip_suffix('`'));
    let parents: Vec<&str> = parent.map(|path| path.split('.').collect()).unwrap_or_default();
    let quoted = quoted(message);
    let full = |last: &str| parents.iter().copied().chain([last]).collect::<Vec<_>>().join(".");
    let name = |known: &str| if parents.is_empty() { known.to_string() } else { full(known) };

    if message.starts_with("unknown field")
        && let Some((field, known)) = quoted.split_first()
    {
        let path: Vec<&str> = parents.iter().copied().chain([*field]).collect();
        let known: Vec<String> = known.iter().map(|known| name(known)).collect();
        return ConfigError::UnknownKey {
            key: full(field),
            place: origin.place(&path, error.span()),
            hint: hint(&full(field), &known, "known keys"),
        };
    }
    if message.starts_with("missing field")
        && let Some(field) = quoted.first()
    {
        return ConfigError::MissingKey { key: full(field), place: origin.path.display().to_string() };
    }
    let key = if parents.is_empty() { "(the whole file)".to_string() } else { parents.join(".") };
    let place = origin.place(&parents, error.span());
    if message.starts_with("unknown variant")
        && let Some((value, known)) = quoted.split_first()
    {
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        return ConfigError::UnknownValue {
            key,
            place,
            value: value.to_string(),
            hint: hint(value, &known, "known values"),
        };
    }
    let typed = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    match typed.and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((found, expected)) => {
            ConfigError::WrongType { key, place, found: found.into(), expected: expected.into() }
        }
        None => ConfigError::Invalid { key, place, message: message.to_string() },
    }
}

/// The parts of a serde message between backticks.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

fn hint(found: &str, known: &[String], title: &str) -> String {
    let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_string();
    let plain = |text: &str| last(text).replace(['_', '-'], "").to_lowercase();
    let score = |known: &String| strsim::normalized_damerau_levenshtein(&plain(found), &plain(known));
    let nearest = known.iter().max_by(|a, b| score(a).total_cmp(&score(b)));
    match nearest {
        Some(nearest) if score(nearest) >= 0.6 => format!("did you mean `{nearest}`?"),
        Some(_) => format!("{title}: {}", known.join(", ")),
        None => "it takes no keys".to_string(),
    }
}
