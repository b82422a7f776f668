//! Weight files of any kind, told apart by their content.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::super::error::CheckpointError;
use super::super::{numpy_pickle, pytorch, safetensors};
use crate::models::parameters::TensorMap;

/// First byte of a pickle of protocol 2 or later.
const PICKLE: u8 = 0x80;

/// What a file's first bytes say.
enum Kind {
    Safetensors,
    Pytorch,
    /// Something else, with what it is and what to do.
    Other(&'static str),
}

/// Reads tensors and metadata of a safetensors file. Floats come as f32, integers as they are.
///
/// # Errors
/// When the file cannot be read or is damaged.
pub fn read_safetensors(path: &Path) -> Result<(TensorMap, BTreeMap<String, String>), CheckpointError> {
    let bytes = std::fs::read(path).map_err(CheckpointError::read(path))?;
    safetensors::decode(&bytes, path)
}

/// Reads tensors of a safetensors file, of a PyTorch state dict (zip, legacy or plain pickle) or of a pickle of numpy
/// arrays, whatever the file's extension.
///
/// A PyTorch file has no metadata; nested dicts give dotted keys.
///
/// # Errors
/// When the file cannot be read or is something else; the message says what it looks like.
pub fn read_tensors(path: &Path) -> Result<(TensorMap, BTreeMap<String, String>), CheckpointError> {
    let mut head = Vec::new();
    let file = File::open(path).map_err(CheckpointError::read(path))?;
    file.take(512).read_to_end(&mut head).map_err(CheckpointError::read(path))?;
    match kind(&head, path) {
        Kind::Safetensors => read_safetensors(path),
        Kind::Pytorch => read_pickle(path, head[0] == PICKLE),
        Kind::Other(problem) => Err(CheckpointError::format(path, problem)),
    }
}

/// A file of PyTorch or, where it is a plain pickle without any tensor of it, of numpy's arrays.
fn read_pickle(
    path: &Path,
    is_plain: bool,
) -> Result<(TensorMap, BTreeMap<String, String>), CheckpointError> {
    let tensors = match pytorch::read(path) {
        Ok(tensors) if !tensors.is_empty() => return Ok((tensors, BTreeMap::new())),
        other => other,
    };
    if is_plain {
        let bytes = std::fs::read(path).map_err(CheckpointError::read(path))?;
        match numpy_pickle::decode(&bytes, path) {
            Ok(read) => return Ok(read),
            // What PyTorch's reader says is worth more about files that it understands.
            Err(error) if tensors.is_ok() => return Err(error),
            Err(_) => {}
        }
    }
    let problem = "it holds no tensor; save `model.state_dict()` with torch.save";
    tensors.and_then(|_| Err(CheckpointError::format(path, problem)))
}

fn kind(head: &[u8], path: &Path) -> Kind {
    let text = head.trim_ascii_start();
    if head.is_empty() {
        return Kind::Other("it is empty; copy or download it again");
    }
    if text.starts_with(b"<") {
        return Kind::Other("it is a web page, not weights; download the file itself, not the page about it");
    }
    if text.starts_with(b"version https://git-lfs") {
        return Kind::Other("it is a pointer of Git LFS, not weights; fetch the file with `git lfs pull`");
    }
    if head.starts_with(&[0x1f, 0x8b]) {
        return Kind::Other("it is compressed by gzip; unpack it first");
    }
    // A length of JSON, then the JSON.
    if head.get(8) == Some(&b'{') && head[4..8] == [0; 4] {
        return Kind::Safetensors;
    }
    // A zip archive or a pickle of protocol 2 or later.
    if head.starts_with(b"PK") || head[0] == PICKLE {
        return Kind::Pytorch;
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("pth" | "pt" | "pkl" | "tar") => Kind::Pytorch,
        Some("safetensors") => Kind::Safetensors,
        _ => Kind::Other(
            "unsupported weight format; expected a .safetensors, .pth or .pt file or a run directory",
        ),
    }
}

/// The file itself, or the weights of a run: a pretraining's backbone or a transfer's detector.
pub(super) fn weights_file(path: &Path) -> Result<PathBuf, CheckpointError> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let files =
        ["backbone", "detector"].map(|name| path.join("weights").join(name).with_extension("safetensors"));
    let found = files.into_iter().find(|file| file.is_file());
    found.ok_or_else(|| {
        let problem =
            "the directory has no weights/backbone.safetensors; give a pretraining run that has saved weights";
        CheckpointError::format(path, problem)
    })
}
