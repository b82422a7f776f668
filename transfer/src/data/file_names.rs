//! File names of annotations and of the disk, which systems write differently.

use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

/// The file that annotations call `name`, in `folder`.
///
/// Tried in this order: the name as it is; with `\` read as `/`, as Windows writes paths; and both in Unicode's composed and
/// decomposed form (macOS stores an `ü` as `u` and two dots).
pub(crate) fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let exact = folder.join(name);
    if exact.is_file() {
        return Some(exact);
    }
    let slashed = name.replace('\\', "/");
    let forms = [slashed.clone(), slashed.nfc().collect(), slashed.nfd().collect()];
    forms.into_iter().filter(|form| form != name).map(|form| folder.join(form)).find(|path| path.is_file())
}

/// A name by which two names of one file are equal: with `/`, composed.
pub(crate) fn key(name: &str) -> String {
    name.replace('\\', "/").nfc().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_however_its_name_is_written() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        let (composed, decomposed) = ("sub/\u{fc}.jpg", "sub/u\u{308}.jpg");
        for (on_disk, others) in
            [(composed, [decomposed, "sub\\u\u{308}.jpg"]), (decomposed, [composed, "sub\\\u{fc}.jpg"])]
        {
            let path = folder.path().join(on_disk);
            std::fs::write(&path, "").unwrap();
            for name in [on_disk].into_iter().chain(others) {
                assert_eq!(find(folder.path(), name).as_deref(), Some(&*path), "{name:?}");
                assert_eq!(key(name), composed);
            }
            std::fs::remove_file(path).unwrap();
        }
        assert_eq!(find(folder.path(), "sub/none.jpg"), None);
    }
}
