//! PASCAL VOC's layout: `Annotations/*.xml`, `ImageSets/Main/<split>.txt`, `JPEGImages/*`.
//!
//! The files count pixels from 1 and include the last one; boxes here are `(xmin − 1, ymin − 1, xmax, ymax)`, as in
//! detectron2's `load_voc_instances`, limited to the image. Difficult objects are kept and marked: training uses
//! them, as detectron2 does, and evaluation ignores them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use scrl_core::data::detection::{Category, DetectionDataset, DetectionImage, DetectionObject};
use scrl_core::data::error::DataError;
use scrl_core::structures::BoxXyxy;
use scrl_core::transforms::decode;
use serde::Deserialize;

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
pub fn load(root: &Path, split: &str) -> Result<DetectionDataset, DataError> {
    let years = years(root)?;
    let mut listed = Vec::new();
    let mut annotations = Annotations::new();
    for year in &years {
        let lists = split_lists(year)?;
        let everything: BTreeSet<&String> = lists.values().flatten().collect();
        annotations.extend(read_all(year, &everything)?);
        listed.extend(lists.get(split).into_iter().flatten().map(|id| (year.clone(), id.clone())));
    }
    if listed.is_empty() {
        let reason =
            format!("split `{split}` does not exist or lists no image; splits here: {}", splits(&years)?);
        return Err(DataError::invalid(root, reason));
    }
    let classes = classes(&annotations);
    let images = listed
        .into_par_iter()
        .enumerate()
        .map(|(index, key)| image(index as u64 + 1, &key, &annotations, &classes))
        .collect::<Result<Vec<_>, _>>()?;
    let dropped = images.iter().map(|(_, dropped)| dropped).sum();
    if dropped > 0 {
        tracing::info!(dropped, root = %root.display(), split, "left out boxes without area");
    }
    Ok(DetectionDataset {
        name: format!("{}:{split}", name_of(root)),
        images: images.into_iter().map(|(image, _)| image).collect(),
        categories: categories(classes),
        dropped,
    })
}

/// Whether a folder has VOC's layout, directly or in year folders.
pub fn is_voc_root(root: &Path) -> bool {
    root.join("Annotations").is_dir() || !year_folders(root).is_empty()
}

/// Annotations by year folder and image name.
type Annotations = BTreeMap<(PathBuf, String), XmlAnnotation>;

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

/// The image names of every list in `ImageSets/Main`; a class's list has a second column, which is not read.
fn split_lists(year: &Path) -> Result<BTreeMap<String, Vec<String>>, DataError> {
    let folder = year.join("ImageSets").join("Main");
    let entries = std::fs::read_dir(&folder).map_err(|e| DataError::read(&folder, e))?;
    let mut lists = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(|e| DataError::read(&folder, e))?.path();
        let Some(stem) = path.file_stem().filter(|_| path.extension().is_some_and(|e| e == "txt")) else {
            continue;
        };
        let text = std::fs::read_to_string(&path).map_err(|e| DataError::read(&path, e))?;
        let names = text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_string);
        lists.insert(stem.to_string_lossy().into_owned(), names.collect());
    }
    Ok(lists)
}

fn splits(years: &[PathBuf]) -> Result<String, DataError> {
    let mut names = BTreeSet::new();
    for year in years {
        names.extend(split_lists(year)?.into_keys());
    }
    Ok(names.into_iter().collect::<Vec<_>>().join(", "))
}

/// Reads the annotations that exist; VOC publishes none for some of its test images.
fn read_all(year: &Path, names: &BTreeSet<&String>) -> Result<Annotations, DataError> {
    let read = |name: &&String| {
        let path = annotation_path(year, name);
        path.is_file().then(|| Ok(((year.to_path_buf(), name.to_string()), read_annotation(&path)?)))
    };
    names.par_iter().filter_map(read).collect()
}

fn annotation_path(year: &Path, name: &str) -> PathBuf {
    year.join("Annotations").join(format!("{name}.xml"))
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

fn categories(classes: Vec<String>) -> Vec<Category> {
    classes.into_iter().enumerate().map(|(index, name)| Category { id: index as u64 + 1, name }).collect()
}

fn image(
    id: u64,
    key: &(PathBuf, String),
    annotations: &Annotations,
    classes: &[String],
) -> Result<(DetectionImage, usize), DataError> {
    let (year, name) = key;
    let Some(annotation) = annotations.get(key) else {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(DataError::read(&annotation_path(year, name), missing));
    };
    let path = image_path(year, name, annotation)?;
    let (width, height) = size(&path, annotation)?;
    let objects: Vec<_> =
        annotation.objects().filter_map(|object| object.to_detection(width, height, classes)).collect();
    let dropped = annotation.objects().count() - objects.len();
    let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((DetectionImage { id, path, file_name, width, height, objects }, dropped))
}

fn image_path(year: &Path, name: &str, annotation: &XmlAnnotation) -> Result<PathBuf, DataError> {
    let folder = year.join("JPEGImages");
    let candidates =
        ["jpg", "jpeg", "png", "JPG", "JPEG", "PNG"].map(|ending| folder.join(format!("{name}.{ending}")));
    let named = annotation.file_name().map(|file| folder.join(file));
    let found = candidates.into_iter().chain(named).find(|path| path.is_file());
    found.ok_or_else(|| {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        DataError::read(&folder.join(format!("{name}.jpg")), missing)
    })
}

/// The size that the annotation states, else the image's own.
fn size(path: &Path, annotation: &XmlAnnotation) -> Result<(u32, u32), DataError> {
    if let Some(size) = annotation.size().filter(|size| size.width > 0 && size.height > 0) {
        return Ok((size.width, size.height));
    }
    let size = decode::read_size(path)?;
    Ok((size.width, size.height))
}

fn read_annotation(path: &Path) -> Result<XmlAnnotation, DataError> {
    let text = std::fs::read_to_string(path).map_err(|e| DataError::read(path, e))?;
    quick_xml::de::from_str(&text)
        .map_err(|e| DataError::invalid(path, format!("it is not a VOC annotation: {e}")))
}

/// The parts of an annotation in any order, so that objects need not be neighbours.
#[derive(Debug, Deserialize)]
struct XmlAnnotation {
    #[serde(rename = "$value", default)]
    parts: Vec<XmlPart>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum XmlPart {
    Filename(String),
    Size(XmlSize),
    Object(XmlObject),
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
struct XmlSize {
    width: u32,
    height: u32,
}

#[derive(Debug, Deserialize)]
struct XmlObject {
    name: String,
    #[serde(default)]
    difficult: String,
    bndbox: XmlBox,
}

/// 1-based pixels, the last ones included; a few of VOC's are fractions.
#[derive(Debug, Deserialize)]
struct XmlBox {
    xmin: f32,
    ymin: f32,
    xmax: f32,
    ymax: f32,
}

impl XmlAnnotation {
    fn objects(&self) -> impl Iterator<Item = &XmlObject> {
        self.parts
            .iter()
            .filter_map(|part| if let XmlPart::Object(object) = part { Some(object) } else { None })
    }

    fn size(&self) -> Option<&XmlSize> {
        self.parts.iter().find_map(|part| if let XmlPart::Size(size) = part { Some(size) } else { None })
    }

    fn file_name(&self) -> Option<&String> {
        self.parts.iter().find_map(|part| if let XmlPart::Filename(name) = part { Some(name) } else { None })
    }
}

impl XmlObject {
    /// `None` for a box without area in its file or inside the image.
    fn to_detection(&self, width: u32, height: u32, classes: &[String]) -> Option<DetectionObject> {
        let XmlBox { xmin, ymin, xmax, ymax } = self.bndbox;
        if xmax <= xmin || ymax <= ymin {
            return None;
        }
        let bbox = BoxXyxy::new(xmin - 1.0, ymin - 1.0, xmax, ymax).clip(width as f32, height as f32);
        let category = classes.iter().position(|class| *class == self.name)?;
        let difficult = matches!(self.difficult.trim(), "1" | "true");
        let object = DetectionObject { bbox, category, crowd: false, difficult, area: bbox.area() };
        (bbox.area() > 0.0).then_some(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, difficult: &str, [x1, y1, x2, y2]: [&str; 4]) -> String {
        format!(
            "<object><name>{name}</name><pose>Left</pose>{difficult}<part><name>head</name><bndbox><xmin>1</xmin>\
             <ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part><bndbox><xmax>{x2}</xmax><xmin>{x1}</xmin>\
             <ymin>{y1}</ymin><ymax>{y2}</ymax></bndbox></object>"
        )
    }

    fn write(root: &Path, name: &str, objects: &[String], size: bool) {
        for folder in ["Annotations", "JPEGImages", "ImageSets/Main"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        let size =
            if size { "<size><width>40</width><height>30</height><depth>3</depth></size>" } else { "" };
        // Objects apart from each other, with something between them.
        let objects = objects.join("<segmented>0</segmented>\n");
        let xml = format!("<annotation>\n<filename>{name}.jpg</filename>{objects}{size}</annotation>");
        std::fs::write(annotation_path(root, name), xml).unwrap();
        let image = image::RgbImage::from_pixel(40, 30, image::Rgb([9, 99, 200]));
        image.save(root.join("JPEGImages").join(format!("{name}.jpg"))).unwrap();
    }

    fn list(root: &Path, split: &str, text: &str) {
        std::fs::write(root.join("ImageSets/Main").join(format!("{split}.txt")), text).unwrap();
    }

    #[test]
    fn boxes_become_edges_and_boxes_without_area_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let objects = [
            object("rbc", "<difficult>1</difficult>", ["1", "2", "40", "30"]),
            object("wbc", "", ["10.5", "3", "20", "4"]),
            object("rbc", "<difficult>0</difficult>", ["7", "7", "7", "7"]),
        ];
        write(root, "a", &objects, true);
        write(root, "b", &[], false);
        list(root, "train", "a\nb\n");
        let data = load(root, "train").unwrap();
        assert_eq!((data.images.len(), data.dropped), (2, 1));
        let names: Vec<_> = data.categories.iter().map(|c| (c.id, c.name.as_str())).collect();
        assert_eq!(names, [(1, "rbc"), (2, "wbc")]);
        let first = &data.images[0];
        assert_eq!((first.id, first.width, first.height, first.objects.len()), (1, 40, 30, 2));
        assert_eq!(first.objects[0].bbox, BoxXyxy::new(0.0, 1.0, 40.0, 30.0));
        assert!(first.objects[0].difficult && !first.objects[1].difficult);
        assert_eq!(first.objects[1].bbox, BoxXyxy::new(9.5, 2.0, 20.0, 4.0));
        assert_eq!(first.objects[1].category, 1);
        // Without a size in the annotation the image's own counts.
        assert_eq!((data.images[1].width, data.images[1].height), (40, 30));
    }

    #[test]
    fn classes_come_from_all_splits_or_are_the_twenty_of_voc() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(root, "a", &[object("dog", "", ["2", "2", "9", "9"])], true);
        write(root, "b", &[object("cat", "", ["2", "2", "9", "9"])], true);
        list(root, "train", "a -1\n");
        list(root, "test", "b  1\n");
        assert_eq!(load(root, "train").unwrap().categories.len(), 20);
        assert_eq!(load(root, "train").unwrap().images[0].objects[0].category, 11);
        write(root, "b", &[object("axolotl", "", ["2", "2", "9", "9"])], true);
        let names =
            |split| load(root, split).unwrap().categories.into_iter().map(|c| c.name).collect::<Vec<_>>();
        assert_eq!(names("train"), ["axolotl", "dog"]);
        assert_eq!(names("train"), names("test"));
    }

    #[test]
    fn year_folders_are_joined_where_they_have_the_split() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("VOC2007"), folder.path().join("VOC2012"));
        write(&old, "1", &[], true);
        write(&new, "2", &[], true);
        list(&old, "trainval", "1\n");
        list(&new, "trainval", "2\n");
        list(&old, "test", "1\n");
        let ids = |split| load(folder.path(), split).unwrap().images.iter().map(|i| i.id).collect::<Vec<_>>();
        assert_eq!(ids("trainval"), [1, 2]);
        assert_eq!(ids("test"), [1]);
        assert!(is_voc_root(folder.path()) && is_voc_root(&old) && !is_voc_root(&old.join("JPEGImages")));
        let message = load(folder.path(), "val").unwrap_err().to_string();
        assert!(message.contains("`val`") && message.contains("test, trainval"), "{message}");
    }

    #[test]
    fn a_missing_annotation_or_image_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(root, "a", &[], true);
        list(root, "train", "a\nlost\n");
        assert!(load(root, "train").unwrap_err().to_string().contains("lost.xml"));
        list(root, "train", "a\n");
        std::fs::remove_file(root.join("JPEGImages/a.jpg")).unwrap();
        assert!(load(root, "train").unwrap_err().to_string().contains("a.jpg"));
    }

    #[test]
    fn the_real_sets_have_their_known_sizes() {
        let Some(cells) = crate::test_data::folder("bccd") else { return };
        let parts = ["trainval", "test"].map(|split| load(&cells, split).unwrap());
        let objects = |data: &DetectionDataset| data.images.iter().map(|i| i.objects.len()).sum::<usize>();
        assert_eq!(parts[0].images.len() + parts[1].images.len(), 364);
        assert_eq!(objects(&parts[0]) + objects(&parts[1]), 4886);
        assert_eq!(parts[0].dropped + parts[1].dropped, 2);
        let names: Vec<_> = parts[1].categories.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["Platelets", "RBC", "WBC"]);
        let Some(voc) = crate::test_data::folder("voc100") else { return };
        let voc = load(&voc, "test").unwrap();
        assert_eq!((voc.images.len(), objects(&voc), voc.categories.len()), (100, 273, 20));
        assert!(voc.images.iter().flat_map(|i| &i.objects).any(|object| object.difficult));
    }
}
