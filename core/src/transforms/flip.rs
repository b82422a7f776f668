//! Mirroring.

use image::RgbImage;

use super::vectorized::{merge, split, vectorized};

/// Pixels exchanged at a time.
const GROUP: usize = 16;

/// The image mirrored left to right.
pub fn flip_horizontal(image: &RgbImage) -> RgbImage {
    let mut flipped = image.clone();
    flip_horizontal_in_place(&mut flipped);
    flipped
}

/// Mirrors the image left to right.
pub fn flip_horizontal_in_place(image: &mut RgbImage) {
    let width = image.width() as usize;
    if width == 0 {
        return;
    }
    vectorized(
        #[inline(always)]
        || {
            for row in image.chunks_exact_mut(3 * width) {
                reverse_pixels(row);
            }
        },
    );
}

/// Reverses the order of the pixels: those of both halves change places, by groups and then one by one.
#[inline(always)]
fn reverse_pixels(row: &mut [u8]) {
    let half = row.len() / 6 * 3;
    let (left, right) = row.split_at_mut(half);
    let middle = right.len() - half;
    let right = &mut right[middle..];
    let (left_groups, left) = left.as_chunks_mut::<{ 3 * GROUP }>();
    let (right, right_groups) = right.as_rchunks_mut::<{ 3 * GROUP }>();
    for (a, b) in left_groups.iter_mut().zip(right_groups.iter_mut().rev()) {
        let (first, last) = (reversed(split(a)), reversed(split(b)));
        merge(&last, a);
        merge(&first, b);
    }
    for (a, b) in left.chunks_exact_mut(3).zip(right.chunks_exact_mut(3).rev()) {
        a.swap_with_slice(b);
    }
}

#[inline(always)]
fn reversed(mut channels: [[u8; GROUP]; 3]) -> [[u8; GROUP]; 3] {
    for channel in &mut channels {
        channel.reverse();
    }
    channels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_reversed_pixel_by_pixel() {
        let image = RgbImage::from_raw(2, 2, (0..12).collect()).expect("an image");
        assert_eq!(flip_horizontal(&image).as_raw(), &[3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8]);
        assert_eq!(flip_horizontal(&flip_horizontal(&image)), image);
    }

    #[test]
    fn rows_of_every_length_are_reversed() {
        for width in 0..130 {
            let image = RgbImage::from_fn(width, 3, |x, y| image::Rgb([x as u8, y as u8, (x * 5 + y) as u8]));
            assert_eq!(flip_horizontal(&image), image::imageops::flip_horizontal(&image), "{width}");
        }
    }
}
