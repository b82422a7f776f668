//! JPEG files.

use std::path::Path;

use image::RgbImage;
use image::metadata::Orientation;
use memchr::memchr;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{check_memory, check_pixels, turned_copies};
use crate::transforms::{ImageError, scratch};

pub(super) type Decoder<'a> = zune_jpeg::JpegDecoder<ZCursor<&'a [u8]>>;

/// The decoder behind the headers, and width and height.
pub(super) fn open<'a>(bytes: &'a [u8], name: &Path) -> Result<(Decoder<'a>, (u32, u32)), ImageError> {
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = Decoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|e| explain(e, name))?;
    let info = decoder.info().expect("the headers are decoded");
    Ok((decoder, (info.width.into(), info.height.into())))
}

pub(super) fn orientation(decoder: &Decoder) -> Orientation {
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    orientation.unwrap_or(Orientation::NoTransforms)
}

pub(super) fn decode(bytes: &[u8], name: &Path) -> Result<(RgbImage, Orientation), ImageError> {
    let (mut decoder, (width, height)) = open(bytes, name)?;
    if !ends_properly(bytes) {
        let reason = "the file ends before the image does".to_owned();
        return Err(ImageError::Damaged { path: name.to_path_buf(), reason });
    }
    check_pixels((width, height), name)?;
    check_memory((width, height), turned_copies(orientation(&decoder)), name)?;
    let mut image = scratch::image(width, height);
    // What a damaged file leaves out must not be what an earlier image had there.
    image.fill(0);
    decoder.decode_into(&mut image).map_err(|e| explain(e, name))?;
    Ok((image, orientation(&decoder)))
}

fn explain(error: DecodeErrors, name: &Path) -> ImageError {
    let (path, reason) = (name.to_path_buf(), error.to_string());
    match error {
        DecodeErrors::Unsupported(_) | DecodeErrors::LargeDimensions(_) => {
            ImageError::Unsupported { path, reason }
        }
        _ => ImageError::Damaged { path, reason },
    }
}

/// The start-of-image marker.
const START: [u8; 2] = [0xff, 0xd8];

/// Whether the markers of a JPEG lead to its end-of-image marker.
///
/// The decoder fills what a truncated file lacks with grey and reports success, so this is looked at apart. Segments are
/// jumped over by their length: a thumbnail inside one has an end marker too.
fn ends_properly(bytes: &[u8]) -> bool {
    let mut rest = &bytes[START.len()..];
    loop {
        let Some(start) = memchr(0xff, rest) else { return false };
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
