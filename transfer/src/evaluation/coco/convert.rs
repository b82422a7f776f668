//! Data sets and results in the form of `hotcoco`.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use hotcoco::{Annotation, Category, Dataset, Image, Segmentation};
use scrl_core::structures::Size;

use crate::data::coco::{self, MaskField};
use crate::data::{AnnotatedObject, DetectionDataset};
use crate::evaluation::CocoResult;

/// A data set as it is.
pub(in crate::evaluation) fn to_hotcoco(dataset: &DetectionDataset) -> Dataset {
    let images = dataset.images.iter().map(|image| Image {
        id: image.id,
        file_name: image.file_name.clone(),
        width: image.width,
        height: image.height,
        ..Default::default()
    });
    let categories = dataset.categories.iter().map(|category| Category {
        id: category.id,
        name: category.name.clone(),
        ..Default::default()
    });
    let objects = dataset
        .images
        .iter()
        .flat_map(|image| image.truth().into_owned().into_iter().map(|object| (image.id, object)));
    let annotations = objects
        .enumerate()
        // Ids start at 1: pycocotools marks an unmatched detection with id 0.
        .map(|(index, (image_id, object))| truth(index as u64 + 1, image_id, dataset, &object));
    Dataset {
        images: images.collect(),
        annotations: annotations.collect(),
        categories: categories.collect(),
        ..Default::default()
    }
}

fn truth(id: u64, image_id: u64, dataset: &DetectionDataset, object: &AnnotatedObject) -> Annotation {
    Annotation {
        id,
        image_id,
        category_id: dataset.categories[object.category].id,
        bbox: Some(object.bbox),
        area: Some(object.area),
        segmentation: object.mask.as_ref().map(|mask| mask.to_wire()),
        iscrowd: object.crowd || object.difficult,
        ..Default::default()
    }
}

/// Of each image, by its id.
pub(super) fn sizes(images: &[Image]) -> HashMap<u64, Size> {
    let size = |image: &Image| Size { width: image.width, height: image.height };
    images.iter().map(|image| (image.id, size(image))).collect()
}

/// A file's boxes as they are, its annotations numbered from 1 in their order. Annotations without a box are left out. Warns
/// where the file's own ids do not tell its annotations apart.
///
/// The evaluation finds an annotation by its id and takes 0 for none: of annotations without ids, or with one id, it would
/// see only one.
pub(super) fn from_records<S: MaskField>(path: &Path, records: coco::Instances<S>) -> Dataset {
    let ids: HashSet<String> = records.annotations.iter().map(|record| record.id().to_string()).collect();
    if ids.len() < records.annotations.len() || ids.contains("0") || ids.contains("null") {
        tracing::warn!(
            file = %path.display(),
            annotations = records.annotations.len(),
            ids = ids.len(),
            "the ids of the annotations are missing, 0 or not unique; each annotation is evaluated under a number of its own"
        );
    }
    let count = records.annotations.len();
    let images = records.images.into_iter().map(|image| Image {
        id: image.id,
        file_name: image.file_name.unwrap_or_default(),
        width: image.width.unwrap_or_default() as u32,
        height: image.height.unwrap_or_default() as u32,
        ..Default::default()
    });
    let images: Vec<Image> = images.collect();
    let sizes = sizes(&images);
    let mut unusable = Vec::new();
    let boxes = records.annotations.into_iter().filter(|record| record.bbox.is_some());
    let annotations: Vec<Annotation> = boxes
        .zip(1..)
        .map(|(mut record, id)| {
            let size = sizes.get(&record.image_id).copied().unwrap_or(Size { width: 0, height: 0 });
            let mask = std::mem::take(&mut record.segmentation).read(size).unwrap_or_else(|reason| {
                unusable.push(format!("annotation {}: {reason}", record.id()));
                None
            });
            Annotation {
                id,
                image_id: record.image_id,
                category_id: record.category_id,
                bbox: record.bbox,
                segmentation: mask.map(|mask| mask.to_wire()),
                area: record.area(),
                iscrowd: record.is_crowd(),
                ..Default::default()
            }
        })
        .collect();
    if let Some(first) = unusable.first() {
        tracing::warn!(
            file = %path.display(),
            "{} masks cannot be used and count as objects that nothing finds; the first: {first}",
            unusable.len()
        );
    }
    if annotations.len() < count {
        tracing::warn!(file = %path.display(), left_out = count - annotations.len(), "annotations without a box");
    }
    let categories = records.categories.into_iter().map(|category| Category {
        id: category.id,
        name: category.name,
        ..Default::default()
    });
    Dataset { images, annotations, categories: categories.collect(), ..Default::default() }
}

/// With its box.
pub(in crate::evaluation) fn annotation(row: CocoResult) -> Annotation {
    Annotation {
        image_id: row.image_id,
        category_id: row.category_id,
        bbox: Some(row.bbox),
        score: Some(row.score),
        ..Default::default()
    }
}

/// With its mask alone: its area is then that of the mask, as pycocotools has it for results without boxes.
pub(super) fn mask_annotation(row: CocoResult) -> Annotation {
    Annotation {
        image_id: row.image_id,
        category_id: row.category_id,
        segmentation: row.segmentation.map(|mask| mask.to_wire()),
        score: Some(row.score),
        ..Default::default()
    }
}

/// Gives objects without a mask one of no pixels; the evaluation would take their box for it.
pub(super) fn without_pixels(dataset: &mut Dataset) {
    let sizes = sizes(&dataset.images);
    for annotation in dataset.annotations.iter_mut().filter(|annotation| annotation.segmentation.is_none()) {
        let size = sizes.get(&annotation.image_id).copied().unwrap_or(Size { width: 0, height: 0 });
        let counts = vec![size.height.saturating_mul(size.width)];
        let size = [size.height, size.width];
        annotation.segmentation = Some(Segmentation::UncompressedRle { size, counts });
    }
}
