//! A run's directory: its layout, its lock, and what may be overwritten.
//!
//! ```text
//! config.toml              the resolved configuration
//! metrics.jsonl, events.*  figures, see `events`
//! log.txt                  the log
//! data.tsv                 the images of the run, with sizes
//! checkpoints/             last/, epoch_N/
//! weights/                 backbone.safetensors
//! plots/                   curves of a finished transfer run
//! ```

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use fs4::{FileExt, TryLockError};

use super::atomic;
use super::data_list::DATA_LIST;
use super::error::RunError;

/// What to do with what is already in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// The directory must be absent or empty.
    New,
    /// The directory must exist; everything stays.
    Resume,
    /// A run that is there is removed; files that no run writes stay, and a directory without a run is refused.
    Overwrite,
}

/// A run directory that this process holds; the lock ends with the value or with the process.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: Option<File>,
}

const LOCK: &str = ".lock";
const CONFIG: &str = "config.toml";
const CHECKPOINTS: &str = "checkpoints";
const WEIGHTS: &str = "weights";
const PLOTS: &str = "plots";

impl RunDir {
    /// Takes a directory for one run and creates its layout.
    ///
    /// # Errors
    /// When the folder is in use, holds a run or something else that the mode does not allow, or cannot be made.
    pub fn open(path: &Path, mode: OpenMode) -> Result<RunDir, RunError> {
        let content = list(path)?;
        match (mode, &content) {
            (OpenMode::Resume, None) => return Err(RunError::Missing { path: path.into() }),
            (OpenMode::New, Some(names)) if !names.is_empty() => {
                return Err(RunError::NotEmpty { path: path.into() });
            }
            (OpenMode::Overwrite, Some(names)) if !may_overwrite(path, names) => {
                return Err(RunError::NotARun { path: path.into() });
            }
            _ => {}
        }
        std::fs::create_dir_all(path).map_err(RunError::io("create run directory", path))?;
        let lock = lock(path)?;
        if mode == OpenMode::Overwrite {
            clear(path)?;
        }
        let run = RunDir { path: path.to_path_buf(), _lock: Some(lock) };
        for folder in [run.checkpoints(), run.weights()] {
            std::fs::create_dir_all(&folder).map_err(RunError::io("create", &folder))?;
        }
        Ok(run)
    }

    /// A directory that another process of the same run has opened; this one only reads from it.
    ///
    /// # Errors
    /// When it is not there: the processes do not share a file system.
    pub fn join(path: &Path) -> Result<RunDir, RunError> {
        match path.is_dir() {
            true => Ok(RunDir { path: path.to_path_buf(), _lock: None }),
            false => Err(RunError::Missing { path: path.into() }),
        }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `checkpoints/`
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    /// `weights/`
    pub fn weights(&self) -> PathBuf {
        self.path.join(WEIGHTS)
    }

    /// The path of a file by its name, for example `log.txt`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Records the resolved configuration as `config.toml`, replacing the file in one go.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_config(&self, toml: &str) -> Result<(), RunError> {
        let path = self.file(CONFIG);
        atomic::write(&path, toml.as_bytes()).map_err(RunError::io("write", &path))
    }
}

/// The names in a directory but for the lock; `None` where there is no such directory.
fn list(path: &Path) -> Result<Option<Vec<String>>, RunError> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(_) if path.is_file() => return Err(RunError::NotADirectory { path: path.into() }),
        Err(error) => return Err(RunError::io("read run directory", path)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(RunError::io("read run directory", path))?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    names.retain(|name| name != LOCK);
    Ok(Some(names))
}

/// Whether `--overwrite` may clear a directory: it is empty, or a run has locked it and has written its
/// configuration or nothing but its own files.
fn may_overwrite(path: &Path, names: &[String]) -> bool {
    let ours = names.iter().any(|name| name == CONFIG) || names.iter().all(|name| is_own(name));
    names.is_empty() || (ours && path.join(LOCK).is_file())
}

/// Whether runs write files or folders of this name.
fn is_own(name: &str) -> bool {
    const FILES: [&str; 11] = [
        CONFIG,
        DATA_LIST,
        "replay",
        "probe.json",
        "metrics.jsonl",
        "log.txt",
        "report.html",
        "results.json",
        "metrics.json",
        "precision_recall.json",
        PLOTS,
    ];
    FILES.contains(&name) || name == CHECKPOINTS || name == WEIGHTS || name.starts_with("events.")
}

fn lock(path: &Path) -> Result<File, RunError> {
    let lock_path = path.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(RunError::io("open", &lock_path))?;
    match FileExt::try_lock(&file) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // The number is a courtesy; a lock that cannot be read is reported without it.
            let _ = file.read_to_string(&mut holder);
            let holder = holder.trim().parse::<u32>().map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            return Err(RunError::InUse { path: path.into(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(RunError::io("lock", lock_path)(error)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(RunError::io("write", &lock_path))?;
    Ok(file)
}

/// Removes what a run writes; the configuration goes last, so that a killed removal can be repeated.
fn clear(path: &Path) -> Result<(), RunError> {
    let mut names = list(path)?.unwrap_or_default();
    names.retain(|name| is_own(name));
    names.sort_by_key(|name| name == CONFIG);
    for name in names {
        let path = path.join(name);
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(RunError::io("remove", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(path: &Path, mode: OpenMode) -> String {
        RunDir::open(path, mode).expect_err("this directory is refused").to_string()
    }

    #[test]
    fn a_new_run_has_its_layout_and_its_config() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(&dir.path().join("deep/run"), OpenMode::New).unwrap();
        run.write_config("seed = 1\n").unwrap();
        assert!(run.checkpoints().is_dir() && run.weights().is_dir());
        assert_eq!(std::fs::read_to_string(run.file("config.toml")).unwrap(), "seed = 1\n");
    }

    #[test]
    fn a_new_run_never_enters_a_directory_with_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let error = message(dir.path(), OpenMode::New);
        assert!(error.contains("is not empty; continue it with --resume"), "{error}");
        assert!(!dir.path().join(LOCK).exists(), "a refused directory stays as it was");
    }

    #[test]
    fn resuming_a_missing_run_is_an_error_and_creates_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("typo");
        assert!(message(&path, OpenMode::Resume).contains("nothing to resume"));
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_in_use_is_refused_until_its_holder_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunDir::open(dir.path(), OpenMode::New).unwrap();
        let error = message(dir.path(), OpenMode::Resume);
        assert!(
            error.contains(&format!("in use by another process (pid {})", std::process::id())),
            "{error}"
        );
        assert!(message(dir.path(), OpenMode::Overwrite).contains("in use"));
        drop(first);
        RunDir::open(dir.path(), OpenMode::Resume).unwrap();
    }

    #[test]
    fn overwriting_removes_the_run_and_leaves_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path(), OpenMode::New).unwrap();
        run.write_config("").unwrap();
        std::fs::create_dir(run.file("replay")).unwrap();
        let written = [
            "metrics.jsonl",
            "metrics.json",
            "events.out.tfevents.1",
            "checkpoints/x",
            "replay/step_3",
            "probe.json",
        ];
        for name in written.into_iter().chain([DATA_LIST, "notes.md"]) {
            std::fs::write(run.file(name), "x").unwrap();
        }
        drop(run);
        let run = RunDir::open(dir.path(), OpenMode::Overwrite).unwrap();
        let mut left = list(run.path()).unwrap().unwrap();
        left.sort();
        assert_eq!(left, ["checkpoints", "notes.md", "weights"]);
        assert_eq!(list(&run.checkpoints()).unwrap().unwrap().len(), 0);
    }

    #[test]
    fn overwriting_refuses_a_directory_that_no_run_made() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        assert!(message(dir.path(), OpenMode::Overwrite).contains("holds files but no run"));
        assert!(dir.path().join("thesis.tex").exists());
    }

    #[test]
    fn overwriting_refuses_a_folder_of_weights_without_a_run() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(WEIGHTS)).unwrap();
        assert!(message(dir.path(), OpenMode::Overwrite).contains("holds files but no run"));
    }

    #[test]
    fn a_run_that_died_before_its_config_can_be_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path(), OpenMode::New).unwrap();
        std::fs::write(run.file("log.txt"), "x").unwrap();
        drop(run);
        let run = RunDir::open(dir.path(), OpenMode::Overwrite).unwrap();
        assert!(!run.file("log.txt").exists());
    }

    #[test]
    fn a_file_is_no_run_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        assert!(message(&path, OpenMode::New).contains("is not a directory"));
    }
}
