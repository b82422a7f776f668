//! Numbers about sizes and boxes.

use std::collections::BTreeMap;

use scrl_core::structures::Size;
use scrl_transfer::data::{DetectionImage, DetectionObject};
use serde::Serialize;

/// COCO's limits of small and of medium objects, square pixels.
const SMALL: f32 = 32.0 * 32.0;
const MEDIUM: f32 = 96.0 * 96.0;

/// How many of the sizes that occur are listed.
const COMMON: usize = 5;

/// Smallest, middle and largest value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// `None` without values.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { min, median: (low + high) / 2.0, max })
    }
}

/// Sizes of the readable images, in pixels.
#[derive(Debug, Serialize)]
pub struct SizeStatistics {
    pub width: Spread,
    pub height: Spread,
    /// Wider than high.
    pub landscape: usize,
    pub portrait: usize,
    pub square: usize,
    /// The most frequent sizes, as `width×height`, with their numbers.
    pub common: Vec<(String, usize)>,
}

impl SizeStatistics {
    /// `None` without images.
    pub fn of(sizes: &[Size]) -> Option<Self> {
        let mut counts: BTreeMap<(u32, u32), usize> = BTreeMap::new();
        sizes.iter().for_each(|size| *counts.entry((size.width, size.height)).or_default() += 1);
        let mut common: Vec<_> = counts.into_iter().collect();
        common.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let common = common.into_iter().take(COMMON).map(|((w, h), count)| (format!("{w}×{h}"), count));
        Some(Self {
            width: Spread::of(sizes.iter().map(|size| f64::from(size.width)))?,
            height: Spread::of(sizes.iter().map(|size| f64::from(size.height)))?,
            landscape: sizes.iter().filter(|size| size.width > size.height).count(),
            portrait: sizes.iter().filter(|size| size.width < size.height).count(),
            square: sizes.iter().filter(|size| size.width == size.height).count(),
            common: common.collect(),
        })
    }
}

/// Numbers of boxes.
#[derive(Debug, Serialize)]
pub struct BoxStatistics {
    pub boxes: usize,
    /// Objects of less than 32² square pixels, by the area that the annotations state.
    pub small: usize,
    /// From 32² to 96².
    pub medium: usize,
    /// Above 96².
    pub large: usize,
    /// Width by height.
    pub aspect_ratio: Option<Spread>,
    /// Boxes by width over height: below 1/3, to 1/2, to 1, to 2, to 3, above.
    pub aspect_ratios: [usize; 6],
    /// Side of the square of a box's area, in pixels.
    pub side: Option<Spread>,
    pub per_image: Option<Spread>,
    pub images_without_boxes: usize,
    /// COCO's `iscrowd`.
    pub crowd: usize,
    /// VOC's `difficult`.
    pub difficult: usize,
    /// Left out for having no area inside their image.
    pub degenerate: usize,
}

impl BoxStatistics {
    pub fn of<'a>(images: impl Iterator<Item = &'a DetectionImage>, degenerate: usize) -> Self {
        let images: Vec<&DetectionImage> = images.collect();
        let objects: Vec<&DetectionObject> = images.iter().flat_map(|image| &image.objects).collect();
        let count =
            |holds: &dyn Fn(&DetectionObject) -> bool| objects.iter().filter(|object| holds(object)).count();
        let mut aspect_ratios = [0; 6];
        objects.iter().for_each(|object| aspect_ratios[ratio_class(ratio(object))] += 1);
        Self {
            boxes: objects.len(),
            small: count(&|object| object.area < SMALL),
            medium: count(&|object| (SMALL..=MEDIUM).contains(&object.area)),
            large: count(&|object| object.area > MEDIUM),
            aspect_ratio: Spread::of(objects.iter().map(|object| ratio(object))),
            aspect_ratios,
            side: Spread::of(objects.iter().map(|object| f64::from(object.bbox.area()).sqrt())),
            per_image: Spread::of(images.iter().map(|image| image.objects.len() as f64)),
            images_without_boxes: images.iter().filter(|image| image.objects.is_empty()).count(),
            crowd: count(&|object| object.crowd),
            difficult: count(&|object| object.difficult),
            degenerate,
        }
    }
}

fn ratio(object: &DetectionObject) -> f64 {
    f64::from(object.bbox.width()) / f64::from(object.bbox.height())
}

fn ratio_class(ratio: f64) -> usize {
    [1.0 / 3.0, 0.5, 1.0, 2.0, 3.0].iter().filter(|limit| ratio > **limit).count()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use scrl_core::structures::BoxXyxy;

    use super::*;

    fn object(width: f32, height: f32, area: f32) -> DetectionObject {
        let bbox = BoxXyxy::new(0.0, 0.0, width, height);
        DetectionObject { bbox, category: 0, crowd: false, difficult: area > MEDIUM, area, mask: None }
    }

    #[test]
    fn boxes_are_counted_by_area_and_shape() {
        let image = |objects| DetectionImage {
            id: 1,
            path: PathBuf::new(),
            file_name: String::new(),
            width: 500,
            height: 500,
            objects,
            annotated: None,
        };
        let images = [
            image(vec![object(31.0, 33.0, 1023.0), object(32.0, 32.0, SMALL)]),
            image(vec![object(96.0, 96.0, MEDIUM), object(400.0, 100.0, 40_000.0)]),
            image(Vec::new()),
        ];
        let found = BoxStatistics::of(images.iter(), 7);
        assert_eq!((found.boxes, found.small, found.medium, found.large), (4, 1, 2, 1));
        assert_eq!(
            (found.difficult, found.crowd, found.degenerate, found.images_without_boxes),
            (1, 0, 7, 1)
        );
        assert_eq!(found.aspect_ratios, [0, 0, 3, 0, 0, 1]);
        assert_eq!(found.per_image, Some(Spread { min: 0.0, median: 2.0, max: 2.0 }));
        assert_eq!(found.side.unwrap().max, 200.0);
    }

    #[test]
    fn an_even_number_of_values_has_its_median_between_two() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0].into_iter()).unwrap();
        assert_eq!(spread, Spread { min: 1.0, median: 2.5, max: 4.0 });
        assert_eq!(Spread::of(std::iter::empty()), None);
    }
}
