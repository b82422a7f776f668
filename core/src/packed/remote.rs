//! Packed folders in an object store: S3, Google Cloud Storage, Azure, or a web server.
//!
//! Each file is one ranged request, of whatever thread asks for it. What has been read is kept on the local disk as long as there is
//! room for it, and nothing makes way for something else: epochs visit every file once in a new order, so that a cache which always
//! takes in the latest would have dropped each before its turn.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, parse_url_opts};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use url::Url;

use super::read_at;
use crate::config::hex;
use crate::data::DataError;

/// The folder of the cache; `scrl` in the user's cache folder by default.
const CACHE_DIR: &str = "SCRL_CACHE_DIR";
/// Most GiB that a packed folder takes in the cache.
const CACHE_GIB: &str = "SCRL_CACHE_GIB";
const DEFAULT_CACHE_GIB: f64 = 16.0;

/// What the names of the variables begin with that the stores are set up by.
const STORES: [&str; 3] = ["aws_", "google_", "azure_"];

/// A folder in a store.
#[derive(Debug)]
pub(super) struct RemoteFolder {
    store: Arc<dyn ObjectStore>,
    folder: Key,
    /// As the user wrote it, for errors.
    url: PathBuf,
}

/// An archive in a store.
#[derive(Debug)]
pub(super) struct RemoteArchive {
    store: Arc<dyn ObjectStore>,
    key: Key,
    cache: Option<Cached>,
}

/// What of an archive lies on the local disk: a file with holes, and a list of what is not a hole.
#[derive(Debug)]
struct Cached {
    content: File,
    journal: Mutex<File>,
    /// Length and checksum of the files that are there, by their first byte.
    known: Mutex<HashMap<u64, (u64, u32)>>,
    room: Arc<Room>,
}

/// Bytes that a packed folder has in the cache.
#[derive(Debug)]
struct Room {
    used: AtomicU64,
    limit: u64,
}

/// Where the requests run.
fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    Ok(RUNTIME.get_or_init(|| runtime))
}

fn failed(url: &Path, reason: impl std::fmt::Display) -> DataError {
    DataError::read(url, io::Error::other(reason.to_string()))
}

impl RemoteFolder {
    /// The folder of an address such as `s3://bucket/photos`. Keys, regions and endpoints are taken from the environment, as the
    /// tools of each store have them (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, …).
    pub(super) fn open(url: &Path) -> Result<Self, DataError> {
        let address = url.to_str().and_then(|text| Url::parse(text).ok());
        let address = address
            .ok_or_else(|| DataError::invalid(url, "it is not an address; write `s3://bucket/folder`"))?;
        let of_stores = |key: &String| STORES.iter().any(|prefix| key.starts_with(prefix));
        let options = std::env::vars().map(|(key, value)| (key.to_ascii_lowercase(), value));
        let plain = (address.scheme() == "http").then(|| ("allow_http".to_string(), "true".to_string()));
        let options = options.filter(|(key, _)| of_stores(key)).chain(plain);
        let (store, folder) = parse_url_opts(&address, options).map_err(|reason| failed(url, reason))?;
        Ok(Self { store: Arc::from(store), folder, url: url.to_path_buf() })
    }

    /// A small file of the folder.
    pub(super) fn read(&self, name: &str) -> Result<String, DataError> {
        let key = self.folder.clone().join(name);
        let path = self.url.join(name);
        let runtime = runtime().map_err(|reason| failed(&path, reason))?;
        let bytes = runtime.block_on(async { self.store.get(&key).await?.bytes().await });
        let bytes = bytes.map_err(|reason| failed(&path, reason))?;
        String::from_utf8(bytes.to_vec()).map_err(|_| DataError::invalid(&path, "it is not text"))
    }

    /// Bytes of these files.
    pub(super) fn lengths(&self, names: &[&str]) -> Result<Vec<u64>, DataError> {
        let runtime = runtime().map_err(|reason| failed(&self.url, reason))?;
        let ask = |name: &&str| {
            let (store, key) = (Arc::clone(&self.store), self.folder.clone().join(*name));
            runtime.spawn(async move { store.head(&key).await })
        };
        let asked: Vec<_> = names.iter().map(ask).collect();
        let length = |(request, name): (JoinHandle<object_store::Result<ObjectMeta>>, &&str)| {
            let answer = runtime.block_on(request).map_err(|reason| failed(&self.url.join(name), reason))?;
            Ok(answer.map_err(|reason| failed(&self.url.join(name), reason))?.size)
        };
        asked.into_iter().zip(names).map(length).collect()
    }

    /// The archives of these names, which share a part of the cache that belongs to this `index`.
    pub(super) fn archives(&self, names: &[&str], index: &str) -> Vec<RemoteArchive> {
        let cache = cache_folder(&self.url, index);
        let room = Arc::new(Room { used: AtomicU64::new(0), limit: cache_limit() });
        let archive = |name: &&str| RemoteArchive {
            store: Arc::clone(&self.store),
            key: self.folder.clone().join(*name),
            cache: cache.as_deref().and_then(|folder| Cached::open(folder, name, &room)),
        };
        names.iter().map(archive).collect()
    }
}

/// The folder of the cache for this index, if there is to be one.
fn cache_folder(url: &Path, index: &str) -> Option<PathBuf> {
    let base = std::env::var_os(CACHE_DIR).map(PathBuf::from).or_else(|| {
        let user = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        Some(user.or_else(|| Some(std::env::home_dir()?.join(".cache")))?.join("scrl"))
    })?;
    let digest = hex(&Sha256::digest(format!("{}\n{index}", url.display())));
    let folder = base.join(&digest[..32]);
    match std::fs::create_dir_all(&folder) {
        Ok(()) if cache_limit() > 0 => Some(folder),
        Ok(()) => None,
        Err(error) => {
            tracing::warn!(
                "nothing is kept of `{}`: cannot make `{}`: {error}",
                url.display(),
                folder.display()
            );
            None
        }
    }
}

fn cache_limit() -> u64 {
    let gib = std::env::var(CACHE_GIB).ok().and_then(|text| text.parse::<f64>().ok());
    (gib.unwrap_or(DEFAULT_CACHE_GIB).max(0.0) * f64::from(1 << 30)) as u64
}

impl RemoteArchive {
    /// The bytes of a file in the archive.
    pub(super) fn read(&self, first: u64, length: u64) -> io::Result<Vec<u8>> {
        if let Some(bytes) = self.cache.as_ref().and_then(|cache| cache.read(first, length)) {
            return Ok(bytes);
        }
        let range: Range<u64> = first..first + length;
        let bytes = runtime()?.block_on(self.store.get_range(&self.key, range)).map_err(io::Error::other)?;
        if bytes.len() as u64 != length {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("`{}` ends too early", self.key),
            ));
        }
        if let Some(cache) = &self.cache {
            cache.keep(first, &bytes);
        }
        Ok(bytes.to_vec())
    }
}

impl Cached {
    fn open(folder: &Path, name: &str, room: &Arc<Room>) -> Option<Self> {
        let open = |ending: &str, append: bool| {
            let path = folder.join(format!("{name}.{ending}"));
            OpenOptions::new().read(true).write(true).append(append).create(true).truncate(false).open(path)
        };
        let content = open("part", false).ok()?;
        let journal = open("list", true).ok()?;
        let text = std::fs::read_to_string(folder.join(format!("{name}.list"))).unwrap_or_default();
        let known: HashMap<_, _> = text.lines().filter_map(parse).collect();
        room.used.fetch_add(known.values().map(|(length, _)| length).sum(), Ordering::Relaxed);
        let (journal, known) = (Mutex::new(journal), Mutex::new(known));
        Some(Self { content, journal, known, room: Arc::clone(room) })
    }

    /// A file that is there and whole; one that a crash has torn is not.
    fn read(&self, first: u64, length: u64) -> Option<Vec<u8>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&first).copied();
        let (_, checksum) = known.filter(|(known, _)| *known == length)?;
        let mut bytes = vec![0; length as usize];
        let mut done = 0;
        while done < bytes.len() {
            match read_at(&self.content, &mut bytes[done..], first + done as u64) {
                Ok(count) if count > 0 => done += count,
                _ => return None,
            }
        }
        (crc32c::crc32c(&bytes) == checksum).then_some(bytes)
    }

    /// Keeps a file if there is room. A disk that is full only makes the cache smaller.
    fn keep(&self, first: u64, bytes: &[u8]) {
        let length = bytes.len() as u64;
        if self.room.used.fetch_add(length, Ordering::Relaxed) + length > self.room.limit {
            self.room.used.fetch_sub(length, Ordering::Relaxed);
            return;
        }
        let checksum = crc32c::crc32c(bytes);
        let line = format!("{first} {length} {checksum}\n");
        let kept = write_at(&self.content, bytes, first).and_then(|()| {
            // One write a line, so that lines of several processes do not mix.
            self.journal.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())
        });
        if kept.is_ok() {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(first, (length, checksum));
        }
    }
}

fn parse(line: &str) -> Option<(u64, (u64, u32))> {
    let mut numbers = line.split(' ');
    let first = numbers.next()?.parse().ok()?;
    Some((first, (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?)))
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        bytes = &bytes[count..];
        offset += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_what_there_is_room_for_and_notices_damage() {
        let folder = tempfile::tempdir().unwrap();
        let open = |limit: u64| {
            let room = Arc::new(Room { used: AtomicU64::new(0), limit });
            Cached::open(folder.path(), "a.tar", &room).expect("the folder may be written")
        };
        let cache = open(8);
        cache.keep(1000, b"12345");
        cache.keep(5000, b"6789");
        assert_eq!(cache.read(1000, 5).as_deref(), Some(&b"12345"[..]));
        assert_eq!(cache.read(5000, 4), None, "there was no room");
        assert_eq!(cache.read(1000, 4), None, "a file of another length");

        let later = open(9);
        assert_eq!(later.read(1000, 5).as_deref(), Some(&b"12345"[..]), "a later process finds it");
        later.keep(5000, b"6789");
        assert_eq!(later.read(5000, 4).as_deref(), Some(&b"6789"[..]));
        write_at(&later.content, b"X", 1002).unwrap();
        assert_eq!(later.read(1000, 5), None, "it is damaged");
    }
}
