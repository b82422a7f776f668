//! COCO's instances files.

mod records;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use scrl_core::data::DataError;
use scrl_core::structures::BoxXyxy;
use scrl_core::transforms::decode;

use super::{
    AnnotatedObject, Category, DetectionDataset, DetectionImage, DetectionObject, DroppedBox, Labels,
    file_names,
};
use crate::mask::Segmentation;
use records::{AnnotationRecord, CategoryRecord, ImageRecord};

pub(crate) use records::{Instances, MaskField, Masks, NoMasks, read_all as records, whole};

/// Reads an instances file whose images lie in `images`.
///
/// Categories are sorted by id, and objects refer to them by position, so ids may have gaps. Boxes are clipped to their
/// image; those that have no area then, and annotations without a box, are left out and counted in
/// [`DetectionDataset::dropped`]. So are masks that cannot be used; their objects stay. A missing `area` is the box's, a missing `width` or `height` the image file's. Ids may be
/// floats or digits in quotes. Images without annotations are kept. File names may be written as Windows or macOS write them.
///
/// # Errors
/// When the file cannot be read, is not such JSON, contradicts itself (an id used twice, or never defined), or names
/// images that are not in the folder.
pub fn load(annotations: &Path, images: &Path, labels: Labels) -> Result<DetectionDataset, DataError> {
    let CocoSurvey { dataset, faults, bad_masks, .. } = survey(annotations, images, labels)?;
    records::refuse(&faults, annotations)?;
    if let Some(first) = bad_masks.first() {
        tracing::warn!(
            file = %annotations.display(),
            "{} objects have a mask that cannot be used, the first of them {first}; `scrl inspect dataset` lists them",
            bad_masks.len()
        );
    }
    check_files(&dataset, annotations, images)?;
    Ok(dataset)
}

/// What an instances file says, its mistakes included.
#[derive(Debug)]
pub struct CocoSurvey {
    /// Everything that can be used.
    pub dataset: DetectionDataset,
    /// Boxes that are not in it, for having no area inside their image.
    pub dropped: Vec<DroppedBox>,
    /// Records that cannot be used; [`load`] refuses a file with any.
    pub faults: Vec<String>,
    /// Masks that cannot be used, and why; their objects are in `dataset` without them.
    pub bad_masks: Vec<String>,
}

/// As [`load`], but goes on where something is wrong; the images need not be there.
///
/// # Errors
/// When the file cannot be read, is not such JSON, or lists no image or category.
pub fn survey(annotations: &Path, images: &Path, labels: Labels) -> Result<CocoSurvey, DataError> {
    let survey = match labels {
        Labels::Boxes => survey_with::<NoMasks>(annotations, images)?,
        Labels::Masks => survey_with::<Masks>(annotations, images)?,
    };
    let nothing = |list: &str| DataError::invalid(annotations, format!("`{list}` is empty"));
    match &survey.dataset {
        set if set.images.is_empty() && survey.faults.is_empty() => Err(nothing("images")),
        set if set.categories.is_empty() && survey.faults.is_empty() => Err(nothing("categories")),
        _ => Ok(survey),
    }
}

fn survey_with<S: MaskField>(annotations: &Path, folder: &Path) -> Result<CocoSurvey, DataError> {
    let (instances, faults) = records::read::<S>(annotations)?;
    Ok(assemble(instances, faults, annotations, folder))
}

fn assemble<S: MaskField>(
    instances: Instances<S>,
    mut faults: Vec<String>,
    annotations: &Path,
    folder: &Path,
) -> CocoSurvey {
    let categories = categories(instances.categories, &mut faults);
    let class: HashMap<u64, usize> = categories.iter().enumerate().map(|(i, c)| (c.id, i)).collect();
    let ImageList { mut images, position, refused } = image_list(instances.images, folder, &mut faults);
    let (mut dropped, mut bad_masks) = (Vec::new(), Vec::new());
    let (mut orphans, mut unknown) = (BTreeMap::<u64, usize>::new(), BTreeMap::<u64, usize>::new());
    for mut record in instances.annotations {
        let Some(image) = position.get(&record.image_id).map(|&i| &mut images[i]) else {
            if !refused.contains(&record.image_id) {
                *orphans.entry(record.image_id).or_default() += 1;
            }
            continue;
        };
        let Some(&category) = class.get(&record.category_id) else {
            *unknown.entry(record.category_id).or_default() += 1;
            continue;
        };
        let mask = std::mem::take(&mut record.segmentation).read(image.size()).unwrap_or_else(|reason| {
            bad_masks.push(format!(
                "annotation {} (`{}`) of `{}`: {reason}",
                record.id(),
                categories[category].name,
                image.file_name
            ));
            None
        });
        let mask = mask.map(Arc::new);
        image.annotated.get_or_insert_default().extend(annotated(&record, category, &mask));
        match object(&record, category, image, &mask) {
            Some(object) => image.objects.push(object),
            None => dropped.push(DroppedBox {
                image: image.file_name.clone(),
                category: categories[category].name.clone(),
                bbox: record.bbox.unwrap_or([f64::NAN; 4]),
            }),
        }
    }
    let strays = [(&orphans, "belong to image", "images"), (&unknown, "have category", "categories")];
    for (ids, relation, list) in strays {
        faults.extend(ids.iter().map(|(id, count)| {
            format!(
                "{count} annotations {relation} {id}, which `{list}` does not list; add it or remove them"
            )
        }));
    }
    let name = annotations.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let dataset = DetectionDataset { name, images, categories, dropped: dropped.len() };
    CocoSurvey { dataset, dropped, faults, bad_masks }
}

fn categories(records: Vec<CategoryRecord>, faults: &mut Vec<String>) -> Vec<Category> {
    let mut names = BTreeMap::<u64, String>::new();
    for CategoryRecord { id, name } in records {
        match names.get(&id) {
            Some(other) => {
                faults.push(format!("category id {id} is used twice, for `{other}` and `{name}`"));
            }
            None => drop(names.insert(id, name)),
        }
    }
    names.into_iter().map(|(id, name)| Category { id, name }).collect()
}

/// The images of a file that can be used.
struct ImageList {
    /// In the file's order.
    images: Vec<DetectionImage>,
    /// Where each id is among them.
    position: HashMap<u64, usize>,
    /// Ids of images that cannot be used.
    refused: HashSet<u64>,
}

fn image_list(records: Vec<ImageRecord>, folder: &Path, faults: &mut Vec<String>) -> ImageList {
    let mut list = ImageList { images: Vec::new(), position: HashMap::new(), refused: HashSet::new() };
    for record in records {
        let id = record.id;
        if let Some(&first) = list.position.get(&id) {
            let first = &list.images[first].file_name;
            let second = record.file_name.unwrap_or_default();
            faults.push(format!("image id {id} is used twice, for `{first}` and `{second}`"));
            continue;
        }
        match image(record, folder) {
            Ok(image) => {
                list.position.insert(id, list.images.len());
                list.images.push(image);
            }
            Err(reason) => {
                faults.push(reason);
                list.refused.insert(id);
            }
        }
    }
    list
}

fn image(record: ImageRecord, folder: &Path) -> Result<DetectionImage, String> {
    let ImageRecord { id, file_name, width, height } = record;
    let file_name = file_name.filter(|name| !name.is_empty());
    let file_name = file_name.ok_or_else(|| format!("image {id} has no `file_name`"))?;
    let path = file_names::find(folder, &file_name).unwrap_or_else(|| folder.join(&file_name));
    let [width, height] = match (width, height) {
        (Some(width), Some(height)) => [side(width, &file_name)?, side(height, &file_name)?],
        _ => match decode::read_size(&path) {
            Ok(size) => [size.width, size.height],
            Err(error) => {
                return Err(format!("image `{file_name}` has no `width` and `height`, and {error}"));
            }
        },
    };
    Ok(DetectionImage { id, path, file_name, width, height, objects: Vec::new(), annotated: None })
}

fn side(value: f64, name: &str) -> Result<u32, String> {
    let valid = value >= 1.0 && value <= f64::from(u32::MAX) && value.fract() == 0.0;
    valid.then_some(value as u32).ok_or_else(|| {
        format!(
            "image `{name}` has a width or height of {value}; write the pixels of its file, or leave both out"
        )
    })
}

/// The object as the file has it; `None` without a box.
fn annotated<S>(
    record: &AnnotationRecord<S>,
    category: usize,
    mask: &Option<Arc<Segmentation>>,
) -> Option<AnnotatedObject> {
    let (bbox, area) = (record.bbox?, record.area()?);
    let (crowd, mask) = (record.is_crowd(), mask.clone());
    Some(AnnotatedObject { bbox, category, crowd, difficult: false, area, mask })
}

/// The object with its box clipped to the image; `None` when nothing is left of it.
fn object<S>(
    record: &AnnotationRecord<S>,
    category: usize,
    image: &DetectionImage,
    mask: &Option<Arc<Segmentation>>,
) -> Option<DetectionObject> {
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
    let (crowd, mask) = (record.is_crowd(), mask.clone());
    positive.then_some(DetectionObject { bbox, category, crowd, difficult: false, area, mask })
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
        load(&annotations, folder.path(), Labels::Boxes)
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
            mask: None,
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
        let CocoSurvey { dataset: set, dropped, .. } =
            survey(&annotations, folder.path(), Labels::Boxes).expect("a data set");
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
            assert!(
                error.contains("annotation 1 of image ") || error.contains("annotation 1: "),
                "the annotation is named: {error}"
            );
            assert!(error.contains("`image_id`: ") && error.contains("expected a whole number"), "{error}");
            assert!(error.contains("3 more faults"), "{error}");
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
            assert!(
                error.contains("instances_test.json") && error.contains("expected COCO instances"),
                "{error}"
            );
        }
        let missing =
            load(Path::new("no/such.json"), Path::new("no"), Labels::Boxes).expect_err("no file").to_string();
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

    #[test]
    fn a_survey_lists_every_fault_and_keeps_the_rest() {
        let text = SMALL
            .replace("\"id\": 1, \"image_id\": 9", "\"id\": 1, \"image_id\": 77")
            .replace("\"id\": 2, \"image_id\": 9, \"category_id\": 3", "\"id\": 2, \"image_id\": 9")
            .replace("[5, 5, 0, 2]", "[5, 5, NaN, 2]")
            .replace("\"id\": 4, \"file_name\": \"a.jpg\"", "\"id\": 4, \"file_name\": null");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let annotations = folder.path().join("instances.json");
        std::fs::write(&annotations, &text).expect("a file");
        let CocoSurvey { dataset, dropped, faults, .. } =
            survey(&annotations, folder.path(), Labels::Boxes).expect("a data set");
        assert_eq!((dataset.images.len(), dataset.images[0].objects.len(), dropped.len()), (1, 0, 2));
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert_eq!(faults[0], "annotation 2 of image 9: `category_id` is missing");
        assert_eq!(faults[1], "image 4 has no `file_name`");
        assert!(faults[2].starts_with("1 annotations belong to image 77"), "{faults:?}");
        let error = load(&annotations, folder.path(), Labels::Boxes).expect_err("faults").to_string();
        assert!(error.contains("annotation 2 of image 9") && error.contains("2 more faults"), "{error}");
    }

    #[test]
    fn windows_separators_find_the_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("sub")).expect("a folder");
        std::fs::write(folder.path().join("sub/b.jpg"), b"").expect("a file");
        std::fs::write(folder.path().join("a.jpg"), b"").expect("a file");
        let annotations = folder.path().join("instances.json");
        std::fs::write(&annotations, SMALL.replace("b.jpg", "sub\\\\b.jpg")).expect("a file");
        let set = load(&annotations, folder.path(), Labels::Boxes).expect("a data set");
        assert_eq!(set.images[0].path, folder.path().join("sub/b.jpg"));
        assert_eq!(set.images[0].file_name, "sub\\b.jpg", "the name stays as the file has it");
    }

    #[test]
    fn sizes_that_the_annotations_leave_out_are_read_from_the_images() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let annotations = folder.path().join("instances.json");
        let text = SMALL.replace("\"width\": 20, \"height\": 10, ", "").replace("b.jpg", "b.png");
        std::fs::write(&annotations, text).expect("a file");
        std::fs::write(folder.path().join("a.jpg"), b"").expect("a file");
        let error = load(&annotations, folder.path(), Labels::Boxes).expect_err("no image").to_string();
        assert!(error.contains("`b.png` has no `width` and `height`"), "{error}");
        image::RgbImage::new(21, 11).save(folder.path().join("b.png")).expect("an image");
        let set = load(&annotations, folder.path(), Labels::Boxes).expect("a data set");
        assert_eq!((set.images[0].width, set.images[0].height), (21, 11));
    }
}
