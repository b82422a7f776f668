//! Masks of VOC: `SegmentationObject/NAME.png`, whose pixels are the numbers of objects.

use std::path::Path;
use std::sync::Arc;

use image::{DynamicImage, ImageReader};
use scrl_core::data::error::DataError;
use scrl_core::structures::Size;

use crate::mask::{Rle, Segmentation};

/// The colour of a number in the development kit's palette: its bits, three at a time, from the highest bit of each channel on.
fn color(number: u8) -> [u8; 3] {
    let mut color = [0; 3];
    for place in 0..3 {
        for (channel, value) in color.iter_mut().enumerate() {
            *value |= ((u32::from(number) >> (3 * place + channel) & 1) as u8) << (7 - place);
        }
    }
    color
}

/// The masks of the first `count` objects of an annotation, in its order: those whose number the picture has. Its border pixels (255)
/// belong to nobody. Empty where there is no picture.
///
/// # Errors
/// When the picture cannot be read, is not of the image's size, or has colours that are not of the palette.
pub(super) fn read(
    path: &Path,
    count: usize,
    size: Size,
) -> Result<Vec<Option<Arc<Segmentation>>>, DataError> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let opened = ImageReader::open(path).map_err(|reason| DataError::read(path, reason))?;
    let picture = opened.decode().map_err(|reason| DataError::invalid(path, reason.to_string()))?;
    if (picture.width(), picture.height()) != (size.width, size.height) {
        let (width, height) = (picture.width(), picture.height());
        let of_image = format!("its image has {}×{}", size.width, size.height);
        return Err(DataError::invalid(path, format!("it is {width}×{height} pixels, {of_image}")));
    }
    let numbers = numbers(picture).map_err(|reason| DataError::invalid(path, reason))?;
    let mask = |number: usize| {
        let pixels: Vec<bool> = numbers.iter().map(|&found| usize::from(found) == number).collect();
        pixels.contains(&true).then(|| Arc::new(Segmentation::Rle(Rle::from_bitmap(&pixels, size))))
    };
    // 255 is the border.
    Ok((1..=count).map(|number| if number < 255 { mask(number) } else { None }).collect())
}

/// The number of each pixel, whether the picture has numbers or the palette's colours.
fn numbers(picture: DynamicImage) -> Result<Vec<u8>, String> {
    let picture = match picture {
        DynamicImage::ImageLuma8(picture) => return Ok(picture.into_raw()),
        picture => picture.into_rgb8(),
    };
    let palette: std::collections::HashMap<[u8; 3], u8> =
        (0..=255).map(|number| (color(number), number)).collect();
    let number = |pixel: &image::Rgb<u8>| {
        palette.get(&pixel.0).copied().ok_or_else(|| {
            let [red, green, blue] = pixel.0;
            format!("the colour {red}, {green}, {blue} is none of VOC's palette")
        })
    };
    picture.pixels().map(number).collect()
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, RgbImage};

    use super::*;

    #[test]
    fn colours_are_those_of_the_development_kit() {
        // From VOC's own `VOClabelcolormap`: background, aeroplane, bicycle, …, tvmonitor, border.
        let expected = [
            (0, [0, 0, 0]),
            (1, [128, 0, 0]),
            (2, [0, 128, 0]),
            (3, [128, 128, 0]),
            (7, [128, 128, 128]),
            (8, [64, 0, 0]),
            (20, [0, 64, 128]),
            (255, [224, 224, 192]),
        ];
        for (number, expected) in expected {
            assert_eq!(color(number), expected);
        }
    }

    #[test]
    fn objects_have_the_pixels_of_their_number_in_colours_and_in_greys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let size = Size { width: 6, height: 4 };
        let number = |x: u32, y: u32| if y == 3 { 255 } else { [0, 1, 1, 3, 3, 3][x as usize] };
        let colored = RgbImage::from_fn(6, 4, |x, y| image::Rgb(color(number(x, y))));
        let grey = GrayImage::from_fn(6, 4, |x, y| image::Luma([number(x, y)]));
        for picture in [DynamicImage::from(colored.clone()), DynamicImage::from(grey)] {
            picture.save(&path).unwrap();
            let masks = read(&path, 4, size).unwrap();
            let areas: Vec<_> = masks.iter().map(|m| m.as_ref().map(|m| m.to_rle(size).area())).collect();
            assert_eq!(areas, [Some(6), None, Some(9), None]);
        }
        assert!(read(&folder.path().join("no.png"), 4, size).unwrap().is_empty());
        let error = read(&path, 4, Size { width: 4, height: 6 }).unwrap_err().to_string();
        assert!(error.contains("it is 6×4 pixels, its image has 4×6"), "{error}");
        let mut odd = colored;
        odd.put_pixel(0, 0, image::Rgb([1, 2, 3]));
        odd.save(&path).unwrap();
        assert!(read(&path, 4, size).unwrap_err().to_string().contains("1, 2, 3"));
        std::fs::write(&path, b"no picture").unwrap();
        assert!(read(&path, 4, size).unwrap_err().to_string().contains("a.png"));
    }
}
