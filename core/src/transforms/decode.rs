//! Image files to 8-bit RGB.

mod jpeg;

use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::OnceLock;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};

use super::{ImageError, scratch};
use crate::packed;
use crate::structures::Size;

/// Most pixels of an image that is decoded, unless `SCRL_MAX_PIXELS` says otherwise: Pillow refuses as much.
const MAX_PIXELS: u64 = 178_956_970;

/// Bytes in which the header of an image lies as a rule, its EXIF block with a thumbnail included.
const HEADER_BYTES: u64 = 1 << 17;

/// Reads a JPEG, PNG, WebP, BMP or TIFF file as 8-bit RGB, turned upright as its EXIF orientation says.
///
/// Grey is repeated in the three channels, alpha is dropped, palettes are looked up, 16-bit samples are scaled to 8 bits,
/// and CMYK is converted without a colour profile.
///
/// The image may be handed back with [`scratch::recycle`] when it is no longer needed, so that the next one on this
/// thread takes its memory.
///
/// # Errors
/// When the file cannot be read, is empty, is of another format, has too many pixels, or is truncated or damaged.
pub fn decode(path: &Path) -> Result<RgbImage, ImageError> {
    with_content(path, |bytes| decode_bytes(bytes, path))
}

/// As [`decode`], of a file's content; `name` is what errors call it.
///
/// # Errors
/// When the content is empty, of another format, too large, damaged, or of a kind that is not supported.
pub fn decode_bytes(bytes: &[u8], name: &Path) -> Result<RgbImage, ImageError> {
    let (image, orientation) = match format(bytes, name)? {
        Format::Jpeg => jpeg::decode(bytes, name)?,
        Format::Other(format) => decode_other(bytes, format, name)?,
    };
    if orientation == Orientation::NoTransforms {
        return Ok(image);
    }
    let mut image = DynamicImage::from(image);
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// What the header of an image file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of the image that [`decode`] would return.
    pub size: Size,
    /// Whether the file's EXIF orientation turns the image by 90°, so that width and height are swapped in the file.
    pub is_turned: bool,
}

/// The size of the image that [`decode`] would return, from the file's header.
///
/// # Errors
/// As [`decode`], except that damage behind the header goes unnoticed.
pub fn read_size(path: &Path) -> Result<Size, ImageError> {
    read_header(path).map(|header| header.size)
}

/// As [`read_size`], with the reason why a file may seem to have another size. As a rule only the beginning of the file is
/// read.
///
/// # Errors
/// As [`read_size`].
pub fn read_header(path: &Path) -> Result<Header, ImageError> {
    let failed = |reason| ImageError::Read { path: path.to_path_buf(), reason };
    let mut beginning = Vec::new();
    let file = packed::open(path).map_err(failed)?;
    file.take(HEADER_BYTES).read_to_end(&mut beginning).map_err(failed)?;
    header(&beginning, path).or_else(|error| match beginning.len() as u64 == HEADER_BYTES {
        true => with_content(path, |bytes| header(bytes, path)),
        false => Err(error),
    })
}

fn header(bytes: &[u8], name: &Path) -> Result<Header, ImageError> {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    let ((width, height), orientation) = match format(bytes, name)? {
        Format::Jpeg => {
            let (decoder, size) = jpeg::open(bytes, name)?;
            (size, jpeg::orientation(&decoder))
        }
        Format::Other(format) => {
            let (decoder, orientation) = open_other(bytes, format, name)?;
            (decoder.dimensions(), orientation)
        }
    };
    let is_turned = matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH);
    let size = match is_turned {
        true => Size { width: height, height: width },
        false => Size { width, height },
    };
    Ok(Header { size, is_turned })
}

/// Calls `read` with the content of a file.
fn with_content<T>(path: &Path, read: impl FnOnce(&[u8]) -> Result<T, ImageError>) -> Result<T, ImageError> {
    let failed = |reason| ImageError::Read { path: path.to_path_buf(), reason };
    let mut file = packed::open(path).map_err(failed)?;
    let len = file.len().map_err(failed)?;
    // The end of the file is found by reading nothing there, for which there must be room.
    let mut bytes = scratch::take(usize::try_from(len).unwrap_or(0).saturating_add(1));
    bytes.clear();
    file.read_to_end(&mut bytes).map_err(failed)?;
    let result = read(&bytes);
    scratch::give(bytes);
    result
}

enum Format {
    Jpeg,
    /// What the `image` crate decodes.
    Other(ImageFormat),
}

fn format(bytes: &[u8], name: &Path) -> Result<Format, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty { path: name.to_path_buf() });
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(ImageError::Pointer { path: name.to_path_buf() });
    }
    match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => Ok(Format::Jpeg),
        Ok(format @ (ImageFormat::Png | ImageFormat::WebP | ImageFormat::Bmp | ImageFormat::Tiff)) => {
            Ok(Format::Other(format))
        }
        _ => Err(ImageError::Format { path: name.to_path_buf() }),
    }
}

/// Refuses an image before its pixels get memory.
fn check_pixels((width, height): (u32, u32), name: &Path) -> Result<(), ImageError> {
    static LIMIT: OnceLock<u64> = OnceLock::new();
    let limit = *LIMIT.get_or_init(|| {
        std::env::var("SCRL_MAX_PIXELS").ok().and_then(|text| text.parse().ok()).unwrap_or(MAX_PIXELS)
    });
    if u64::from(width) * u64::from(height) <= limit {
        return Ok(());
    }
    Err(ImageError::TooLarge { path: name.to_path_buf(), width, height, limit })
}

/// Refuses an image whose pixels the system has no memory for: allocations that fail elsewhere end the process. `copies` are how
/// many bytes of a pixel there are at a time.
fn check_memory((width, height): (u32, u32), copies: u64, name: &Path) -> Result<(), ImageError> {
    let bytes = u64::from(width) * u64::from(height) * copies;
    let failed = |_| ImageError::Memory { path: name.to_path_buf(), width, height, bytes };
    // Of small images it is certain.
    if bytes > 1 << 26 {
        Vec::<u8>::new().try_reserve_exact(usize::try_from(bytes).unwrap_or(usize::MAX)).map_err(failed)?;
    }
    Ok(())
}

/// The decoder behind the header, and how the image is to be turned.
fn open_other<'a>(
    bytes: &'a [u8],
    format: ImageFormat,
    name: &Path,
) -> Result<(impl ImageDecoder + 'a, Orientation), ImageError> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // `check_pixels` is the limit.
    reader.no_limits();
    let mut decoder = reader.into_decoder().map_err(|e| explain(e, name))?;
    let orientation = decoder.orientation().map_err(|e| explain(e, name))?;
    Ok((decoder, orientation))
}

fn decode_other(
    bytes: &[u8],
    format: ImageFormat,
    name: &Path,
) -> Result<(RgbImage, Orientation), ImageError> {
    let (decoder, orientation) = open_other(bytes, format, name)?;
    check_pixels(decoder.dimensions(), name)?;
    // As stored, and as 8-bit RGB once more where it is turned.
    let stored = u64::from(decoder.color_type().bytes_per_pixel());
    check_memory(decoder.dimensions(), stored + turned_copies(orientation), name)?;
    let image = DynamicImage::from_decoder(decoder).map_err(|e| explain(e, name))?;
    Ok((image.into_rgb8(), orientation))
}

/// Bytes of a pixel of an image as 8-bit RGB, and of its copy where it is turned.
fn turned_copies(orientation: Orientation) -> u64 {
    if orientation == Orientation::NoTransforms { 3 } else { 6 }
}

fn explain(error: image::ImageError, name: &Path) -> ImageError {
    let path = name.to_path_buf();
    match error {
        image::ImageError::Unsupported(e) => ImageError::Unsupported { path, reason: e.to_string() },
        image::ImageError::Limits(e) => ImageError::Unsupported { path, reason: e.to_string() },
        other => ImageError::Damaged { path, reason: other.to_string() },
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

    fn encoded(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).expect("an encoded image");
        bytes.into_inner()
    }

    #[test]
    fn lossless_formats_give_back_what_was_written() {
        let image = RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
        for format in [ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff] {
            let bytes = encoded(&image, format);
            assert_eq!(decoded(&bytes), image, "{format:?}");
            let error = decode_bytes(&bytes[..bytes.len() / 2], Path::new("cut")).expect_err("an error");
            assert!(matches!(error, ImageError::Damaged { .. }), "{format:?}: {error}");
        }
    }

    #[test]
    fn a_header_of_too_many_pixels_is_refused_before_they_get_memory() {
        let small = RgbImage::new(8, 8);
        let mut bmp = encoded(&small, ImageFormat::Bmp);
        bmp[18..22].copy_from_slice(&60_000i32.to_le_bytes());
        bmp[22..26].copy_from_slice(&60_000i32.to_le_bytes());
        let mut jpeg = jpeg();
        let frame =
            jpeg.windows(2).position(|b| b[0] == 0xff && (0xc0..=0xc2).contains(&b[1])).expect("a frame");
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0xea, 0x60, 0xea, 0x60]);
        for bytes in [bmp, jpeg] {
            let error = decode_bytes(&bytes, Path::new("huge")).expect_err("an error").to_string();
            assert!(error.contains("`huge` has 60000 x 60000 pixels, more than the limit"), "{error}");
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
            assert_eq!(error, "`t.jpg` is not a JPEG, PNG, WebP, BMP or TIFF image; convert or remove it");
        }
    }

    #[test]
    fn used_memory_leaves_no_trace_even_in_a_damaged_file() {
        let mut bytes = jpeg();
        let image = decoded(&bytes);
        scratch::recycle(RgbImage::from_pixel(64, 48, image::Rgb([255; 3])));
        assert_eq!(decoded(&bytes), image);
        // A second start of a scan amid the first one's data: the decoder stops there without an error.
        let scan = bytes.windows(2).position(|b| b == [0xff, 0xda]).expect("a scan");
        let header = bytes[scan..scan + 2 + usize::from(bytes[scan + 3])].to_vec();
        let middle = (scan + bytes.len()) / 2;
        bytes.splice(middle..middle, header);
        let damaged = |level| {
            scratch::recycle(RgbImage::from_pixel(64, 48, image::Rgb([level; 3])));
            decoded(&bytes)
        };
        assert_eq!(damaged(3), damaged(255));
    }
}
