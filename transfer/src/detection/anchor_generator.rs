//! Reference boxes on the pyramid's grids.

use std::ops::Range;

use scrl_core::structures::BoxXyxy;

use super::config::{Architecture, DetectorConfig, LEVELS};

/// The anchors of one padded image size; every image of a batch has the same.
#[derive(Clone, Debug)]
pub struct Anchors {
    /// Level by level, row by row, column by column, ratio by ratio, size by size.
    pub boxes: Vec<BoxXyxy>,
    /// Where each level lies in `boxes`.
    pub levels: Vec<Range<usize>>,
}

/// Places boxes of several sizes and ratios at every position of every pyramid level.
#[derive(Clone, Debug)]
pub struct AnchorGenerator {
    /// Of each level.
    sizes: Vec<Vec<f32>>,
    ratios: Vec<f32>,
    round: bool,
    /// Strides of the levels where they do not come from the grid.
    strides: Option<Vec<usize>>,
}

impl AnchorGenerator {
    /// Sizes, ratios and rounding of this config's architecture: P2 to P6 with a size each, or for RetinaNet P3 to P7 with
    /// several sizes each.
    pub fn new(config: &DetectorConfig) -> Self {
        let numerics = config.variant.numerics();
        let (first, sizes) = match config.architecture {
            Architecture::FasterRcnn | Architecture::MaskRcnn => {
                (4, config.anchors.sizes.iter().map(|&size| vec![size]).collect())
            }
            Architecture::RetinaNet => {
                let sizes = config.anchors.sizes.iter().map(|&size| config.retinanet.octave(size));
                (8, sizes.collect())
            }
        };
        Self {
            sizes,
            ratios: config.anchors.ratios.clone(),
            round: numerics.round_anchors,
            strides: (!numerics.strides_from_grid).then(|| (0..LEVELS).map(|level| first << level).collect()),
        }
    }

    /// `image` and `grids` (one a level, from P2) are `[height, width]` of the padded image and the feature maps.
    pub fn generate(&self, image: [usize; 2], grids: &[[usize; 2]]) -> Anchors {
        let mut boxes = Vec::with_capacity(
            grids
                .iter()
                .zip(&self.sizes)
                .map(|([h, w], sizes)| h * w * sizes.len() * self.ratios.len())
                .sum(),
        );
        let mut levels = Vec::with_capacity(LEVELS);
        for (level, &grid) in grids.iter().enumerate() {
            let start = boxes.len();
            self.extend(level, grid, self.stride(level, image, grid), &mut boxes);
            levels.push(start..boxes.len());
        }
        Anchors { boxes, levels }
    }

    /// The anchors around the origin, ratio by ratio, and of each ratio size by size.
    pub fn cell_anchors(&self, level: usize) -> Vec<BoxXyxy> {
        let round = |value: f32| if self.round { value.round_ties_even() } else { value };
        let cell_anchor = |(ratio, size): (f32, f32)| {
            let (height, width) = (ratio.sqrt() * size, 1.0 / ratio.sqrt() * size);
            let (right, bottom) = (round(width / 2.0), round(height / 2.0));
            BoxXyxy::new(-right, -bottom, right, bottom)
        };
        let sizes = &self.sizes[level];
        let pairs = self.ratios.iter().flat_map(|&ratio| sizes.iter().map(move |&size| (ratio, size)));
        pairs.map(cell_anchor).collect()
    }

    fn stride(&self, level: usize, image: [usize; 2], grid: [usize; 2]) -> [usize; 2] {
        match &self.strides {
            Some(strides) => [strides[level]; 2],
            None => [image[0] / grid[0], image[1] / grid[1]],
        }
    }

    fn extend(&self, level: usize, grid: [usize; 2], stride: [usize; 2], boxes: &mut Vec<BoxXyxy>) {
        let cell = self.cell_anchors(level);
        for row in 0..grid[0] {
            let y = (row * stride[0]) as f32;
            for column in 0..grid[1] {
                let x = (column * stride[1]) as f32;
                boxes.extend(cell.iter().map(|a| BoxXyxy::new(a.x1 + x, a.y1 + y, a.x2 + x, a.y2 + y)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_keep_the_area_and_are_height_over_width() {
        let generator = AnchorGenerator::new(&DetectorConfig::default());
        let anchors = generator.cell_anchors(1);
        for (anchor, ratio) in anchors.iter().zip([0.5, 1.0, 2.0]) {
            assert!((anchor.area() - 64.0 * 64.0).abs() < 0.1);
            assert!((anchor.height() / anchor.width() - ratio).abs() < 1e-5);
        }
    }

    #[test]
    fn levels_follow_each_other_and_the_column_runs_faster_than_the_row() {
        let generator = AnchorGenerator::new(&DetectorConfig::default());
        let anchors = generator.generate([8, 12], &[[2, 3], [1, 2]]);
        assert_eq!(anchors.levels, vec![0..18, 18..24]);
        let step = anchors.boxes[3].x1 - anchors.boxes[0].x1;
        assert_eq!((step, anchors.boxes[9].y1 - anchors.boxes[0].y1), (4.0, 4.0));
        assert_eq!(anchors.boxes[21].x1 - anchors.boxes[18].x1, 8.0);
    }
}
