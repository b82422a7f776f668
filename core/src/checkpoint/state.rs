//! A run's state as a directory that is complete or absent, whenever the process is killed.
//!
//! ```text
//! last/manifest.json       names, sizes and sha256 of the others; written last
//! last/state.json          the caller's state: step, epoch, cursor, configuration hash
//! last/NAME.safetensors    tensors by path
//! ```
//!
//! [`save`] fills `last.tmp-PID`, syncs it, moves `last` to `last.old`, the new one to `last`, and removes
//! `last.old`. At every moment `last` or `last.old` is complete, once there has been a first checkpoint; [`load`]
//! takes the one that is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::CheckpointError;
use super::safetensors;
use crate::config::hex;
use crate::engine::atomic::{parent, sibling, sync_directory, write_synced};
use crate::models::parameters::TensorMap;

const MANIFEST: &str = "manifest.json";
const STATE: &str = "state.json";
const TENSORS: &str = ".safetensors";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    files: Vec<ManifestFile>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestFile {
    name: String,
    size: u64,
    sha256: String,
}

/// Writes a checkpoint, replacing the one at `dir`.
///
/// Each entry of `tensors` becomes a file of that name; `state` is stored as JSON.
///
/// # Errors
/// When a file cannot be written; the checkpoint that was there stays.
pub fn save<S: Serialize>(
    dir: &Path,
    tensors: &[(&str, TensorMap)],
    state: &S,
) -> Result<(), CheckpointError> {
    let folder = parent(dir);
    std::fs::create_dir_all(folder).map_err(CheckpointError::write(folder))?;
    remove_leftovers(dir)?;
    let temporary = sibling(dir, &format!("tmp-{}", std::process::id()));
    let result = fill(&temporary, tensors, state).and_then(|()| swap(&temporary, dir));
    if result.is_err() {
        // A failed write (a full disk as a rule) must not keep the space; its own error is what counts.
        let _ = std::fs::remove_dir_all(&temporary);
    }
    result
}

/// Reads the checkpoint at `dir`, or the one before it where a crash left only that one complete.
///
/// Returns the tensors by file name (without extension) and the state. Sizes and sha256 are verified.
///
/// # Errors
/// When there is no checkpoint, or a file of it is missing, damaged or of another version.
pub fn load<S: DeserializeOwned>(dir: &Path) -> Result<(BTreeMap<String, TensorMap>, S), CheckpointError> {
    let (found, manifest) = find(dir)?;
    let mut tensors = BTreeMap::new();
    let mut state = None;
    for file in &manifest.files {
        let path = found.join(&file.name);
        let bytes = std::fs::read(&path).map_err(CheckpointError::read(&path))?;
        if hex(&Sha256::digest(&bytes)) != file.sha256 {
            return Err(CheckpointError::Damaged { path });
        }
        if let Some(stem) = file.name.strip_suffix(TENSORS) {
            tensors.insert(stem.to_string(), safetensors::decode(&bytes, &path)?.0);
        } else if file.name == STATE {
            let value =
                serde_json::from_slice(&bytes).map_err(|error| CheckpointError::format(&path, error))?;
            state = Some(value);
        }
    }
    let problem =
        || CheckpointError::Incomplete { path: found.clone(), problem: format!("it has no {STATE}") };
    Ok((tensors, state.ok_or_else(problem)?))
}

/// Whether [`load`] would find a complete checkpoint (its checksums are not verified here).
pub fn exists(dir: &Path) -> bool {
    find(dir).is_ok()
}

fn fill<S: Serialize>(dir: &Path, tensors: &[(&str, TensorMap)], state: &S) -> Result<(), CheckpointError> {
    std::fs::create_dir(dir).map_err(CheckpointError::write(dir))?;
    let mut files = Vec::with_capacity(tensors.len() + 1);
    for (stem, map) in tensors {
        let bytes = safetensors::encode(map, &BTreeMap::new());
        files.push(put(dir, &format!("{stem}{TENSORS}"), &bytes)?);
    }
    files.push(put(dir, STATE, &json(dir, state)?)?);
    put(dir, MANIFEST, &json(dir, &Manifest { version: 1, files })?)?;
    sync_directory(dir).map_err(CheckpointError::write(dir))
}

fn json<T: Serialize>(dir: &Path, value: &T) -> Result<Vec<u8>, CheckpointError> {
    serde_json::to_vec_pretty(value).map_err(|error| CheckpointError::write(dir)(error.into()))
}

fn put(dir: &Path, name: &str, bytes: &[u8]) -> Result<ManifestFile, CheckpointError> {
    let path = dir.join(name);
    write_synced(&path, bytes).map_err(CheckpointError::write(&path))?;
    Ok(ManifestFile { name: name.into(), size: bytes.len() as u64, sha256: hex(&Sha256::digest(bytes)) })
}

/// Puts the complete `temporary` in the place of `dir`.
fn swap(temporary: &Path, dir: &Path) -> Result<(), CheckpointError> {
    let old = old(dir);
    if dir.exists() {
        if complete(dir).is_ok() {
            remove(&old)?;
            std::fs::rename(dir, &old).map_err(CheckpointError::write(dir))?;
        } else {
            // `old`, if there is one, is what protects the run until the rename below.
            remove(dir)?;
        }
    }
    std::fs::rename(temporary, dir).map_err(CheckpointError::write(dir))?;
    sync_directory(parent(dir)).map_err(CheckpointError::write(dir))?;
    remove(&old)
}

fn old(dir: &Path) -> PathBuf {
    sibling(dir, "old")
}

fn remove(dir: &Path) -> Result<(), CheckpointError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(CheckpointError::write(dir)(error)),
        _ => Ok(()),
    }
}

/// Removes what killed processes left half written.
fn remove_leftovers(dir: &Path) -> Result<(), CheckpointError> {
    let folder = parent(dir);
    let prefix = sibling(dir, "tmp-");
    for entry in std::fs::read_dir(folder).map_err(CheckpointError::read(folder))? {
        let path = entry.map_err(CheckpointError::read(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(&*prefix.file_name().unwrap_or_default().to_string_lossy()) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// The complete checkpoint of `dir` and its manifest.
fn find(dir: &Path) -> Result<(PathBuf, Manifest), CheckpointError> {
    let error = match complete(dir) {
        Ok(manifest) => return Ok((dir.to_path_buf(), manifest)),
        Err(error) => error,
    };
    let old = old(dir);
    match complete(&old) {
        Ok(manifest) => {
            tracing::warn!(path = %old.display(), "the last checkpoint is incomplete, the one before it is used");
            Ok((old, manifest))
        }
        Err(_) => Err(error),
    }
}

/// The manifest of a directory whose files are all there in their full sizes.
fn complete(dir: &Path) -> Result<Manifest, CheckpointError> {
    if !dir.is_dir() {
        return Err(CheckpointError::Missing { path: dir.into() });
    }
    let incomplete = |problem: String| CheckpointError::Incomplete { path: dir.into(), problem };
    let bytes =
        std::fs::read(dir.join(MANIFEST)).map_err(|error| incomplete(format!("{MANIFEST}: {error}")))?;
    let manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|error| incomplete(format!("{MANIFEST}: {error}")))?;
    for file in &manifest.files {
        let size = std::fs::metadata(dir.join(&file.name))
            .map_err(|error| incomplete(format!("{}: {error}", file.name)))?
            .len();
        if size != file.size {
            return Err(incomplete(format!("{} has {size} bytes instead of {}", file.name, file.size)));
        }
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    fn save_step(dir: &Path, step: u64) {
        let map: TensorMap = [("w".to_string(), TensorData::new(vec![step as f32 / 3.0; 4], [2, 2]))].into();
        save(dir, &[("online", map), ("momentum", TensorMap::new())], &step).unwrap();
    }

    fn load_step(dir: &Path) -> Result<u64, CheckpointError> {
        let (tensors, step): (_, u64) = load(dir)?;
        assert_eq!(tensors["online"]["w"].try_to_vec::<f32>().unwrap(), vec![step as f32 / 3.0; 4]);
        assert!(tensors["momentum"].is_empty());
        Ok(step)
    }

    /// `checkpoints/last` with a checkpoint of step 1 saved there.
    fn saved() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("checkpoints/last");
        save_step(&dir, 1);
        (root, dir)
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_checkpoint_replaces_the_one_before_it_and_leaves_nothing_else() {
        let (_root, dir) = saved();
        save_step(&dir, 2);
        assert_eq!(load_step(&dir).unwrap(), 2);
        assert_eq!(names(dir.parent().unwrap()), ["last"]);
        assert_eq!(
            names(&dir),
            ["manifest.json", "momentum.safetensors", "online.safetensors", "state.json"]
        );
    }

    #[test]
    fn a_missing_checkpoint_is_an_error_that_names_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("last");
        assert!(!exists(&dir));
        assert!(matches!(load_step(&dir), Err(CheckpointError::Missing { path }) if path == dir));
    }

    #[test]
    fn a_kill_while_writing_leaves_the_previous_checkpoint() {
        let (_root, dir) = saved();
        let half = sibling(&dir, "tmp-99999");
        std::fs::create_dir(&half).unwrap();
        std::fs::write(half.join("online.safetensors"), "half").unwrap();
        assert_eq!(load_step(&dir).unwrap(), 1);
        save_step(&dir, 2);
        assert_eq!(names(dir.parent().unwrap()), ["last"], "the leftover is cleaned up");
    }

    #[test]
    fn a_kill_between_the_two_renames_leaves_the_previous_checkpoint() {
        let (_root, dir) = saved();
        std::fs::rename(&dir, old(&dir)).unwrap();
        assert!(exists(&dir));
        assert_eq!(load_step(&dir).unwrap(), 1);
        save_step(&dir, 2);
        assert_eq!(load_step(&dir).unwrap(), 2);
        assert_eq!(names(dir.parent().unwrap()), ["last"]);
    }

    #[test]
    fn a_kill_before_the_old_one_is_removed_leaves_the_new_checkpoint() {
        let (_root, dir) = saved();
        std::fs::rename(&dir, old(&dir)).unwrap();
        save_to_free_place(&dir, 2);
        assert!(old(&dir).exists());
        assert_eq!(load_step(&dir).unwrap(), 2);
        save_step(&dir, 3);
        assert_eq!(load_step(&dir).unwrap(), 3);
        assert_eq!(names(dir.parent().unwrap()), ["last"]);
    }

    /// A checkpoint at `dir` while `dir.old` stays, as in the moment after the second rename.
    fn save_to_free_place(dir: &Path, step: u64) {
        let elsewhere = dir.with_file_name("elsewhere");
        save_step(&elsewhere, step);
        std::fs::rename(elsewhere, dir).unwrap();
    }

    #[test]
    fn a_kill_before_the_first_checkpoint_was_complete_leaves_none() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("last");
        std::fs::create_dir(sibling(&dir, "tmp-1")).unwrap();
        assert!(!exists(&dir));
    }

    #[test]
    fn an_incomplete_directory_gives_way_to_the_old_one() {
        let (_root, dir) = saved();
        std::fs::rename(&dir, old(&dir)).unwrap();
        save_to_free_place(&dir, 2);
        std::fs::remove_file(dir.join(MANIFEST)).unwrap();
        assert_eq!(load_step(&dir).unwrap(), 1);
        save_step(&dir, 3);
        assert_eq!(load_step(&dir).unwrap(), 3);
        assert_eq!(names(dir.parent().unwrap()), ["last"]);
    }

    #[test]
    fn truncated_and_damaged_files_are_named() {
        let (_root, dir) = saved();
        let file = dir.join("online.safetensors");
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        let error = load_step(&dir).unwrap_err().to_string();
        assert!(error.contains("online.safetensors` is damaged"), "{error}");
        std::fs::write(&file, &bytes[..20]).unwrap();
        let error = load_step(&dir).unwrap_err().to_string();
        assert!(error.contains("is incomplete: online.safetensors has 20 bytes instead of"), "{error}");
        assert!(!exists(&dir));
    }

    #[test]
    fn a_failed_save_keeps_the_checkpoint_and_frees_its_space() {
        let (_root, dir) = saved();
        let impossible = "no/such/folder";
        let error = save(&dir, &[(impossible, TensorMap::new())], &2u64).unwrap_err().to_string();
        assert!(error.contains("cannot write") && error.contains(impossible), "{error}");
        assert_eq!(load_step(&dir).unwrap(), 1);
        assert_eq!(names(dir.parent().unwrap()), ["last"]);
    }

    #[test]
    fn a_full_disk_is_reported_with_what_to_do() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = CheckpointError::write("run/checkpoints/last")(full).to_string();
        assert!(error.starts_with("cannot write `run/checkpoints/last`: "), "{error}");
        assert!(error.ends_with("free some disk space, then continue with --resume"), "{error}");
    }
}
