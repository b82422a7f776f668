//! Resizing with antialiasing, equal to Pillow's to the byte.
//!
//! The filter's support grows with the factor when an image shrinks. Rows are resampled first and rounded to 8 bits, then
//! columns; the order shows where a filter overshoots. It is Pillow's up to version 12; Pillow 13 takes columns first when
//! the height shrinks and loses more than twice as many pixels as the width.
//!
//! Weights are integers in units of 2⁻²² and sums are exact, so every way of summing gives the same bytes: `portable`
//! is plain code, `wide` uses instructions of recent x86-64 processors.

use image::RgbImage;

use super::scratch;
use crate::structures::{Rect, Size};

mod portable;
#[cfg(target_arch = "x86_64")]
mod wide;
mod windows;

use windows::{Filter, Windows};

/// Cuts a part out of an image and resizes it, bicubic (a = −0.5). Pixels outside the part have no influence.
///
/// # Panics
/// If the part is empty or not inside the image, or the size is empty.
pub fn crop_resize(image: &RgbImage, crop: Rect, size: Size) -> RgbImage {
    resample(image, crop, size, Filter::Bicubic)
}

/// Cuts a part out of an image and resizes it, bilinear. Pixels outside the part have no influence.
///
/// # Panics
/// If the part is empty or not inside the image, or the size is empty.
pub fn crop_resize_bilinear(image: &RgbImage, crop: Rect, size: Size) -> RgbImage {
    resample(image, crop, size, Filter::Bilinear)
}

/// Resizes an image, bicubic (a = −0.5).
///
/// # Panics
/// If the image or the size is empty.
pub fn resize(image: &RgbImage, size: Size) -> RgbImage {
    resample(image, whole(image), size, Filter::Bicubic)
}

/// Resizes an image, bilinear.
///
/// # Panics
/// If the image or the size is empty.
pub fn resize_bilinear(image: &RgbImage, size: Size) -> RgbImage {
    resample(image, whole(image), size, Filter::Bilinear)
}

fn whole(image: &RgbImage) -> Rect {
    Rect { x: 0, y: 0, width: image.width(), height: image.height() }
}

/// Rows of pixels of three bytes, some distance apart.
#[derive(Clone, Copy)]
struct Rows<'a> {
    bytes: &'a [u8],
    /// Bytes from the start of a row to that of the next.
    stride: usize,
    /// Bytes of a row.
    len: usize,
    count: usize,
}

impl<'a> Rows<'a> {
    fn of(image: &'a RgbImage, part: Rect) -> Self {
        let stride = 3 * image.width() as usize;
        let start = part.y as usize * stride + 3 * part.x as usize;
        let bytes = &image.as_raw()[start..];
        Self { bytes, stride, len: 3 * part.width as usize, count: part.height as usize }
    }

    /// # Panics
    /// If there are not so many rows.
    fn row(&self, y: usize) -> &'a [u8] {
        assert!(y < self.count);
        &self.bytes[y * self.stride..][..self.len]
    }
}

fn resample(image: &RgbImage, crop: Rect, size: Size, filter: Filter) -> RgbImage {
    assert!(crop.width > 0 && crop.height > 0 && size.width > 0 && size.height > 0, "sizes must be positive");
    assert!(
        crop.x <= image.width()
            && crop.width <= image.width() - crop.x
            && crop.y <= image.height()
            && crop.height <= image.height() - crop.y,
        "the crop {crop:?} must lie inside the image of {} × {}",
        image.width(),
        image.height()
    );
    let source = Rows::of(image, crop);
    if crop.width == size.width {
        return with_height(source, size, filter);
    }
    // Every row of the part is needed: the first window starts at its first row, the last one ends at its last.
    let mut across = scratch::image(size.width, crop.height);
    resample_rows(source, &Windows::new(crop.width, size.width, filter), &mut across);
    if crop.height == size.height {
        return across;
    }
    let resized = with_height(Rows::of(&across, whole(&across)), size, filter);
    scratch::recycle(across);
    resized
}

/// Resamples along columns; the width is the size's already.
fn with_height(source: Rows, size: Size, filter: Filter) -> RgbImage {
    let mut out = scratch::image(size.width, size.height);
    if source.count == size.height as usize {
        for (y, out) in out.chunks_exact_mut(source.len).enumerate() {
            out.copy_from_slice(source.row(y));
        }
    } else {
        resample_columns(source, &Windows::new(source.count as u32, size.height, filter), &mut out);
    }
    out
}

fn resample_rows(source: Rows, windows: &Windows, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if wide::is_available() {
        return wide::resample_rows(source, windows, out);
    }
    portable::resample_rows(source, windows, out);
}

fn resample_columns(source: Rows, windows: &Windows, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if wide::is_available() {
        return wide::resample_columns(source, windows, out);
    }
    portable::resample_columns(source, windows, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{RngExt, stream};
    use image::Rgb;
    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

    #[test]
    fn pixels_outside_the_crop_have_no_influence() {
        let crop = Rect { x: 5, y: 7, width: 11, height: 9 };
        let inside = |x: u32, y: u32| (5..16).contains(&x) && (7..16).contains(&y);
        let with_border = |border: u8| {
            RgbImage::from_fn(30, 30, |x, y| if inside(x, y) { Rgb([120, 7, 250]) } else { Rgb([border; 3]) })
        };
        for size in
            [Size { width: 4, height: 3 }, Size { width: 40, height: 31 }, Size { width: 11, height: 9 }]
        {
            for cut in [crop_resize, crop_resize_bilinear] {
                let view = cut(&with_border(0), crop, size);
                assert_eq!(view, cut(&with_border(255), crop, size));
                assert!(view.pixels().all(|p| p.0 == [120, 7, 250]), "a flat crop stays flat");
                assert_eq!(view.dimensions(), (size.width, size.height));
            }
        }
    }

    #[test]
    fn the_same_size_is_a_copy() {
        let image = RgbImage::from_raw(3, 2, (0..18).collect()).expect("an image");
        let size = Size { width: 3, height: 2 };
        assert_eq!(resize(&image, size), image);
        assert_eq!(resize_bilinear(&image, size), image);
        let part =
            crop_resize(&image, Rect { x: 1, y: 1, width: 2, height: 1 }, Size { width: 2, height: 1 });
        assert_eq!(part.as_raw(), &[12, 13, 14, 15, 16, 17]);
    }

    #[test]
    fn halving_averages_neighbours() {
        let image = RgbImage::from_fn(64, 64, |x, _| Rgb([if x % 2 == 0 { 0 } else { 200 }; 3]));
        let half = resize_bilinear(&image, Size { width: 32, height: 32 });
        assert!(half.enumerate_pixels().all(|(x, _, p)| x == 0 || x == 31 || p.0[0] == 100));
    }

    #[test]
    fn used_memory_leaves_no_trace() {
        let image = noise(50, 40, 0);
        let crop = Rect { x: 3, y: 4, width: 30, height: 31 };
        let first = crop_resize(&image, crop, Size { width: 17, height: 19 });
        (1..9).for_each(|i| scratch::recycle(RgbImage::from_pixel(20 * i, 20 * i, Rgb([255; 3]))));
        assert_eq!(crop_resize(&image, crop, Size { width: 17, height: 19 }), first);
    }

    /// Black and white noise: sums overshoot on both sides.
    fn noise(width: u32, height: u32, seed: u64) -> RgbImage {
        let mut rng = stream(seed, &[]);
        RgbImage::from_fn(width, height, |_, _| Rgb([0; 3].map(|_| 255 * rng.random_range(0..=1))))
    }

    type Pass = fn(Rows, &Windows, &mut [u8]);

    fn passes() -> Vec<(Pass, Pass)> {
        let mut passes: Vec<(Pass, Pass)> = vec![(portable::resample_rows, portable::resample_columns)];
        #[cfg(target_arch = "x86_64")]
        if wide::is_available() {
            passes.push((wide::resample_rows, wide::resample_columns));
        }
        passes
    }

    fn summed(windows: &Windows, at: usize, value: impl Fn(usize) -> u8) -> u8 {
        let (start, weights) = windows.get(at);
        let sum: i64 = (start..).zip(weights).map(|(i, &w)| i64::from(value(i)) * i64::from(w)).sum();
        ((sum + (1 << 21)) >> 22).clamp(0, 255) as u8
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn both_ways_of_summing_give_the_bytes_of_the_definition(
            width in 1u32..120, height in 1u32..40, target in 1u32..150, bilinear: bool, seed: u64,
        ) {
            let image = noise(width, height, seed);
            let filter = if bilinear { Filter::Bilinear } else { Filter::Bicubic };
            let (x, y) = (width / 7, height / 5);
            let part = Rect { x, y, width: width - x, height: height - y };
            let at = |x: usize, y: usize, c: usize| image[(part.x + x as u32, part.y + y as u32)].0[c];
            let across = Windows::new(part.width, target, filter);
            let down = Windows::new(part.height, target, filter);
            for (rows, columns) in passes() {
                let mut got = RgbImage::new(target, part.height);
                rows(Rows::of(&image, part), &across, &mut got);
                for (x, y, pixel) in got.enumerate_pixels() {
                    let wanted = [0, 1, 2].map(|c| summed(&across, x as usize, |i| at(i, y as usize, c)));
                    prop_assert_eq!(pixel.0, wanted, "along rows at {}, {}", x, y);
                }
                let mut got = RgbImage::new(part.width, target);
                columns(Rows::of(&image, part), &down, &mut got);
                for (x, y, pixel) in got.enumerate_pixels() {
                    let wanted = [0, 1, 2].map(|c| summed(&down, y as usize, |i| at(x as usize, i, c)));
                    prop_assert_eq!(pixel.0, wanted, "along columns at {}, {}", x, y);
                }
            }
        }

        #[test]
        fn large_factors_give_a_result_of_the_size_within_the_images_range(
            width in 1u32..900, height in 1u32..20, across in 1u32..900, down in 1u32..20, level: u8,
        ) {
            let image = RgbImage::from_pixel(width, height, Rgb([level, 0, 255]));
            let resized = resize(&image, Size { width: across, height: down });
            prop_assert_eq!(resized.dimensions(), (across, down));
            // The weights of a window add up to 1 within half a unit each: a flat image stays flat.
            prop_assert!(resized.pixels().all(|p| p.0 == [level, 0, 255]));
        }
    }
}
