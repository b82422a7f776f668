//! What can go wrong with an image file.

use std::path::PathBuf;

/// An image that cannot be decoded. Each message names the file and the fix.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The operating system refused to open or read it.
    #[error("cannot read image `{path}`: {reason}; check that it exists and may be read")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, or what the system said.
        reason: std::io::Error,
    },

    /// A file of zero bytes.
    #[error("image `{path}` is empty (0 bytes); remove or replace it")]
    Empty {
        /// The file or folder.
        path: PathBuf,
    },

    /// What Git LFS leaves in the place of a file that was not fetched.
    #[error("`{path}` is a pointer of Git LFS, not an image; fetch the file with `git lfs pull`")]
    Pointer {
        /// The file.
        path: PathBuf,
    },

    /// The content is none of the formats, whatever the name says.
    #[error("`{path}` is not a JPEG, PNG, WebP, BMP or TIFF image; convert or remove it")]
    Format {
        /// The file or folder.
        path: PathBuf,
    },

    /// More pixels than are decoded.
    #[error(
        "image `{path}` has {width} x {height} pixels, more than the limit of {limit}; remove it, make it smaller, or set \
         SCRL_MAX_PIXELS to a larger number"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its width in pixels, as its header says.
        width: u32,
        /// Its height in pixels.
        height: u32,
        /// The largest product of both.
        limit: u64,
    },

    /// Its pixels do not fit into memory.
    #[error(
        "image `{path}` of {width} x {height} pixels needs {bytes} bytes, and there is no such memory; remove it or make it smaller"
    )]
    Memory {
        /// The file.
        path: PathBuf,
        /// Its width in pixels.
        width: u32,
        /// Its height in pixels.
        height: u32,
        /// What decoding takes.
        bytes: u64,
    },

    /// The content breaks off or contradicts itself.
    #[error("image `{path}` is truncated or damaged: {reason}; remove or replace it")]
    Damaged {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, or what the system said.
        reason: String,
    },

    /// A valid image of a kind that is not decoded.
    #[error(
        "image `{path}` is of a kind that is not supported: {reason}; convert it to 8-bit RGB, or remove it"
    )]
    Unsupported {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, or what the system said.
        reason: String,
    },
}
