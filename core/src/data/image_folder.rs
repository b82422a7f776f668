//! Folders of images, with labels where the subfolders are classes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use walkdir::{DirEntry, WalkDir};

use super::DataError;
use crate::engine::DataList;
use crate::packed;

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

/// Images and what is worth knowing about the folders.
#[derive(Debug)]
pub struct FolderSurvey {
    /// The images.
    pub folder: ImageFolder,
    /// Files and folders that are left out, in words.
    pub notes: Vec<String>,
    /// Files and folders that cannot be read; [`ImageFolder::scan`] refuses folders with any.
    pub problems: Vec<DataError>,
}

impl ImageFolder {
    /// Finds the images below `roots`, packed folders among them, at any depth, through links, skipping hidden files and
    /// folders. A file that several roots lead to counts once.
    ///
    /// The images get labels when there is one root, every image lies in a subfolder of it, and there are two such
    /// subfolders at least: the subfolders directly below the root are the classes.
    ///
    /// # Errors
    /// When a root does not exist, is not a folder or cannot be read, or holds no image, or a link leads nowhere.
    pub fn scan(roots: &[PathBuf]) -> Result<Self, DataError> {
        let FolderSurvey { folder, notes, mut problems } = Self::survey(roots)?;
        if !problems.is_empty() {
            return Err(problems.swap_remove(0));
        }
        notes.iter().for_each(|note| tracing::warn!("{note}"));
        Ok(folder)
    }

    /// As [`scan`](Self::scan), but goes on where a file or folder cannot be read.
    ///
    /// # Errors
    /// When a root does not exist or is not a folder, or holds no image.
    pub fn survey(roots: &[PathBuf]) -> Result<FolderSurvey, DataError> {
        let mut found = Found::default();
        let mut paths = Vec::new();
        for root in roots {
            paths.extend(find_images(root, &mut found)?);
        }
        if roots.len() > 1 {
            paths = without_repetitions(paths, &mut found);
        }
        let labelled = match roots {
            [root] => label(root, &paths),
            _ => None,
        };
        if let ([root], Some(labelled)) = (roots, &labelled) {
            found.note_empty_classes(root, &labelled.classes);
        }
        let folder = labelled.unwrap_or_else(|| Self {
            samples: paths.into_iter().map(|path| ImageFile { path, label: None }).collect(),
            classes: Vec::new(),
            roots: roots.to_vec(),
        });
        Ok(FolderSurvey { folder, notes: found.notes, problems: found.problems })
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

/// What a search found besides images.
#[derive(Default)]
struct Found {
    notes: Vec<String>,
    problems: Vec<DataError>,
}

impl Found {
    /// Notes subfolders without images, which are no classes then; those that hold other files are something else.
    fn note_empty_classes(&mut self, root: &Path, classes: &[String]) {
        let entries = std::fs::read_dir(root).into_iter().flatten().filter_map(Result::ok);
        let is_other = |path: &Path| {
            let files = WalkDir::new(path).into_iter().filter_map(Result::ok);
            files.into_iter().any(|file| file.file_type().is_file() && unread_ending(file.path()).is_none())
        };
        let folders = entries.filter(|entry| entry.path().is_dir() && !is_other(&entry.path()));
        let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut empty: Vec<String> =
            names.filter(|name| !name.starts_with('.') && !classes.contains(name)).collect();
        empty.sort();
        if !empty.is_empty() {
            let names = empty.join("`, `");
            self.notes.push(format!(
                "folders of `{}` without any image are no classes: `{names}`; add images, or remove them",
                root.display()
            ));
        }
    }
}

fn find_images(root: &Path, found: &mut Found) -> Result<Vec<PathBuf>, DataError> {
    if packed::is_packed(root) {
        return packed_images(root);
    }
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
                found.notes.push(format!("skipped a link that leads back to a folder above it: {error}"));
            }
            // A broken link to something else than an image is nobody's concern.
            Err(error) if error.path().is_some_and(|path| path.is_symlink() && !is_image(path)) => {}
            Err(error) => found.problems.push(walk_error(root, error)),
        }
    }
    if !unread.is_empty() {
        let counts: Vec<String> = unread.iter().map(|(ending, count)| format!("{count} .{ending}")).collect();
        found.notes.push(format!(
            "left out images below `{}` whose format is not read: {}; convert them to use them",
            root.display(),
            counts.join(", ")
        ));
    }
    if paths.is_empty() && found.problems.is_empty() {
        let extensions = EXTENSIONS.map(|e| format!(".{e}")).join(", ");
        return Err(DataError::NoImages { path: root.to_path_buf(), extensions });
    }
    paths.sort_unstable();
    Ok(paths)
}

/// The images of a packed folder, as those of the folder that it was made from.
fn packed_images(root: &Path) -> Result<Vec<PathBuf>, DataError> {
    packed::mount(root)?;
    let mut paths: Vec<PathBuf> = packed::files(root).into_iter().filter(|path| is_image(path)).collect();
    paths.sort_unstable();
    Ok(paths)
}

/// The first path to each file; the others are noted.
fn without_repetitions(paths: Vec<PathBuf>, found: &mut Found) -> Vec<PathBuf> {
    let real: Vec<PathBuf> =
        paths.par_iter().map(|path| path.canonicalize().unwrap_or_else(|_| path.clone())).collect();
    let mut seen = HashSet::new();
    let (count, mut first) = (paths.len(), None);
    let kept: Vec<PathBuf> = paths
        .into_iter()
        .zip(real)
        .filter_map(|(path, real)| match seen.insert(real) {
            true => Some(path),
            false => {
                first.get_or_insert(path);
                None
            }
        })
        .collect();
    if let Some(first) = first {
        found.notes.push(format!(
            "images that several folders lead to are used once: {}, the first of them `{}`",
            count - kept.len(),
            first.display()
        ));
    }
    kept
}

fn is_hidden(entry: &DirEntry) -> bool {
    entry.depth() > 0 && entry.file_name().to_string_lossy().starts_with('.')
}

/// Whether a file's name ends as images do that are read; see [`EXTENSIONS`].
pub fn is_image(path: &Path) -> bool {
    path.extension().is_some_and(|found| EXTENSIONS.iter().any(|e| found.eq_ignore_ascii_case(e)))
}

/// The ending, in lower case, of an image that is not read.
fn unread_ending(path: &Path) -> Option<String> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    UNREAD.contains(&ending.as_str()).then_some(ending)
}

fn walk_error(root: &Path, error: walkdir::Error) -> DataError {
    let path = error.path().unwrap_or(root).to_path_buf();
    match std::fs::read_link(&path) {
        Ok(target) => {
            let reason = format!(
                "it is a link to `{}`, which is not there; fetch that file (`git annex get`, `dvc pull`) or remove the link",
                target.display()
            );
            DataError::invalid(&path, reason)
        }
        Err(_) => DataError::Read { path, reason: error.into() },
    }
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

    #[test]
    fn files_that_several_folders_lead_to_count_once() {
        let root = folder(&["a/1.jpg", "a/b/2.jpg", "c/3.jpg"]);
        let path = |name: &str| root.path().join(name);
        let survey = ImageFolder::survey(&[path("a"), path("a/b"), path("c")]).unwrap();
        assert_eq!(survey.folder.samples.len(), 3);
        assert!(
            survey.notes[0].starts_with("images that several folders lead to are used once: 1, "),
            "{survey:?}"
        );
        assert!(ImageFolder::survey(&[path("a"), path("c")]).unwrap().notes.is_empty());
    }

    #[test]
    fn class_folders_without_images_are_noted() {
        let root = folder(&["cat/1.jpg", "dog/2.jpg", "cow/3.gif", "notes/x.txt", ".hidden/x.gif"]);
        let survey = ImageFolder::survey(&[root.path().to_path_buf()]).unwrap();
        assert_eq!(survey.folder.classes, ["cat", "dog"]);
        assert!(survey.notes[1].contains("are no classes: `cow`;"), "{:?}", survey.notes);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_named_with_its_target_and_a_survey_goes_on() {
        let root = folder(&["1.jpg"]);
        std::os::unix::fs::symlink("annex/objects/x", root.path().join("gone.jpg")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.path().join("readme.txt")).unwrap();
        let error = ImageFolder::scan(&[root.path().to_path_buf()]).unwrap_err().to_string();
        assert!(error.contains("gone.jpg") && error.contains("a link to `annex/objects/x`"), "{error}");
        let survey = ImageFolder::survey(&[root.path().to_path_buf()]).unwrap();
        assert_eq!((survey.folder.samples.len(), survey.problems.len()), (1, 1));
    }
}
