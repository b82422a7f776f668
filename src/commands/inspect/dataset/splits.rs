//! The splits of a data set of any layout.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use scrl_core::data::DataError;
use scrl_core::data::image_folder::{FolderSurvey, ImageFolder, is_image};
use scrl_transfer::DataSource;
use scrl_transfer::data::{Category, DetectionImage, Labels, Survey, survey};
use serde::Serialize;

use super::shown;

/// Subfolders of a folder of images that are splits.
const SPLIT_FOLDERS: [&str; 9] =
    ["train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing"];

/// The name of the only split of a folder without such subfolders.
const ALL: &str = "all";

/// How a data set is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Coco,
    Voc,
    Folder,
}

impl Format {
    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Coco => "COCO data",
            Self::Voc => "VOC data",
            Self::Folder => "images without boxes",
        }
    }
}

/// A split and all that its annotations say.
pub struct Split {
    pub name: String,
    pub images: Vec<Entry>,
    /// In the order of their ids or names; empty for unlabelled images.
    pub categories: Vec<Category>,
    /// Boxes without area, as `file: class x1 y1 x2 y2`.
    pub dropped: Vec<String>,
    /// Masks that cannot be used, and why.
    pub bad_masks: Vec<String>,
    /// Annotations that are missing, cannot be read or contradict each other; folders that cannot be read.
    pub problems: Vec<String>,
    /// Files and folders that are left out.
    pub left_out: Vec<String>,
}

/// An image file, there or not.
pub struct Entry {
    pub path: PathBuf,
    /// As reports name it.
    pub name: String,
    pub content: Content,
}

/// What is known of an image.
pub enum Content {
    /// Size and objects by its annotation.
    Annotated(DetectionImage),
    /// The class of its folder, where folders are classes.
    Plain(Option<usize>),
}

/// All splits, or those that are asked for.
///
/// # Errors
/// When the data set cannot be read or lacks a split that is asked for.
pub fn find(data: &Path, wanted: &[String]) -> Result<(Format, Vec<Split>)> {
    let sources = DataSource::splits(data, wanted)?;
    if sources.is_empty() {
        return Ok((Format::Folder, folders(data, wanted)?));
    }
    let format = if matches!(sources[0].1, DataSource::Voc { .. }) { Format::Voc } else { Format::Coco };
    let read: Vec<_> =
        sources.into_iter().map(|(name, source)| (name, survey(&source, Labels::Masks))).collect();
    if read.iter().all(|(_, survey)| survey.is_err()) {
        let first = read.into_iter().find_map(|(_, survey)| survey.err());
        return Err(first.context("there is no split")?.into());
    }
    let split = |(name, survey): (String, Result<Survey, DataError>)| match survey {
        Ok(survey) => annotated(name, survey, data),
        Err(error) => Split { problems: vec![error.to_string()], ..Split::empty(name) },
    };
    let mut splits: Vec<Split> = read.into_iter().map(split).collect();
    note_unlisted(&mut splits, data);
    Ok((format, splits))
}

/// Notes the images beside annotated ones that no annotation lists.
fn note_unlisted(splits: &mut [Split], data: &Path) {
    let entries = || splits.iter().flat_map(|split| split.images.iter());
    let listed: HashSet<PathBuf> = entries().map(|entry| entry.path.clone()).collect();
    let mut done = HashSet::new();
    for split in splits {
        let folders: BTreeSet<PathBuf> =
            split.images.iter().filter_map(|entry| Some(entry.path.parent()?.to_path_buf())).collect();
        for folder in folders.into_iter().filter(|folder| done.insert(folder.clone())) {
            let files = std::fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok);
            let images = files.map(|file| file.path()).filter(|path| is_image(path) && path.is_file());
            let mut unlisted: Vec<PathBuf> = images.filter(|path| !listed.contains(path)).collect();
            unlisted.sort();
            if let Some(first) = unlisted.first() {
                let first = shown(first, data);
                split
                    .left_out
                    .push(format!("{} images that no annotation lists, as `{first}`", unlisted.len()));
            }
        }
    }
}

impl Split {
    fn empty(name: String) -> Self {
        Self {
            name,
            images: Vec::new(),
            categories: Vec::new(),
            dropped: Vec::new(),
            bad_masks: Vec::new(),
            problems: Vec::new(),
            left_out: Vec::new(),
        }
    }
}

fn annotated(name: String, survey: Survey, data: &Path) -> Split {
    let Survey { dataset, dropped, bad_masks, problems } = survey;
    let entry = |image: DetectionImage| Entry {
        path: image.path.clone(),
        name: shown(&image.path, data),
        content: Content::Annotated(image),
    };
    let dropped = dropped.iter().map(|d| format!("{}: {} {:?}", d.image, d.category, d.bbox));
    Split {
        images: dataset.images.into_iter().map(entry).collect(),
        categories: dataset.categories,
        dropped: dropped.collect(),
        bad_masks,
        problems: problems.iter().map(DataError::to_string).collect(),
        ..Split::empty(name)
    }
}

fn folders(data: &Path, wanted: &[String]) -> Result<Vec<Split>, DataError> {
    let present: Vec<String> =
        SPLIT_FOLDERS.into_iter().filter(|name| data.join(name).is_dir()).map(str::to_string).collect();
    let names = if wanted.is_empty() { present } else { wanted.to_vec() };
    if names.is_empty() {
        return Ok(vec![folder(ALL.to_string(), data, data)?]);
    }
    let split = |name: &String| folder(name.clone(), &data.join(name), data);
    let mut splits = names.iter().map(split).collect::<Result<Vec<_>, _>>()?;
    if wanted.is_empty() {
        splits[0].left_out.extend(beside(data, &names));
    }
    Ok(splits)
}

/// What lies beside the folders of splits and holds images.
fn beside(data: &Path, splits: &[String]) -> Vec<String> {
    let entries = std::fs::read_dir(data).into_iter().flatten().filter_map(Result::ok);
    let mut files = 0;
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_split = splits.contains(&name) || name.starts_with('.');
        if path.is_file() && is_image(&path) {
            files += 1;
        } else if !is_split && path.is_dir() && ImageFolder::survey(&[path]).is_ok() {
            found.push(format!(
                "`{name}/` holds images, but is no known split; examine it with --split {name}"
            ));
        }
    }
    found.sort();
    if files > 0 {
        found.push(format!("{files} images lie beside the folders of the splits"));
    }
    found
}

fn folder(name: String, root: &Path, data: &Path) -> Result<Split, DataError> {
    let FolderSurvey { folder: found, notes, problems } = ImageFolder::survey(&[root.to_path_buf()])?;
    let category = |(id, name): (usize, String)| Category { id: id as u64, name };
    let entry = |sample: scrl_core::data::ImageFile| Entry {
        name: shown(&sample.path, data),
        path: sample.path,
        content: Content::Plain(sample.label),
    };
    Ok(Split {
        images: found.samples.into_iter().map(entry).collect(),
        categories: found.classes.into_iter().enumerate().map(category).collect(),
        problems: problems.iter().map(DataError::to_string).collect(),
        left_out: notes,
        ..Split::empty(name)
    })
}
