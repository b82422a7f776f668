//! Region features from the pyramid.

use burn::tensor::Tensor;
use scrl_core::structures::BoxXyxy;
use scrl_ops::{ImageBox, RoiAlignOptions, roi_align};

use super::config::DetectorConfig;

/// Side of the grid that the box head sees.
pub(super) const POOLED: usize = 7;
/// Levels that are pooled: P2 to P5.
const POOLED_LEVELS: usize = 4;

/// A region of one image of the batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roi {
    /// Index of the image in the batch.
    pub image: usize,
    /// In pixels of the padded input image.
    pub bbox: BoxXyxy,
}

/// Pools each region from the pyramid level that suits its size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pooler {
    /// Cells of a row of the pooled grid.
    side: usize,
    canonical_box_size: f32,
    sampling_ratio: i32,
    aligned: bool,
}

impl Pooler {
    /// Canonical size and sampling of this config; the grid of the box head.
    pub fn new(config: &DetectorConfig) -> Self {
        let numerics = config.variant.numerics();
        Self {
            side: POOLED,
            canonical_box_size: config.roi_heads.canonical_box_size,
            sampling_ratio: numerics.sampling_ratio,
            aligned: numerics.aligned,
        }
    }

    /// With a grid of `side × side` cells.
    pub fn with_side(self, side: usize) -> Self {
        Self { side, ..self }
    }

    /// 0 for P2 to 3 for P5: `⌊4 + log2(√area / canonical size)⌋` limited to them (Lin et al., equation 1).
    pub fn level(&self, bbox: &BoxXyxy) -> usize {
        // As torchvision: the small term decides boxes whose size is a power of two of the canonical one.
        let level = 4.0 + (bbox.area().sqrt() / self.canonical_box_size).log2() + 1e-6;
        (level.floor().clamp(2.0, 5.0) - 2.0) as usize
    }

    /// `features` from P2 on, at least four; one row a region, `[R, C, side, side]`, level by level, and the row of each of
    /// `rois`.
    ///
    /// # Panics
    /// When there are no regions.
    pub fn forward(&self, features: &[Tensor<4>], rois: &[Roi]) -> (Tensor<4>, Vec<usize>) {
        assert!(!rois.is_empty(), "pooling needs at least one region");
        let mut places = vec![0; rois.len()];
        let mut pooled = Vec::with_capacity(POOLED_LEVELS);
        let mut count = 0;
        let levels: Vec<usize> = rois.iter().map(|roi| self.level(&roi.bbox)).collect();
        for (level, map) in features.iter().take(POOLED_LEVELS).enumerate() {
            let here: Vec<usize> = (0..rois.len()).filter(|&index| levels[index] == level).collect();
            if here.is_empty() {
                continue;
            }
            for (row, &index) in here.iter().enumerate() {
                places[index] = count + row;
            }
            count += here.len();
            pooled.push(self.pool(map, level, here.iter().map(|&index| &rois[index])));
        }
        let pooled = if pooled.len() == 1 { pooled.remove(0) } else { Tensor::cat(pooled, 0) };
        (pooled, places)
    }

    fn pool<'a>(&self, map: &Tensor<4>, level: usize, rois: impl Iterator<Item = &'a Roi>) -> Tensor<4> {
        let boxes: Vec<ImageBox> =
            rois.map(|roi| ImageBox { image: roi.image, corners: roi.bbox.to_array() }).collect();
        let options = RoiAlignOptions {
            output_size: [self.side; 2],
            spatial_scale: 1.0 / (4 << level) as f32,
            sampling_ratio: self.sampling_ratio,
            aligned: self.aligned,
        };
        roi_align(map.clone(), &boxes, options)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn rows_are_told_for_the_regions_whatever_their_levels() {
        let device = Device::flex();
        // Each level holds its own number, so that a pooled row tells where it comes from.
        let features: Vec<_> = (0..4)
            .map(|level| Tensor::<4>::full([1, 2, 256 >> level, 256 >> level], level as f32, &device))
            .collect();
        let pooler = Pooler::new(&DetectorConfig::default());
        let roi = |side: f32| Roi { image: 0, bbox: BoxXyxy::new(8.0, 8.0, 8.0 + side, 8.0 + side) };
        let rois = [roi(900.0), roi(20.0), roi(230.0), roi(30.0)];
        let (pooled, rows) = pooler.forward(&features, &rois);
        assert_eq!(pooled.dims(), [4, 2, 7, 7]);
        let first: Vec<f32> = pooled.slice([0..4, 0..1, 3..4, 3..4]).into_data().try_to_vec().unwrap();
        // The mean over the sampling points rounds.
        let near = rows.iter().zip([3.0, 0.0, 2.0, 0.0]).all(|(row, e)| (first[*row] - e).abs() < 1e-5);
        assert!(near, "{first:?} in rows {rows:?}");
    }
}
