//! Folders of images, with labels where the subfolders are classes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::DataError;
use crate::engine::DataList;

/// File name endings of images, matched in any case.
pub const EXTENSIONS: [&str; 7] = ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff"];
/// Endings of images that are not read.
const UNREAD: [&str; 10] = ["gif", "heic", "heif", "avif", "jp2", "jxl", "jfif", "dng", "ppm", "tga"];

/// One image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFile {
    /// Where the image lies.
    pub path: PathBuf,
    /// Index into [`ImageFolder::classes`], when the folder has classes.
    pub label: Option<usize>,
}

/// All images below one or more folders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFolder {
    /// Root by root, sorted by path within each.
    pub samples: Vec<ImageFile>,
    /// Class names in alphabetical order; empty when the samples have no labels.
    pub classes: Vec<String>,
    /// The folders that were scanned.
    pub roots: Vec<PathBuf>,
}

impl ImageFolder {
    /// Finds the images below `roots`, at any depth, through links, skipping hidden files and folders.
    ///
    /// The images get labels when there is one root, every image lies in a subfolder of it, and there are two such
    /// subfolders at least: the subfolders directly below the root are the classes.
    ///
    /// # Errors
    /// When a root does not exist, is not a folder or cannot be read, or holds no image.
    pub fn scan(roots: &[PathBuf]) -> Result<Self, DataError> {
        let mut paths = Vec::new();
        for root in roots {
            paths.extend(find_images(root)?);
        }
        let labelled = match roots {
            [root] => label(root, &paths),
            _ => None,
        };
        Ok(labelled.unwrap_or_else(|| Self {
            samples: paths.into_iter().map(|path| ImageFile { path, label: None }).collect(),
            classes: Vec::new(),
            roots: roots.to_vec(),
        }))
    }

    /// The images and the sizes of their files. They are named by their folder's number, where there are several, and the path
    /// inside it, so that a folder may be moved.
    pub fn list(&self) -> DataList {
        let name = |path: &Path| {
            let inside = |(number, root): (usize, &PathBuf)| Some((number, path.strip_prefix(root).ok()?));
            let (number, inside) = self.roots.iter().enumerate().find_map(inside).unwrap_or((0, path));
            let folder = if self.roots.len() > 1 { format!("{number}/") } else { String::new() };
            format!("{folder}{}", inside.display())
        };
        let entry = |image: &ImageFile| (name(&image.path), image.path.clone(), String::new());
        DataList::new(self.samples.iter().map(entry))
    }

    /// The samples at these positions, in this order; the classes stay.
    ///
    /// # Panics
    /// If an index is not below the number of samples.
    pub fn subset(&self, indices: &[usize]) -> Self {
        Self {
            samples: indices.iter().map(|&i| self.samples[i].clone()).collect(),
            classes: self.classes.clone(),
            roots: self.roots.clone(),
        }
    }
}

fn find_images(root: &Path) -> Result<Vec<PathBuf>, DataError> {
    let metadata = std::fs::metadata(root).map_err(|reason| DataError::read(root, reason))?;
    if !metadata.is_dir() {
        return Err(DataError::invalid(root, "it is a file; pass the folder that holds the images"));
    }
    let mut paths = Vec::new();
    let mut unread = BTreeMap::<String, usize>::new();
    for entry in WalkDir::new(root).follow_links(true).into_iter().filter_entry(|e| !is_hidden(e)) {
        match entry {
            Ok(entry) if entry.file_type().is_file() && is_image(entry.path()) => {
                paths.push(entry.into_path())
            }
            Ok(entry) => {
                if let Some(ending) = unread_ending(entry.path()).filter(|_| entry.file_type().is_file()) {
                    *unread.entry(ending).or_default() += 1;
                }
            }
            Err(error) if error.loop_ancestor().is_some() => {
                tracing::warn!("skipped a link that leads back to a folder above it: {error}");
            }
            Err(error) => return Err(walk_error(root, error)),
        }
    }
    if !unread.is_empty() {
        let counts: Vec<String> = unread.iter().map(|(ending, count)| format!("{count} .{ending}")).collect();
        tracing::warn!(
            "left out images below `{}` whose format is not read: {}; convert them to use them",
            root.display(),
            counts.join(", ")
        );
    }
    if paths.is_empty() {
        let extensions = EXTENSIONS.map(|e| format!(".{e}")).join(", ");
        return Err(DataError::NoImages { path: root.to_path_buf(), extensions });
    }
    paths.sort_unstable();
    Ok(paths)
}

fn is_hidden(entry: &DirEntry) -> bool {
    entry.depth() > 0 && entry.file_name().to_string_lossy().starts_with('.')
}

fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|found| EXTENSIONS.iter().any(|e| found.eq_ignore_ascii_case(e)))
}

/// The ending, in lower case, of an image that is not read.
fn unread_ending(path: &Path) -> Option<String> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    UNREAD.contains(&ending.as_str()).then_some(ending)
}

fn walk_error(root: &Path, error: walkdir::Error) -> DataError {
    let path = error.path().unwrap_or(root).to_path_buf();
    DataError::Read { path, reason: error.into() }
}

fn label(root: &Path, paths: &[PathBuf]) -> Option<ImageFolder> {
    let names: Vec<String> = paths.iter().map(|path| class_of(root, path)).collect::<Option<_>>()?;
    let classes: Vec<String> = names.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    if classes.len() < 2 {
        return None;
    }
    let samples = paths.iter().zip(&names);
    let samples =
        samples.map(|(path, name)| ImageFile { path: path.clone(), label: classes.binary_search(name).ok() });
    Some(ImageFolder { samples: samples.collect(), classes, roots: vec![root.to_path_buf()] })
}

/// The name of the folder directly below `root` in which the image lies; `None` for one directly in `root`.
fn class_of(root: &Path, path: &Path) -> Option<String> {
    let mut parts = path.strip_prefix(root).ok()?.components();
    let first = parts.next()?;
    parts.next()?;
    Some(first.as_os_str().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary folder");
        for file in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, b"").expect("a file");
        }
        root
    }

    fn names(found: &ImageFolder, root: &Path) -> Vec<String> {
        let name =
            |s: &ImageFile| s.path.strip_prefix(root).expect("below root").to_string_lossy().into_owned();
        found.samples.iter().map(name).collect()
    }

    #[test]
    fn images_are_found_at_any_depth_in_any_case_and_sorted() {
        let root = folder(&[
            "b/x.PNG",
            "a.jpg",
            "b/c/y.JpEg",
            "b/notes.txt",
            ".hidden.jpg",
            ".cache/z.jpg",
            "b/.z.png",
        ]);
        let found = ImageFolder::scan(&[root.path().to_path_buf()]).expect("images");
        assert_eq!(names(&found, root.path()), ["a.jpg", "b/c/y.JpEg", "b/x.PNG"]);
        assert!(found.classes.is_empty());
        assert!(found.samples.iter().all(|s| s.label.is_none()));
    }

    #[test]
    fn folders_directly_below_a_single_root_are_classes() {
        let root = folder(&["dog/1.jpg", "cat/2.jpg", "cat/deep/3.jpg", "empty/readme.md"]);
        let found = ImageFolder::scan(&[root.path().to_path_buf()]).expect("images");
        assert_eq!(found.classes, ["cat", "dog"]);
        assert_eq!(names(&found, root.path()), ["cat/2.jpg", "cat/deep/3.jpg", "dog/1.jpg"]);
        assert_eq!(found.samples.iter().map(|s| s.label).collect::<Vec<_>>(), [Some(0), Some(0), Some(1)]);
        let part = found.subset(&[2, 0]);
        assert_eq!(names(&part, root.path()), ["dog/1.jpg", "cat/2.jpg"]);
        assert_eq!(part.classes, found.classes);
    }

    #[test]
    fn an_image_beside_the_folders_a_single_folder_or_two_roots_mean_no_labels() {
        let beside = folder(&["dog/1.jpg", "cat/2.jpg", "3.jpg"]);
        let single = folder(&["images/1.jpg", "images/2.jpg"]);
        let classes = folder(&["dog/1.jpg", "cat/2.jpg"]);
        let path = |d: &tempfile::TempDir| d.path().to_path_buf();
        for roots in [vec![path(&beside)], vec![path(&single)], vec![path(&classes), path(&single)]] {
            let found = ImageFolder::scan(&roots).expect("images");
            assert!(found.classes.is_empty());
            assert!(found.samples.iter().all(|s| s.label.is_none()));
        }
    }

    #[test]
    fn an_empty_folder_a_missing_one_and_a_file_are_named_in_the_error() {
        let root = folder(&["notes.txt"]);
        let error = ImageFolder::scan(&[root.path().to_path_buf()]).expect_err("no images").to_string();
        assert!(error.contains(&root.path().display().to_string()), "{error}");
        assert!(error.contains(".jpg, .jpeg, .png"), "{error}");
        for name in ["missing", "notes.txt"] {
            let error = ImageFolder::scan(&[root.path().join(name)]).expect_err("no folder").to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_a_link_to_a_folder_above_is_skipped() {
        let target = folder(&["x.jpg"]);
        let root = folder(&["a.jpg"]);
        std::os::unix::fs::symlink(target.path(), root.path().join("linked")).expect("a link");
        std::os::unix::fs::symlink(root.path(), root.path().join("loop")).expect("a link");
        let found = ImageFolder::scan(&[root.path().to_path_buf()]).expect("images");
        assert_eq!(names(&found, root.path()), ["a.jpg", "linked/x.jpg"]);
    }
}
