//! Draws boxes and masks on images: a colour for each class, its name and the score.

use std::fs::File;
use std::io::{BufWriter, Error as IoError, Write};
use std::path::Path;

use crate::data::Category;
use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, Rgb};
pub use scrl_core::draw::{distinct_color as class_color, draw_box};
use scrl_core::transforms::RgbImage;

use crate::detection::Detection;
use crate::error::TransferError;
use crate::mask::{Mask, Rle};

pub mod text;

use text::{class_label, draw_text, plate_size};

/// Of JPEG pictures, 1 to 100.
const JPEG_QUALITY: u8 = 92;

/// How much of a mask's pixel is the colour of its class.
const MASK_SHARE: f32 = 0.45;

/// What is drawn.
#[derive(Clone, Copy, Debug)]
pub struct DrawOptions {
    /// Detections below this score are left out.
    pub min_score: f32,
    /// Width of a box's edge in pixels; 0 chooses by the image's size.
    pub line_width: u32,
    /// Writes the class's name and the score in percent at each box.
    pub labels: bool,
}

impl Default for DrawOptions {
    fn default() -> Self {
        Self { min_score: 0.5, line_width: 0, labels: true }
    }
}

/// A copy of the image with its detections, the best on top; `classes` are named by their place in the list.
pub fn draw_detections(
    image: &RgbImage,
    detections: &[Detection],
    classes: &[Category],
    options: &DrawOptions,
) -> RgbImage {
    let mut canvas = image.clone();
    let short_side = image.width().min(image.height());
    let width = match options.line_width {
        0 => (short_side / 200).clamp(1, 6),
        width => width,
    };
    let mut shown: Vec<&Detection> =
        detections.iter().filter(|found| found.score >= options.min_score).collect();
    shown.sort_by(|a, b| a.score.total_cmp(&b.score));
    for found in &shown {
        if let Some(mask) = found.mask.as_ref().and_then(Mask::pixels) {
            tint(&mut canvas, mask, class_color(found.class));
        }
    }
    for found in &shown {
        draw_box(&mut canvas, &found.bbox, class_color(found.class), width);
    }
    // No box runs through a name.
    for found in shown.into_iter().filter(|_| options.labels) {
        label(&mut canvas, found, classes, (short_side / 240).clamp(1, 8));
    }
    canvas
}

/// Tints the pixels of a mask; the picture may be of another size than the mask's image.
pub fn tint(canvas: &mut RgbImage, mask: &Rle, color: Rgb<u8>) {
    let (pixels, image) = (mask.to_bitmap(), mask.size());
    let (width, height) = (u64::from(canvas.width()), u64::from(canvas.height()));
    for (x, y, pixel) in canvas.enumerate_pixels_mut() {
        let column = u64::from(x) * u64::from(image.width) / width;
        let row = u64::from(y) * u64::from(image.height) / height;
        if pixels.get((row * u64::from(image.width) + column) as usize) == Some(&true) {
            let mixed = |(own, color): (u8, u8)| {
                (f32::from(own) * (1.0 - MASK_SHARE) + f32::from(color) * MASK_SHARE).round() as u8
            };
            pixel.0 = std::array::from_fn(|channel| mixed((pixel.0[channel], color.0[channel])));
        }
    }
}

/// Class and score above the box, or inside it where there is no room above.
fn label(canvas: &mut RgbImage, found: &Detection, classes: &[Category], scale: u32) {
    let name = classes.get(found.class).map_or("", |class| &class.name);
    let name = if name.is_empty() { found.class.to_string() } else { class_label(found.class, name) };
    let text = format!("{name} {}%", (found.score * 100.0).round() as u32);
    let [width, height] = plate_size(&text, scale);
    let (left, top) = (found.bbox.x1.max(0.0) as u32, found.bbox.y1.max(0.0) as u32);
    let x = left.min(canvas.width().saturating_sub(width));
    let y = if top >= height { top - height } else { top };
    draw_text(canvas, &text, [x, y], class_color(found.class), scale);
}

/// Draws the detections and writes the picture: JPEG where the file's name ends so, else PNG.
///
/// # Errors
/// When the file cannot be written.
pub fn save_detections(
    path: &Path,
    image: &RgbImage,
    detections: &[Detection],
    classes: &[Category],
    options: &DrawOptions,
) -> Result<(), TransferError> {
    let picture = draw_detections(image, detections, classes, options);
    let failed = |source| TransferError::Write { path: path.to_path_buf(), source };
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    let written = match ImageFormat::from_path(path) {
        Ok(ImageFormat::Jpeg) => {
            picture.write_with_encoder(JpegEncoder::new_with_quality(&mut file, JPEG_QUALITY))
        }
        _ => picture.write_with_encoder(image::codecs::png::PngEncoder::new(&mut file)),
    };
    written.map_err(|error| failed(IoError::other(error)))?;
    file.flush().map_err(failed)
}

#[cfg(test)]
mod tests {
    use scrl_core::structures::BoxXyxy;

    use super::*;

    #[test]
    fn masks_tint_their_pixels_in_pictures_of_any_size() {
        let size = scrl_core::structures::Size { width: 4, height: 2 };
        // The two columns in the middle.
        let mask = Rle::from_runs(vec![2, 4, 2], size).unwrap();
        for factor in [1, 3] {
            let mut picture = RgbImage::from_pixel(4 * factor, 2 * factor, Rgb([100; 3]));
            tint(&mut picture, &mask, Rgb([200, 100, 0]));
            for (x, _, pixel) in picture.enumerate_pixels() {
                let inside = (factor..3 * factor).contains(&x);
                assert_eq!(pixel.0, if inside { [145, 100, 55] } else { [100; 3] }, "{x} of {factor}");
            }
        }
    }

    fn found(bbox: BoxXyxy, class: usize, score: f32) -> Detection {
        Detection { bbox, class, score, mask: None }
    }

    #[test]
    fn a_box_is_drawn_in_its_class_colour_and_nothing_else_changes() {
        let image = RgbImage::from_pixel(20, 16, Rgb([1, 2, 3]));
        let options = DrawOptions { min_score: 0.3, line_width: 1, labels: false };
        let boxes = [
            found(BoxXyxy::new(4.0, 5.0, 12.0, 11.0), 7, 0.9),
            found(BoxXyxy::new(0.0, 0.0, 3.0, 3.0), 1, 0.2),
        ];
        let drawn = draw_detections(&image, &boxes, &[], &options);
        let changed: Vec<(u32, u32)> = drawn
            .enumerate_pixels()
            .filter(|(.., p)| **p != Rgb([1, 2, 3]))
            .map(|(x, y, _)| (x, y))
            .collect();
        assert_eq!(changed.len(), 2 * 8 + 2 * 4);
        assert!(changed.iter().all(|&(x, y)| (4..12).contains(&x) && (5..11).contains(&y)));
        assert_eq!(*drawn.get_pixel(4, 8), class_color(7));
        assert_ne!(class_color(7), class_color(8));
    }

    #[test]
    fn boxes_and_labels_beyond_the_image_are_cut_off() {
        let image = RgbImage::new(30, 30);
        let boxes = [
            found(BoxXyxy::new(-9.0, 20.0, 500.0, 70.0), 12, 1.0),
            found(BoxXyxy::new(28.0, 28.0, 29.0, 29.0), 0, 0.6),
        ];
        let drawn = draw_detections(&image, &boxes, &[], &DrawOptions::default());
        assert_eq!(*drawn.get_pixel(0, 29), class_color(12));
        assert_eq!(*drawn.get_pixel(15, 10), Rgb([0; 3]));
    }

    #[test]
    fn pictures_are_written_as_png() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let image = RgbImage::from_pixel(9, 9, Rgb([5; 3]));
        save_detections(&path, &image, &[], &[], &DrawOptions::default()).unwrap();
        assert_eq!(image::open(&path).unwrap().to_rgb8(), image);
        assert!(
            save_detections(&folder.path().join("no/a.png"), &image, &[], &[], &DrawOptions::default())
                .is_err()
        );
    }

    #[test]
    fn a_label_names_its_class_above_the_box_or_inside_at_the_upper_edge() {
        let image = RgbImage::new(100, 60);
        let classes = [Category { id: 7, name: "cat".into() }];
        let draw = |y1: f32| {
            let boxes = [found(BoxXyxy::new(40.0, y1, 90.0, 55.0), 0, 0.87)];
            draw_detections(&image, &boxes, &classes, &DrawOptions::default())
        };
        let width = plate_size("cat 87%", 1)[0];
        assert_eq!(width, 43);
        let plate =
            |drawn: &RgbImage, y: u32| (0..width).filter(|x| drawn.get_pixel(40 + x, y).0 != [0; 3]).count();
        assert!(plate(&draw(30.0), 22) == 43 && plate(&draw(30.0), 20) == 0, "above");
        assert!(plate(&draw(4.0), 4) == 43 && plate(&draw(4.0), 3) == 0, "inside");
        let other = [Category { id: 7, name: "dog".into() }];
        let boxes = [found(BoxXyxy::new(40.0, 30.0, 90.0, 55.0), 0, 0.87)];
        assert!(draw_detections(&image, &boxes, &other, &DrawOptions::default()) != draw(30.0));
    }

    #[test]
    fn the_ending_decides_between_jpeg_and_png() {
        let folder = tempfile::tempdir().unwrap();
        let image = RgbImage::from_pixel(9, 9, Rgb([5; 3]));
        for (name, format) in
            [("a.JPG", ImageFormat::Jpeg), ("b.jpeg", ImageFormat::Jpeg), ("c.png", ImageFormat::Png)]
        {
            let path = folder.path().join(name);
            save_detections(&path, &image, &[], &[], &DrawOptions::default()).unwrap();
            assert_eq!(image::guess_format(&std::fs::read(&path).unwrap()).unwrap(), format, "{name}");
        }
    }
}
