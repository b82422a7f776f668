//! PASCAL VOC's layout: `Annotations/*.xml`, `ImageSets/Main/<split>.txt`, `JPEGImages/*`; with masks
//! `ImageSets/Segmentation/<split>.txt` and `SegmentationObject/*.png`.
//!
//! The files count pixels from 1 and include the last one; boxes here are `(xmin − 1, ymin − 1, xmax, ymax)`, as in
//! detectron2's `load_voc_instances`, limited to the image. Difficult objects are kept and marked: training uses
//! them, as detectron2 does, and evaluation ignores them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::data::{
    AnnotatedObject, Category, DetectionDataset, DetectionImage, DetectionObject, DroppedBox, Labels,
    file_names, text,
};
use rayon::prelude::*;
use scrl_core::data::error::DataError;
use scrl_core::data::image_folder::EXTENSIONS;
use scrl_core::structures::Size;
use scrl_core::transforms::decode;

pub mod annotation;
mod masks;

pub use annotation::{Annotation, Object};

/// The classes of VOC 2007 to 2012, in the kit's order.
pub const VOC_CLASSES: [&str; 20] = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
];

/// Reads the images of one split.
///
/// `root` is a VOC folder or a development kit with folders `VOC2007`, `VOC2012`, … in it; of those, all that have the
/// split are joined. Classes are the twenty of VOC when every object belongs to them, else the names that occur in any
/// split list, sorted, so that all splits of a data set agree. Image ids count from 1 in the order of the lists. Boxes without
/// area are left out and counted in `dropped`.
///
/// # Errors
/// When the layout is not there, the split does not exist, or an annotation or image of it is missing or broken.
pub fn load(root: &Path, split: &str, labels: Labels) -> Result<DetectionDataset, DataError> {
    let split = VocSplit::read_with(root, split, labels)?.complete()?;
    let load = |(index, entry): (usize, &VocImage)| {
        let path = entry.image_path().ok_or_else(|| missing(&entry.usual_image_path()))?;
        entry.to_detection(index as u64 + 1, path, &split.classes, labels)
    };
    let images = split.images.par_iter().enumerate().map(load).collect::<Result<Vec<_>, _>>()?;
    Ok(dataset(&split, images).0)
}

/// As [`load`], with the boxes that were left out and with what is wrong: images without a readable annotation are left out,
/// and images whose file is missing are kept.
///
/// # Errors
/// When the layout is not there or the split does not exist.
pub fn survey(
    root: &Path,
    split: &str,
    labels: Labels,
) -> Result<(DetectionDataset, Vec<DroppedBox>, Vec<DataError>), DataError> {
    let mut split = VocSplit::read_with(root, split, labels)?;
    let mut problems = std::mem::take(&mut split.damaged);
    let mut images = Vec::new();
    for (index, entry) in split.images.iter().enumerate() {
        let path = entry.image_path().unwrap_or_else(|| entry.usual_image_path());
        if entry.annotation.is_none() && entry.annotation_path().is_file() {
            continue; // among the damaged ones
        }
        match entry.to_detection(index as u64 + 1, path, &split.classes, labels) {
            Ok(image) => images.push(image),
            Err(problem) => problems.push(problem),
        }
    }
    let (dataset, dropped) = dataset(&split, images);
    Ok((dataset, dropped, problems))
}

/// Whether a folder has VOC's layout, directly or in year folders.
pub fn is_voc_root(root: &Path) -> bool {
    root.join("Annotations").is_dir() || !year_folders(root).is_empty()
}

/// The lists of a folder or kit that name whole splits, not the images of a class; sorted.
///
/// # Errors
/// When there is no VOC layout or a list cannot be read.
pub fn split_names(root: &Path) -> Result<Vec<String>, DataError> {
    let mut names = BTreeSet::new();
    for year in years(root)? {
        names.extend(split_lists(&year, Labels::Boxes)?.into_keys());
    }
    let of_class = |name: &String| name.rsplit_once('_').is_some_and(|(_, split)| names.contains(split));
    Ok(names.iter().filter(|name| !of_class(name)).cloned().collect())
}

/// A split as its files have it.
#[derive(Debug)]
pub struct VocSplit {
    /// `folder:split`.
    pub name: String,
    /// The names of the classes, in the order of the categories.
    pub classes: Vec<String>,
    /// In the order of the lists.
    pub images: Vec<VocImage>,
    /// Annotations of any split that exist and cannot be read.
    pub damaged: Vec<DataError>,
}

/// An image of a split.
#[derive(Clone, Debug)]
pub struct VocImage {
    /// What the lists call it.
    pub name: String,
    /// The folder that holds `Annotations/`.
    pub folder: PathBuf,
    /// `None` where there is none or it cannot be read.
    pub annotation: Option<Annotation>,
}

impl VocSplit {
    /// Reads the lists and annotations of a folder or kit; images need not be there.
    ///
    /// # Errors
    /// When the layout is not there or the split does not exist.
    pub fn read(root: &Path, split: &str) -> Result<Self, DataError> {
        Self::read_with(root, split, Labels::Boxes)
    }

    /// As [`read`](Self::read); for masks of the images that `ImageSets/Segmentation` lists, where it is there.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_with(root: &Path, split: &str, labels: Labels) -> Result<Self, DataError> {
        let years = years(root)?;
        let (mut listed, mut annotations, mut damaged) = (Vec::new(), Annotations::new(), Vec::new());
        for year in &years {
            let lists = split_lists(year, labels)?;
            let everything: BTreeSet<&String> = lists.values().flatten().collect();
            for (name, annotation) in read_all(year, &everything) {
                match annotation {
                    Ok(annotation) => drop(annotations.insert((year.clone(), name), annotation)),
                    Err(error) => damaged.push(error),
                }
            }
            listed.extend(lists.get(split).into_iter().flatten().map(|id| (year.clone(), id.clone())));
        }
        if listed.is_empty() {
            let splits = split_names(root)?.join(", ");
            let reason = format!("split `{split}` does not exist or lists no image; splits here: {splits}");
            return Err(DataError::invalid(root, reason));
        }
        let classes = classes(&annotations);
        let image = |key: (PathBuf, String)| {
            let annotation = annotations.get(&key).cloned();
            VocImage { folder: key.0, name: key.1, annotation }
        };
        let images = listed.into_iter().map(image).collect();
        Ok(Self { name: format!("{}:{split}", name_of(root)), classes, images, damaged })
    }

    /// The split, if every annotation of it is there and none of any split is damaged (its classes would be unknown).
    ///
    /// # Errors
    /// Names the first annotation that cannot be read.
    pub fn complete(mut self) -> Result<Self, DataError> {
        if !self.damaged.is_empty() {
            return Err(self.damaged.swap_remove(0));
        }
        match self.images.iter().find(|image| image.annotation.is_none()) {
            Some(image) => Err(missing(&image.annotation_path())),
            None => Ok(self),
        }
    }
}

impl VocImage {
    fn annotation_path(&self) -> PathBuf {
        annotation_path(&self.folder, &self.name)
    }

    fn usual_image_path(&self) -> PathBuf {
        self.folder.join("JPEGImages").join(format!("{}.jpg", self.name))
    }

    fn image_path(&self) -> Option<PathBuf> {
        let folder = self.folder.join("JPEGImages");
        let endings = EXTENSIONS.into_iter().flat_map(|ending| [ending.to_string(), ending.to_uppercase()]);
        let candidates = endings.map(|ending| format!("{}.{ending}", self.name));
        let named = self.annotation.as_ref().and_then(Annotation::file_name).map(str::to_string);
        candidates.chain(named).find_map(|name| file_names::find(&folder, &name))
    }

    fn to_detection(
        &self,
        id: u64,
        path: PathBuf,
        classes: &[String],
        labels: Labels,
    ) -> Result<DetectionImage, DataError> {
        let annotation = self.annotation.as_ref().ok_or_else(|| missing(&self.annotation_path()))?;
        let (width, height) = match annotation.size() {
            Some(size) => size,
            None => decode::read_size(&path).map(|size| (size.width, size.height))?,
        };
        let masks = match labels {
            Labels::Boxes => Vec::new(),
            Labels::Masks => {
                let picture = self.folder.join("SegmentationObject").join(format!("{}.png", self.name));
                masks::read(&picture, annotation.objects().count(), Size { width, height })?
            }
        };
        let mask = |place: usize| masks.get(place).cloned().flatten();
        let objects = annotation.objects().enumerate().filter_map(|(place, object)| {
            let object = object.to_detection(width, height, classes)?;
            Some(DetectionObject { mask: mask(place), ..object })
        });
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let annotated = annotation.objects().enumerate().filter_map(|(place, object)| {
            Some(AnnotatedObject { mask: mask(place), ..object.annotated(classes)? })
        });
        let annotated = Some(annotated.collect());
        Ok(DetectionImage { id, objects: objects.collect(), annotated, path, file_name, width, height })
    }
}

/// Annotations by year folder and image name.
type Annotations = BTreeMap<(PathBuf, String), Annotation>;

fn dataset(split: &VocSplit, images: Vec<DetectionImage>) -> (DetectionDataset, Vec<DroppedBox>) {
    let mut dropped = Vec::new();
    for image in &images {
        let entry = &split.images[image.id as usize - 1];
        let objects = entry.annotation.iter().flat_map(Annotation::objects);
        let left_out = |o: &&Object| o.to_detection(image.width, image.height, &split.classes).is_none();
        dropped.extend(objects.filter(left_out).map(|object| DroppedBox {
            image: image.file_name.clone(),
            category: object.name.clone(),
            bbox: object.inclusive(),
        }));
    }
    let categories = split.classes.iter().enumerate();
    let categories = categories.map(|(index, name)| Category { id: index as u64 + 1, name: name.clone() });
    let dataset = DetectionDataset {
        name: split.name.clone(),
        images,
        categories: categories.collect(),
        dropped: dropped.len(),
    };
    (dataset, dropped)
}

fn missing(path: &Path) -> DataError {
    DataError::read(path, std::io::Error::from(std::io::ErrorKind::NotFound))
}

fn name_of(root: &Path) -> String {
    root.file_name().map_or_else(|| "voc".to_string(), |name| name.to_string_lossy().into_owned())
}

fn years(root: &Path) -> Result<Vec<PathBuf>, DataError> {
    if root.join("Annotations").is_dir() {
        return Ok(vec![root.to_path_buf()]);
    }
    match year_folders(root) {
        years if years.is_empty() => {
            let reason = "it has neither `Annotations/` nor a `VOC20xx/` folder; pass the folder that has";
            Err(DataError::invalid(root, reason))
        }
        years => Ok(years),
    }
}

fn year_folders(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let is_year = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("VOC20") && path.join("Annotations").is_dir()
    };
    let mut years: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_year).collect();
    years.sort();
    years
}

/// The image names of every list in `ImageSets/Main`, or for masks in `ImageSets/Segmentation` where it is there; a class's list has a second column, which is not read. Names may have
/// blanks.
fn split_lists(year: &Path, labels: Labels) -> Result<BTreeMap<String, Vec<String>>, DataError> {
    let sets = year.join("ImageSets");
    let with_masks =
        Some(sets.join("Segmentation")).filter(|folder| labels == Labels::Masks && folder.is_dir());
    let folder = with_masks.unwrap_or_else(|| sets.join("Main"));
    let entries = std::fs::read_dir(&folder).map_err(|e| DataError::read(&folder, e))?;
    let mut lists = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(|e| DataError::read(&folder, e))?.path();
        let Some(stem) = path.file_stem().filter(|_| path.extension().is_some_and(|e| e == "txt")) else {
            continue;
        };
        let stem = stem.to_string_lossy().into_owned();
        lists.insert(stem, image_names(&text::read(&path)?));
    }
    Ok(lists)
}

/// The names of a list, one in a line. Where every line ends in -1, 0 or 1, as in a class's list, that is no part of them.
fn image_names(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let flagged = |line: &&str| {
        let (name, flag) = line.rsplit_once(char::is_whitespace)?;
        matches!(flag, "-1" | "0" | "1").then(|| name.trim_end().to_string())
    };
    let names: Option<Vec<String>> = lines.iter().map(flagged).collect();
    names.unwrap_or_else(|| lines.into_iter().map(str::to_string).collect())
}

/// Reads the annotations that exist; VOC publishes none for some of its test images.
fn read_all(year: &Path, names: &BTreeSet<&String>) -> Vec<(String, Result<Annotation, DataError>)> {
    let read = |name: &&String| {
        let path = annotation_path(year, name);
        path.is_file().then(|| (name.to_string(), Annotation::read(&path)))
    };
    names.par_iter().filter_map(read).collect()
}

fn annotation_path(year: &Path, name: &str) -> PathBuf {
    let (folder, file) = (year.join("Annotations"), format!("{name}.xml"));
    file_names::find(&folder, &file).unwrap_or_else(|| folder.join(file))
}

fn classes(annotations: &Annotations) -> Vec<String> {
    let found: BTreeSet<&str> =
        annotations.values().flat_map(|a| a.objects().map(|object| object.name.as_str())).collect();
    if found.iter().all(|name| VOC_CLASSES.contains(name)) {
        VOC_CLASSES.map(str::to_string).to_vec()
    } else {
        found.into_iter().map(str::to_string).collect()
    }
}

#[cfg(test)]
mod tests;
