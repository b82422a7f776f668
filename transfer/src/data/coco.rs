//! COCO's instances files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde::Deserialize;

use super::{AnnotatedObject, Category, DetectionDataset, DetectionImage, DetectionObject, DroppedBox};
use scrl_core::data::DataError;
use scrl_core::structures::BoxXyxy;

/// What boxes need of an instances file; everything else in it may be anything.
#[derive(Deserialize)]
pub(crate) struct Instances {
    pub images: Vec<ImageRecord>,
    pub annotations: Vec<AnnotationRecord>,
    pub categories: Vec<CategoryRecord>,
}

#[derive(Deserialize)]
pub(crate) struct ImageRecord {
    #[serde(deserialize_with = "whole")]
    pub id: u64,
    #[serde(default)]
    pub file_name: String,
    #[serde(default)]
    pub width: f64,
    #[serde(default)]
    pub height: f64,
}

#[derive(Deserialize)]
pub(crate) struct AnnotationRecord {
    #[serde(deserialize_with = "whole")]
    pub image_id: u64,
    #[serde(deserialize_with = "whole")]
    pub category_id: u64,
    /// `[x, y, width, height]` in pixels; none where the file has no four numbers.
    #[serde(default, deserialize_with = "four_numbers")]
    pub bbox: Option<[f64; 4]>,
    pub area: Option<f64>,
    pub iscrowd: Option<Flag>,
    #[serde(default)]
    id: serde_json::Value,
}

impl AnnotationRecord {
    /// Square pixels: what the file says, else the box's.
    pub fn area(&self) -> Option<f64> {
        self.area.or(self.bbox.map(|[_, _, width, height]| width * height))
    }

    /// Whether it is a box around a group.
    pub fn is_crowd(&self) -> bool {
        self.iscrowd.as_ref().is_some_and(Flag::is_set)
    }

    /// Its id as the file has it; `null` where it has none.
    pub fn id(&self) -> &serde_json::Value {
        &self.id
    }
}

#[derive(Deserialize)]
pub(crate) struct CategoryRecord {
    #[serde(deserialize_with = "whole")]
    pub id: u64,
    #[serde(default)]
    pub name: String,
}

/// A whole number as exporters write it: `7`, `7.0` or `"7"`.
pub(crate) fn whole<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Whole(u64),
        Float(f64),
        Text(String),
        Other(serde::de::IgnoredAny),
    }
    let refused = |found: String| {
        serde::de::Error::custom(format!("an id is {found}; expected a whole number of 0 or more"))
    };
    match Number::deserialize(deserializer)? {
        Number::Whole(value) => Ok(value),
        Number::Float(value) if value >= 0.0 && value.fract() == 0.0 && value < 2f64.powi(53) => {
            Ok(value as u64)
        }
        Number::Float(value) => Err(refused(value.to_string())),
        Number::Text(text) => text.trim().parse().map_err(|_| refused(format!("`{text}`"))),
        Number::Other(_) => Err(refused("not a number".into())),
    }
}

/// Four finite numbers, or none for anything else.
fn four_numbers<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<[f64; 4]>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let numbers: Vec<f64> =
        value.as_array().into_iter().flatten().filter_map(serde_json::Value::as_f64).collect();
    Ok(numbers.try_into().ok().filter(|numbers: &[f64; 4]| numbers.iter().all(|value| value.is_finite())))
}

/// Reads what boxes need of an instances file.
///
/// # Errors
/// When the file cannot be read or does not hold instances.
pub(crate) fn records(path: &Path) -> Result<Instances, DataError> {
    let text = std::fs::read(path).map_err(|reason| DataError::read(path, reason))?;
    let mut instances: Instances =
        serde_json::from_slice(without_mark(&text)).map_err(|e| DataError::invalid(path, json_reason(&e)))?;
    tell_apart(&mut instances.categories, path);
    Ok(instances)
}

/// Trims names, names what has none after its id, and adds the id to names that several categories have.
fn tell_apart(categories: &mut [CategoryRecord], path: &Path) {
    for category in categories.iter_mut() {
        category.name = match category.name.trim() {
            "" => format!("category {}", category.id),
            name => name.to_string(),
        };
    }
    let mut ids = BTreeMap::<String, BTreeSet<u64>>::new();
    for category in categories.iter() {
        ids.entry(category.name.clone()).or_default().insert(category.id);
    }
    for (name, ids) in ids.iter().filter(|(_, ids)| ids.len() > 1) {
        tracing::warn!(file = %path.display(), ?ids, "several categories have the name `{name}`; their ids are added to it");
    }
    for category in categories.iter_mut().filter(|category| ids[&category.name].len() > 1) {
        category.name = format!("{} ({})", category.name, category.id);
    }
}

/// Without the byte order mark that some editors put before UTF-8.
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// COCO writes 0 and 1; other tools write false and true.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Flag {
    Number(f64),
    Bool(bool),
}

impl Flag {
    fn is_set(&self) -> bool {
        match self {
            Self::Number(value) => *value != 0.0,
            Self::Bool(value) => *value,
        }
    }
}

/// Reads an instances file whose images lie in `images`.
///
/// Categories are sorted by id, and objects refer to them by position, so ids may have gaps. Boxes are clipped to their
/// image; those that have no area then, and annotations without a box, are left out and counted in
/// [`DetectionDataset::dropped`]. A missing `area` is the box's. Ids may be floats or digits in quotes. Images without annotations are kept.
///
/// # Errors
/// When the file cannot be read, is not such JSON, contradicts itself (an id used twice, or never defined), or names
/// images that are not in the folder.
pub fn load(annotations: &Path, images: &Path) -> Result<DetectionDataset, DataError> {
    let (dataset, _) = read(annotations, images)?;
    check_files(&dataset, annotations, images)?;
    Ok(dataset)
}

/// As [`load`], with the boxes that were left out, and whether or not the images are there.
///
/// # Errors
/// As [`load`], missing images apart.
pub fn read(annotations: &Path, images: &Path) -> Result<(DetectionDataset, Vec<DroppedBox>), DataError> {
    assemble(records(annotations)?, annotations, images)
}

fn json_reason(error: &serde_json::Error) -> String {
    format!("{error}; expected COCO instances: an object with `images`, `annotations` and `categories`")
}

fn assemble(
    records: Instances,
    annotations: &Path,
    folder: &Path,
) -> Result<(DetectionDataset, Vec<DroppedBox>), DataError> {
    let invalid = |reason: String| DataError::invalid(annotations, reason);
    let categories = categories(records.categories).map_err(invalid)?;
    let index: HashMap<u64, usize> = categories.iter().enumerate().map(|(i, c)| (c.id, i)).collect();
    let (mut images, position) = image_list(records.images, folder).map_err(invalid)?;
    let mut dropped = Vec::new();
    for record in records.annotations {
        let image = position.get(&record.image_id).map(|&i| &mut images[i]);
        let image = image.ok_or_else(|| {
            invalid(format!(
                "an annotation belongs to image {}, which `images` does not list",
                record.image_id
            ))
        })?;
        let category = *index.get(&record.category_id).ok_or_else(|| {
            invalid(format!(
                "an annotation has category {}, which `categories` does not list",
                record.category_id
            ))
        })?;
        image.annotated.get_or_insert_default().extend(annotated(&record, category));
        match object(&record, category, image) {
            Some(object) => image.objects.push(object),
            None => dropped.push(DroppedBox {
                image: image.file_name.clone(),
                category: categories[category].name.clone(),
                bbox: record.bbox.unwrap_or([f64::NAN; 4]),
            }),
        }
    }
    let name = annotations.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok((DetectionDataset { name, images, categories, dropped: dropped.len() }, dropped))
}

fn categories(records: Vec<CategoryRecord>) -> Result<Vec<Category>, String> {
    let mut names = BTreeMap::new();
    for CategoryRecord { id, name } in records {
        if let Some(other) = names.insert(id, name.clone()) {
            return Err(format!("category id {id} is used twice, for `{other}` and `{name}`"));
        }
    }
    if names.is_empty() {
        return Err("`categories` is empty".to_owned());
    }
    Ok(names.into_iter().map(|(id, name)| Category { id, name }).collect())
}

/// The images in the file's order, and where each id is among them.
fn image_list(
    records: Vec<ImageRecord>,
    folder: &Path,
) -> Result<(Vec<DetectionImage>, HashMap<u64, usize>), String> {
    if records.is_empty() {
        return Err("`images` is empty".to_owned());
    }
    let mut images = Vec::with_capacity(records.len());
    let mut position = HashMap::with_capacity(records.len());
    for record in records {
        if position.insert(record.id, images.len()).is_some() {
            return Err(format!("image id {} is used twice", record.id));
        }
        images.push(DetectionImage {
            id: record.id,
            path: folder.join(&record.file_name),
            width: side(record.width, &record.file_name)?,
            height: side(record.height, &record.file_name)?,
            file_name: record.file_name,
            objects: Vec::new(),
            annotated: None,
        });
    }
    Ok((images, position))
}

fn side(value: f64, name: &str) -> Result<u32, String> {
    let valid = value >= 1.0 && value <= f64::from(u32::MAX) && value.fract() == 0.0;
    valid.then_some(value as u32).ok_or_else(|| format!("image `{name}` has a width or height of {value}"))
}

/// The object as the file has it; `None` without a box.
fn annotated(record: &AnnotationRecord, category: usize) -> Option<AnnotatedObject> {
    let (bbox, area) = (record.bbox?, record.area()?);
    Some(AnnotatedObject { bbox, category, crowd: record.is_crowd(), difficult: false, area })
}

/// The object with its box clipped to the image; `None` when nothing is left of it.
fn object(record: &AnnotationRecord, category: usize, image: &DetectionImage) -> Option<DetectionObject> {
    let [x, y, width, height] = record.bbox?;
    let (right, bottom) = (f64::from(image.width), f64::from(image.height));
    let bbox = BoxXyxy::new(
        x.clamp(0.0, right) as f32,
        y.clamp(0.0, bottom) as f32,
        (x + width).clamp(0.0, right) as f32,
        (y + height).clamp(0.0, bottom) as f32,
    );
    let area = record.area()? as f32;
    let positive = bbox.width() > 0.0 && bbox.height() > 0.0;
    positive.then(|| DetectionObject { bbox, category, crowd: record.is_crowd(), difficult: false, area })
}

fn check_files(dataset: &DetectionDataset, annotations: &Path, images: &Path) -> Result<(), DataError> {
    let mut absent = dataset.images.iter().filter(|image| !image.path.is_file());
    let Some(first) = absent.next() else { return Ok(()) };
    Err(DataError::MissingImages {
        annotations: annotations.to_path_buf(),
        images: images.to_path_buf(),
        missing: 1 + absent.count(),
        total: dataset.images.len(),
        first: first.file_name.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{
        "info": {"year": 2024}, "licenses": [],
        "images": [
            {"id": 9, "file_name": "b.jpg", "width": 20, "height": 10, "license": 3},
            {"id": 4, "file_name": "a.jpg", "width": 30.0, "height": 30}
        ],
        "categories": [{"id": 90, "name": "zebra", "supercategory": "animal"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 90, "bbox": [1.5, 2, 3, 4], "area": 7.25, "iscrowd": 0, "segmentation": []},
            {"id": 2, "image_id": 9, "category_id": 3, "bbox": [15, 5, 10, 10], "iscrowd": 1},
            {"id": 3, "image_id": 9, "category_id": 3, "bbox": [5, 5, 0, 2], "area": 0},
            {"id": 4, "image_id": 9, "category_id": 3, "bbox": [25, 5, 4, 2], "area": 8}
        ]
    }"#;

    fn load_text(text: &str, files: &[&str]) -> Result<DetectionDataset, DataError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let annotations = folder.path().join("instances_test.json");
        std::fs::write(&annotations, text).expect("a file");
        for file in files {
            std::fs::write(folder.path().join(file), b"").expect("a file");
        }
        load(&annotations, folder.path())
    }

    fn error_of(text: &str, files: &[&str]) -> String {
        load_text(text, files).expect_err("an error").to_string()
    }

    #[test]
    fn categories_become_contiguous_and_boxes_corners() {
        let set = load_text(SMALL, &["a.jpg", "b.jpg"]).expect("a data set");
        assert_eq!(set.name, "instances_test");
        let names: Vec<_> = set.categories.iter().map(|c| (c.id, c.name.as_str())).collect();
        assert_eq!(names, [(3, "car"), (90, "zebra")]);
        let image = &set.images[0];
        assert_eq!((image.id, image.width, image.height, image.file_name.as_str()), (9, 20, 10, "b.jpg"));
        let first = DetectionObject {
            bbox: BoxXyxy::new(1.5, 2.0, 4.5, 6.0),
            category: 1,
            crowd: false,
            difficult: false,
            area: 7.25,
        };
        assert_eq!(image.objects[0], first);
    }

    #[test]
    fn boxes_are_clipped_and_those_without_area_are_counted() {
        let set = load_text(SMALL, &["a.jpg", "b.jpg"]).expect("a data set");
        let clipped = &set.images[0].objects[1];
        assert_eq!(clipped.bbox, BoxXyxy::new(15.0, 5.0, 20.0, 10.0));
        assert!(clipped.crowd);
        assert_eq!(clipped.area, 100.0, "a missing area is width times height");
        assert_eq!((set.images[0].objects.len(), set.dropped), (2, 2));
    }

    #[test]
    fn boxes_left_out_can_be_had_by_image_and_numbers_without_any_image_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let annotations = folder.path().join("instances.json");
        std::fs::write(&annotations, SMALL).expect("a file");
        let (set, dropped) = read(&annotations, folder.path()).expect("a data set");
        assert_eq!((set.images.len(), set.dropped), (2, 2));
        let left_out = |bbox| DroppedBox { image: "b.jpg".into(), category: "car".into(), bbox };
        assert_eq!(dropped, [left_out([5.0, 5.0, 0.0, 2.0]), left_out([25.0, 5.0, 4.0, 2.0])]);
    }

    #[test]
    fn what_exporters_write_is_understood() {
        let odd = SMALL
            .replace("\"id\": 9,", "\"id\": \"9\",")
            .replace("\"image_id\": 9", "\"image_id\": 9.0")
            .replace("\"iscrowd\": 0", "\"iscrowd\": 0.0")
            .replace("\"license\": 3", "\"date_captured\": 0, \"license\": \"none\"")
            .replace("\"segmentation\": []", "\"segmentation\": {\"counts\": null}, \"keypoints\": null")
            .replace(
                "\"info\": {\"year\": 2024}, \"licenses\": []",
                "\"info\": \"none\", \"licenses\": null",
            );
        let expected = load_text(SMALL, &["a.jpg", "b.jpg"]).expect("a data set");
        let found = load_text(&format!("\u{feff}{odd}"), &["a.jpg", "b.jpg"]).expect("a data set");
        let objects =
            |set: &DetectionDataset| set.images.iter().map(|i| (i.id, i.objects.clone())).collect::<Vec<_>>();
        assert_eq!(objects(&found), objects(&expected));
        for bbox in ["null", "[]", "[1, 2, null, 4]", "\"none\""] {
            let set =
                load_text(&SMALL.replace("[1.5, 2, 3, 4]", bbox), &["a.jpg", "b.jpg"]).expect("a data set");
            assert_eq!((set.images[0].objects.len(), set.dropped), (1, 3), "{bbox}");
        }
        for id in ["1.5", "-1", "\"nine\"", "null"] {
            let error = error_of(&SMALL.replace("\"image_id\": 9", &format!("\"image_id\": {id}")), &[]);
            assert!(error.contains("expected a whole number"), "{error}");
        }
    }

    #[test]
    fn names_are_trimmed_and_categories_of_one_name_stay_apart() {
        let text = SMALL.replace("\"name\": \"car\"", "\"name\": \" zebra \"");
        let names = |text: &str| -> Vec<String> {
            let set = load_text(text, &["a.jpg", "b.jpg"]).expect("a data set");
            set.categories.into_iter().map(|category| category.name).collect()
        };
        assert_eq!(names(&text), ["zebra (3)", "zebra (90)"]);
        assert_eq!(names(&SMALL.replace("\"name\": \"car\"", "\"name\": \"\"")), ["category 3", "zebra"]);
    }

    #[test]
    fn an_image_without_annotations_is_kept() {
        let set = load_text(SMALL, &["a.jpg", "b.jpg"]).expect("a data set");
        assert_eq!(set.images[1].id, 4);
        assert!(set.images[1].objects.is_empty());
    }

    #[test]
    fn missing_images_are_counted_and_the_first_is_named() {
        let error = error_of(SMALL, &["a.jpg"]);
        assert!(error.contains("1 of 2 images") && error.contains("the first is `b.jpg`"), "{error}");
    }

    #[test]
    fn malformed_json_names_the_file_and_the_position() {
        for text in ["{\n  \"images\": [}", "[]", "{\"images\": []}", ""] {
            let error = error_of(text, &[]);
            assert!(error.contains("instances_test.json") && error.contains("line "), "{error}");
        }
        let missing = load(Path::new("no/such.json"), Path::new("no")).expect_err("no file").to_string();
        assert!(missing.contains("no/such.json"), "{missing}");
    }

    #[test]
    fn files_that_contradict_themselves_are_refused() {
        let cases = [
            (SMALL.replace("\"image_id\": 9", "\"image_id\": 8"), "image 8"),
            (SMALL.replace("\"category_id\": 3", "\"category_id\": 5"), "category 5"),
            (SMALL.replace("\"id\": 4, \"file", "\"id\": 9, \"file"), "image id 9 is used twice"),
            (SMALL.replace("\"id\": 90", "\"id\": 3"), "category id 3 is used twice"),
            (SMALL.replace("\"width\": 20", "\"width\": 0"), "`b.jpg` has a width or height of 0"),
        ];
        for (text, reason) in cases {
            let error = error_of(&text, &["a.jpg", "b.jpg"]);
            assert!(error.contains(reason), "{error} should say {reason}");
        }
    }
}
