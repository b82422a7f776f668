//! Configuration files: TOML read into a caller's type, with overrides from the command line and errors that
//! name the file, the line, the dotted key and the nearest known key.
//!
//! The caller's types carry `#[serde(deny_unknown_fields)]`; without it a misspelt key is ignored.

mod changes;
mod explain;
mod setting;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use explain::{Origin, explain, place_in_file};

pub use changes::{Change, ChangedSettings, changes};
pub use setting::{SettingError, at_least_one, not_negative, positive, range, require, share};

/// Why a configuration could not be loaded.
///
/// `place` is `FILE:LINE`, `FILE`, or the override that set the key.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is missing or unreadable.
    #[error("cannot read config `{path}`: {source}; check the path given to --config")]
    Read {
        /// The file asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{place} is not valid TOML: {message}")]
    Syntax {
        /// Where.
        place: String,
        /// What the parser said.
        message: String,
    },
    /// A key that the configuration does not have.
    #[error("unknown key `{key}` in {place}; {hint}")]
    UnknownKey {
        /// Dotted path of the key.
        key: String,
        /// Where.
        place: String,
        /// The nearest known key, or all of them.
        hint: String,
    },
    /// A value outside a fixed choice.
    #[error("`{key}` in {place}: unknown value `{value}`; {hint}")]
    UnknownValue {
        /// Dotted path of the key.
        key: String,
        /// Where.
        place: String,
        /// The value found.
        value: String,
        /// The nearest choice, or all of them.
        hint: String,
    },
    /// A required key is absent.
    #[error("missing key `{key}` in {place}; add it to the file or pass --set {key}=VALUE")]
    MissingKey {
        /// Dotted path of the key.
        key: String,
        /// Where.
        place: String,
    },
    /// A value of another type.
    #[error("`{key}` in {place}: found {found}, expected {expected}")]
    WrongType {
        /// Dotted path of the key.
        key: String,
        /// Where.
        place: String,
        /// Type and value found.
        found: String,
        /// What the key takes.
        expected: String,
    },
    /// Any other refusal by the configuration's type.
    #[error("`{key}` in {place}: {message}")]
    Invalid {
        /// Dotted path of the key.
        key: String,
        /// Where.
        place: String,
        /// What the type said.
        message: String,
    },
    /// An override that is not `key=value`.
    #[error("override `{text}` is malformed: {problem}; write it as --set table.key=value")]
    MalformedOverride {
        /// The override as given.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Reads a TOML file, applies overrides in order and deserialises the result.
///
/// An override is `table.key=value`; the value is read as TOML and, where it is not TOML, as a string, so that
/// `train.lr=0.1`, `model.arch=resnet50` and `data.root=/data/images` all do what they say.
///
/// # Errors
/// When the file cannot be read or is not TOML, an override is malformed, or a key or value does not fit the type.
pub fn load<T: DeserializeOwned>(path: &Path, overrides: &[String]) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
    parse(&text, path, overrides)
}

/// As [`load`], from text that came from `path`.
///
/// # Errors
/// As [`load`].
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path, overrides: &[String]) -> Result<T, ConfigError> {
    let mut table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        place: place_in_file(path, text, error.span()),
        message: error.message().to_string(),
    })?;
    let mut parsed = Vec::with_capacity(overrides.len());
    for text in overrides {
        let setting = Override::parse(text)?;
        setting.apply(table.get_mut())?;
        parsed.push(setting);
    }
    T::deserialize(toml::Deserializer::from(table))
        .map_err(|error| explain(&error, &Origin { path, text, overrides: &parsed }))
}

/// A configuration as TOML, the form in which a run records it.
///
/// # Panics
///
/// When the type has no TOML form (keys that are not strings, integers above `i64::MAX`).
pub fn to_toml<T: Serialize>(config: &T) -> String {
    toml::to_string_pretty(config).expect("a configuration type has a TOML form")
}

/// SHA-256 of a configuration's canonical JSON (keys sorted), in hexadecimal; equal configurations have equal
/// hashes whatever the order of their fields.
///
/// # Panics
///
/// When the type has no JSON form (keys that are not strings).
pub fn hash<T: Serialize>(config: &T) -> String {
    let mut value = serde_json::to_value(config).expect("a configuration type has a JSON form");
    value.sort_all_objects();
    hex(&Sha256::digest(value.to_string().as_bytes()))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One `table.key=value`.
struct Override<'a> {
    text: &'a str,
    path: Vec<&'a str>,
    value: &'a str,
}

impl<'a> Override<'a> {
    fn parse(text: &'a str) -> Result<Self, ConfigError> {
        let malformed =
            |problem: &str| ConfigError::MalformedOverride { text: text.into(), problem: problem.into() };
        let (key, value) = text.split_once('=').ok_or_else(|| malformed("it has no `=`"))?;
        let path: Vec<&str> = key.split('.').map(str::trim).collect();
        if path.iter().any(|part| part.is_empty()) {
            return Err(malformed("a part of its key is empty"));
        }
        Ok(Self { text, path, value: value.trim() })
    }

    fn apply(&self, root: &mut DeTable<'a>) -> Result<(), ConfigError> {
        let Some((last, parents)) = self.path.split_last() else { return Ok(()) };
        let mut table = root;
        for (depth, part) in parents.iter().enumerate() {
            let entry = entry(table, part);
            match entry.get_mut() {
                DeValue::Table(inner) => table = inner,
                other => {
                    let key = self.path[..=depth].join(".");
                    let problem = format!("`{key}` holds a value ({}), not a table", other.type_str());
                    return Err(ConfigError::MalformedOverride { text: self.text.into(), problem });
                }
            }
        }
        *entry(table, last).get_mut() = self.toml_value();
        Ok(())
    }

    fn toml_value(&self) -> DeValue<'a> {
        match DeValue::parse(self.value) {
            Ok(value) => value.into_inner(),
            Err(_) => DeValue::String(Cow::Borrowed(self.value)),
        }
    }

    /// Whether the override set the key at `path`, something inside it, or a table around it.
    fn touches(&self, path: &[&str]) -> bool {
        self.path.iter().zip(path).all(|(a, b)| a == b)
    }
}

/// The value at a key, an empty table if it was absent.
fn entry<'t, 'a>(table: &'t mut DeTable<'a>, key: &'a str) -> &'t mut Spanned<DeValue<'a>> {
    table
        .entry(Spanned::new(0..0, Cow::Borrowed(key)))
        .or_insert_with(|| Spanned::new(0..0, DeValue::Table(DeTable::new())))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Config {
        name: String,
        seed: u64,
        train: Train,
        data: Vec<Data>,
        model: Option<Model>,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Train {
        batch_size: usize,
        lr: f64,
        kind: Kind,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        #[default]
        Sgd,
        Lars,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Data {
        root: String,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Model {
        arch: String,
    }

    fn read(text: &str, overrides: &[&str]) -> Result<Config, ConfigError> {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        parse(text, Path::new("configs/x.toml"), &overrides)
    }

    fn message(text: &str, overrides: &[&str]) -> String {
        read(text, overrides).expect_err("this configuration is wrong").to_string()
    }

    const GOOD: &str = "name = \"a\"\nseed = 3\n\n[train]\nbatch_size = 8\nlr = 1\n";

    #[test]
    fn a_file_and_its_overrides_make_one_configuration() {
        let config = read(GOOD, &["train.lr=0.5", "name=/data/images", "model.arch=resnet50"]).unwrap();
        assert_eq!(config.train, Train { batch_size: 8, lr: 0.5, kind: Kind::Sgd });
        assert_eq!(config.name, "/data/images");
        assert_eq!(config.model, Some(Model { arch: "resnet50".into() }));
        let config = read(GOOD, &["data=[{root = \"x\"}]", "seed = 9"]).unwrap();
        assert_eq!((config.data, config.seed), (vec![Data { root: "x".into() }], 9));
    }

    #[test]
    fn an_unknown_key_names_file_line_path_and_nearest_key() {
        assert_eq!(
            message("seed = 1\n[train]\nbatchsize = 3\n", &[]),
            "unknown key `train.batchsize` in configs/x.toml:3; did you mean `train.batch_size`?"
        );
        assert_eq!(message("sede = 1", &[]), "unknown key `sede` in configs/x.toml:1; did you mean `seed`?");
        assert_eq!(
            message("[train]\nzzzz = 1", &[]),
            "unknown key `train.zzzz` in configs/x.toml:2; known keys: train.batch_size, train.lr, train.kind"
        );
        assert_eq!(
            message("[[data]]\nroot = \"a\"\n[[data]]\nroots = \"b\"\n", &[]),
            "unknown key `data.roots` in configs/x.toml:4; did you mean `data.root`?"
        );
    }

    #[test]
    fn an_unknown_key_of_an_override_names_the_override() {
        assert_eq!(
            message(GOOD, &["seed=1", "train.batchsize=3"]),
            "unknown key `train.batchsize` in override `train.batchsize=3`; did you mean `train.batch_size`?"
        );
        assert_eq!(
            message(GOOD, &["trian.lr=3"]),
            "unknown key `trian` in override `trian.lr=3`; did you mean `train`?"
        );
    }

    #[test]
    fn a_type_error_names_key_value_and_expected_type() {
        assert_eq!(
            message("[train]\n\nbatch_size = \"many\"\n", &[]),
            "`train.batch_size` in configs/x.toml:3: found string \"many\", expected usize"
        );
        assert_eq!(
            message(GOOD, &["train.lr=fast"]),
            "`train.lr` in override `train.lr=fast`: found string \"fast\", expected f64"
        );
        assert_eq!(
            message("[train]\nbatch_size = -3\n", &["train.lr=1"]),
            "`train.batch_size` in configs/x.toml:2: found integer `-3`, expected usize"
        );
        assert_eq!(
            message("[train]\nkind = \"lers\"\n", &[]),
            "`train.kind` in configs/x.toml:2: unknown value `lers`; did you mean `lars`?"
        );
    }

    #[test]
    fn a_missing_key_and_broken_toml_are_named() {
        assert_eq!(
            message("[model]\n", &[]),
            "missing key `model.arch` in configs/x.toml; add it to the file or pass --set model.arch=VALUE"
        );
        let broken = message("seed = 1\nname = \n", &[]);
        assert!(broken.starts_with("configs/x.toml:2 is not valid TOML: "), "{broken}");
    }

    #[test]
    fn malformed_overrides_are_refused() {
        assert!(message(GOOD, &["seed"]).contains("it has no `=`"));
        assert!(message(GOOD, &["train..lr=1"]).contains("a part of its key is empty"));
        assert!(message(GOOD, &["seed.x=1"]).contains("`seed` holds a value (integer), not a table"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load::<Config>(Path::new("no/such.toml"), &[]).unwrap_err().to_string();
        assert!(error.starts_with("cannot read config `no/such.toml`: "), "{error}");
    }

    #[test]
    fn toml_round_trips_and_hashes_follow_the_values() {
        let config = read(GOOD, &[]).unwrap();
        assert_eq!(read(&to_toml(&config), &[]).unwrap(), config);
        assert_eq!(hash(&config), hash(&read(GOOD, &[]).unwrap()));
        assert_ne!(hash(&config), hash(&read(GOOD, &["seed=4"]).unwrap()));
        assert_eq!(hash(&config).len(), 64);
    }

    #[test]
    fn the_hash_does_not_depend_on_the_order_of_fields() {
        #[derive(Serialize)]
        struct Ab {
            a: u8,
            b: u8,
        }
        #[derive(Serialize)]
        struct Ba {
            b: u8,
            a: u8,
        }
        assert_eq!(hash(&Ab { a: 1, b: 2 }), hash(&Ba { b: 2, a: 1 }));
    }
}
