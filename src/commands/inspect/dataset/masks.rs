//! Masks in numbers, and those that are hardly meant as they are.

use rayon::prelude::*;
use scrl_core::structures::BoxXyxy;
use scrl_transfer::data::{DetectionImage, DetectionObject};
use scrl_transfer::mask::Segmentation;
use serde::Serialize;

/// Pixels by which an outline may leave its image, and its box differ from the annotated one, in any case.
const MARGIN: f32 = 2.0;
/// A box whose IoU with that of the mask is below this is of another object, or one of them is wrong.
const AGREEMENT: f32 = 0.5;

/// What the masks of a split are like.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct MaskStatistics {
    /// Objects with a mask.
    pub masks: usize,
    /// Of them with outlines.
    pub polygons: usize,
    /// Of them with run lengths.
    pub run_lengths: usize,
    /// Of them with an outline that crosses itself; some of its inside is then outside.
    pub self_crossing: usize,
}

impl MaskStatistics {
    /// Of these images, and their doubtful masks as `file: the object at […] …`; none where no object has a mask.
    pub fn of<'a>(images: impl Iterator<Item = &'a DetectionImage>) -> (Option<Self>, Vec<String>) {
        let of_image = |image: &DetectionImage| {
            let mut found = (Self::default(), Vec::new());
            for object in &image.objects {
                let Some(mask) = &object.mask else { continue };
                let statistics = &mut found.0;
                statistics.masks += 1;
                match &**mask {
                    Segmentation::Rle(_) => statistics.run_lengths += 1,
                    Segmentation::Polygons(polygons) => {
                        statistics.polygons += 1;
                        let crossing = polygons.iter().any(|polygon| crosses_itself(polygon));
                        statistics.self_crossing += usize::from(crossing);
                    }
                }
                found
                    .1
                    .extend(doubt(image, object, mask).map(|doubt| format!("{}: {doubt}", image.file_name)));
            }
            found
        };
        let images: Vec<_> = images.collect();
        let found: Vec<(Self, Vec<String>)> = images.into_par_iter().map(of_image).collect();
        let mut all = Self::default();
        let mut doubts = Vec::new();
        for (statistics, found) in found {
            all.masks += statistics.masks;
            all.polygons += statistics.polygons;
            all.run_lengths += statistics.run_lengths;
            all.self_crossing += statistics.self_crossing;
            doubts.extend(found);
        }
        ((all.masks > 0).then_some(all), doubts)
    }
}

/// What is wrong with a mask.
fn doubt(image: &DetectionImage, object: &DetectionObject, mask: &Segmentation) -> Option<String> {
    let [left, top, right, bottom] = object.bbox.to_array();
    let at = format!("the object at [{left}, {top}, {right}, {bottom}]");
    if let Segmentation::Polygons(_) = mask {
        let [x, y, width, height] = mask.bbox().map(|value| value as f32);
        let (right, bottom) = (image.width as f32 + MARGIN, image.height as f32 + MARGIN);
        if x < -MARGIN || y < -MARGIN || x + width > right || y + height > bottom {
            return Some(format!("{at} has an outline that leaves the image"));
        }
    }
    let rle = mask.to_rle(image.size());
    if rle.area() == 0 {
        return Some(format!("{at} has a mask of no pixels"));
    }
    let [x, y, width, height] = rle.bbox().map(|value| value as f32);
    let around = BoxXyxy::from_xywh(x, y, width, height);
    let corners = around.to_array().into_iter().zip(object.bbox.to_array());
    let near = corners.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) <= MARGIN;
    (!near && around.iou(&object.bbox) < AGREEMENT)
        .then(|| format!("{at} has a mask in [{x}, {y}, {}, {}]", x + width, y + height))
}

/// Whether two edges of an outline that are not neighbours cross.
fn crosses_itself(polygon: &[f64]) -> bool {
    let points = polygon.as_chunks::<2>().0;
    let edges: Vec<[[f64; 2]; 2]> =
        points.iter().zip(points.iter().cycle().skip(1)).map(|(a, b)| [*a, *b]).collect();
    let side =
        |[a, b]: [[f64; 2]; 2], p: [f64; 2]| (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]);
    let apart = |edge, other: [[f64; 2]; 2]| side(edge, other[0]) * side(edge, other[1]) < 0.0;
    edges.iter().enumerate().any(|(index, &edge)| {
        edges.iter().skip(index + 2).any(|&other| apart(edge, other) && apart(other, edge))
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;

    fn image(polygons: &[&[f64]], bbox: [f32; 4]) -> DetectionImage {
        let [x1, y1, x2, y2] = bbox;
        let object = |polygon: &&[f64]| DetectionObject {
            bbox: BoxXyxy::new(x1, y1, x2, y2),
            category: 0,
            crowd: false,
            difficult: false,
            area: 1.0,
            mask: Some(Arc::new(Segmentation::Polygons(vec![polygon.to_vec()]))),
        };
        DetectionImage {
            id: 1,
            path: PathBuf::new(),
            file_name: "a.jpg".into(),
            width: 40,
            height: 30,
            objects: polygons.iter().map(object).collect(),
            annotated: None,
        }
    }

    #[test]
    fn masks_that_are_empty_elsewhere_or_outside_are_named_and_crossings_counted() {
        let bow: &[f64] = &[5.0, 5.0, 15.0, 15.0, 15.0, 5.0, 5.0, 15.0];
        let square: &[f64] = &[5.0, 5.0, 15.0, 5.0, 15.0, 15.0, 5.0, 15.0];
        let flat: &[f64] = &[5.0, 5.0, 15.0, 5.0, 10.0, 5.0];
        let outside: &[f64] = &[30.0, 5.0, 50.0, 5.0, 50.0, 15.0];
        let images = [
            image(&[bow, square, flat, outside], [5.0, 5.0, 15.0, 15.0]),
            image(&[square], [20.0, 20.0, 30.0, 30.0]),
        ];
        let (statistics, doubts) = MaskStatistics::of(images.iter());
        let expected = MaskStatistics { masks: 5, polygons: 5, run_lengths: 0, self_crossing: 1 };
        assert_eq!(statistics, Some(expected));
        let [flat, outside, elsewhere] = doubts.as_slice() else { panic!("{doubts:?}") };
        assert!(flat.contains("no pixels"), "{flat}");
        assert!(outside.contains("leaves the image"), "{outside}");
        assert!(elsewhere.contains("a mask in [5, 5, 15, 15]"), "{elsewhere}");
        assert_eq!(MaskStatistics::of(std::iter::empty()), (None, Vec::new()));
    }
}
