//! Finding and initialising ONNX Runtime, once a process.
//!
//! With the default feature `load-dynamic` the library is looked for in this order (see [`Lookup`]):
//! 1. the file that `ORT_DYLIB_PATH` names; if it is set, nothing else is tried;
//! 2. the copy in the cache folder: `$SCRL_CACHE`, else `$XDG_CACHE_HOME/scrl`, else `$HOME/.cache/scrl`, there
//!    `onnxruntime/VERSION/`;
//! 3. the Python package `onnxruntime` of the `python3` on the path;
//! 4. the wheel pinned in [`fetch`], downloaded with pip, checked against its SHA-256, unpacked into the cache.
//!
//! With only `download-binaries` the library is part of the binary and nothing is looked for.

mod error;
pub mod fetch;
mod lookup;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use ort::environment::{Environment, EnvironmentBuilder};
use ort::session::Session;

pub use error::RuntimeError;
pub use lookup::{Found, Lookup, Source, python_package};

/// An initialised ONNX Runtime.
#[derive(Debug)]
pub struct Runtime {
    environment: Environment,
    /// Where the library came from.
    pub source: Source,
    /// The library file; `None` when it is linked into the binary.
    pub library: Option<PathBuf>,
    /// For example `1.31.1`; `None` when the library is linked or does not say.
    pub version: Option<String>,
}

/// ONNX Runtime, initialised by the first call of the process.
///
/// # Errors
/// When no usable library is found; a later call tries again.
pub fn runtime() -> Result<&'static Runtime, RuntimeError> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    static INITIALISING: Mutex<()> = Mutex::new(());
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let _guard = INITIALISING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let runtime = Runtime::initialise()?;
    let (version, library) = (runtime.version.as_deref(), runtime.library.as_deref());
    tracing::info!(
        "ONNX Runtime {} ({}){}",
        version.unwrap_or("of unknown version"),
        runtime.source,
        library.map(|path| format!(": {}", path.display())).unwrap_or_default()
    );
    Ok(RUNTIME.get_or_init(|| runtime))
}

impl Runtime {
    #[cfg(feature = "load-dynamic")]
    fn initialise() -> Result<Self, RuntimeError> {
        let (found, builder) = Lookup::from_environment().find(load)?;
        let (environment, version) = (build(builder)?, version(&found.path));
        Ok(Self { environment, source: found.source, library: Some(found.path), version })
    }

    #[cfg(not(feature = "load-dynamic"))]
    fn initialise() -> Result<Self, RuntimeError> {
        Ok(Self { environment: build(ort::init())?, source: Source::Linked, library: None, version: None })
    }

    /// Opens an ONNX file. `threads` is the number of threads within one operator; 0 means one a core.
    ///
    /// # Errors
    /// When the file cannot be read or is not a model that this ONNX Runtime can run.
    pub fn session(&self, model: &Path, threads: usize) -> Result<Session, RuntimeError> {
        let open = || -> ort::Result<Session> {
            let mut builder = Session::builder(&self.environment)?.with_intra_threads(threads)?;
            builder.commit_from_file(model)
        };
        open().map_err(|error| RuntimeError::Session { path: model.to_path_buf(), reason: error.to_string() })
    }
}

fn build(builder: EnvironmentBuilder) -> Result<Environment, RuntimeError> {
    let environment = builder.with_name("scrl").with_telemetry(false).build();
    let environment = environment.map_err(|error| RuntimeError::Environment { reason: error.to_string() })?;
    environment.set_log_level(ort::logging::LogLevel::Warning);
    Ok(environment)
}

/// Loads a library, or says why it cannot be used. Older libraries are refused by their version string, before
/// any function that they lack is called.
#[cfg(feature = "load-dynamic")]
fn load(path: &Path) -> Result<EnvironmentBuilder, String> {
    use ort::LoadDynamicError;
    ort::init_from(path).map_err(|error| match error {
        LoadDynamicError::BadVersion { version_str, .. } => {
            format!("it is version {version_str}, 1.{} or newer is needed", ort::MINOR_VERSION)
        }
        LoadDynamicError::Dlopen { error, .. } => format!("it cannot be loaded: {}", with_causes(&error)),
        LoadDynamicError::MissingApi { .. } => "it is not an ONNX Runtime library".to_string(),
        LoadDynamicError::InvalidVersionString => "its version cannot be read".to_string(),
    })
}

/// What an initialised library says of itself.
#[cfg(feature = "load-dynamic")]
fn version(path: &Path) -> Option<String> {
    type Base = unsafe extern "C" fn() -> *const ort::sys::OrtApiBase;
    // SAFETY: the file is the ONNX Runtime that was just initialised, so nothing of it runs for the first time here. This
    // function is its documented entry point, whose result and whose version string live as long as the library, which is
    // never unloaded; this handle is let go of after the string is copied.
    unsafe {
        let library = libloading::Library::new(path).ok()?;
        let base = library.get::<Base>(b"OrtGetApiBase").ok()?();
        let version = (base.as_ref()?.GetVersionString)();
        (!version.is_null()).then(|| std::ffi::CStr::from_ptr(version).to_string_lossy().into_owned())
    }
}

/// The system's reason is the cause of the loader's error.
#[cfg(feature = "load-dynamic")]
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(|error| error.to_string()).collect::<Vec<_>>().join(": ")
}

#[cfg(all(test, feature = "load-dynamic"))]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_library_is_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libonnxruntime.so");
        std::fs::write(&path, "text").unwrap();
        let reason = load(&path).err().unwrap();
        assert!(reason.starts_with("it cannot be loaded: "), "{reason}");
        // The system's own words name the file.
        assert!(reason.contains("libonnxruntime.so"), "{reason}");
    }
}
