//! Blurring.

use image::RgbImage;

use super::resample::resize;
use super::scratch;
use super::vectorized::{level, vectorized};
use crate::structures::Size;

/// Weights below this share of the middle one are left out; together they make at most 1/100 of a level.
const NEGLIGIBLE: f32 = 1e-5;

/// Values summed at a time; they stay in registers.
const LANES: usize = 64;

/// Convolves with a Gaussian of `kernel` × `kernel` weights: torchvision's `gaussian_blur`.
///
/// `sigma` is in pixels. Beyond its edges the image is continued by reflection without repeating the edge pixel.
///
/// # Panics
/// If `kernel` is even or `sigma` not positive.
pub fn gaussian_blur(image: &RgbImage, kernel: usize, sigma: f32) -> RgbImage {
    let weights = half_kernel(kernel, sigma);
    if weights.len() == 1 || image.is_empty() {
        return image.clone();
    }
    let mut out = scratch::image(image.width(), image.height());
    vectorized(
        #[inline(always)]
        || convolve(image, &weights, &mut out),
    );
    out
}

/// Shrinks an image by `factor` and enlarges it again, both bicubic: the blur of SCRL's recipes (`ResizeBlur` of the
/// official code), to the byte.
///
/// # Panics
/// If the factor is below 1 or the image is empty.
pub fn resized_blur(image: &RgbImage, factor: f64) -> RgbImage {
    assert!(factor >= 1.0, "the factor {factor} must not be below 1");
    let size = Size { width: image.width(), height: image.height() };
    let small =
        resize(image, Size { width: shrunk(size.width, factor), height: shrunk(size.height, factor) });
    let blurred = resize(&small, size);
    scratch::recycle(small);
    blurred
}

/// Python's `side // factor`, which does not round the quotient before it cuts it; at least 1.
fn shrunk(side: u32, factor: f64) -> u32 {
    let side = f64::from(side);
    (((side - side % factor) / factor).round() as u32).max(1)
}

/// The weights from the middle outwards, normalised over the whole kernel.
fn half_kernel(kernel: usize, sigma: f32) -> Vec<f32> {
    assert!(kernel % 2 == 1, "the kernel size {kernel} must be odd");
    assert!(sigma > 0.0, "sigma {sigma} must be positive");
    let weights: Vec<f32> = (0..=kernel / 2).map(|x| (-0.5 * (x as f32 / sigma).powi(2)).exp()).collect();
    let sum = 2.0 * weights.iter().sum::<f32>() - weights[0];
    weights.into_iter().take_while(|w| *w >= NEGLIGIBLE).map(|w| w / sum).collect()
}

/// The index inside `0..len` that an index outside stands for.
fn reflect(index: isize, len: usize) -> usize {
    let period = 2 * (len as isize - 1).max(1);
    let index = index.rem_euclid(period);
    (if index < len as isize { index } else { period - index }).min(len as isize - 1) as usize
}

/// Blurs along rows, unrounded, then along columns, rounded.
///
/// Only the blurred rows that the next ones still need are kept, so that they stay in the nearest cache.
#[inline(always)]
fn convolve(image: &RgbImage, weights: &[f32], out: &mut RgbImage) {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let radius = weights.len() - 1;
    let stride = 3 * width;
    // Whole groups of lanes are written and read; what lies behind a row is not used.
    let padded_stride = stride.next_multiple_of(LANES);
    let kept = (2 * radius + 1).min(height);
    let mut rows = vec![0.0; kept * padded_stride];
    let mut padded = vec![0.0; padded_stride + 6 * radius];
    // Where the rows at distance `i` above and below lie in `rows`.
    let mut taps = vec![[0; 2]; weights.len()];
    let mut next = 0;
    for (y, out) in out.chunks_exact_mut(stride).enumerate() {
        while next < height.min(y + radius + 1) {
            let row = &mut rows[next % kept * padded_stride..][..padded_stride];
            pad(&image.as_raw()[next * stride..][..stride], radius, &mut padded);
            blur_row(&padded, weights, row);
            next += 1;
        }
        for (i, taps) in taps.iter_mut().enumerate() {
            let place = |y: isize| reflect(y, height) % kept * padded_stride;
            *taps = [place(y as isize - i as isize), place(y as isize + i as isize)];
        }
        for (start, out) in (0..).step_by(LANES).zip(out.chunks_mut(LANES)) {
            let sums = weighted_sum(weights, |i| [&rows[taps[i][0] + start..], &rows[taps[i][1] + start..]]);
            let mut levels = [0; LANES];
            for lane in 0..LANES {
                levels[lane] = level(sums[lane] + 0.5);
            }
            match <&mut [u8; LANES]>::try_from(&mut *out) {
                Ok(out) => *out = levels,
                Err(_) => out.copy_from_slice(&levels[..out.len()]),
            }
        }
    }
}

/// A row of three channels a pixel with `radius` reflected pixels on both sides.
#[inline(always)]
fn pad(row: &[u8], radius: usize, padded: &mut [f32]) {
    for (padded, &value) in padded[3 * radius..].iter_mut().zip(row) {
        *padded = f32::from(value);
    }
    let width = row.len() / 3;
    for x in (0..radius).chain(radius + width..2 * radius + width) {
        let source = 3 * reflect(x as isize - radius as isize, width);
        (0..3).for_each(|c| padded[3 * x + c] = f32::from(row[source + c]));
    }
}

#[inline(always)]
fn blur_row(padded: &[f32], weights: &[f32], row: &mut [f32]) {
    let middle = 3 * (weights.len() - 1);
    for (start, out) in (middle..).step_by(LANES).zip(row.as_chunks_mut::<LANES>().0) {
        *out = weighted_sum(weights, |i| [&padded[start - 3 * i..], &padded[start + 3 * i..]]);
    }
}

/// `Σ weights[i] · (before[i] + after[i])`, where `taps(i)` gives the values at distance `i` to both sides; the middle,
/// which is on both, counts once.
#[inline(always)]
fn weighted_sum<'a>(weights: &[f32], taps: impl Fn(usize) -> [&'a [f32]; 2]) -> [f32; LANES] {
    let mut sums = [0.0; LANES];
    for (i, &weight) in weights.iter().enumerate() {
        let weight = if i == 0 { 0.5 * weight } else { weight };
        let [before, after] = taps(i);
        let (before, after) = (&before[..LANES], &after[..LANES]);
        for lane in 0..LANES {
            sums[lane] += weight * (before[lane] + after[lane]);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;
    use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};

    fn dot(size: u32) -> RgbImage {
        let mut image = RgbImage::new(size, size);
        image.put_pixel(size / 2, size / 2, Rgb([255, 0, 255]));
        image
    }

    #[test]
    fn a_dot_becomes_the_outer_product_of_the_kernel() {
        let blurred = gaussian_blur(&dot(11), 3, 1.0);
        // exp(-1/2) = 0.60653: the kernel is (0.27407, 0.45186, 0.27407).
        let value = |x, y| blurred.get_pixel(x, y).0;
        assert_eq!(value(5, 5), [52, 0, 52]);
        assert_eq!(value(4, 5), [32, 0, 32]);
        assert_eq!(value(5, 6), [32, 0, 32]);
        assert_eq!(value(6, 4), [19, 0, 19]);
        assert_eq!(value(3, 5), [0, 0, 0]);
    }

    #[test]
    fn a_flat_image_stays_flat_up_to_its_edges_even_when_smaller_than_the_kernel() {
        for (width, height) in [(40, 30), (7, 3), (1, 5), (1, 1)] {
            let image = RgbImage::from_pixel(width, height, Rgb([0, 131, 255]));
            assert_eq!(gaussian_blur(&image, 23, 2.0), image);
        }
    }

    #[test]
    fn a_narrow_gaussian_leaves_the_image_as_it_is() {
        assert_eq!(gaussian_blur(&dot(9), 23, 0.1), dot(9));
    }

    #[test]
    fn reflection_does_not_repeat_the_edge() {
        let indices: Vec<usize> = (-4..8).map(|i| reflect(i, 4)).collect();
        assert_eq!(indices, [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]);
        assert_eq!(reflect(-3, 1), 0);
    }

    #[test]
    fn shrunk_sides_are_those_of_pythons_floor_division() {
        assert_eq!([1.1, 1.2, 1.5].map(|factor| shrunk(224, factor)), [203, 186, 149]);
        // 11 / 1.1 is rounded to 10, but 1.1 in binary is a little more than 1.1.
        assert_eq!([11, 22, 33, 96].map(|side| shrunk(side, 1.1)), [9, 19, 29, 87]);
        assert_eq!(shrunk(1, 1.5), 1);
    }

    #[test]
    fn resizing_there_and_back_keeps_the_size_and_softens_edges() {
        let image = RgbImage::from_fn(33, 20, |x, _| Rgb([if x < 16 { 0 } else { 200 }; 3]));
        let blurred = resized_blur(&image, 1.5);
        assert_eq!(blurred.dimensions(), (33, 20));
        let jump =
            |i: &RgbImage| (1..33).map(|x| i.get_pixel(x, 9).0[0].abs_diff(i.get_pixel(x - 1, 9).0[0])).max();
        assert!(jump(&blurred) < jump(&image));
    }

    /// The definition, value by value, summed in the same order.
    fn blurred_slowly(image: &RgbImage, kernel: usize, sigma: f32) -> RgbImage {
        let weights = half_kernel(kernel, sigma);
        let sum = |value: &dyn Fn(isize) -> f32| {
            let weighted = |(i, &weight): (usize, &f32)| match i {
                0 => 0.5 * weight * (value(0) + value(0)),
                _ => weight * (value(-(i as isize)) + value(i as isize)),
            };
            weights.iter().enumerate().map(weighted).fold(0.0, |sum: f32, term| sum + term)
        };
        let (width, height) = (image.width() as usize, image.height() as usize);
        let at = |x: isize, y: usize, c: usize| f32::from(image[(reflect(x, width) as u32, y as u32)].0[c]);
        let across = |x: usize, y: isize, c: usize| sum(&|i| at(x as isize + i, reflect(y, height), c));
        RgbImage::from_fn(image.width(), image.height(), |x, y| {
            Rgb([0, 1, 2].map(|c| (sum(&|i| across(x as usize, y as isize + i, c)) + 0.5) as u8))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn an_image_of_any_size_is_blurred_to_the_byte_as_defined(
            width in 1u32..70, height in 1u32..16, radius in 1usize..12, sigma in 0.1f32..3.0, seed: u64,
        ) {
            let mut rng = crate::random::stream(seed, &[]);
            let image = RgbImage::from_fn(width, height, |_, _| Rgb(crate::random::RngExt::random(&mut rng)));
            let kernel = 2 * radius + 1;
            prop_assert_eq!(gaussian_blur(&image, kernel, sigma), blurred_slowly(&image, kernel, sigma));
        }
    }
}
