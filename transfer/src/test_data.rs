//! Where tests find real data.

use std::path::{Path, PathBuf};

/// A folder of the shared test data, or `None` with a line that says why its test is skipped.
pub fn folder(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("SCRL_TEST_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let folder = root.join(name);
    if !folder.is_dir() {
        let absent =
            format!("`{}` is not there; set SCRL_TEST_DATA to the folder of test data", folder.display());
        assert!(std::env::var_os("SCRL_REQUIRE_DATA").is_none(), "{absent}");
        eprintln!("skipped: {absent}");
        return None;
    }
    Some(folder)
}
