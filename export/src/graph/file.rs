//! Models on disk.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use onnx_ir::{Message, ModelProto};

use crate::ExportError;

/// Writes a model to a file: all of it or, after an error, nothing. Returns the number of bytes.
///
/// # Errors
/// When the folder does not exist or cannot be written to.
pub fn save(model: &ModelProto, path: &Path) -> Result<u64, ExportError> {
    let failed = |source: io::Error| ExportError::Io { action: "write", path: path.to_path_buf(), source };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".export-");
    // A temporary file is private to its user; an exported model gets the permissions of any new file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temporary = builder.tempfile_in(folder).map_err(failed)?;
    write(model, temporary.as_file_mut()).map_err(failed)?;
    let file = temporary.persist(path).map_err(|error| failed(error.error))?;
    Ok(file.metadata().map_err(failed)?.len())
}

fn write(model: &ModelProto, file: &mut File) -> io::Result<()> {
    let mut writer = BufWriter::new(&mut *file);
    model.write_to_writer(&mut writer)?;
    writer.flush()?;
    drop(writer);
    file.sync_all()
}
