//! Images with boxes, whatever format they came from.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;
use scrl_core::data::DataError;
use scrl_core::random::{RngCore, stream};
use scrl_core::structures::{BoxXyxy, Size};
use scrl_core::transforms::decode;
use serde::{Serialize, Serializer};

use crate::mask::Segmentation;

/// The purpose of the random stream that ranks images for [`DetectionDataset::subset`].
const SUBSET: u64 = u64::from_be_bytes(*b"subset__");

/// A class of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Category {
    /// The number that the annotation file gives the class.
    pub id: u64,
    /// The name that is shown to people.
    pub name: String,
}

/// One annotated object.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectionObject {
    /// In pixels of the image, clipped to it, with positive sides.
    pub bbox: BoxXyxy,
    /// Index into [`DetectionDataset::categories`], from 0.
    pub category: usize,
    /// A box around a group that nobody counted; no training target, ignored in evaluation (COCO's `iscrowd`).
    pub crowd: bool,
    /// An object that VOC's evaluation ignores.
    pub difficult: bool,
    /// Area of the object, square pixels: of its mask where the annotations say so, else of its box.
    pub area: f32,
    /// Its mask, where masks were asked for and it has one.
    pub mask: Option<Arc<Segmentation>>,
}

/// An object as the annotation file has it, for evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AnnotatedObject {
    /// `x, y, width, height` in pixels from 0; it may lie beyond the image or have no area.
    pub bbox: [f64; 4],
    /// Index into [`DetectionDataset::categories`], from 0.
    pub category: usize,
    /// As [`DetectionObject::crowd`].
    pub crowd: bool,
    /// As [`DetectionObject::difficult`].
    pub difficult: bool,
    /// As [`DetectionObject::area`].
    pub area: f64,
    /// As [`DetectionObject::mask`].
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_mask")]
    pub mask: Option<Arc<Segmentation>>,
}

fn serialize_mask<S: Serializer>(mask: &Option<Arc<Segmentation>>, serializer: S) -> Result<S::Ok, S::Error> {
    mask.as_deref().serialize(serializer)
}

impl From<&DetectionObject> for AnnotatedObject {
    fn from(object: &DetectionObject) -> Self {
        let [x1, y1, x2, y2] = object.bbox.to_array().map(f64::from);
        Self {
            bbox: [x1, y1, x2 - x1, y2 - y1],
            category: object.category,
            crowd: object.crowd,
            difficult: object.difficult,
            area: f64::from(object.area),
            mask: object.mask.clone(),
        }
    }
}

/// One image and its objects.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectionImage {
    /// The number that the annotation file gives the image, unique in the data set.
    pub id: u64,
    /// Where the image lies.
    pub path: PathBuf,
    /// Its name in the annotations.
    pub file_name: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The objects that a detector can learn; empty for an image of background.
    pub objects: Vec<DetectionObject>,
    /// All objects as the annotation file has them; none where they are those of `objects`.
    pub annotated: Option<Vec<AnnotatedObject>>,
}

impl DetectionImage {
    /// Width and height in pixels.
    pub fn size(&self) -> Size {
        Size { width: self.width, height: self.height }
    }

    /// Refuses an image file of another size than its annotation says.
    ///
    /// # Errors
    /// Says both sizes, and whether an EXIF orientation is why they differ.
    pub fn check_size(&self, found: Size) -> Result<(), DataError> {
        match self.size_problem(found) {
            None => Ok(()),
            Some(reason) => Err(DataError::invalid(&self.path, reason)),
        }
    }

    /// Why a file of this size is not that of the annotation; `None` where it is.
    pub fn size_problem(&self, found: Size) -> Option<String> {
        let annotated = self.size();
        if found == annotated {
            return None;
        }
        let swapped = annotated == Size { width: found.height, height: found.width };
        let is_turned = swapped && decode::read_header(&self.path).is_ok_and(|header| header.is_turned);
        let Size { width, height } = found;
        Some(match is_turned {
            true => format!(
                "it is {width}×{height} pixels, turned as its EXIF orientation says, but its annotation says {}×{}, as the \
                 file is without turning; if its boxes were drawn on the unturned image, remove the orientation from the file \
                 (`exiftool -Orientation= FILE`), else correct the annotation's width and height",
                annotated.width, annotated.height
            ),
            false => format!(
                "it is {width}×{height} pixels, its annotation says {}×{}; correct the annotation",
                annotated.width, annotated.height
            ),
        })
    }

    /// The objects that detections are judged by, as the annotation file has them.
    pub fn truth(&self) -> Cow<'_, [AnnotatedObject]> {
        match &self.annotated {
            Some(annotated) => Cow::Borrowed(annotated),
            None => self.objects.iter().map(AnnotatedObject::from).collect(),
        }
    }
}

/// A box that has no area inside its image.
#[derive(Clone, Debug, PartialEq)]
pub struct DroppedBox {
    /// Name of the image in the annotations.
    pub image: String,
    /// Name of its class.
    pub category: String,
    /// The numbers in the annotation file: `x, y, width, height` (COCO) or `xmin, ymin, xmax, ymax` (VOC), in pixels.
    pub bbox: [f64; 4],
}

/// A set of images with boxes.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectionDataset {
    /// A short name for reports.
    pub name: String,
    /// In the order of the annotation file.
    pub images: Vec<DetectionImage>,
    /// In the order of their ids.
    pub categories: Vec<Category>,
    /// Boxes left out for having no area inside their image.
    pub dropped: usize,
}

impl DetectionDataset {
    /// Compares the sizes of the image files, from their headers, with those of the annotations. A file whose header cannot
    /// be read is left to whoever decodes it.
    ///
    /// # Errors
    /// When an image has another size; names the first and counts the others.
    pub fn check_sizes(&self) -> Result<(), DataError> {
        let problem = |image: &DetectionImage| {
            let size = decode::read_size(&image.path).ok()?;
            Some((image.path.clone(), image.size_problem(size)?))
        };
        let problems: Vec<(PathBuf, String)> = self.images.par_iter().filter_map(problem).collect();
        let Some((path, reason)) = problems.first() else { return Ok(()) };
        let others = match problems.len() - 1 {
            0 => String::new(),
            count => format!("; {count} more images of `{}` differ, see `scrl inspect dataset`", self.name),
        };
        Err(DataError::invalid(path, format!("{reason}{others}")))
    }

    /// The data set with the classes of a detector, matched by name. Classes that only the detector has are added, with ids
    /// that are free here; the ids of the others stay.
    ///
    /// # Errors
    /// The names of classes that the detector does not have.
    pub fn with_classes(mut self, classes: &[Category]) -> Result<Self, Vec<String>> {
        let of_name = |name: &str| classes.iter().position(|class| class.name == name);
        let places: Vec<Option<usize>> = self.categories.iter().map(|class| of_name(&class.name)).collect();
        let unknown = self.categories.iter().zip(&places).filter(|(_, place)| place.is_none());
        let unknown: Vec<String> = unknown.map(|(class, _)| class.name.clone()).collect();
        if !unknown.is_empty() {
            return Err(unknown);
        }
        let places: Vec<usize> = places.into_iter().flatten().collect();
        let mut ids: HashSet<u64> = self.categories.iter().map(|class| class.id).collect();
        let mut next = ids.iter().max().map_or(1, |id| id + 1);
        let category = |(place, class): (usize, &Category)| {
            let own = places.iter().position(|&found| found == place).map(|index| self.categories[index].id);
            let id = own.unwrap_or_else(|| {
                let id = if ids.contains(&class.id) { next } else { class.id };
                next = next.max(id + 1);
                ids.insert(id);
                id
            });
            Category { id, name: class.name.clone() }
        };
        let categories = classes.iter().enumerate().map(category).collect();
        self.categories = categories;
        for image in &mut self.images {
            image.objects.iter_mut().for_each(|object| object.category = places[object.category]);
            let annotated = image.annotated.iter_mut().flatten();
            annotated.for_each(|object| object.category = places[object.category]);
        }
        Ok(self)
    }

    /// Names of the classes without any object.
    pub fn classes_without_objects(&self) -> Vec<&str> {
        let used: HashSet<usize> =
            self.images.iter().flat_map(|image| &image.objects).map(|object| object.category).collect();
        let unused = self.categories.iter().enumerate().filter(|(index, _)| !used.contains(index));
        unused.map(|(_, class)| class.name.as_str()).collect()
    }

    /// A random share of the images, in their order here.
    ///
    /// With the same seed, the images of a smaller fraction are among those of a larger one: an image's rank depends
    /// on the seed and its id alone. `fraction` is limited to `[0, 1]`, the number of images is rounded, and one image is
    /// kept at least (none of an empty set). Categories and `dropped` stay as they are.
    pub fn subset(&self, fraction: f64, seed: u64) -> Self {
        let share = (fraction.clamp(0.0, 1.0) * self.images.len() as f64).round() as usize;
        let mut ranked: Vec<(u64, u64)> =
            self.images.iter().map(|i| (stream(seed, &[SUBSET, i.id]).next_u64(), i.id)).collect();
        ranked.sort_unstable();
        let kept: HashSet<u64> = ranked.iter().take(share.max(1)).map(|&(_, id)| id).collect();
        Self {
            name: self.name.clone(),
            images: self.images.iter().filter(|i| kept.contains(&i.id)).cloned().collect(),
            categories: self.categories.clone(),
            dropped: self.dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(images: u64) -> DetectionDataset {
        let image = |id| DetectionImage {
            id,
            path: PathBuf::from(format!("{id}.jpg")),
            file_name: format!("{id}.jpg"),
            width: 10,
            height: 10,
            objects: Vec::new(),
            annotated: None,
        };
        DetectionDataset {
            name: "test".to_owned(),
            images: (0..images).map(|i| image(1000 - 3 * i)).collect(),
            categories: vec![Category { id: 1, name: "cell".to_owned() }],
            dropped: 0,
        }
    }

    fn ids(dataset: &DetectionDataset) -> Vec<u64> {
        dataset.images.iter().map(|i| i.id).collect()
    }

    #[test]
    fn a_smaller_subset_lies_inside_a_larger_one_and_keeps_the_order() {
        let all = dataset(200);
        let mut larger = ids(&all);
        for fraction in [0.5, 0.1, 0.02] {
            let smaller = ids(&all.subset(fraction, 7));
            assert_eq!(smaller.len(), (200.0 * fraction) as usize);
            assert!(smaller.iter().all(|id| larger.contains(id)));
            assert!(smaller.is_sorted_by(|a, b| a > b), "the order of the data set is kept");
            larger = smaller;
        }
    }

    #[test]
    fn a_subset_depends_on_the_seed_and_not_on_the_order_of_the_images() {
        let all = dataset(100);
        let mut reversed = all.clone();
        reversed.images.reverse();
        let mut same = ids(&reversed.subset(0.2, 1));
        same.reverse();
        assert_eq!(ids(&all.subset(0.2, 1)), same);
        assert_ne!(ids(&all.subset(0.2, 1)), ids(&all.subset(0.2, 2)));
    }

    #[test]
    fn classes_are_matched_by_name_and_those_that_are_missing_get_free_ids() {
        let class = |id, name: &str| Category { id, name: name.into() };
        let object = |category| AnnotatedObject {
            bbox: [0.0, 0.0, 5.0, 5.0],
            category,
            crowd: false,
            difficult: false,
            area: 25.0,
            mask: None,
        };
        let mut data = dataset(1);
        data.categories = vec![class(1, "b"), class(2, "a")];
        data.images[0].annotated = Some(vec![object(0), object(1)]);
        let detector = [class(1, "a"), class(2, "b"), class(3, "c"), class(1, "d")];
        let matched = data.clone().with_classes(&detector).unwrap();
        assert_eq!(matched.categories, [class(2, "a"), class(1, "b"), class(3, "c"), class(4, "d")]);
        let annotated: Vec<usize> = matched.images[0].truth().iter().map(|object| object.category).collect();
        assert_eq!(annotated, [1, 0]);
        assert_eq!(data.with_classes(&detector[1..]).unwrap_err(), ["a"]);
    }

    #[test]
    fn a_subset_has_one_image_at_least_and_all_of_them_at_most() {
        let all = dataset(5);
        assert_eq!(all.subset(0.0, 0).images.len(), 1);
        assert_eq!(all.subset(0.01, 0).images.len(), 1);
        assert_eq!(all.subset(1.0, 0), all);
        assert_eq!(dataset(0).subset(0.5, 0).images.len(), 0);
    }
}
