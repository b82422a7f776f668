//! Images to feature vectors.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use scrl_core::data::{DataError, ImageFolder, LoaderOptions, load_batches, sampler};
use scrl_core::engine::Monitor;
use scrl_core::models::{Backbone, Level, in_f32};
use scrl_core::structures::{Rect, Size};
use scrl_core::transforms::decode::decode;
use scrl_core::transforms::normalize::chw;
use scrl_core::transforms::resample::{crop_resize, resize};
use scrl_core::transforms::{ImageError, RgbImage};
use scrl_ops::{Group, keep_weights};

use super::{Labelled, ProbeError};
use crate::inspection::Rows;
use crate::pooling::global_average;

/// Images at a time.
const BATCH: usize = 32;

/// The centre of an image: its short side to `size · 256 / 224` pixels, bicubic, then the central `size` × `size`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvaluationView {
    /// Side of the crop in pixels.
    pub size: u32,
    /// Mean of RGB values in `[0, 1]`.
    pub mean: [f32; 3],
    /// Standard deviation of RGB values in `[0, 1]`.
    pub std: [f32; 3],
}

impl EvaluationView {
    /// Normalised pixels of a file, `[3, size, size]`.
    ///
    /// # Errors
    /// When the file cannot be decoded.
    pub fn load(&self, path: &Path) -> Result<Vec<f32>, ImageError> {
        Ok(chw(&self.crop(&decode(path)?), self.mean, self.std))
    }

    /// The centre crop; sizes and places round as torchvision's `Resize` and `CenterCrop` do.
    fn crop(&self, image: &RgbImage) -> RgbImage {
        let short = (f64::from(self.size) * 256.0 / 224.0).round() as u32;
        let (width, height) = (image.width(), image.height());
        let long = |long: u32, side: u32| (u64::from(short) * u64::from(long) / u64::from(side)) as u32;
        let resized = match width <= height {
            true => Size { width: short, height: long(height, width) },
            false => Size { width: long(width, height), height: short },
        };
        let start = |side: u32| (f64::from(side - self.size) / 2.0).round_ties_even() as u32;
        let crop =
            Rect { x: start(resized.width), y: start(resized.height), width: self.size, height: self.size };
        crop_resize(&resize(image, resized), crop, Size { width: self.size, height: self.size })
    }
}

/// The globally pooled map and the class of every image, in order; `done` images were counted before. `None` when interrupted.
/// The processes of `group` share the images, and each gets the features of all.
pub(super) fn labelled(
    encoder: &Backbone,
    data: &ImageFolder,
    done: u64,
    view: EvaluationView,
    level: Level,
    device: &Device,
    group: &Group,
    monitor: &mut Monitor,
) -> Result<Option<Labelled>, ProbeError> {
    let samples = data.samples.clone();
    let load = move |index: usize, _: &mut _| -> Result<Vec<f32>, DataError> {
        Ok(view.load(&samples[index].path)?)
    };
    let options = LoaderOptions { seed: 0, epoch: 0, threads: 0, prefetch: 2 };
    let mut batches = sampler::batches(data.samples.len(), BATCH, false, None);
    let own = sampler::shares(batches.len(), 1, group).into_iter().next().unwrap_or(0..0);
    let batches = batches.drain(own).collect();
    let (mut features, mut interrupted) = (Rows::default(), false);
    let _weights = keep_weights();
    for batch in load_batches(batches, options, Arc::new(load)) {
        features.extend(pooled(encoder, &batch?, view.size as usize, level, device));
        let known = (features.len() * group.size()).min(data.samples.len());
        monitor.progress.update(done + known as u64, "");
        if monitor.interrupt.is_requested() {
            interrupted = true;
            break;
        }
    }
    if group.any(interrupted) {
        return Ok(None);
    }
    let features = gathered(features, group);
    let labels = data.samples.iter().filter_map(|sample| sample.label).collect();
    Ok(Some(Labelled { features, labels }))
}

/// The rows of all processes, in the order of the images.
fn gathered(own: Rows, group: &Group) -> Rows {
    // A process may have had no image.
    let dims = group.max(own.dims as u64) as usize;
    Rows { values: group.gather(&own.values), dims }
}

fn pooled(encoder: &Backbone, images: &[Vec<f32>], side: usize, level: Level, device: &Device) -> Rows {
    let pixels = TensorData::new(images.concat(), [images.len(), 3, side, side]);
    let features = encoder.forward_to(level, Tensor::from_data(pixels, device));
    Rows::from_tensor(global_average(in_f32(features.at(level))))
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use scrl_core::models::{Arch, ResNetConfig};

    use super::*;

    #[test]
    fn features_are_the_means_of_the_map_that_is_asked_for() {
        let device = Device::default();
        let mut rng = scrl_core::random::stream(1, &[]);
        let encoder = ResNetConfig { width: 0.125, ..ResNetConfig::new(Arch::ResNet18) }
            .init(&mut rng, &device)
            .valid();
        let image: Vec<f32> = (0..3 * 64 * 64).map(|i| (i % 97) as f32 / 97.0).collect();
        let maps =
            encoder.forward(Tensor::from_data(TensorData::new(image.clone(), [1, 3, 64, 64]), &device));
        for (level, map) in [(Level::C4, maps.at(Level::C4)), (Level::C5, maps.at(Level::C5))] {
            let rows = pooled(&encoder, std::slice::from_ref(&image), 64, level, &device);
            let [_, channels, height, width] = map.dims();
            let values = map.into_data().try_to_vec::<f32>().unwrap();
            let means = values
                .chunks_exact(height * width)
                .map(|cells| cells.iter().sum::<f32>() / cells.len() as f32);
            let row = rows.iter().next().expect("a row an image");
            assert_eq!(row.len(), channels);
            for (found, mean) in row.iter().zip(means) {
                assert!((found - mean).abs() <= 1e-6 * (1.0 + mean.abs()), "{found} {mean}");
            }
        }
    }

    #[test]
    fn the_crop_is_the_centre_whatever_the_shape() {
        // Red within the central square of the short side, black outside of it.
        for (width, height) in [(200, 100), (100, 200), (100, 100), (37, 41)] {
            let side = u32::min(width, height);
            let centred = |at: u32, of: u32| at >= (of - side) / 2 && at < (of + side) / 2;
            let paint = |x, y| [if centred(x, width) && centred(y, height) { 255 } else { 0 }, 0, 0];
            let mut image = RgbImage::new(width, height);
            image.enumerate_pixels_mut().for_each(|(x, y, pixel)| pixel.0 = paint(x, y));
            let view = EvaluationView { size: 56, mean: [0.0; 3], std: [1.0; 3] };
            let crop = view.crop(&image);
            assert_eq!((crop.width(), crop.height()), (56, 56));
            assert!(crop.pixels().all(|pixel| pixel.0[0] > 250), "{width} x {height}");
        }
    }
}
