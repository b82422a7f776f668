//! Which images are meant, and where their pictures go.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use scrl_core::data::image_folder::{EXTENSIONS, ImageFolder};

/// One image and its name below the folder that it was found in.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    pub path: PathBuf,
    pub name: PathBuf,
}

impl Input {
    /// Where its picture is written: under its own name, with `.png` added where its ending is not that of an image.
    pub fn picture(&self, out: &Path) -> PathBuf {
        let ending = self.name.extension().unwrap_or_default();
        match EXTENSIONS.iter().any(|known| ending.eq_ignore_ascii_case(known)) {
            true => out.join(&self.name),
            false => out.join(format!("{}.png", self.name.display())),
        }
    }

    /// Where its masks go.
    pub fn masks(&self, out: &Path) -> PathBuf {
        let mut name = self.picture(out).into_os_string();
        name.push(".masks.png");
        name.into()
    }
}

/// The files, and the images of the folders, in the order of the arguments; each once.
///
/// # Errors
/// When a path does not exist, a folder holds no image, or two images have one name.
pub fn collect(paths: &[PathBuf]) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for path in paths {
        if path.is_dir() {
            let below = ImageFolder::scan(std::slice::from_ref(path))?.samples.into_iter();
            inputs.extend(below.map(|sample| Input {
                name: sample.path.strip_prefix(path).unwrap_or(&sample.path).to_path_buf(),
                path: sample.path,
            }));
        } else {
            std::fs::metadata(path).with_context(|| format!("cannot read `{}`", path.display()))?;
            let name = path.file_name().map_or_else(|| path.clone(), PathBuf::from);
            inputs.push(Input { path: path.clone(), name });
        }
    }
    unique(inputs)
}

fn unique(inputs: Vec<Input>) -> Result<Vec<Input>> {
    let mut seen: HashMap<PathBuf, PathBuf> = HashMap::new();
    let mut kept = Vec::with_capacity(inputs.len());
    for input in inputs {
        match seen.get(&input.name) {
            None => {
                seen.insert(input.name.clone(), input.path.clone());
                kept.push(input);
            }
            Some(path) if *path == input.path => {}
            Some(path) => bail!(
                "`{}` and `{}` would have the same name in the output; pass a folder that holds both",
                path.display(),
                input.path.display()
            ),
        }
    }
    Ok(kept)
}

/// Refuses to replace files without `overwrite`, and the images themselves always.
pub fn check_output(inputs: &[Input], out: &Path, results: &Path, overwrite: bool) -> Result<()> {
    let pictures = inputs.iter().flat_map(|input| [input.picture(out), input.masks(out)]);
    for path in pictures.chain([results.to_path_buf()]).filter(|path| path.exists()) {
        ensure!(
            overwrite,
            "`{}` exists; choose another --out, or replace it with --overwrite",
            path.display()
        );
        let place = path.canonicalize().ok();
        let own = inputs.iter().find(|input| input.path.canonicalize().ok() == place && place.is_some());
        ensure!(
            own.is_none(),
            "`{}` is one of the images and would be replaced by its picture; choose another --out",
            path.display()
        );
    }
    Ok(())
}
