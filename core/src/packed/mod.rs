//! Packed folders: many small files in a few tar archives, with an index.
//!
//! `pack` copies a folder into `SET-000000.tar`, `SET-000001.tar`, … and writes `index.tsv` last: the name SET, and a line for each
//! file with its path in the folder, the number of the archive, where the content begins, and its length. The archives are those
//! that WebDataset reads.
//!
//! A packed folder is mounted by the process that uses it. Its files then have the paths that they would have if it were not packed,
//! and [`open`], [`size`] and [`files`] find them; each is read where it lies, in any order. So data sets, their order and the names
//! in errors are those of the folder.

#[cfg(feature = "cloud")]
mod remote;
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

/// What the second line of the index begins with; the name of the archives follows.
const ARCHIVES: &str = "# archives: ";

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
enum Archive {
    Local {
        path: PathBuf,
        file: File,
    },
    #[cfg(feature = "cloud")]
    Remote(remote::RemoteArchive),
}

/// What an index says.
#[derive(Debug)]
struct Index {
    /// What the names of the archives begin with.
    set: String,
    files: HashMap<PathBuf, Place>,
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
    /// All of it, where it comes from an object store.
    #[cfg(feature = "cloud")]
    content: Option<Vec<u8>>,
}

/// Whether a folder is a packed one; one in an object store, such as `s3://bucket/photos`, always is.
pub fn is_packed(folder: &Path) -> bool {
    is_address(folder) || folder.join(INDEX).is_file()
}

fn is_address(folder: &Path) -> bool {
    folder.to_str().is_some_and(|text| text.contains("://"))
}

/// Makes the files of a packed folder known to [`open`]; a folder that is mounted stays so.
///
/// # Errors
/// When the index or an archive cannot be read, or they do not fit together.
pub fn mount(folder: &Path) -> Result<(), DataError> {
    if mounted(folder).is_some() {
        return Ok(());
    }
    let packed = Arc::new(if is_address(folder) { Packed::connect(folder)? } else { Packed::read(folder)? });
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
        Some((folder, place)) => Source::Packed(Member::new(folder, place)),
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
        let path = folder.join(INDEX);
        let text = std::fs::read_to_string(&path).map_err(|reason| DataError::read(&path, reason))?;
        let index = Index::parse(&text, &path)?;
        let open = |(name, end): (String, u64)| {
            let path = folder.join(name);
            let file = File::open(&path).map_err(|reason| DataError::read(&path, reason))?;
            let length = file.metadata().map_err(|reason| DataError::read(&path, reason))?.len();
            if length < end { Err(too_short(&path)) } else { Ok(Archive::Local { path, file }) }
        };
        let archives = index.archives().into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { archives, files: index.files })
    }

    /// A packed folder in an object store.
    #[cfg(not(feature = "cloud"))]
    fn connect(folder: &Path) -> Result<Self, DataError> {
        let reason = "this program was built without object stores; build it with --features cloud";
        Err(DataError::invalid(folder, reason))
    }

    /// A packed folder in an object store.
    #[cfg(feature = "cloud")]
    fn connect(folder: &Path) -> Result<Self, DataError> {
        let store = remote::RemoteFolder::open(folder)?;
        let text = store.read(INDEX)?;
        let index = Index::parse(&text, &folder.join(INDEX))?;
        let archives = index.archives();
        let names: Vec<&str> = archives.iter().map(|(name, _)| name.as_str()).collect();
        for (length, (name, end)) in store.lengths(&names)?.into_iter().zip(&archives) {
            if length < *end {
                return Err(too_short(&folder.join(name)));
            }
        }
        let archives = store.archives(&names, &text).into_iter().map(Archive::Remote).collect();
        Ok(Self { archives, files: index.files })
    }
}

fn too_short(archive: &Path) -> DataError {
    DataError::invalid(archive, "it is shorter than its index says; copy or pack it again")
}

impl Index {
    fn parse(text: &str, path: &Path) -> Result<Self, DataError> {
        let mut lines = text.lines();
        let set = (lines.next() == Some(HEADER)).then(|| lines.next()?.strip_prefix(ARCHIVES)).flatten();
        let set = set.ok_or_else(|| {
            DataError::invalid(path, "it is not the index of a packed folder; pack it again")
        })?;
        let mut files = HashMap::with_capacity(text.len() / 48);
        for (number, line) in lines.enumerate() {
            let wrong =
                || DataError::invalid(path, format!("line {} is damaged; pack the folder again", number + 3));
            let (name, place) = parse(line).ok_or_else(wrong)?;
            files.insert(name, place);
        }
        Ok(Self { set: set.to_string(), files })
    }

    /// The archives by their numbers: their names, and where the last file of each ends.
    fn archives(&self) -> Vec<(String, u64)> {
        let mut ends = Vec::new();
        for place in self.files.values() {
            let archive = place.archive as usize;
            ends.resize(ends.len().max(archive + 1), 0);
            ends[archive] = ends[archive].max(place.first + place.length);
        }
        (0..).zip(ends).map(|(number, end)| (archive_name(&self.set, number), end)).collect()
    }
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

impl Member {
    fn new(folder: Arc<Packed>, place: Place) -> Self {
        Self {
            folder,
            place,
            done: 0,
            #[cfg(feature = "cloud")]
            content: None,
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
        let buffer = &mut buffer[..wanted];
        let count = match &self.folder.archives[self.place.archive as usize] {
            Archive::Local { path, file } => {
                let count = read_at(file, buffer, self.place.first + self.done)?;
                if count == 0 {
                    let reason = format!("`{}` ends before the file does", path.display());
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
                }
                count
            }
            #[cfg(feature = "cloud")]
            Archive::Remote(archive) => {
                let content = match &mut self.content {
                    Some(content) => content,
                    // One request for the whole file.
                    None => self.content.insert(archive.read(self.place.first, self.place.length)?),
                };
                let done = self.done as usize;
                buffer.copy_from_slice(&content[done..done + wanted]);
                wanted
            }
        };
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
mod tests;
