//! Files that have their name only when they are proven.

use std::path::{Path, PathBuf};

use crate::ExportError;

/// Where a file lies until it is proven: `OUT.unproven`.
pub fn unproven(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".unproven");
    PathBuf::from(name)
}

/// Writes a file under the name `OUT.unproven`, proves it and then gives it the name `out`, in place of what was there. A file
/// that could not be proven keeps the other name, so that it can be examined and is not taken for the real one.
///
/// # Errors
/// Those of writing and of the proof, and when the file cannot be renamed.
///
/// ```no_run
/// # use scrl_export::{ExportError, proven};
/// # let (export, validate) = (|_: &std::path::Path| Ok::<_, ExportError>(()), |_: &std::path::Path| Ok::<_, ExportError>(()));
/// proven("detector.onnx".as_ref(), |path| export(path), |path| validate(path))?;
/// # Ok::<(), ExportError>(())
/// ```
pub fn proven<W, P>(
    out: &Path,
    write: impl FnOnce(&Path) -> Result<W, ExportError>,
    prove: impl FnOnce(&Path) -> Result<P, ExportError>,
) -> Result<P, ExportError> {
    let unproven = unproven(out);
    write(&unproven)?;
    let proof = prove(&unproven)?;
    let failed = |source| ExportError::Io { action: "write", path: out.to_path_buf(), source };
    std::fs::rename(&unproven, out).map_err(failed)?;
    Ok(proof)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_proven_file_gets_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a.onnx");
        let write = |text: &'static str| {
            move |path: &Path| {
                std::fs::write(path, text).unwrap();
                Ok(())
            }
        };
        let content = |path: &Path| std::fs::read_to_string(path).ok();
        let refuse =
            |path: &Path| Err::<(), _>(ExportError::NotOnnx { path: path.into(), reason: "no".into() });
        assert!(proven(&out, write("first"), refuse).unwrap_err().to_string().contains("a.onnx.unproven"));
        assert_eq!((content(&out), content(&unproven(&out))), (None, Some("first".into())));
        assert_eq!(proven(&out, write("second"), |_| Ok(7)).unwrap(), 7);
        assert_eq!((content(&out), content(&unproven(&out))), (Some("second".into()), None));
        proven(&out, write("third"), refuse).unwrap_err();
        assert_eq!(content(&out), Some("second".into()), "what was proven stays");
    }
}
