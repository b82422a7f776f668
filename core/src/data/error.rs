//! What can go wrong with data on disk.

use std::path::{Path, PathBuf};

use crate::transforms::ImageError;

/// A data set that cannot be read or written. Each message names the file and, where there is one, the fix.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused to open or read a file or folder.
    #[error("cannot read `{path}`: {reason}; check that it exists and may be read")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, or what the system said.
        reason: std::io::Error,
    },

    /// The operating system refused to create or write a file or folder.
    #[error("cannot write `{path}`: {reason}; check that its folder may be written and has space left")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, or what the system said.
        reason: std::io::Error,
    },

    /// A folder holds no image.
    #[error("no image in `{path}` or its subfolders; looked for files ending in {extensions}")]
    NoImages {
        /// The folder.
        path: PathBuf,
        /// The endings that are read.
        extensions: String,
    },

    /// A file can be read but does not hold what it should.
    #[error("`{path}` is not valid: {reason}")]
    Invalid {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, or what the system said.
        reason: String,
    },

    /// Annotations name images that are not there.
    #[error(
        "{missing} of {total} images listed in `{annotations}` are not in `{images}`, the first is `{first}`; \
         pass the folder that holds them, or remove them from the annotations"
    )]
    MissingImages {
        /// The annotation file.
        annotations: PathBuf,
        /// Where the images were looked for.
        images: PathBuf,
        /// How many are missing.
        missing: usize,
        /// Of how many.
        total: usize,
        /// The first of them.
        first: String,
    },

    /// An image cannot be decoded.
    #[error(transparent)]
    Image(#[from] ImageError),

    /// The code that prepares a sample panicked.
    #[error("preparing sample {index} panicked: {message}; this is a bug, please report it")]
    Panicked {
        /// Which sample.
        index: usize,
        /// What the panic said.
        message: String,
    },

    /// The loader could not start its threads.
    #[error("cannot start a loader thread: {reason}; ask for fewer threads")]
    Threads {
        /// What is wrong, or what the system said.
        reason: std::io::Error,
    },
}

impl DataError {
    /// A failure to read `path`.
    pub fn read(path: &Path, reason: std::io::Error) -> Self {
        Self::Read { path: path.to_path_buf(), reason }
    }

    /// A failure to write `path`.
    pub fn write(path: &Path, reason: std::io::Error) -> Self {
        Self::Write { path: path.to_path_buf(), reason }
    }

    /// Content of `path` that is not what it should be: `reason` says what was found and what was expected.
    pub fn invalid(path: &Path, reason: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_path_buf(), reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_file_and_what_is_wrong_with_it() {
        let error = DataError::invalid(Path::new("a/b.xml"), "object 3 has no `bndbox`");
        assert_eq!(error.to_string(), "`a/b.xml` is not valid: object 3 has no `bndbox`");
        let error = DataError::read(Path::new("c"), std::io::Error::other("broken disk"));
        assert_eq!(error.to_string(), "cannot read `c`: broken disk; check that it exists and may be read");
    }
}
