//! The data that a run was started on, so that a resume on other data is noticed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{RunDir, RunError, atomic};
use crate::config::hex;
use crate::packed;

/// File of a run directory that lists its data.
pub(super) const DATA_LIST: &str = "data.tsv";
/// Names of each kind that a difference shows.
const SHOWN: usize = 3;

/// Every image of a run with what must not change about it. `data.tsv` of a run has a line for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataList {
    /// The run's own names of its images, for example `train/dog/1.jpg`, and what is compared of each.
    entries: BTreeMap<String, String>,
}

impl DataList {
    /// Of names, files, and what else must stay, such as a digest of the image's annotations. The size of each file is
    /// added; a file that is not there counts as one of no size.
    pub fn new(images: impl IntoIterator<Item = (String, PathBuf, String)>) -> Self {
        let images: Vec<_> = images.into_iter().collect();
        let entry = |(name, path, facts): (String, PathBuf, String)| {
            let size = packed::size(&path).unwrap_or(0);
            (name.replace(['\t', '\n'], " "), format!("{size} {facts}").trim_end().to_string())
        };
        Self { entries: images.into_par_iter().map(entry).collect() }
    }

    /// SHA-256 of the list, in hexadecimal.
    pub fn hash(&self) -> String {
        hex(&Sha256::digest(self.text()))
    }

    fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for (name, facts) in &self.entries {
            // Writing to memory does not fail.
            let _ = writeln!(text, "{name}\t{facts}");
        }
        text
    }

    /// Writes the list into a run's directory.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, run: &RunDir) -> Result<(), RunError> {
        let path = run.file(DATA_LIST);
        atomic::write(&path, &self.text()).map_err(RunError::io("write", &path))
    }

    /// Refuses a resume on other data than those of the hash in the checkpoint; `None` is a checkpoint of before there
    /// were hashes.
    ///
    /// # Errors
    /// Says what differs.
    pub fn check(&self, hash: Option<&str>, run: &RunDir) -> Result<(), RunError> {
        match hash {
            Some(hash) if hash != self.hash() => {
                let path = run.path().to_path_buf();
                Err(RunError::OtherData { path, difference: self.difference(&run.file(DATA_LIST)) })
            }
            _ => Ok(()),
        }
    }

    /// In words, against the list in a file.
    fn difference(&self, path: &Path) -> String {
        let Ok(text) = std::fs::read_to_string(path) else {
            return format!("its `{DATA_LIST}` is gone, so it cannot be said what");
        };
        let then: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('\t')).collect();
        let now = &self.entries;
        let (mut added, mut changed) = (Vec::new(), Vec::new());
        for (name, facts) in now {
            match then.get(&**name) {
                None => added.push(name.as_str()),
                Some(before) if before != facts => changed.push(name.as_str()),
                Some(_) => {}
            }
        }
        let gone: Vec<&str> = then.keys().copied().filter(|name| !now.contains_key(*name)).collect();
        let kinds = [("added", added), ("gone", gone), ("changed", changed)];
        let parts = kinds.iter().filter(|(_, names)| !names.is_empty()).map(|(kind, names)| {
            let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
            let more = if names.len() > SHOWN { ", …" } else { "" };
            format!("{} {kind} ({}{more})", names.len(), shown.join(", "))
        });
        let parts: Vec<String> = parts.collect();
        format!("of {} images now, {}", now.len(), parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::OpenMode;
    use super::*;

    #[test]
    fn a_resume_on_other_data_is_refused_with_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::open(&folder.path().join("run"), OpenMode::New).unwrap();
        let list = |images: &[(&str, &str)]| {
            let images = images.iter().map(|(name, content)| {
                let path = folder.path().join(name);
                std::fs::write(&path, content).unwrap();
                (name.to_string(), path, "boxes".to_string())
            });
            DataList::new(images)
        };
        let first = list(&[("a", "1"), ("b", "22"), ("c", "3")]);
        first.write(&run).unwrap();
        let hash = first.hash();
        first.check(Some(&hash), &run).unwrap();
        first.check(None, &run).unwrap();
        let other = list(&[("a", "1"), ("b", "2"), ("d", "3")]);
        let error = other.check(Some(&hash), &run).unwrap_err().to_string();
        let expected = "of 3 images now, 1 added (`d`), 1 gone (`c`), 1 changed (`b`)";
        assert!(error.contains(expected), "{error}");
        other.check(None, &run).unwrap();
        std::fs::remove_file(run.file(DATA_LIST)).unwrap();
        assert!(other.check(Some(&hash), &run).unwrap_err().to_string().contains("is gone"));
    }
}
