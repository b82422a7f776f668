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
mod tests;
