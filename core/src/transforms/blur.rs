//! Blurring.

use image::RgbImage;

use super::resample::resize;
use crate::structures::Size;

/// Weights below this share of the middle one are left out; 255 levels of it are invisible.
const NEGLIGIBLE: f32 = 1e-6;

/// Values summed at a time; they stay in registers.
const BLOCK: usize = 16;

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
    let rows = blur_rows(image, &weights);
    blur_columns(&rows, image.width() as usize, image.height() as usize, &weights)
}

/// Shrinks an image by `factor` and enlarges it again, both bicubic: the blur of SCRL's recipes.
///
/// # Panics
/// If the factor is below 1 or the image is empty.
pub fn resized_blur(image: &RgbImage, factor: f32) -> RgbImage {
    assert!(factor >= 1.0, "the factor {factor} must not be below 1");
    let size = Size { width: image.width(), height: image.height() };
    let shrink = |side: u32| ((side as f32 / factor) as u32).max(1);
    resize(&resize(image, Size { width: shrink(size.width), height: shrink(size.height) }), size)
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

/// Blurs along rows. The result is row by row, three channels a pixel, unrounded.
fn blur_rows(image: &RgbImage, weights: &[f32]) -> Vec<f32> {
    let width = image.width() as usize;
    let radius = weights.len() - 1;
    let sources: Vec<usize> =
        (0..width + 2 * radius).map(|x| reflect(x as isize - radius as isize, width)).collect();
    let mut padded = vec![0.0; 3 * sources.len()];
    let mut out = vec![0.0; image.len()];
    for (row, out) in image.chunks_exact(3 * width).zip(out.chunks_exact_mut(3 * width)) {
        for (pixel, &source) in padded.chunks_exact_mut(3).zip(&sources) {
            (0..3).for_each(|c| pixel[c] = f32::from(row[3 * source + c]));
        }
        let taps = |i: usize| (&padded[3 * (radius - i)..], &padded[3 * (radius + i)..]);
        convolve(weights, taps, |x, sums| out[x..x + sums.len()].copy_from_slice(sums), 3 * width);
    }
    out
}

/// Blurs along columns and rounds.
fn blur_columns(rows: &[f32], width: usize, height: usize, weights: &[f32]) -> RgbImage {
    let stride = 3 * width;
    let row = |y: isize| &rows[reflect(y, height) * stride..][..stride];
    let mut image = RgbImage::new(width as u32, height as u32);
    for (y, out) in image.chunks_exact_mut(stride).enumerate() {
        let taps = |i: usize| (row(y as isize - i as isize), row(y as isize + i as isize));
        let write = |x: usize, sums: &[f32]| {
            // Sums are not negative and exceed 255 by rounding errors only; the cast saturates.
            out[x..].iter_mut().zip(sums).for_each(|(out, sum)| *out = (sum + 0.5) as u8);
        };
        convolve(weights, taps, write, stride);
    }
    image
}

/// Sums `weights[0] · a + Σ weights[i] · (a[i] + b[i])` for `len` positions, where `taps(i)` gives the values at distance
/// `i` to both sides, and hands the sums to `write` block by block.
fn convolve<'a>(
    weights: &[f32],
    taps: impl Fn(usize) -> (&'a [f32], &'a [f32]),
    mut write: impl FnMut(usize, &[f32]),
    len: usize,
) {
    for start in (0..len).step_by(BLOCK) {
        let count = BLOCK.min(len - start);
        let mut sums = [0.0; BLOCK];
        for (i, &weight) in weights.iter().enumerate() {
            let (before, after) = taps(i);
            let weight = if i == 0 { 0.5 * weight } else { weight };
            let (before, after) = (&before[start..start + count], &after[start..start + count]);
            add_weighted(&mut sums, before, after, weight);
        }
        write(start, &sums[..count]);
    }
}

#[inline(always)]
fn add_weighted(sums: &mut [f32; BLOCK], before: &[f32], after: &[f32], weight: f32) {
    // A block of known length is compiled to vector instructions.
    if let (Ok(before), Ok(after)) = (<&[f32; BLOCK]>::try_from(before), <&[f32; BLOCK]>::try_from(after)) {
        for i in 0..BLOCK {
            sums[i] += weight * (before[i] + after[i]);
        }
    } else {
        for (sum, (a, b)) in sums.iter_mut().zip(before.iter().zip(after)) {
            *sum += weight * (a + b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

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
    fn resizing_there_and_back_keeps_the_size_and_softens_edges() {
        let image = RgbImage::from_fn(33, 20, |x, _| Rgb([if x < 16 { 0 } else { 200 }; 3]));
        let blurred = resized_blur(&image, 1.5);
        assert_eq!(blurred.dimensions(), (33, 20));
        let jump =
            |i: &RgbImage| (1..33).map(|x| i.get_pixel(x, 9).0[0].abs_diff(i.get_pixel(x - 1, 9).0[0])).max();
        assert!(jump(&blurred) < jump(&image));
    }
}
