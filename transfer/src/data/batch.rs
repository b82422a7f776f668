//! Which images go together, and one tensor from several images.
//!
//! N images in the batch, H and W the padded size.

use std::collections::VecDeque;

use crate::data::DetectionDataset;
use burn::tensor::{Device, Tensor, TensorData};
use rand::seq::SliceRandom;
use scrl_core::random::stream;
use scrl_core::structures::Size;
use scrl_ops::Group;

use super::Sample;
use crate::detection::Target;

/// Sides of a batch are multiples of this, the coarsest stride that the feature pyramid halves down to.
pub const SIZE_DIVISOR: usize = 32;

/// The purpose of the random stream that orders the images of a pass.
const ORDER: u64 = u64::from_be_bytes(*b"detorder");

/// An endless list of training batches, the same for the same seed.
///
/// Images are visited in a new random order each pass; what is left of a pass goes to the next. With grouping, wide
/// images (wider than high) and all others are collected apart, so that little of a batch is padding (detectron2's
/// `AspectRatioGroupedDataset`).
#[derive(Clone, Debug)]
pub struct BatchPlan {
    /// The group of each image, 0 or 1.
    groups: Vec<usize>,
    batch_size: usize,
    seed: u64,
    pass: u64,
    upcoming: VecDeque<usize>,
    collecting: [Vec<usize>; 2],
}

impl BatchPlan {
    /// Batches of a data set, with `grouping` either of wide images or of others.
    ///
    /// # Panics
    /// If the data set or the batch is empty.
    pub fn new(dataset: &DetectionDataset, batch_size: usize, grouping: bool, seed: u64) -> Self {
        assert!(batch_size > 0 && !dataset.images.is_empty(), "batches need images");
        Self {
            groups: dataset
                .images
                .iter()
                .map(|image| usize::from(grouping && image.width > image.height))
                .collect(),
            batch_size,
            seed,
            pass: 0,
            upcoming: VecDeque::new(),
            collecting: [Vec::new(), Vec::new()],
        }
    }

    fn next_image(&mut self) -> usize {
        if let Some(index) = self.upcoming.pop_front() {
            return index;
        }
        let mut order: Vec<usize> = (0..self.groups.len()).collect();
        order.shuffle(&mut stream(self.seed, &[ORDER, self.pass]));
        self.pass += 1;
        self.upcoming = order.into();
        self.next_image()
    }
}

impl Iterator for BatchPlan {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        loop {
            let index = self.next_image();
            let batch = &mut self.collecting[self.groups[index]];
            batch.push(index);
            if batch.len() == self.batch_size {
                return Some(std::mem::take(batch));
            }
        }
    }
}

/// Several samples as the detector takes them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[N, 3, H, W]`; each image in the top-left corner, zero beyond it.
    pub images: Tensor<4>,
    /// The images' own sizes, before padding.
    pub sizes: Vec<Size>,
    /// Boxes in input pixels.
    pub targets: Vec<Target>,
    /// Indices into the data set.
    pub indices: Vec<usize>,
    /// Sizes of the image files.
    pub sources: Vec<Size>,
}

/// Pads samples to a common size, a multiple of [`SIZE_DIVISOR`], on `device`.
///
/// # Panics
/// If there is no sample.
pub fn collate(samples: Vec<Sample>, device: &Device) -> Batch {
    collate_over(samples, device, &Group::alone())
}

/// [`collate`] of this process's part of a batch, to the size that one process would pad the whole batch to.
///
/// # Panics
/// If there is no sample.
pub fn collate_over(samples: Vec<Sample>, device: &Device, group: &Group) -> Batch {
    assert!(!samples.is_empty(), "a batch needs samples");
    let longest = |side: fn(&Size) -> u32| samples.iter().map(|s| side(&s.size)).max().unwrap_or(0);
    let mut sides = [longest(|size| size.width), longest(|size| size.height)].map(u64::from);
    group.max_each(&mut sides);
    let [width, height] = sides.map(|side| (side as usize).next_multiple_of(SIZE_DIVISOR));
    let mut pixels = vec![0.0; samples.len() * 3 * height * width];
    for (sample, image) in samples.iter().zip(pixels.chunks_exact_mut(3 * height * width)) {
        place(sample, image, height, width);
    }
    let data = TensorData::new(pixels, [samples.len(), 3, height, width]);
    Batch {
        images: Tensor::from_data(data, device),
        sizes: samples.iter().map(|sample| sample.size).collect(),
        indices: samples.iter().map(|sample| sample.index).collect(),
        sources: samples.iter().map(|sample| sample.source).collect(),
        targets: samples.into_iter().map(|sample| sample.target).collect(),
    }
}

/// Copies a sample's rows into the corner of a larger zeroed image.
fn place(sample: &Sample, image: &mut [f32], height: usize, width: usize) {
    let (own_width, own_height) = (sample.size.width as usize, sample.size.height as usize);
    let planes =
        sample.pixels.chunks_exact(own_width * own_height).zip(image.chunks_exact_mut(height * width));
    for (from, to) in planes {
        for (from, to) in from.chunks_exact(own_width).zip(to.chunks_exact_mut(width)) {
            to[..own_width].copy_from_slice(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use crate::data::DetectionImage;

    use super::*;

    fn dataset(widths: &[u32]) -> DetectionDataset {
        let image = |(id, &width): (usize, &u32)| DetectionImage {
            id: id as u64,
            path: PathBuf::new(),
            file_name: String::new(),
            width,
            height: 10,
            objects: Vec::new(),
            annotated: None,
        };
        let images = widths.iter().enumerate().map(image).collect();
        DetectionDataset { name: "plan".into(), images, categories: Vec::new(), dropped: 0 }
    }

    #[test]
    fn batches_hold_wide_or_tall_images_and_visit_all_equally() {
        let data = dataset(&[20, 5, 20, 20, 5, 20, 10]);
        let batches: Vec<_> = BatchPlan::new(&data, 2, true, 3).take(70).collect();
        let mut visits = [0; 7];
        for batch in &batches {
            let wide = |&index: &usize| data.images[index].width > 10;
            assert!(batch.len() == 2 && (batch.iter().all(wide) || !batch.iter().any(wide)), "{batch:?}");
            batch.iter().for_each(|&index| visits[index] += 1);
        }
        assert!(visits.iter().all(|&count| (19..=21).contains(&count)), "{visits:?}");
        assert_eq!(batches, BatchPlan::new(&data, 2, true, 3).take(70).collect::<Vec<_>>());
        assert_ne!(batches, BatchPlan::new(&data, 2, true, 4).take(70).collect::<Vec<_>>());
    }

    #[test]
    fn without_grouping_every_pass_is_cut_into_batches_in_its_own_order() {
        let data = dataset(&[20, 5, 20, 5, 20, 5]);
        let batches: Vec<_> = BatchPlan::new(&data, 3, false, 3).take(40).collect();
        for pass in batches.chunks(2) {
            let mut images = pass.concat();
            images.sort_unstable();
            assert_eq!(images, [0, 1, 2, 3, 4, 5]);
        }
        let mixed =
            |batch: &&Vec<usize>| batch.iter().any(|i| i % 2 == 0) && batch.iter().any(|i| i % 2 == 1);
        assert!(batches.iter().filter(mixed).count() > 20, "wide and tall images share batches");
    }

    #[test]
    fn a_batch_may_be_larger_than_the_data_set() {
        assert_eq!(BatchPlan::new(&dataset(&[20]), 3, true, 0).next().unwrap(), [0, 0, 0]);
    }

    #[test]
    fn images_are_padded_with_zeros_to_multiples_of_32() {
        let sample = |index, width: u32, height: u32| Sample {
            index,
            pixels: vec![index as f32 + 1.0; (3 * width * height) as usize],
            size: Size { width, height },
            source: Size { width, height },
            target: Target::default(),
        };
        let batch = collate(vec![sample(0, 33, 5), sample(1, 7, 32)], &Device::flex());
        assert_eq!(batch.images.dims(), [2, 3, 32, 64]);
        let values = batch.images.into_data().try_to_vec::<f32>().unwrap();
        let at = |n: usize, c: usize, y: usize, x: usize| values[((n * 3 + c) * 32 + y) * 64 + x];
        assert_eq!([at(0, 0, 4, 32), at(0, 2, 4, 33), at(0, 1, 5, 0)], [1.0, 0.0, 0.0]);
        assert_eq!([at(1, 0, 31, 6), at(1, 2, 31, 7), at(1, 1, 0, 0)], [2.0, 0.0, 2.0]);
        assert_eq!(values.iter().sum::<f32>(), (3 * 33 * 5) as f32 + (2 * 3 * 7 * 32) as f32);
    }
}
