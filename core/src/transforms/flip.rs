//! Mirroring.

use image::RgbImage;

/// The image mirrored left to right.
pub fn flip_horizontal(image: &RgbImage) -> RgbImage {
    image::imageops::flip_horizontal(image)
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
}
