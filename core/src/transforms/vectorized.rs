//! Loops over pixels, compiled for the widest registers of the processor.

use image::RgbImage;
pub(super) use scrl_ops::vectorized;

/// Pixels handled at a time: one 512-bit register a channel, and little enough to stay in the nearest cache.
pub(super) const BLOCK: usize = 64;

/// Red, green and blue of [`BLOCK`] neighbouring pixels.
pub(super) type Block = [[u8; BLOCK]; 3];

/// Calls `change` with all pixels, [`BLOCK`] by [`BLOCK`]; the last block may have black ones behind them.
pub(super) fn change_blocks(image: &mut RgbImage, change: impl Fn(&mut Block)) {
    vectorized(
        #[inline(always)]
        || {
            let (blocks, rest) = image.as_chunks_mut::<{ 3 * BLOCK }>();
            for pixels in blocks {
                change_block(pixels, &change);
            }
            if !rest.is_empty() {
                let mut pixels = padded(rest);
                change_block(&mut pixels, &change);
                rest.copy_from_slice(&pixels[..rest.len()]);
            }
        },
    );
}

/// Sums what `number` makes of every block, with the number of its pixels.
pub(super) fn sum_blocks(image: &RgbImage, number: impl Fn(&Block, usize) -> u64) -> u64 {
    vectorized(
        #[inline(always)]
        || {
            let (blocks, rest) = image.as_chunks::<{ 3 * BLOCK }>();
            let mut sum = 0;
            for pixels in blocks {
                sum += number(&split(pixels), BLOCK);
            }
            if !rest.is_empty() {
                sum += number(&split(&padded(rest)), rest.len() / 3);
            }
            sum
        },
    )
}

/// A number rounded towards zero and cut to `[0, 255]`; 0 for NaN.
///
/// A cast with `as` does the same in twice as many instructions.
#[inline(always)]
pub(super) fn level(value: f32) -> u8 {
    #[expect(clippy::manual_clamp, reason = "of a number and NaN, `max` gives the number; `clamp` keeps NaN")]
    let value = value.max(0.0).min(255.0);
    // SAFETY: the value is in range.
    let value: i32 = unsafe { value.to_int_unchecked() };
    value as u8
}

#[inline(always)]
fn change_block(pixels: &mut [u8; 3 * BLOCK], change: &impl Fn(&mut Block)) {
    let mut block = split(pixels);
    change(&mut block);
    merge(&block, pixels);
}

/// The channels of `N` pixels.
///
/// # Panics
/// If there are not so many.
#[inline(always)]
pub(super) fn split<const N: usize>(pixels: &[u8]) -> [[u8; N]; 3] {
    assert_eq!(pixels.len(), 3 * N);
    let [mut red, mut green, mut blue] = [[0; N]; 3];
    for i in 0..N {
        red[i] = pixels[3 * i];
        green[i] = pixels[3 * i + 1];
        blue[i] = pixels[3 * i + 2];
    }
    [red, green, blue]
}

/// The inverse of [`split`].
///
/// # Panics
/// If there is not room for just so many pixels.
#[inline(always)]
pub(super) fn merge<const N: usize>([red, green, blue]: &[[u8; N]; 3], pixels: &mut [u8]) {
    assert_eq!(pixels.len(), 3 * N);
    for i in 0..N {
        pixels[3 * i] = red[i];
        pixels[3 * i + 1] = green[i];
        pixels[3 * i + 2] = blue[i];
    }
}

fn padded(rest: &[u8]) -> [u8; 3 * BLOCK] {
    let mut pixels = [0; 3 * BLOCK];
    pixels[..rest.len()].copy_from_slice(rest);
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(width: u32, height: u32) -> RgbImage {
        let values = (0..3 * width * height).map(|i| (i * 7 % 251) as u8);
        RgbImage::from_raw(width, height, values.collect()).expect("an image")
    }

    #[test]
    fn every_pixel_is_changed_once_whatever_the_size() {
        for (width, height) in [(0, 5), (1, 1), (63, 1), (64, 1), (65, 1), (31, 37), (224, 3)] {
            let image = numbered(width, height);
            let mut changed = image.clone();
            change_blocks(&mut changed, |[red, green, blue]| {
                red.iter_mut().for_each(|v| *v ^= 0xff);
                green.iter_mut().for_each(|v| *v = v.wrapping_add(1));
                blue.reverse();
                blue.reverse();
            });
            for (before, after) in image.pixels().zip(changed.pixels()) {
                let [r, g, b] = before.0;
                assert_eq!(after.0, [!r, g.wrapping_add(1), b]);
            }
        }
    }

    #[test]
    fn a_sum_is_over_the_images_pixels_alone() {
        for (width, height) in [(0, 5), (1, 1), (64, 2), (65, 1), (31, 37)] {
            let image = numbered(width, height);
            let sum = sum_blocks(&image, |[_, green, _], pixels| {
                green[..pixels].iter().map(|&v| u64::from(v) + 1000).sum()
            });
            assert_eq!(sum, image.pixels().map(|p| u64::from(p.0[1]) + 1000).sum::<u64>());
        }
    }

    #[test]
    fn merging_is_the_inverse_of_splitting() {
        let image = numbered(16, 1);
        let channels: [[u8; 16]; 3] = split(&image);
        assert!(
            image.pixels().enumerate().all(|(i, p)| p.0 == [channels[0][i], channels[1][i], channels[2][i]])
        );
        let mut merged = RgbImage::new(16, 1);
        merge(&channels, &mut merged);
        assert_eq!(merged, image);
    }

    #[test]
    fn levels_are_what_casts_give() {
        let values = [2.999, 3.0, -0.5, -1e30, 254.99998, 255.996, 256.0, f32::MAX, f32::INFINITY, f32::NAN];
        assert_eq!(values.map(level), values.map(|value| value as u8));
    }
}
