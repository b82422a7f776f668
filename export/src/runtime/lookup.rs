//! The order in which libraries are looked for.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{RuntimeError, fetch};

/// The interpreter that is asked for the package `onnxruntime` and for pip.
pub(super) const PYTHON: &str = if cfg!(windows) { "python" } else { "python3" };

/// Where a library came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The environment variable `ORT_DYLIB_PATH`.
    Variable,
    /// The cache folder.
    Cache,
    /// The installed Python package.
    Package,
    /// The pinned wheel, downloaded just now.
    Fetched,
    /// Linked into the binary.
    Linked,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Variable => "ORT_DYLIB_PATH",
            Source::Cache => "cache",
            Source::Package => "Python package",
            Source::Fetched => "downloaded wheel",
            Source::Linked => "linked",
        })
    }
}

/// A library and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The library file.
    pub path: PathBuf,
    /// Where it came from.
    pub source: Source,
}

/// A place that is asked only when the places before it gave nothing; the error says what was wrong.
pub type Place = Box<dyn Fn() -> Result<PathBuf, String>>;

/// The places to look for the library, in the order of the fields.
pub struct Lookup {
    /// The value of `ORT_DYLIB_PATH`; final if present.
    pub variable: Option<PathBuf>,
    /// The cached library, whether or not it exists.
    pub cached: Option<PathBuf>,
    /// The installed Python package.
    pub package: Place,
    /// The download.
    pub fetch: Place,
}

impl Lookup {
    /// The places of this process.
    pub fn from_environment() -> Self {
        Self::from_variables(&|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    /// The places that these environment variables lead to.
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let wheel = fetch::Wheel::of_this_platform();
        let cached = cache_dir(variable).zip(wheel).map(|(dir, wheel)| wheel.cached(&dir));
        let target = cached.clone();
        Self {
            variable: variable("ORT_DYLIB_PATH").map(PathBuf::from),
            cached,
            package: Box::new(|| python_package(Path::new(PYTHON))),
            fetch: Box::new(move || match (wheel, &target) {
                (Some(wheel), Some(target)) => fetch::fetch(wheel, Path::new(PYTHON), target),
                (None, _) => Err("there is no pinned wheel for this platform".to_string()),
                (_, None) => Err("there is no cache folder, set SCRL_CACHE to one".to_string()),
            }),
        }
    }

    /// The first library that `load` accepts, with what `load` made of it.
    ///
    /// # Errors
    /// When `ORT_DYLIB_PATH` is set and its library is refused, or when no place gives an accepted library.
    pub fn find<T>(
        &self,
        mut load: impl FnMut(&Path) -> Result<T, String>,
    ) -> Result<(Found, T), RuntimeError> {
        if let Some(path) = &self.variable {
            return match existing(path).and_then(&mut load) {
                Ok(loaded) => Ok((Found { path: path.clone(), source: Source::Variable }, loaded)),
                Err(reason) => Err(RuntimeError::Variable { path: path.clone(), reason }),
            };
        }
        let cached = || self.cached.clone().ok_or_else(|| "no cache folder".to_string());
        let mut attempts = Vec::new();
        for source in [Source::Cache, Source::Package, Source::Fetched] {
            let place = match source {
                Source::Package => (self.package)(),
                Source::Fetched => (self.fetch)(),
                _ => cached(),
            };
            let attempt = place.and_then(|path| match existing(&path).and_then(&mut load) {
                Ok(loaded) => Ok((Found { path, source }, loaded)),
                Err(reason) => Err(format!("`{}`: {reason}", path.display())),
            });
            match attempt {
                Ok(found) => return Ok(found),
                Err(reason) => {
                    tracing::debug!(%source, %reason, "no ONNX Runtime here");
                    attempts.push(format!("{source}: {reason}"));
                }
            }
        }
        Err(RuntimeError::NotFound { attempts })
    }
}

fn existing(path: &Path) -> Result<&Path, String> {
    if path.is_file() { Ok(path) } else { Err("there is no such file".to_string()) }
}

/// `$SCRL_CACHE`, else `scrl` in the user's cache folder.
fn cache_dir(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(dir) = variable("SCRL_CACHE") {
        return Some(PathBuf::from(dir));
    }
    let user = variable("XDG_CACHE_HOME").map(PathBuf::from);
    let user = user.or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let user = user.or_else(|| variable("LOCALAPPDATA").map(PathBuf::from));
    user.map(|dir| dir.join("scrl"))
}

/// The library inside the package `onnxruntime` that this interpreter would import.
///
/// # Errors
/// A text that says what is missing.
pub fn python_package(python: &Path) -> Result<PathBuf, String> {
    // Finding the package without importing it keeps its own copy of the library out of memory.
    const PROGRAM: &str = "import importlib.util\n\
        spec = importlib.util.find_spec('onnxruntime')\n\
        print(list(spec.submodule_search_locations)[0] if spec else '')";
    let output = Command::new(python).args(["-c", PROGRAM]).output();
    let output = output.map_err(|error| format!("`{}` does not run: {error}", python.display()))?;
    let package = String::from_utf8_lossy(&output.stdout).trim().to_string();
    if !output.status.success() || package.is_empty() {
        return Err(format!("`{}` has no package onnxruntime", python.display()));
    }
    let folder = Path::new(&package).join("capi");
    library_in(&folder).ok_or_else(|| format!("`{}` holds no libonnxruntime", folder.display()))
}

/// The ONNX Runtime library of a folder: `libonnxruntime.so.1.31.1`, `libonnxruntime.1.31.1.dylib` or
/// `onnxruntime.dll`, not the libraries of its execution providers.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let is_library = |name: &str| {
        name.starts_with("libonnxruntime.so")
            || (name.starts_with("libonnxruntime.") && name.ends_with(".dylib"))
            || name == "onnxruntime.dll"
    };
    let entries = std::fs::read_dir(folder).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| is_library(name)).max().map(|name| folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(text: &str) -> Place {
        let text = text.to_string();
        Box::new(move || Err(text.clone()))
    }

    fn unreachable() -> Place {
        Box::new(|| panic!("a later place was asked"))
    }

    fn file(folder: &tempfile::TempDir, name: &str) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, name).unwrap();
        path
    }

    #[test]
    fn the_variable_wins_over_every_other_place() {
        let folder = tempfile::tempdir().unwrap();
        let (variable, cached) = (file(&folder, "variable.so"), file(&folder, "cached.so"));
        let lookup = Lookup {
            variable: Some(variable.clone()),
            cached: Some(cached),
            package: unreachable(),
            fetch: unreachable(),
        };
        let (found, ()) = lookup.find(|_| Ok(())).unwrap();
        assert_eq!(found, Found { path: variable, source: Source::Variable });
    }

    #[test]
    fn a_refused_variable_is_final_and_its_error_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let lookup = Lookup {
            variable: Some(file(&folder, "old.so")),
            cached: Some(file(&folder, "cached.so")),
            package: unreachable(),
            fetch: unreachable(),
        };
        let error = lookup.find(|_| Err::<(), _>("it is version 1.20.1".to_string())).unwrap_err();
        let text = error.to_string().replace(&folder.path().display().to_string(), "DIR");
        assert_eq!(
            text,
            "cannot use the ONNX Runtime library `DIR/old.so` that ORT_DYLIB_PATH names: it is version 1.20.1; set \
             ORT_DYLIB_PATH to another libonnxruntime, or unset it to have one found"
        );
    }

    #[test]
    fn the_cache_is_taken_before_the_package_and_the_package_before_the_download() {
        let folder = tempfile::tempdir().unwrap();
        let (cached, package) = (file(&folder, "cached.so"), file(&folder, "package.so"));
        let give = |path: &Path| -> Place {
            let path = path.to_path_buf();
            Box::new(move || Ok(path.clone()))
        };
        let mut lookup =
            Lookup { variable: None, cached: Some(cached), package: unreachable(), fetch: unreachable() };
        assert_eq!(lookup.find(|_| Ok(())).unwrap().0.source, Source::Cache);
        lookup.cached = Some(folder.path().join("absent.so"));
        lookup.package = give(&package);
        assert_eq!(lookup.find(|_| Ok(())).unwrap().0.source, Source::Package);
        lookup.package = missing("no package");
        lookup.fetch = give(&package);
        assert_eq!(lookup.find(|_| Ok(())).unwrap().0.source, Source::Fetched);
    }

    #[test]
    fn a_library_that_is_refused_sends_the_search_on_to_the_next_place() {
        let folder = tempfile::tempdir().unwrap();
        let (cached, package) = (file(&folder, "cached.so"), file(&folder, "package.so"));
        let lookup = Lookup {
            variable: None,
            cached: Some(cached.clone()),
            package: Box::new(move || Ok(package.clone())),
            fetch: unreachable(),
        };
        let load = |path: &Path| if path == cached { Err("it is damaged".to_string()) } else { Ok(7) };
        let (found, loaded) = lookup.find(load).unwrap();
        assert_eq!((found.source, loaded), (Source::Package, 7));
    }

    #[test]
    fn an_exhausted_search_lists_what_was_tried_and_the_fix() {
        let lookup = Lookup {
            variable: None,
            cached: None,
            package: missing("`python3` has no package onnxruntime"),
            fetch: missing("pip cannot reach its index"),
        };
        let error = lookup.find(|_| Ok(())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no usable ONNX Runtime found: cache: no cache folder; Python package: `python3` has no package \
             onnxruntime; downloaded wheel: pip cannot reach its index; run `pip install \"onnxruntime>=1.24\"`, or \
             set ORT_DYLIB_PATH to a libonnxruntime of that version or newer"
        );
    }

    #[test]
    fn the_cache_folder_follows_scrl_cache_then_xdg_then_home() {
        let dir = |set: &'static [(&'static str, &'static str)]| {
            cache_dir(&move |name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        let all = &[("SCRL_CACHE", "/c"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(dir(all), Some(PathBuf::from("/c")));
        assert_eq!(dir(&all[1..]), Some(PathBuf::from("/x/scrl")));
        assert_eq!(dir(&all[2..]), Some(PathBuf::from("/h/.cache/scrl")));
        assert_eq!(dir(&[]), None);
    }

    #[test]
    fn the_library_of_a_package_is_told_from_its_providers() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(library_in(folder.path()), None);
        file(&folder, "libonnxruntime_providers_shared.so");
        file(&folder, "onnxruntime_pybind11_state.so");
        assert_eq!(library_in(folder.path()), None);
        let library = file(&folder, "libonnxruntime.so.1.31.1");
        assert_eq!(library_in(folder.path()), Some(library));
    }

    #[test]
    fn an_interpreter_that_does_not_exist_is_an_error_not_a_panic() {
        let error = python_package(Path::new("no-such-python")).unwrap_err();
        assert!(error.contains("`no-such-python` does not run"), "{error}");
    }
}
