//! The pinned wheel of ONNX Runtime: its download with pip, its check and its unpacking.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest, Sha256};

/// The release that is downloaded.
pub const VERSION: &str = "1.31.1";

/// One platform's wheel. The library does not depend on Python, so one interpreter's wheel serves all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wheel {
    os: &'static str,
    arch: &'static str,
    /// pip's name of the platform.
    platform: &'static str,
    /// SHA-256 of the wheel, in hexadecimal.
    sha256: &'static str,
    /// File name of the library in the wheel's folder `onnxruntime/capi`.
    library: &'static str,
}

/// CPython 3.12's wheels of release [`VERSION`], as its index lists them.
const WHEELS: [Wheel; 3] = [
    Wheel {
        os: "linux",
        arch: "x86_64",
        platform: "manylinux_2_28_x86_64",
        sha256: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
        library: "libonnxruntime.so.1.31.1",
    },
    Wheel {
        os: "linux",
        arch: "aarch64",
        platform: "manylinux_2_28_aarch64",
        sha256: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
        library: "libonnxruntime.so.1.31.1",
    },
    Wheel {
        os: "macos",
        arch: "aarch64",
        platform: "macosx_14_0_arm64",
        sha256: "96dd2564b10ea7153ad9c207e7cd8e5917cb3ba521e0e0a62ac03486fdc8d56c",
        library: "libonnxruntime.1.31.1.dylib",
    },
];

impl Wheel {
    /// The wheel for the platform that this binary was built for.
    pub fn of_this_platform() -> Option<&'static Wheel> {
        WHEELS.iter().find(|w| w.os == std::env::consts::OS && w.arch == std::env::consts::ARCH)
    }

    /// Where the library lies in this cache folder.
    pub fn cached(&self, cache: &Path) -> PathBuf {
        cache.join("onnxruntime").join(VERSION).join(self.library)
    }
}

/// Downloads the wheel with this interpreter's pip and moves its library to `target`; returns `target`.
///
/// Works in a temporary folder beside `target` and renames at the end: a reader sees no library or a whole one, and
/// processes that fetch at the same time do not disturb each other.
///
/// # Errors
/// A text that says what went wrong.
pub fn fetch(wheel: &Wheel, python: &Path, target: &Path) -> Result<PathBuf, String> {
    let folder = target.parent().ok_or_else(|| format!("`{}` has no folder", target.display()))?;
    let writable = |error: io::Error| format!("cannot write to `{}`: {error}", folder.display());
    fs::create_dir_all(folder).map_err(writable)?;
    let temporary = tempfile::Builder::new().prefix(".fetch-").tempdir_in(folder).map_err(writable)?;
    tracing::info!("downloading ONNX Runtime {VERSION} with pip to `{}`", folder.display());
    let downloaded = download(wheel, python, temporary.path())?;
    verify(&downloaded, wheel.sha256)?;
    let library = temporary.path().join(wheel.library);
    unpack(wheel, &downloaded, &library)?;
    fs::rename(&library, target).map_err(writable)?;
    Ok(target.to_path_buf())
}

fn download(wheel: &Wheel, python: &Path, folder: &Path) -> Result<PathBuf, String> {
    let options = ["--quiet", "--disable-pip-version-check", "--no-input", "--retries=2", "--no-deps"];
    let target = ["--only-binary=:all:", "--implementation=cp", "--python-version=3.12", "--abi=cp312"];
    let mut command = Command::new(python);
    command.args(["-m", "pip", "download"]).args(options).args(target);
    command.arg(format!("--platform={}", wheel.platform)).arg("--dest").arg(folder);
    command.arg(format!("onnxruntime=={VERSION}"));
    run(&mut command, "pip download")?;
    let files = fs::read_dir(folder).map_err(|error| error.to_string())?;
    let mut paths = files.filter_map(|entry| Some(entry.ok()?.path()));
    let is_wheel = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "whl");
    paths.find(is_wheel).ok_or_else(|| "pip download left no wheel".to_string())
}

fn verify(wheel: &Path, expected: &str) -> Result<(), String> {
    let mut hasher = Sha256::new();
    let read = File::open(wheel).and_then(|mut file| io::copy(&mut file, &mut hasher));
    read.map_err(|error| format!("cannot read `{}`: {error}", wheel.display()))?;
    let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found == expected {
        return Ok(());
    }
    let name = wheel.file_name().unwrap_or_default().to_string_lossy();
    Err(format!("the downloaded `{name}` has SHA-256 {found} instead of {expected}, it is not used"))
}

/// Writes the library of the wheel to `target`.
fn unpack(wheel: &Wheel, archive: &Path, target: &Path) -> Result<(), String> {
    let problem = |error: &dyn std::fmt::Display| format!("cannot unpack `{}`: {error}", archive.display());
    let file = File::open(archive).map_err(|error| problem(&error))?;
    let mut members = zip::ZipArchive::new(io::BufReader::new(file)).map_err(|error| problem(&error))?;
    let name = format!("onnxruntime/capi/{}", wheel.library);
    let mut member = members.by_name(&name).map_err(|error| problem(&format!("{name}: {error}")))?;
    let written = File::create(target).and_then(|mut library| {
        io::copy(&mut member, &mut library)?;
        library.sync_all()
    });
    written.map_err(|error| problem(&error))
}

/// Runs a command; an error holds the last line of what it wrote to its standard error.
fn run(command: &mut Command, what: &str) -> Result<Output, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{what}: `{program}` does not run: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
    Err(format!("{what} failed ({}): {}", output.status, last.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_with_another_hash_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.whl");
        fs::write(&path, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(verify(&path, abc), Ok(()));
        let error = verify(&path, WHEELS[0].sha256).unwrap_err();
        assert!(error.contains(abc) && error.contains("it is not used"), "{error}");
    }

    /// A wheel with one member.
    fn wheel(path: &Path, member: &str, content: &[u8]) {
        let mut archive = zip::ZipWriter::new(File::create(path).unwrap());
        archive.start_file(member, zip::write::SimpleFileOptions::default()).unwrap();
        io::Write::write_all(&mut archive, content).unwrap();
        archive.finish().unwrap();
    }

    #[test]
    fn the_library_is_unpacked_from_the_wheel_and_a_broken_wheel_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (archive, library) = (folder.path().join("a.whl"), folder.path().join("library"));
        let content: Vec<u8> = (0..100_000u32).map(|i| (i / 7) as u8).collect();
        wheel(&archive, "onnxruntime/capi/libonnxruntime.so.1.31.1", &content);
        unpack(&WHEELS[0], &archive, &library).unwrap();
        assert_eq!(fs::read(&library).unwrap(), content);
        let error = unpack(&WHEELS[2], &archive, &library).unwrap_err();
        assert!(error.contains("a.whl") && error.contains("libonnxruntime.1.31.1.dylib"), "{error}");
        let whole = fs::read(&archive).unwrap();
        fs::write(&archive, &whole[..whole.len() / 2]).unwrap();
        assert!(unpack(&WHEELS[0], &archive, &library).unwrap_err().contains("cannot unpack"));
    }

    #[test]
    fn the_cache_keeps_releases_apart() {
        let path = WHEELS[0].cached(Path::new("/cache"));
        assert_eq!(path, Path::new("/cache/onnxruntime/1.31.1/libonnxruntime.so.1.31.1"));
    }

    #[test]
    fn every_pinned_wheel_has_its_own_full_hash_and_the_pinned_version() {
        let mut hashes: Vec<&str> = WHEELS.iter().map(|wheel| wheel.sha256).collect();
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), WHEELS.len());
        assert!(hashes.iter().all(|hash| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit())));
        assert!(WHEELS.iter().all(|wheel| wheel.library.contains(VERSION)));
    }

    #[cfg(unix)]
    #[test]
    fn a_download_that_fails_says_why_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let target = WHEELS[0].cached(folder.path());
        // `false` stands for an interpreter without pip: it fails and says nothing.
        let error = fetch(&WHEELS[0], Path::new("false"), &target).unwrap_err();
        assert!(error.starts_with("pip download failed"), "{error}");
        assert!(!target.exists());
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 0);
    }
}
