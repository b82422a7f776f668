//! Fuzzing of everything that reads files: damaged seeds must give a value or an error, never a panic, an abort, a hang or
//! memory without bound.
//!
//! Each target takes the files of `seeds/NAME/`, damages one by a few random edits and reads it. `SCRL_FUZZ_SECONDS` is the time of
//! each target, 6 by default; the process may use 8 GiB of addresses. `docs/reliability.md` says what a long run found.
//!
//! The edits are drawn by bolero, so the same targets run under its engines too: `cargo bolero test -p scrl --test fuzz TARGET`.

#![cfg(unix)]

mod edits;

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use scrl_benchmark::ResolvedPlan;
use scrl_core::checkpoint::state;
use scrl_core::checkpoint::weights::{ImportOptions, import};
use scrl_core::config;
use scrl_core::transforms::decode;
use scrl_pretrain::PretrainConfig;
use scrl_transfer::TransferConfig;
use scrl_transfer::data::{Labels, coco, voc};
use scrl_transfer::evaluation::evaluate_files;
use tempfile::TempDir;

use edits::Damage;

/// Addresses that the process may use, in bytes: a reader that trusts a length in a file asks for more.
const MEMORY: u64 = 8 << 30;
/// Time after which reading a small file is a hang.
const HANG: Duration = Duration::from_secs(20);

fn limit_memory() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let limit = libc::rlimit { rlim_cur: MEMORY, rlim_max: MEMORY };
        // SAFETY: the pointer is valid for the call, and the limit is one that may only become lower.
        let result = unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) };
        assert_eq!(result, 0, "the memory cannot be limited");
    });
}

fn seconds() -> Duration {
    let seconds =
        std::env::var("SCRL_FUZZ_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    Duration::from_secs_f64(seconds.unwrap_or(6.0))
}

/// The files of a target, in the order of their names.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the target has seeds")
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Reads damaged seeds by `read`, which says whether it understood them. Every seed as it is must be understood.
fn fuzz(target: &str, read: impl Fn(&[u8]) -> bool + std::panic::RefUnwindSafe) {
    fuzz_seeds(target, &seeds(target), read);
}

/// As [`fuzz`], of seeds that are not files.
fn fuzz_seeds(target: &str, seeds: &[Vec<u8>], read: impl Fn(&[u8]) -> bool + std::panic::RefUnwindSafe) {
    limit_memory();
    for seed in seeds {
        assert!(
            read(seed),
            "{target}: a seed is not understood: {}",
            String::from_utf8_lossy(&seed[..seed.len().min(200)])
        );
    }
    let (inputs, accepted, slowest) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    bolero::check!().with_test_time(seconds()).with_type::<Damage>().for_each(|damage| {
        let bytes = damage.apply(seeds);
        let started = Instant::now();
        let understood = read(&bytes);
        let taken = started.elapsed();
        assert!(taken < HANG, "{target}: {} bytes took {taken:?}", bytes.len());
        inputs.fetch_add(1, Ordering::Relaxed);
        accepted.fetch_add(u64::from(understood), Ordering::Relaxed);
        slowest.fetch_max(taken.as_millis() as u64, Ordering::Relaxed);
    });
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    println!(
        "{target}: {} inputs, {} of them understood, slowest {} ms",
        count(&inputs),
        count(&accepted),
        count(&slowest)
    );
    assert!(count(&inputs) > 0);
}

/// A folder in memory where the system has one.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a temporary folder")
}

#[test]
fn images() {
    fuzz("images", |bytes| {
        let name = Path::new("image");
        decode::decode_bytes(bytes, name).is_ok()
    });
}

#[test]
fn coco_annotations() {
    let folder = folder();
    let path = folder.path().join("instances.json");
    fuzz("coco", |bytes| {
        std::fs::write(&path, bytes).unwrap();
        coco::survey(&path, folder.path(), Labels::Masks).is_ok_and(|survey| survey.faults.is_empty())
    });
}

#[test]
fn coco_results() {
    let folder = folder();
    let truth = folder.path().join("truth.json");
    std::fs::write(&truth, &seeds("coco")[0]).unwrap();
    let path = folder.path().join("results.json");
    fuzz("results", |bytes| {
        std::fs::write(&path, bytes).unwrap();
        evaluate_files(&truth, &path).is_ok()
    });
}

#[test]
fn voc_annotations() {
    let folder = folder();
    let path = folder.path().join("a.xml");
    fuzz("voc", |bytes| {
        std::fs::write(&path, bytes).unwrap();
        voc::Annotation::read(&path)
            .is_ok_and(|annotation| annotation.objects().all(|object| !object.name.is_empty()))
    });
}

#[test]
fn voc_lists() {
    let folder = folder();
    for part in ["Annotations", "ImageSets/Main", "JPEGImages"] {
        std::fs::create_dir_all(folder.path().join(part)).unwrap();
    }
    std::fs::write(folder.path().join("Annotations/a.xml"), &seeds("voc")[0]).unwrap();
    std::fs::write(folder.path().join("JPEGImages/a.jpg"), "").unwrap();
    let path = folder.path().join("ImageSets/Main/train.txt");
    fuzz("voc_lists", |bytes| {
        std::fs::write(&path, bytes).unwrap();
        voc::survey(folder.path(), "train", Labels::Masks).is_ok()
    });
}

#[test]
fn weights() {
    let folder = folder();
    let path = folder.path().join("weights");
    fuzz("weights", |bytes| {
        std::fs::write(&path, bytes).unwrap();
        import(&path, &ImportOptions::default()).is_ok()
    });
}

#[test]
fn checkpoints() {
    // What is damaged is the manifest; the files that it names lie beside it.
    let folder = folder();
    let last = folder.path().join("last");
    state::save(&last, &[], &serde_json::json!({"step": 3})).unwrap();
    let manifest = std::fs::read(last.join("manifest.json")).unwrap();
    fuzz_seeds("manifest", &[manifest], |bytes| {
        std::fs::write(last.join("manifest.json"), bytes).unwrap();
        state::load::<serde_json::Value>(&last).is_ok()
    });
}

#[test]
fn pretraining_recipes() {
    fuzz("pretrain", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let parsed = config::parse::<PretrainConfig>(&text, Path::new("recipe.toml"), &[]);
        parsed.is_ok_and(|settings| settings.validate().is_ok())
    });
}

#[test]
fn transfer_recipes() {
    fuzz("transfer", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let parsed = config::parse::<TransferConfig>(&text, Path::new("recipe.toml"), &[]);
        parsed.is_ok_and(|settings| settings.validate().is_ok())
    });
}

#[test]
fn benchmark_plans() {
    let folder = folder();
    let path = folder.path().join("plan.toml");
    for (name, recipe) in [("scrl.toml", "pretrain"), ("transfer.toml", "transfer")] {
        std::fs::write(folder.path().join(name), &seeds(recipe)[0]).unwrap();
    }
    fuzz("plan", |bytes| {
        std::fs::write(&path, bytes).unwrap();
        ResolvedPlan::load(&path, &[]).is_ok()
    });
}

#[test]
fn onnx_files() {
    let folder = folder();
    let path = folder.path().join("model.onnx");
    fuzz("onnx", |bytes| {
        std::fs::write(&path, bytes).unwrap();
        scrl_export::inspect::inspect(&path).is_ok()
    });
}
