//! The splits of a data set of any layout.

use std::path::{Path, PathBuf};

use anyhow::Result;
use scrl_core::data::DataError;
use scrl_core::data::image_folder::ImageFolder;
use scrl_transfer::DataSource;
use scrl_transfer::data::{Category, DetectionImage};
use scrl_transfer::data::{Survey, survey};
use serde::Serialize;

use super::shown;

/// Subfolders of a folder of images that are splits.
const SPLIT_FOLDERS: [&str; 5] = ["train", "training", "val", "validation", "test"];

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
    /// Annotations that are missing or cannot be read.
    pub problems: Vec<String>,
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
    let read = |(name, source): (String, DataSource)| Ok(annotated(name, survey(&source)?, data));
    Ok((format, sources.into_iter().map(read).collect::<Result<_, DataError>>()?))
}

fn annotated(name: String, survey: Survey, data: &Path) -> Split {
    let Survey { dataset, dropped, problems } = survey;
    let entry = |image: DetectionImage| Entry {
        path: image.path.clone(),
        name: shown(&image.path, data),
        content: Content::Annotated(image),
    };
    let dropped = dropped.iter().map(|d| format!("{}: {} {:?}", d.image, d.category, d.bbox));
    Split {
        name,
        images: dataset.images.into_iter().map(entry).collect(),
        categories: dataset.categories,
        dropped: dropped.collect(),
        problems: problems.iter().map(DataError::to_string).collect(),
    }
}

fn folders(data: &Path, wanted: &[String]) -> Result<Vec<Split>, DataError> {
    let present: Vec<String> =
        SPLIT_FOLDERS.into_iter().filter(|name| data.join(name).is_dir()).map(str::to_string).collect();
    let names = if wanted.is_empty() { present } else { wanted.to_vec() };
    if names.is_empty() {
        return Ok(vec![folder(ALL.to_string(), data, data)?]);
    }
    names.into_iter().map(|name| folder(name.clone(), &data.join(&name), data)).collect()
}

fn folder(name: String, root: &Path, data: &Path) -> Result<Split, DataError> {
    let found = ImageFolder::scan(&[root.to_path_buf()])?;
    let category = |(id, name): (usize, String)| Category { id: id as u64, name };
    let entry = |sample: scrl_core::data::ImageFile| Entry {
        name: shown(&sample.path, data),
        path: sample.path,
        content: Content::Plain(sample.label),
    };
    Ok(Split {
        name,
        images: found.samples.into_iter().map(entry).collect(),
        categories: found.classes.into_iter().enumerate().map(category).collect(),
        dropped: Vec::new(),
        problems: Vec::new(),
    })
}
