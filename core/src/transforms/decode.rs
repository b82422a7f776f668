//! Image files to 8-bit RGB.

use std::io::Cursor;
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};

use super::ImageError;
use crate::structures::Size;

/// Reads a JPEG or PNG file as 8-bit RGB, turned upright as its EXIF orientation says.
///
/// Grey is repeated in the three channels, alpha is dropped, palettes are looked up, 16-bit samples are scaled to 8 bits,
/// and CMYK is converted without a colour profile.
///
/// # Errors
/// When the file cannot be read, is empty, is neither JPEG nor PNG, or is truncated or damaged.
pub fn decode(path: &Path) -> Result<RgbImage, ImageError> {
    decode_bytes(&read(path)?, path)
}

/// As [`decode`], of a file's content; `name` is what errors call it.
pub fn decode_bytes(bytes: &[u8], name: &Path) -> Result<RgbImage, ImageError> {
    let (decoder, orientation) = open(bytes, name)?;
    if bytes.starts_with(&JPEG_START) && !ends_properly(bytes) {
        let reason = "the file ends before the image does".to_owned();
        return Err(ImageError::Damaged { path: name.to_path_buf(), reason });
    }
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| explain(e, name))?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// The size of the image that [`decode`] would return, from the file's header.
///
/// # Errors
/// As [`decode`], except that damage behind the header goes unnoticed.
pub fn read_size(path: &Path) -> Result<Size, ImageError> {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    let bytes = read(path)?;
    let (decoder, orientation) = open(&bytes, path)?;
    let (width, height) = decoder.dimensions();
    Ok(match orientation {
        Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => Size { width: height, height: width },
        _ => Size { width, height },
    })
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    std::fs::read(path).map_err(|reason| ImageError::Read { path: path.to_path_buf(), reason })
}

fn open<'a>(bytes: &'a [u8], name: &Path) -> Result<(impl ImageDecoder + 'a, Orientation), ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty { path: name.to_path_buf() });
    }
    let format = match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png)) => format,
        _ => return Err(ImageError::Format { path: name.to_path_buf() }),
    };
    let reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut decoder = reader.into_decoder().map_err(|e| explain(e, name))?;
    let orientation = decoder.orientation().map_err(|e| explain(e, name))?;
    Ok((decoder, orientation))
}

fn explain(error: image::ImageError, name: &Path) -> ImageError {
    let path = name.to_path_buf();
    match error {
        image::ImageError::Unsupported(e) => ImageError::Unsupported { path, reason: e.to_string() },
        image::ImageError::Limits(e) => ImageError::Unsupported { path, reason: e.to_string() },
        other => ImageError::Damaged { path, reason: other.to_string() },
    }
}

const JPEG_START: [u8; 2] = [0xff, 0xd8];

/// Whether the markers of a JPEG lead to its end-of-image marker.
///
/// The decoder fills what a truncated file lacks with grey and reports success, so this is looked at apart. Segments are
/// jumped over by their length: a thumbnail inside one has an end marker too.
fn ends_properly(bytes: &[u8]) -> bool {
    let mut rest = &bytes[JPEG_START.len()..];
    loop {
        let Some(start) = rest.iter().position(|&b| b == 0xff) else { return false };
        rest = &rest[start + 1..];
        match rest {
            [0xd9, ..] => return true,
            // A stuffed zero, a restart or a second start: entropy-coded data goes on.
            [0x00 | 0x01 | 0xd0..=0xd8, ..] => rest = &rest[1..],
            // Fill bytes before a marker.
            [0xff, ..] => {}
            [_, high, low, ..] => match rest.get(1 + usize::from(u16::from_be_bytes([*high, *low]))..) {
                Some(behind) => rest = behind,
                None => return false,
            },
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, ImageBuffer, Luma, LumaA, Rgba, RgbaImage};

    fn png(image: &DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).expect("an encoded image");
        bytes.into_inner()
    }

    fn jpeg() -> Vec<u8> {
        let pixels =
            RgbImage::from_fn(64, 48, |x, y| image::Rgb([(x * 4) as u8, (y * 5) as u8, (x * y) as u8]));
        let mut bytes = Vec::new();
        pixels
            .write_with_encoder(image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90))
            .expect("an encoded image");
        bytes
    }

    fn decoded(bytes: &[u8]) -> RgbImage {
        decode_bytes(bytes, Path::new("x")).expect("an image")
    }

    #[test]
    fn every_png_layout_becomes_eight_bit_rgb() {
        let gray = GrayImage::from_pixel(2, 1, Luma([77]));
        assert_eq!(decoded(&png(&gray.into())).as_raw(), &[77; 6]);
        let gray_alpha = ImageBuffer::from_pixel(1, 1, LumaA([60u8, 0]));
        assert_eq!(decoded(&png(&gray_alpha.into())).as_raw(), &[60; 3]);
        let rgba = RgbaImage::from_pixel(1, 1, Rgba([10, 20, 30, 0]));
        assert_eq!(decoded(&png(&rgba.into())).as_raw(), &[10, 20, 30], "alpha is dropped, not composited");
        let gray16 = ImageBuffer::from_pixel(1, 1, Luma([0x8080u16]));
        assert_eq!(decoded(&png(&gray16.into())).as_raw(), &[0x80; 3]);
        let rgb16 = ImageBuffer::from_pixel(1, 1, image::Rgb([0u16, 0xffff, 257 * 9]));
        assert_eq!(decoded(&png(&rgb16.into())).as_raw(), &[0, 255, 9]);
    }

    #[test]
    fn a_jpeg_cut_anywhere_is_an_error_that_names_the_file_and_the_fix() {
        let bytes = jpeg();
        assert_eq!(decoded(&bytes).dimensions(), (64, 48));
        for len in 4..bytes.len() {
            let error =
                decode_bytes(&bytes[..len], Path::new("dir/cut.jpg")).expect_err("an error").to_string();
            assert!(error.starts_with("image `dir/cut.jpg` is truncated or damaged: "), "{len}: {error}");
            assert!(error.ends_with("; remove or replace it"), "{len}: {error}");
        }
    }

    #[test]
    fn bytes_behind_the_end_of_a_jpeg_do_no_harm() {
        let mut bytes = jpeg();
        let image = decoded(&bytes);
        bytes.extend([0; 100]);
        assert_eq!(decoded(&bytes), image);
    }

    #[test]
    fn a_truncated_png_is_an_error() {
        let bytes =
            png(&RgbImage::from_fn(64, 48, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8])).into());
        for len in [20, 60, bytes.len() / 2, bytes.len() - 20] {
            let error = decode_bytes(&bytes[..len], Path::new("cut.png")).expect_err("an error").to_string();
            assert!(error.starts_with("image `cut.png` is truncated or damaged: "), "{len}: {error}");
        }
    }

    #[test]
    fn a_missing_an_empty_and_a_foreign_file_say_so() {
        let error = decode(Path::new("no/such.jpg")).expect_err("an error").to_string();
        assert!(error.starts_with("cannot read image `no/such.jpg`: "), "{error}");
        let error = decode_bytes(b"", Path::new("e.jpg")).expect_err("an error").to_string();
        assert_eq!(error, "image `e.jpg` is empty (0 bytes); remove or replace it");
        for text in [&b"hello, world"[..], b"GIF89a..........", b"\xff"] {
            let error = decode_bytes(text, Path::new("t.jpg")).expect_err("an error").to_string();
            assert_eq!(error, "`t.jpg` is not a JPEG or PNG image; convert or remove it");
        }
    }
}
