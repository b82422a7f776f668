//! Packing.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{ARCHIVES, HEADER, INDEX, archive_name};
use crate::data::DataError;
use crate::engine::atomic;

/// A tar archive consists of blocks of this size.
const BLOCK: u64 = 512;

/// What [`pack`] has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackSummary {
    /// Files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Archives.
    pub archives: u32,
}

/// Copies the files of `folder`, named by their paths in it, into archives of `archive_bytes` in the empty folder `out`.
/// `go_on` is told the number of files that are done, and ends the work with `None` where it returns false.
///
/// Times and owners of the files are left out: the same files give the same archives.
///
/// # Errors
/// When a file cannot be read, or `out` not be written; `out` then has no index.
pub fn pack(
    folder: &Path,
    names: &[PathBuf],
    out: &Path,
    archive_bytes: u64,
    mut go_on: impl FnMut(usize) -> bool,
) -> Result<Option<PackSummary>, DataError> {
    let set = folder.file_name().map_or("files".into(), |name| name.to_string_lossy());
    let mut summary = PackSummary::default();
    let mut index = format!("{HEADER}\n{ARCHIVES}{set}\n");
    let mut archive: Option<ArchiveWriter> = None;
    for (done, name) in names.iter().enumerate() {
        let path = folder.join(name);
        let text = name.to_str().filter(|text| !text.contains(['\t', '\n', '\r']));
        let text = text.ok_or_else(|| {
            DataError::invalid(&path, "its name has a tab or a line break or is not UTF-8; rename it")
        })?;
        let content = std::fs::read(&path).map_err(|reason| DataError::read(&path, reason))?;
        if archive.as_ref().is_some_and(|archive| archive.length >= archive_bytes)
            && let Some(full) = archive.take()
        {
            full.finish()?;
        }
        let writer = match &mut archive {
            Some(writer) => writer,
            None => {
                let path = out.join(archive_name(&set, summary.archives));
                summary.archives += 1;
                archive.insert(ArchiveWriter::create(path)?)
            }
        };
        let first = writer.append(text, &content)?;
        index.push_str(&format!("{text}\t{}\t{first}\t{}\n", summary.archives - 1, content.len()));
        summary.files += 1;
        summary.bytes += content.len() as u64;
        if !go_on(done + 1) {
            return Ok(None);
        }
    }
    if let Some(archive) = archive {
        archive.finish()?;
    }
    // Last of all: without it nobody takes the folder for a whole one.
    let path = out.join(INDEX);
    atomic::write(&path, index.as_bytes()).map_err(|reason| DataError::write(&path, reason))?;
    Ok(Some(summary))
}

/// A tar archive that is being written.
struct ArchiveWriter {
    path: PathBuf,
    tar: tar::Builder<BufWriter<File>>,
    length: u64,
}

impl ArchiveWriter {
    fn create(path: PathBuf) -> Result<Self, DataError> {
        let file = File::create(&path).map_err(|reason| DataError::write(&path, reason))?;
        Ok(Self { path, tar: tar::Builder::new(BufWriter::new(file)), length: 0 })
    }

    /// Where the content begins.
    fn append(&mut self, name: &str, content: &[u8]) -> Result<u64, DataError> {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        let failed = |reason| DataError::write(&self.path, reason);
        self.tar.append_data(&mut header, name, content).map_err(failed)?;
        // A long name takes blocks of its own before the header.
        let name_blocks = if header_holds(name) { 0 } else { 1 + (name.len() as u64 + 1).div_ceil(BLOCK) };
        let first = self.length + (name_blocks + 1) * BLOCK;
        self.length = first + (content.len() as u64).next_multiple_of(BLOCK);
        Ok(first)
    }

    fn finish(self) -> Result<(), DataError> {
        let failed = |reason| DataError::write(&self.path, reason);
        let mut file = self.tar.into_inner().map_err(failed)?;
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(failed)
    }
}

/// Whether a name fits into the header of a file.
fn header_holds(name: &str) -> bool {
    tar::Header::new_gnu().set_path(name).is_ok()
}
