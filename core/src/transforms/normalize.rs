//! Pixels to network input.

use std::mem::MaybeUninit;

use image::RgbImage;

use super::vectorized::{BLOCK, split, vectorized};

/// Mean of ImageNet's training images, red, green, blue, for values in `[0, 1]`.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];

/// Standard deviation of ImageNet's training images, red, green, blue, for values in `[0, 1]`.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Writes `(value / 255 − mean) / std`, channel by channel, with an error of a few units in the last place.
///
/// # Shapes
/// - output: `[3, height, width]`, row by row
///
/// # Panics
/// If `out` does not hold `3 · height · width` values.
pub fn to_chw(image: &RgbImage, mean: [f32; 3], std: [f32; 3], out: &mut [f32]) {
    // SAFETY: both have the same layout, and nothing but numbers is written.
    let out = unsafe { &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<f32>]) };
    write(image, mean, std, out);
}

/// As [`to_chw`], into a new vector.
pub fn chw(image: &RgbImage, mean: [f32; 3], std: [f32; 3]) -> Vec<f32> {
    let len = image.as_raw().len();
    let mut values = Vec::with_capacity(len);
    write(image, mean, std, &mut values.spare_capacity_mut()[..len]);
    // SAFETY: so many values have been written.
    unsafe { values.set_len(len) };
    values
}

/// Writes every element of `out`.
fn write(image: &RgbImage, mean: [f32; 3], std: [f32; 3], out: &mut [MaybeUninit<f32>]) {
    let area = image.width() as usize * image.height() as usize;
    assert_eq!(out.len(), 3 * area, "the output must hold 3 × height × width values");
    let scale = std.map(|std| (1.0 / (255.0 * f64::from(std))) as f32);
    let shift: [f32; 3] = std::array::from_fn(|c| (-f64::from(mean[c]) / f64::from(std[c])) as f32);
    let (blocks, rest) = image.as_chunks::<{ 3 * BLOCK }>();
    vectorized(
        #[inline(always)]
        || {
            for (start, pixels) in (0..).step_by(BLOCK).zip(blocks) {
                for (c, values) in split::<BLOCK>(pixels).into_iter().enumerate() {
                    let out = &mut out[c * area + start..][..BLOCK];
                    for i in 0..BLOCK {
                        out[i].write(f32::from(values[i]) * scale[c] + shift[c]);
                    }
                }
            }
        },
    );
    let start = blocks.len() * BLOCK;
    for (i, pixel) in rest.chunks_exact(3).enumerate() {
        for c in 0..3 {
            out[c * area + start + i].write(f32::from(pixel[c]) * scale[c] + shift[c]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    #[test]
    fn each_channel_has_its_plane_mean_and_deviation() {
        let image = RgbImage::from_raw(2, 1, vec![0, 255, 51, 255, 0, 102]).expect("an image");
        let mut out = [0.0; 6];
        to_chw(&image, [0.5, 0.0, 0.2], [0.5, 1.0, 0.1], &mut out);
        for (got, expected) in out.into_iter().zip([-1.0, 1.0, 1.0, 0.0, 0.0, 2.0]) {
            assert!((got - expected).abs() < 1e-6, "{got} is not {expected}");
        }
    }

    proptest! {
        #[test]
        fn images_of_every_size_are_normalised_as_defined(width in 0u32..150, height in 0u32..4, seed: u8) {
            let image = RgbImage::from_fn(width, height, |x, y| {
                image::Rgb([x as u8 ^ seed, (3 * x + y) as u8, (x * y) as u8 ^ seed])
            });
            let values = chw(&image, IMAGENET_MEAN, IMAGENET_STD);
            let area = (width * height) as usize;
            prop_assert_eq!(values.len(), 3 * area);
            for (i, pixel) in image.pixels().enumerate() {
                for c in 0..3 {
                    let expected = (f32::from(pixel.0[c]) / 255.0 - IMAGENET_MEAN[c]) / IMAGENET_STD[c];
                    // Values are below 4, where a unit in the last place is 2.4e-7.
                    prop_assert!((values[c * area + i] - expected).abs() < 1e-6);
                }
            }
        }
    }
}
