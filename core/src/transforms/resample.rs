//! Resizing with antialiasing, as Pillow does it.
//!
//! The filter's support grows with the factor when an image shrinks. Rows are resampled first and rounded to 8 bits, then
//! columns; the order shows where a filter overshoots. It is Pillow's up to version 12; Pillow 13 takes columns first when
//! the height shrinks much more than the width.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ImageView, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;

use super::scratch;
use crate::structures::{Rect, Size};

/// Cuts a part out of an image and resizes it, bicubic (a = −0.5). Pixels outside the part have no influence.
///
/// # Panics
/// If the part is empty or not inside the image, or the size is empty.
pub fn crop_resize(image: &RgbImage, crop: Rect, size: Size) -> RgbImage {
    resample(image, crop, size, FilterType::CatmullRom)
}

/// Resizes an image, bicubic (a = −0.5).
///
/// # Panics
/// If the image or the size is empty.
pub fn resize(image: &RgbImage, size: Size) -> RgbImage {
    resample(image, whole(image), size, FilterType::CatmullRom)
}

/// Resizes an image, bilinear.
///
/// # Panics
/// If the image or the size is empty.
pub fn resize_bilinear(image: &RgbImage, size: Size) -> RgbImage {
    resample(image, whole(image), size, FilterType::Bilinear)
}

fn whole(image: &RgbImage) -> Rect {
    Rect { x: 0, y: 0, width: image.width(), height: image.height() }
}

fn resample(image: &RgbImage, crop: Rect, size: Size, filter: FilterType) -> RgbImage {
    assert!(crop.width > 0 && crop.height > 0 && size.width > 0 && size.height > 0, "sizes must be positive");
    assert!(
        crop.x + crop.width <= image.width() && crop.y + crop.height <= image.height(),
        "the crop {crop:?} must lie inside the image of {} × {}",
        image.width(),
        image.height()
    );
    let mut resizer = Resizer::new();
    let rows = view(image);
    let rows = TypedCroppedImage::from_ref(&rows, crop.x, crop.y, crop.width, crop.height)
        .expect("the crop lies inside the image");
    let rows = pass(&mut resizer, &rows, Size { width: size.width, height: crop.height }, filter);
    if crop.height == size.height {
        return rows;
    }
    let resized = pass(&mut resizer, &view(&rows), size, filter);
    scratch::recycle(rows);
    resized
}

fn view(image: &RgbImage) -> TypedImageRef<'_, U8x3> {
    TypedImageRef::from_buffer(image.width(), image.height(), image.as_raw()).expect("three bytes a pixel")
}

fn pass(
    resizer: &mut Resizer,
    source: &impl ImageView<Pixel = U8x3>,
    size: Size,
    filter: FilterType,
) -> RgbImage {
    let mut out = scratch::image(size.width, size.height);
    let mut target = TypedImage::from_buffer(size.width, size.height, &mut out).expect("three bytes a pixel");
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    resizer.resize_typed(source, &mut target, &options).expect("no crop box is asked for");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

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
            let view = crop_resize(&with_border(0), crop, size);
            assert_eq!(view, crop_resize(&with_border(255), crop, size));
            assert!(view.pixels().all(|p| p.0 == [120, 7, 250]), "a flat crop stays flat");
            assert_eq!(view.dimensions(), (size.width, size.height));
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
        assert!(half.enumerate_pixels().all(|(x, _, p)| x == 0 || x == 31 || p.0[0].abs_diff(100) <= 1));
    }

    #[test]
    fn used_memory_leaves_no_trace() {
        let image = RgbImage::from_fn(50, 40, |x, y| Rgb([(x * 5) as u8, (y * 6) as u8, (x * y) as u8]));
        let crop = Rect { x: 3, y: 4, width: 30, height: 31 };
        let first = crop_resize(&image, crop, Size { width: 17, height: 19 });
        (1..9).for_each(|i| scratch::recycle(RgbImage::from_pixel(20 * i, 20 * i, Rgb([255; 3]))));
        assert_eq!(crop_resize(&image, crop, Size { width: 17, height: 19 }), first);
    }
}
