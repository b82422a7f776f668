//! Where a box samples the feature map, and with which weights.
//!
//! Bilinear interpolation and the average over the sampling points of a cell are products of a vertical and a
//! horizontal part, so a box is described by two short lists of weights that all channels share:
//! `output[ph, pw] = Σ_y Σ_x vertical[ph][y] · horizontal[pw][x] · features[y, x]`.
//!
//! Positions follow torchvision (`torchvision/csrc/ops/cpu/roi_align_common.h`), in the same order of operations.

use super::{ImageBox, RoiAlignOptions};

/// The weight of one feature-map row or column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tap {
    pub index: usize,
    pub weight: f32,
}

/// The taps of each output cell along one axis.
#[derive(Debug)]
pub(super) struct AxisTaps {
    taps: Vec<Tap>,
    /// End of each cell's taps in `taps`.
    ends: Vec<usize>,
}

/// One box: its image and its taps along both axes.
#[derive(Debug)]
pub(super) struct SampledBox {
    pub image: usize,
    pub vertical: AxisTaps,
    pub horizontal: AxisTaps,
}

/// Finds where every box samples features of `[batch, channels, height, width]`.
///
/// # Panics
/// If a box names an image outside the batch.
pub(super) fn sample_boxes(
    boxes: &[ImageBox],
    [images, _, height, width]: [usize; 4],
    options: &RoiAlignOptions,
) -> Vec<SampledBox> {
    let [rows, columns] = options.output_size;
    let sample = |&ImageBox { image, corners: [x1, y1, x2, y2] }: &ImageBox| {
        assert!(image < images, "roi_align: a box names image {image} of a batch of {images}");
        SampledBox {
            image,
            vertical: AxisTaps::new(Cells::new(y1, y2, rows, options), rows, height),
            horizontal: AxisTaps::new(Cells::new(x1, x2, columns, options), columns, width),
        }
    };
    boxes.iter().map(sample).collect()
}

/// The output cells of a box along one axis, in feature-map pixels.
#[derive(Clone, Copy)]
struct Cells {
    start: f32,
    /// Length of a cell; negative where the corners of the box are swapped.
    length: f32,
    /// Sampling points of a cell.
    points: usize,
}

impl Cells {
    fn new(low: f32, high: f32, cells: usize, options: &RoiAlignOptions) -> Self {
        let offset = if options.aligned { 0.5 } else { 0.0 };
        let start = low * options.spatial_scale - offset;
        let end = high * options.spatial_scale - offset;
        let extent = if options.aligned { end - start } else { (end - start).max(1.0) };
        let length = extent / cells as f32;
        let points = match usize::try_from(options.sampling_ratio) {
            Ok(points) if points > 0 => points,
            _ => length.ceil() as usize, // saturates: none for a negative length
        };
        Self { start, length, points }
    }

    /// Position of a sampling point of a cell.
    fn position(&self, cell: usize, point: usize) -> f32 {
        self.start + cell as f32 * self.length + (point as f32 + 0.5) * self.length / self.points as f32
    }

    /// Positions of a cell's sampling points that are at most one pixel outside of `0..size`.
    ///
    /// Positions are monotonic in the point, so the first is found by bisection: a box can be much larger
    /// than the map.
    fn inside(&self, cell: usize, size: usize) -> impl Iterator<Item = f32> {
        let before = |position: f32| match self.length < 0.0 {
            true => position > size as f32,
            false => position < -1.0,
        };
        let first = partition_point(self.points, |point| before(self.position(cell, point)));
        (first..self.points)
            .map(move |point| self.position(cell, point))
            .take_while(move |position| (-1.0..=size as f32).contains(position))
    }
}

/// The number of leading members of `0..end` for which `holds`.
fn partition_point(end: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low + (high - low) / 2;
        match holds(middle) {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    low
}

impl AxisTaps {
    fn new(cells: Cells, count: usize, size: usize) -> Self {
        let mut axis = Self { taps: Vec::new(), ends: Vec::with_capacity(count) };
        for cell in 0..count {
            for position in cells.inside(cell, size) {
                axis.add_point(position, size, cells.points);
            }
            axis.ends.push(axis.taps.len());
        }
        axis
    }

    /// Adds the two neighbours of a sampling point, each weighted by its closeness over the number of points.
    fn add_point(&mut self, position: f32, size: usize, points: usize) {
        if size == 0 {
            return;
        }
        let position = position.clamp(0.0, (size - 1) as f32);
        let index = position as usize;
        let upper = position - index as f32;
        self.add_tap(index, (1.0 - upper) / points as f32);
        if upper > 0.0 {
            self.add_tap(index + 1, upper / points as f32);
        }
    }

    /// Adds to one of this cell's latest taps, where neighbouring points meet, or appends one.
    fn add_tap(&mut self, index: usize, weight: f32) {
        let cell_start = self.ends.last().copied().unwrap_or(0);
        let recent = cell_start.max(self.taps.len().saturating_sub(3));
        match self.taps[recent..].iter_mut().find(|tap| tap.index == index) {
            Some(tap) => tap.weight += weight,
            None => self.taps.push(Tap { index, weight }),
        }
    }

    /// The taps of each cell in turn.
    pub fn cells(&self) -> impl Iterator<Item = &[Tap]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.taps[start..end])
    }

    /// The same weights by row or column of the feature map.
    #[cfg(any(feature = "flex", feature = "cube", test))]
    pub fn by_pixel(&self) -> PixelTaps {
        let cells = self.cells().enumerate();
        let mut taps: Vec<(usize, Tap)> = cells
            .flat_map(|(cell, taps)| {
                taps.iter().map(move |tap| (tap.index, Tap { index: cell, weight: tap.weight }))
            })
            .collect();
        taps.sort_by_key(|(pixel, _)| *pixel);
        let mut axis = PixelTaps { pixels: Vec::new(), taps: Vec::with_capacity(taps.len()) };
        for (pixel, tap) in taps {
            axis.taps.push(tap);
            match axis.pixels.last_mut() {
                Some((last, end)) if *last == pixel => *end = axis.taps.len(),
                _ => axis.pixels.push((pixel, axis.taps.len())),
            }
        }
        axis
    }
}

/// The taps of each feature-map row or column that has any; their indices are output cells.
#[cfg(any(feature = "flex", feature = "cube", test))]
#[derive(Debug)]
pub(super) struct PixelTaps {
    /// Row or column and the end of its taps in `taps`, ascending.
    pixels: Vec<(usize, usize)>,
    taps: Vec<Tap>,
}

#[cfg(any(feature = "flex", feature = "cube", test))]
impl PixelTaps {
    /// Each row or column in turn with its cells.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &[Tap])> {
        let starts = std::iter::once(0).chain(self.pixels.iter().map(|(_, end)| *end));
        starts.zip(&self.pixels).map(|(start, &(pixel, end))| (pixel, &self.taps[start..end]))
    }

    /// The range of rows or columns from the first to the last with taps.
    pub fn span(&self) -> std::ops::Range<usize> {
        match (self.pixels.first(), self.pixels.last()) {
            (Some((first, _)), Some((last, _))) => *first..last + 1,
            _ => 0..0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(output_size: [usize; 2], sampling_ratio: i32) -> RoiAlignOptions {
        RoiAlignOptions { output_size, spatial_scale: 1.0, sampling_ratio, aligned: true }
    }

    fn sample_box(corners: [f32; 4], size: usize, options: &RoiAlignOptions) -> SampledBox {
        sample_boxes(&[ImageBox { image: 0, corners }], [1, 1, size, size], options).pop().unwrap()
    }

    #[test]
    fn taps_of_a_whole_pixel_box_are_the_mean_of_its_pixels() {
        let roi = sample_box([2.0, 1.0, 4.0, 4.0], 8, &options([1, 1], -1));
        let taps = |axis: &AxisTaps| axis.cells().next().unwrap().to_vec();
        assert_eq!(taps(&roi.horizontal), [2, 3].map(|index| Tap { index, weight: 0.5 }));
        assert_eq!(taps(&roi.vertical), [1, 2, 3].map(|index| Tap { index, weight: 1.0 / 3.0 }));
    }

    #[test]
    fn points_half_way_between_pixels_weigh_both_and_shared_pixels_merge() {
        let roi = sample_box([1.5, 0.0, 3.5, 1.0], 8, &options([1, 1], -1));
        let taps = roi.horizontal.cells().next().unwrap();
        assert_eq!(taps, [(1, 0.25), (2, 0.5), (3, 0.25)].map(|(index, weight)| Tap { index, weight }));
        assert_eq!(roi.horizontal.by_pixel().span(), 1..4);
    }

    #[test]
    fn pixels_know_the_cells_that_they_are_part_of() {
        // Two cells of one point each, at 1.0 and 2.5 from the first pixel's centre.
        let roi = sample_box([0.75, 0.0, 3.75, 1.0], 8, &options([1, 2], 1));
        let taps: Vec<_> = roi.horizontal.by_pixel().iter().map(|(x, taps)| (x, taps.to_vec())).collect();
        let tap = |index, weight| vec![Tap { index, weight }];
        assert_eq!(taps, [(1, tap(0, 1.0)), (2, tap(1, 0.5)), (3, tap(1, 0.5))]);
    }

    #[test]
    fn a_box_of_a_billion_pixels_is_described_by_the_points_on_the_map() {
        let roi = sample_box([-1e9, -1e9, 1e9, 1e9], 8, &options([1, 1], -1));
        assert!(roi.vertical.taps.len() <= 8);
    }

    #[test]
    fn a_box_that_is_not_finite_has_no_taps() {
        for corner in [f32::NAN, f32::INFINITY] {
            let roi = sample_box([0.0, 0.0, corner, corner], 8, &options([2, 2], -1));
            assert!(roi.vertical.taps.is_empty() && roi.horizontal.taps.is_empty(), "{corner}");
        }
    }

    #[test]
    #[should_panic(expected = "names image 1 of a batch of 1")]
    fn a_box_of_an_image_outside_the_batch_is_refused() {
        let boxes = [ImageBox { image: 1, corners: [0.0, 0.0, 2.0, 2.0] }];
        sample_boxes(&boxes, [1, 1, 4, 4], &options([1, 1], 2));
    }
}
