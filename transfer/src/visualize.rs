//! Draws boxes on images: a colour for each class, its index and the score in digits.

use std::path::Path;

use scrl_core::draw::draw_label;
pub use scrl_core::draw::{distinct_color as class_color, draw_box};
use scrl_core::transforms::RgbImage;

use crate::detection::Detection;
use crate::error::TransferError;

/// What is drawn.
#[derive(Clone, Copy, Debug)]
pub struct DrawOptions {
    /// Detections below this score are left out.
    pub min_score: f32,
    /// Width of a box's edge in pixels; 0 chooses by the image's size.
    pub line_width: u32,
    /// Writes `class index : percent` into each box's corner.
    pub labels: bool,
}

impl Default for DrawOptions {
    fn default() -> Self {
        Self { min_score: 0.5, line_width: 0, labels: true }
    }
}

/// A copy of the image with its detections, the best on top.
pub fn draw_detections(image: &RgbImage, detections: &[Detection], options: &DrawOptions) -> RgbImage {
    let mut canvas = image.clone();
    let width = match options.line_width {
        0 => (image.width().min(image.height()) / 200).clamp(1, 6),
        width => width,
    };
    let mut shown: Vec<&Detection> =
        detections.iter().filter(|found| found.score >= options.min_score).collect();
    shown.sort_by(|a, b| a.score.total_cmp(&b.score));
    for found in shown {
        let color = class_color(found.class);
        draw_box(&mut canvas, &found.bbox, color, width);
        if options.labels {
            let text = format!("{}:{}", found.class, (found.score * 100.0).round() as u32);
            let (x, y) = (found.bbox.x1.max(0.0) as u32, found.bbox.y1.max(0.0) as u32);
            draw_label(&mut canvas, &text, x, y, color, width.max(2));
        }
    }
    canvas
}

/// Draws the detections and writes the picture; its format follows the file's ending, PNG as a rule.
///
/// # Errors
/// When the file cannot be written.
pub fn save_detections(
    path: &Path,
    image: &RgbImage,
    detections: &[Detection],
    options: &DrawOptions,
) -> Result<(), TransferError> {
    draw_detections(image, detections, options)
        .save(path)
        .map_err(|e| TransferError::Write { path: path.to_path_buf(), source: std::io::Error::other(e) })
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use scrl_core::structures::BoxXyxy;

    use super::*;

    fn found(bbox: BoxXyxy, class: usize, score: f32) -> Detection {
        Detection { bbox, class, score }
    }

    #[test]
    fn a_box_is_drawn_in_its_class_colour_and_nothing_else_changes() {
        let image = RgbImage::from_pixel(20, 16, Rgb([1, 2, 3]));
        let options = DrawOptions { min_score: 0.3, line_width: 1, labels: false };
        let boxes = [
            found(BoxXyxy::new(4.0, 5.0, 12.0, 11.0), 7, 0.9),
            found(BoxXyxy::new(0.0, 0.0, 3.0, 3.0), 1, 0.2),
        ];
        let drawn = draw_detections(&image, &boxes, &options);
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
        let drawn = draw_detections(&image, &boxes, &DrawOptions::default());
        assert_eq!(*drawn.get_pixel(0, 29), class_color(12));
        assert_eq!(*drawn.get_pixel(15, 10), Rgb([0; 3]));
    }

    #[test]
    fn pictures_are_written_as_png() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let image = RgbImage::from_pixel(9, 9, Rgb([5; 3]));
        save_detections(&path, &image, &[], &DrawOptions::default()).unwrap();
        assert_eq!(image::open(&path).unwrap().to_rgb8(), image);
        assert!(
            save_detections(&folder.path().join("no/a.png"), &image, &[], &DrawOptions::default()).is_err()
        );
    }
}
