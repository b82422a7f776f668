//! How alike places of two views are to a backbone: cosines of its features.
//!
//! C channels, H×W cells of the pooled feature map, K boxes of an image.

use burn::tensor::{Device, Tensor};
use scrl_core::models::{Backbone, Level};
use scrl_pretrain::image_views::{ImageViews, stack_views};
use scrl_pretrain::pooling::{pool_boxes, rois};

use crate::FigureError;

/// Cosines of one vector to every cell of a feature map.
#[derive(Clone, Debug, PartialEq)]
pub struct SimilarityMap {
    /// Rows and columns.
    size: [usize; 2],
    /// Row by row.
    values: Vec<f32>,
}

impl SimilarityMap {
    /// # Panics
    /// If there is not one value a cell, and one cell at least.
    pub fn new(size: [usize; 2], values: Vec<f32>) -> Self {
        assert!(!values.is_empty() && values.len() == size[0] * size[1], "one value a cell");
        Self { size, values }
    }

    /// The cosine of `query` `[C]` to each cell of `features` `[C, H, W]`, `size` being `[H, W]`; 0 for a cell without
    /// any activation.
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub fn of(features: &[f32], size: [usize; 2], query: &[f32]) -> Self {
        let area = size[0] * size[1];
        assert_eq!(features.len(), query.len() * area, "the query has as many channels as the features");
        let cell = |at: usize| features[at..].iter().step_by(area).copied().collect::<Vec<_>>();
        Self::new(size, (0..area).map(|at| cosine(&cell(at), query)).collect())
    }

    /// The smallest and the largest value.
    pub fn range(&self) -> (f32, f32) {
        self.values.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)))
    }

    /// The value at a place, `x` and `y` in `[0, 1]` of the view's sides, between the centres of cells by bilinear
    /// interpolation.
    pub fn at(&self, x: f32, y: f32) -> f32 {
        let [rows, columns] = self.size;
        let ((top, bottom, down), (left, right, across)) = (neighbours(y, rows), neighbours(x, columns));
        let cell = |row: usize, column: usize| self.values[row * columns + column];
        let blend = |a: f32, b: f32, share: f32| a * (1.0 - share) + b * share;
        blend(
            blend(cell(top, left), cell(top, right), across),
            blend(cell(bottom, left), cell(bottom, right), across),
            down,
        )
    }

    /// The centre of the cell with the largest value, `(x, y)` in `[0, 1]` of the view's sides.
    pub fn peak(&self) -> (f32, f32) {
        let best = (0..self.values.len()).max_by(|&a, &b| self.values[a].total_cmp(&self.values[b]));
        let best = best.expect("a map has a cell");
        let [rows, columns] = self.size;
        let centre = |index: usize, count: usize| (index as f32 + 0.5) / count as f32;
        (centre(best % columns, columns), centre(best / columns, rows))
    }
}

/// The two cells around a place of `[0, 1]` along an axis of `count` cells, and the share of the second.
fn neighbours(place: f32, count: usize) -> (usize, usize, f32) {
    let position = (place * count as f32 - 0.5).clamp(0.0, (count - 1) as f32);
    let first = position as usize;
    (first, (first + 1).min(count - 1), position - first as f32)
}

/// Cosine of the angle between two vectors; 0 when one has no length.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { (dot(a, b) / lengths) as f32 } else { 0.0 }
}

/// What a backbone says of one image.
pub struct ImageFeatures {
    /// The pooled level of view 2, `[C, H, W]`.
    map: Vec<f32>,
    /// `[H, W]`
    size: [usize; 2],
    /// A vector a box, in view 1 and in view 2.
    boxes: [Vec<Vec<f32>>; 2],
}

impl ImageFeatures {
    /// Both views through the backbone by its running statistics, and each box pooled as in training.
    ///
    /// `device` must have no gradients.
    ///
    /// # Errors
    /// When features cannot be copied from the device.
    pub fn compute(
        encoder: &Backbone,
        image: &ImageViews,
        level: Level,
        device: &Device,
    ) -> Result<Self, FigureError> {
        let image = std::slice::from_ref(image);
        let views = Tensor::cat(vec![stack_views(image, 0, device), stack_views(image, 1, device)], 0);
        let features = encoder.forward_to(level, views).at(level);
        let [_, channels, height, width] = features.dims();
        let rois = rois(image);
        let vectors = match rois.is_empty() {
            true => Vec::new(),
            false => floats(pool_boxes(features.clone(), &rois, level.stride()))?,
        };
        let mut vectors = vectors.chunks_exact(channels).map(<[f32]>::to_vec).collect::<Vec<_>>();
        let second = vectors.split_off(vectors.len() / 2);
        Ok(Self { map: floats(features.narrow(0, 1, 1))?, size: [height, width], boxes: [vectors, second] })
    }

    /// The cosines of a box of view 1 to every place of view 2.
    pub fn similarity(&self, number: usize) -> SimilarityMap {
        SimilarityMap::of(&self.map, self.size, &self.boxes[0][number])
    }
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, FigureError> {
    tensor.into_data().try_to_vec::<f32>().map_err(|error| FigureError::Features(format!("{error:?}")))
}

/// Mean cosines of boxes of view 1 with boxes of view 2; `None` where there are no such pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BoxCosines {
    /// Of a box with itself.
    pub matched: Option<f64>,
    /// Of a box with another box of the same image.
    pub same_image: Option<f64>,
    /// Of a box with a box of another image.
    pub other_image: Option<f64>,
}

impl BoxCosines {
    /// Of all boxes of these images.
    pub fn of(images: &[ImageFeatures]) -> Self {
        let mut means = [(0.0, 0u32); 3];
        for (i, first) in images.iter().enumerate() {
            for (j, second) in images.iter().enumerate() {
                for (p, a) in first.boxes[0].iter().enumerate() {
                    for (q, b) in second.boxes[1].iter().enumerate() {
                        let (sum, count) = &mut means[if i != j { 2 } else { usize::from(p != q) }];
                        *sum += f64::from(cosine(a, b));
                        *count += 1;
                    }
                }
            }
        }
        let [matched, same_image, other_image] =
            means.map(|(sum, count)| (count > 0).then(|| sum / f64::from(count)));
        Self { matched, same_image, other_image }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five channels on 3×4 cells, none parallel to `query`.
    fn features() -> Vec<f32> {
        (0..5 * 12).map(|i| ((i * 37 % 11) as f32 - 5.0) * 0.3).collect()
    }

    #[test]
    fn a_planted_vector_is_the_maximum_wherever_it_lies() {
        let query = [1.0, -2.0, 0.5, 3.0, 0.25];
        for at in 0..12 {
            let mut features = features();
            (0..5).for_each(|c| features[c * 12 + at] = 7.0 * query[c]);
            let map = SimilarityMap::of(&features, [3, 4], &query);
            assert!((map.values[at] - 1.0).abs() < 1e-6, "its length does not count: {}", map.values[at]);
            assert!(map.values.iter().enumerate().all(|(i, &v)| i == at || v < 0.99), "{:?}", map.values);
            let (x, y) = map.peak();
            assert_eq!(((x * 4.0) as usize, (y * 3.0) as usize), (at % 4, at / 4));
            assert!((map.at(x, y) - map.range().1).abs() < 1e-6, "a cell's value is that of its centre");
        }
    }

    #[test]
    fn cosines_are_those_of_the_angles() {
        let map = SimilarityMap::of(&[2.0, 0.0, -3.0, 0.0, 0.0, 5.0, 0.0, 0.0], [1, 4], &[1.0, 0.0]);
        assert_eq!(map.values, [1.0, 0.0, -1.0, 0.0], "parallel, orthogonal, opposite, without activation");
        assert_eq!(map.range(), (-1.0, 1.0));
    }

    #[test]
    fn between_cells_values_are_blended_and_beyond_them_kept() {
        let map = SimilarityMap::new([2, 2], vec![0.0, 1.0, 2.0, 3.0]);
        assert_eq!(map.at(0.5, 0.5), 1.5);
        assert_eq!(map.at(0.5, 0.25), 0.5);
        assert_eq!((map.at(0.0, 0.0), map.at(1.0, 1.0)), (0.0, 3.0));
        assert_eq!(SimilarityMap::new([1, 1], vec![0.4]).at(0.9, 0.1), 0.4);
    }

    #[test]
    fn pairs_of_boxes_are_matched_within_an_image_or_across_images() {
        let image = |first: [f32; 2], second: [f32; 2]| ImageFeatures {
            map: vec![0.0; 2],
            size: [1, 1],
            boxes: [vec![first.to_vec(), second.to_vec()], vec![first.to_vec(), second.to_vec()]],
        };
        let images = [image([1.0, 0.0], [0.0, 1.0]), image([1.0, 0.0], [2.0, 0.0])];
        let found = BoxCosines::of(&images);
        assert_eq!(found.matched, Some(1.0));
        assert_eq!(found.same_image, Some(0.5), "orthogonal in the first image, parallel in the second");
        assert_eq!(found.other_image, Some(0.5));
        assert_eq!(BoxCosines::of(&images[..1]).other_image, None);
    }
}
