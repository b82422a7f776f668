//! Renders a data set into a folder: pictures first, annotations next, `synth.json` last.

use std::fs;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::scene::{SceneObject, render_scene};
use super::shapes::ShapeClass;
use super::split::Split;
use super::{SynthConfig, SynthError, annotations};
use scrl_core::data::DataError;

/// Raised whenever the same configuration would render other bytes.
const GENERATOR_VERSION: u32 = 1;
const JPEG_QUALITY: u8 = 90;
/// Present as long as the folder is incomplete.
const UNFINISHED: &str = "synth.unfinished";
const MANIFEST: &str = "synth.json";
const FOLDERS: [&str; 5] = ["train", "val", "unlabelled", "classes", "annotations"];

/// What a data set holds. Object statistics are those of the annotated splits, `train` and `val`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SynthSummary {
    /// Image files written, of all splits and classes.
    pub images: usize,
    /// Annotated objects.
    pub objects: usize,
    /// Annotated objects of each class, in the order of the category ids.
    pub classes: Vec<ClassCount>,
    /// Median of the boxes' longer sides, in pixels; 0 without an object.
    pub median_side: f32,
    /// The shortest longer side of a box, in pixels.
    pub min_side: f32,
    /// The longest longer side of a box, in pixels.
    pub max_side: f32,
    /// The part of the objects that other objects or the image's edge hide in part, in `[0, 1]`.
    pub partly_hidden: f64,
}

/// How often a class occurs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCount {
    /// Name of the class.
    pub name: String,
    /// Annotated objects of the class.
    pub objects: usize,
}

/// The last file written, which tells a complete data set from an interrupted one.
#[derive(Serialize, Deserialize)]
struct Manifest {
    generator_version: u32,
    config: SynthConfig,
    summary: SynthSummary,
}

/// Renders the data set into `out`, which must be empty or not exist.
///
/// - `train/`, `val/` and `annotations/instances_{train,val}.json`: a COCO detection data set
/// - `unlabelled/`: scenes for pretraining
/// - `classes/<class>/`: images of one object
/// - `synth.json`: configuration and summary, written last
///
/// # Errors
/// For a configuration that cannot be met, for a folder that is not empty, and when a file cannot be written.
pub fn write(config: &SynthConfig, out: &Path) -> Result<SynthSummary, SynthError> {
    config.validate()?;
    if !entries(out)?.is_empty() {
        return Err(SynthError::Occupied { path: out.to_path_buf() });
    }
    render_into(config, out)
}

/// As [`write()`], and replaces the folders that an earlier call, finished or not, made in `out`. Its other entries
/// stay.
///
/// # Errors
/// As [`write()`], and for a folder that is neither empty nor of this function's making.
pub fn overwrite(config: &SynthConfig, out: &Path) -> Result<SynthSummary, SynthError> {
    config.validate()?;
    let present = entries(out)?;
    let ours = [MANIFEST, UNFINISHED].iter().any(|name| out.join(name).is_file());
    if !present.is_empty() && !ours {
        return Err(SynthError::Foreign { path: out.to_path_buf() });
    }
    if ours {
        // From here on the folder counts as unfinished.
        write_file(&out.join(UNFINISHED), &[])?;
        remove_file(&out.join(MANIFEST))?;
        FOLDERS.iter().try_for_each(|name| remove_folder(&out.join(name)))?;
    }
    render_into(config, out)
}

/// Whether `out` holds all that [`write()`] would render for this configuration. The number of files is checked,
/// their content is not.
pub fn is_complete(out: &Path, config: &SynthConfig) -> bool {
    read_summary(out, config).is_some()
}

/// The summary of a complete data set of this configuration.
pub fn read_summary(out: &Path, config: &SynthConfig) -> Option<SynthSummary> {
    let manifest: Manifest = serde_json::from_slice(&fs::read(out.join(MANIFEST)).ok()?).ok()?;
    let rendered = |(folder, _, count): (PathBuf, Split, usize)| {
        entries(&folder).is_ok_and(|files| files.len() == count)
    };
    let complete = manifest.generator_version == GENERATOR_VERSION
        && manifest.config == *config
        && !out.join(UNFINISHED).exists()
        && parts(config, out).into_iter().all(rendered);
    complete.then_some(manifest.summary)
}

fn render_into(config: &SynthConfig, out: &Path) -> Result<SynthSummary, SynthError> {
    make_folder(out)?;
    write_file(&out.join(UNFINISHED), &[])?;
    let mut summary = Statistics::default();
    for (folder, split, count) in parts(config, out) {
        make_folder(&folder)?;
        let scenes = render_split(config, split, count, &folder)?;
        summary.images += scenes.len();
        let name = match split {
            Split::Train => "train",
            Split::Val => "val",
            _ => continue,
        };
        let file = out.join("annotations").join(format!("instances_{name}.json"));
        make_folder(&out.join("annotations"))?;
        write_file(&file, &annotations::to_json(config, name, &scenes))?;
        summary.objects.extend(scenes.into_iter().flatten());
    }
    Ok(finish(config, out, summary.summarize())?)
}

/// Every folder of pictures, with its split and its number of pictures. Empty ones are left out.
fn parts(config: &SynthConfig, out: &Path) -> Vec<(PathBuf, Split, usize)> {
    let class = |class: ShapeClass| {
        (out.join("classes").join(class.name()), Split::Class(class), config.class_images)
    };
    let splits = [
        (out.join("train"), Split::Train, config.train),
        (out.join("val"), Split::Val, config.val),
        (out.join("unlabelled"), Split::Unlabelled, config.unlabelled),
    ];
    splits.into_iter().chain(ShapeClass::ALL.map(class)).filter(|(_, _, count)| *count > 0).collect()
}

/// Renders and writes the scenes of one folder in parallel. Returns their objects in the order of the scenes.
fn render_split(
    config: &SynthConfig,
    split: Split,
    count: usize,
    folder: &Path,
) -> Result<Vec<Vec<SceneObject>>, DataError> {
    let render = |index: usize| {
        let scene = render_scene(config, split, index as u64);
        let path = folder.join(annotations::file_name(index));
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
            .encode_image(&scene.image)
            .map_err(|error| DataError::write(&path, std::io::Error::other(error)))?;
        write_file(&path, &bytes)?;
        Ok(scene.objects)
    };
    (0..count).into_par_iter().map(render).collect()
}

/// Writes the manifest and takes the mark of an unfinished folder away.
fn finish(config: &SynthConfig, out: &Path, summary: SynthSummary) -> Result<SynthSummary, DataError> {
    let path = out.join(MANIFEST);
    let manifest =
        Manifest { generator_version: GENERATOR_VERSION, config: config.clone(), summary: summary.clone() };
    let json = serde_json::to_vec_pretty(&manifest).map_err(|error| DataError::write(&path, error.into()))?;
    write_file(&path, &json)?;
    remove_file(&out.join(UNFINISHED))?;
    tracing::info!(images = summary.images, objects = summary.objects, "rendered `{}`", out.display());
    Ok(summary)
}

#[derive(Default)]
struct Statistics {
    images: usize,
    objects: Vec<SceneObject>,
}

impl Statistics {
    fn summarize(&self) -> SynthSummary {
        let mut sides: Vec<f32> = self.objects.iter().map(|o| o.bbox.width().max(o.bbox.height())).collect();
        sides.sort_by(f32::total_cmp);
        let count = |class: ShapeClass| ClassCount {
            name: class.name().to_string(),
            objects: self.objects.iter().filter(|o| o.class == class).count(),
        };
        let hidden = self.objects.iter().filter(|o| o.area < o.silhouette).count();
        SynthSummary {
            images: self.images,
            objects: self.objects.len(),
            classes: ShapeClass::ALL.map(count).to_vec(),
            median_side: sides.get(sides.len() / 2).copied().unwrap_or(0.0),
            min_side: sides.first().copied().unwrap_or(0.0),
            max_side: sides.last().copied().unwrap_or(0.0),
            partly_hidden: hidden as f64 / self.objects.len().max(1) as f64,
        }
    }
}

/// Names in a folder; none for a folder that does not exist.
fn entries(folder: &Path) -> Result<Vec<std::ffi::OsString>, DataError> {
    match fs::read_dir(folder) {
        Ok(listing) => listing
            .map(|entry| Ok(entry.map_err(|error| DataError::read(folder, error))?.file_name()))
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(DataError::read(folder, error)),
    }
}

fn make_folder(path: &Path) -> Result<(), DataError> {
    fs::create_dir_all(path).map_err(|error| DataError::write(path, error))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    fs::write(path, bytes).map_err(|error| DataError::write(path, error))
}

fn remove_file(path: &Path) -> Result<(), DataError> {
    unless_absent(path, fs::remove_file(path))
}

fn remove_folder(path: &Path) -> Result<(), DataError> {
    unless_absent(path, fs::remove_dir_all(path))
}

/// A removal's result; that there was nothing to remove is not an error.
fn unless_absent(path: &Path, removed: std::io::Result<()>) -> Result<(), DataError> {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(DataError::write(path, error)),
        _ => Ok(()),
    }
}
