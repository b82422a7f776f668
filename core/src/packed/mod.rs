//! Packed folders: many small files in a few tar archives, with an index.
//!
//! `pack` copies a folder into `SET-000000.tar`, `SET-000001.tar`, … and writes `index.tsv` last, a line for each file: its path in
//! the folder, the number of the archive, where the content begins, and its length. The archives are those that WebDataset reads.
//!
//! A packed folder is mounted by the process that uses it. Its files then have the paths that they would have if it were not packed,
//! and [`open`], [`size`] and [`files`] find them; each is read where it lies, in any order. So data sets, their order and the names
//! in errors are those of the folder.

mod write;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use crate::data::DataError;

pub use write::{PackSummary, pack};

/// Name of the index of a packed folder.
pub const INDEX: &str = "index.tsv";
/// First line of the index.
const HEADER: &str = "# scrl packed folder: path, archive, first byte, bytes";

/// The packed folders of this process, by their path.
static MOUNTED: RwLock<BTreeMap<PathBuf, Arc<Packed>>> = RwLock::new(BTreeMap::new());

/// A packed folder.
#[derive(Debug)]
struct Packed {
    archives: Vec<Archive>,
    /// By their path in the folder.
    files: HashMap<PathBuf, Place>,
}

#[derive(Debug)]
struct Archive {
    path: PathBuf,
    file: File,
}

/// Where a file lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    archive: u32,
    first: u64,
    length: u64,
}

/// A file, packed or not.
#[derive(Debug)]
pub enum Source {
    /// A file of its own.
    File(File),
    /// A part of an archive.
    Packed(Member),
}

/// A file in an archive.
#[derive(Debug)]
pub struct Member {
    folder: Arc<Packed>,
    place: Place,
    /// Bytes that have been read.
    done: u64,
}

/// Whether a folder is a packed one.
pub fn is_packed(folder: &Path) -> bool {
    folder.join(INDEX).is_file()
}

/// Makes the files of a packed folder known to [`open`]; a folder that is mounted stays so.
///
/// # Errors
/// When the index or an archive cannot be read, or they do not fit together.
pub fn mount(folder: &Path) -> Result<(), DataError> {
    if mounted(folder).is_some() {
        return Ok(());
    }
    let packed = Arc::new(Packed::read(folder)?);
    MOUNTED.write().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(folder.to_path_buf(), packed);
    Ok(())
}

/// The paths of the files of a mounted folder, in no order.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let packed = mounted(folder);
    packed.iter().flat_map(|packed| packed.files.keys()).map(|name| folder.join(name)).collect()
}

/// Opens a file for reading, wherever it lies.
///
/// # Errors
/// When it is not there or cannot be read.
pub fn open(path: &Path) -> io::Result<Source> {
    Ok(match find(path) {
        Some((folder, place)) => Source::Packed(Member { folder, place, done: 0 }),
        None => Source::File(File::open(path)?),
    })
}

/// Bytes of a file, wherever it lies.
///
/// # Errors
/// When it is not there.
pub fn size(path: &Path) -> io::Result<u64> {
    match find(path) {
        Some((_, place)) => Ok(place.length),
        None => Ok(std::fs::metadata(path)?.len()),
    }
}

fn mounted(folder: &Path) -> Option<Arc<Packed>> {
    MOUNTED.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(folder).cloned()
}

/// The packed folder that a path leads into, and the place of the file there.
fn find(path: &Path) -> Option<(Arc<Packed>, Place)> {
    let mounted = MOUNTED.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    if mounted.is_empty() {
        return None;
    }
    path.ancestors().skip(1).find_map(|folder| {
        let packed = mounted.get(folder)?;
        let place = packed.files.get(path.strip_prefix(folder).ok()?)?;
        Some((Arc::clone(packed), *place))
    })
}

impl Packed {
    fn read(folder: &Path) -> Result<Self, DataError> {
        let index = folder.join(INDEX);
        let text = std::fs::read_to_string(&index).map_err(|reason| DataError::read(&index, reason))?;
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(DataError::invalid(&index, "it is not the index of a packed folder; pack it again"));
        }
        let mut files = HashMap::with_capacity(text.len() / 48);
        for (number, line) in lines.enumerate() {
            let wrong = || {
                DataError::invalid(&index, format!("line {} is damaged; pack the folder again", number + 2))
            };
            let (name, place) = parse(line).ok_or_else(wrong)?;
            files.insert(name, place);
        }
        let ends = files.values().fold(BTreeMap::<u32, u64>::new(), |mut ends, place| {
            let end = ends.entry(place.archive).or_default();
            *end = (*end).max(place.first + place.length);
            ends
        });
        let name = set_name(folder)?;
        let open = |number: u32| {
            let path = folder.join(archive_name(&name, number));
            let file = File::open(&path).map_err(|reason| DataError::read(&path, reason))?;
            let length = file.metadata().map_err(|reason| DataError::read(&path, reason))?.len();
            match ends.get(&number).is_none_or(|end| *end <= length) {
                true => Ok(Archive { path, file }),
                false => {
                    Err(DataError::invalid(&path, "it is shorter than its index says; copy or pack it again"))
                }
            }
        };
        let count = ends.keys().next_back().map_or(0, |last| last + 1);
        Ok(Self { archives: (0..count).map(open).collect::<Result<_, _>>()?, files })
    }
}

/// The name that the archives of a folder begin with: that of its first one.
fn set_name(folder: &Path) -> Result<String, DataError> {
    let entries = std::fs::read_dir(folder).map_err(|reason| DataError::read(folder, reason))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let first = names.filter_map(|name| name.strip_suffix("-000000.tar").map(ToString::to_string)).next();
    first
        .ok_or_else(|| DataError::invalid(folder, "it has an index but no archive `…-000000.tar`; copy both"))
}

fn archive_name(set: &str, number: u32) -> String {
    format!("{set}-{number:06}.tar")
}

fn parse(line: &str) -> Option<(PathBuf, Place)> {
    let (rest, length) = line.rsplit_once('\t')?;
    let (rest, first) = rest.rsplit_once('\t')?;
    let (name, archive) = rest.rsplit_once('\t')?;
    let place =
        Place { archive: archive.parse().ok()?, first: first.parse().ok()?, length: length.parse().ok()? };
    Some((PathBuf::from(name), place))
}

impl Source {
    /// Bytes that there are in all.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn len(&self) -> io::Result<u64> {
        match self {
            Source::File(file) => Ok(file.metadata()?.len()),
            Source::Packed(member) => Ok(member.place.length),
        }
    }

    /// Whether there are none.
    ///
    /// # Errors
    /// As [`len`](Self::len).
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::File(file) => file.read(buffer),
            Source::Packed(member) => member.read(buffer),
        }
    }
}

impl Read for Member {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.place.length - self.done).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let archive = &self.folder.archives[self.place.archive as usize];
        let count = read_at(&archive.file, &mut buffer[..wanted], self.place.first + self.done)?;
        if count == 0 {
            let reason = format!("`{}` ends before the file does", archive.path.display());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
        }
        self.done += count as u64;
        Ok(count)
    }
}

/// Reads at a place without moving the file's own, so that threads share it.
#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(path: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut source = open(path).unwrap();
        assert_eq!(source.len().unwrap(), size(path).unwrap());
        source.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn write(folder: &Path, name: &str, content: &[u8]) {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    #[test]
    fn packed_files_are_found_under_their_names_and_tar_reads_the_archives() {
        let folder = tempfile::tempdir().unwrap();
        let (source, out) = (folder.path().join("photos"), folder.path().join("out"));
        std::fs::create_dir(&out).unwrap();
        let long = format!("{}/{}.jpg", "deep".repeat(30), "x".repeat(150));
        let names = ["a.jpg", "b/empty.jpg", "b/c.jpg", &long];
        let files: Vec<Vec<u8>> = [700, 0, 512, 5].map(|length| vec![length as u8; length]).to_vec();
        for (name, content) in names.iter().zip(&files) {
            write(&source, name, content);
        }
        let paths: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
        let mut steps = 0;
        let go_on = |done| {
            steps = done;
            true
        };
        let summary = pack(&source, &paths, &out, 1500, go_on).unwrap().expect("nobody ends it");
        assert_eq!((summary.files, summary.bytes, summary.archives, steps), (4, 1217, 3, 4));

        assert!(is_packed(&out) && !is_packed(&source));
        mount(&out).unwrap();
        for (name, expected) in names.iter().zip(&files) {
            assert_eq!(&content(&out.join(name)), expected, "{name}");
            assert_eq!(&content(&source.join(name)), expected, "{name}");
        }
        assert!(open(&out.join("no.jpg")).is_err() && size(&out.join("no.jpg")).is_err());
        let mut found = super::files(&out);
        found.sort();
        let mut expected: Vec<PathBuf> = paths.iter().map(|name| out.join(name)).collect();
        expected.sort();
        assert_eq!(found, expected);

        let mut members = Vec::new();
        for number in 0..3 {
            let mut archive =
                tar::Archive::new(File::open(out.join(format!("photos-00000{number}.tar"))).unwrap());
            for entry in archive.entries().unwrap() {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                members.push((entry.path().unwrap().to_string_lossy().into_owned(), bytes));
            }
        }
        let expected: Vec<_> = names.iter().map(ToString::to_string).zip(files).collect();
        assert_eq!(members, expected);
    }

    #[test]
    fn what_is_cut_short_or_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (source, out) = (folder.path().join("photos"), folder.path().join("out"));
        std::fs::create_dir(&out).unwrap();
        write(&source, "a.jpg", &[1; 900]);
        let error = |names: &[&str]| {
            let names: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
            pack(&source, &names, &out, 1 << 20, |_| true).unwrap_err().to_string()
        };
        assert!(error(&["gone.jpg"]).contains("gone.jpg"));
        write(&source, "a\tb.jpg", b"");
        assert!(error(&["a\tb.jpg"]).contains("rename it"));
        assert!(!is_packed(&out), "an unfinished folder has no index");

        let names = [PathBuf::from("a.jpg")];
        assert_eq!(pack(&source, &names, &out, 1 << 20, |_| false).unwrap(), None);
        assert!(!is_packed(&out), "nor has one that was broken off");
        pack(&source, &names, &out, 1 << 20, |_| true).unwrap();
        let archive = out.join("photos-000000.tar");
        File::options().write(true).open(&archive).unwrap().set_len(600).unwrap();
        assert!(mount(&out).unwrap_err().to_string().contains("shorter than its index says"));
        std::fs::remove_file(&archive).unwrap();
        assert!(mount(&out).unwrap_err().to_string().contains("no archive"));
        write(&out, INDEX, b"something else\n");
        assert!(mount(&out).unwrap_err().to_string().contains("not the index of a packed folder"));
        write(&out, INDEX, format!("{HEADER}\na.jpg\t0\t512\tmany\n").as_bytes());
        assert!(mount(&out).unwrap_err().to_string().contains("line 2 is damaged"));
    }
}
