//! What was found, for files and for people.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use image::{DynamicImage, GrayImage, ImageBuffer, ImageFormat};
use scrl_core::engine::atomic;
use scrl_core::structures::Size;
use scrl_transfer::data::Category;
use scrl_transfer::detection::Detection;
use scrl_transfer::mask::{Mask, Rle};
use serde::Serialize;

use super::inputs::Input;

/// A detection in COCO's results format, with the names that it stands for.
#[derive(Clone, Debug, Serialize)]
pub struct Prediction {
    /// Place of the image among those that were asked for, from 1.
    image_id: u64,
    /// Relative to the folder that was asked for.
    file_name: String,
    /// Of the upright image, in pixels.
    width: u32,
    height: u32,
    category_id: u64,
    category_name: String,
    /// Left, top, width and height in pixels of the image.
    bbox: [f64; 4],
    /// Of a detector that gives masks.
    #[serde(skip_serializing_if = "Option::is_none")]
    segmentation: Option<Rle>,
    score: f64,
}

/// What one image's line in JSON says.
#[derive(Serialize)]
struct ImageLine<'a> {
    image_id: u64,
    file_name: String,
    width: u32,
    height: u32,
    detections: Vec<&'a Prediction>,
}

/// An image as the predictions name it.
pub struct ImageName {
    id: u64,
    file_name: String,
    size: Size,
}

impl ImageName {
    pub fn new(index: usize, input: &Input, size: Size) -> Self {
        Self { id: index as u64 + 1, file_name: slashed(&input.name), size }
    }

    /// Its detections as rows of the results file, best first.
    pub fn predictions(&self, found: &[Detection], classes: &[Category]) -> Vec<Prediction> {
        let row = |found: &Detection| {
            let [x1, y1, x2, y2] = found.bbox.to_array().map(f64::from);
            let category = &classes[found.class];
            Prediction {
                image_id: self.id,
                file_name: self.file_name.clone(),
                width: self.size.width,
                height: self.size.height,
                category_id: category.id,
                category_name: category.name.clone(),
                bbox: [x1, y1, x2 - x1, y2 - y1],
                segmentation: found.mask.as_ref().and_then(Mask::pixels).cloned(),
                score: f64::from(found.score),
            }
        };
        found.iter().map(row).collect()
    }

    /// The line of this image on standard output: its detections of at least this score.
    pub fn line(&self, predictions: &[Prediction], score: f32, json: bool) -> Result<String> {
        let shown: Vec<_> = predictions.iter().filter(|p| p.score >= f64::from(score)).collect();
        if !json {
            return Ok(format!("{}: {}", self.file_name, counts(&shown)));
        }
        let Size { width, height } = self.size;
        let file_name = self.file_name.clone();
        Ok(serde_json::to_string(&ImageLine {
            image_id: self.id,
            file_name,
            width,
            height,
            detections: shown,
        })?)
    }
}

/// Which detection each pixel belongs to: its place among those of at least `score`, from 1, the best on top; 0 for none. Sixteen bits
/// a pixel where there are more than 255.
///
/// # Errors
/// When the file cannot be written.
pub fn write_masks(path: &Path, found: &[Detection], score: f32, size: Size) -> Result<()> {
    let shown: Vec<&Detection> = found.iter().filter(|found| found.score >= score).collect();
    let mut places = vec![0u16; (size.width * size.height) as usize];
    for (index, found) in shown.iter().enumerate().rev() {
        let pixels = found.mask.as_ref().and_then(Mask::pixels).map(Rle::to_bitmap).unwrap_or_default();
        places
            .iter_mut()
            .zip(pixels)
            .filter(|(_, inside)| *inside)
            .for_each(|(place, _)| *place = index as u16 + 1);
    }
    let (width, height) = (size.width, size.height);
    let picture = match shown.len() {
        0..=255 => GrayImage::from_raw(width, height, places.iter().map(|&place| place as u8).collect())
            .map(DynamicImage::from),
        _ => ImageBuffer::from_raw(width, height, places).map(DynamicImage::ImageLuma16),
    };
    let picture = picture.context("a picture has a number for each pixel")?;
    picture
        .save_with_format(path, ImageFormat::Png)
        .with_context(|| format!("cannot write `{}`", path.display()))
}

/// For example `2 dog, 1 person`.
fn counts(shown: &[&Prediction]) -> String {
    let mut classes: BTreeMap<&str, usize> = BTreeMap::new();
    shown.iter().for_each(|p| *classes.entry(&p.category_name).or_default() += 1);
    match classes.is_empty() {
        true => "nothing".into(),
        false => classes.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", "),
    }
}

/// A relative path as COCO files write it, on every system.
pub fn slashed(path: &Path) -> String {
    path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// Writes the results file, in place of one that is there.
pub fn write(path: &Path, predictions: &[Prediction]) -> Result<()> {
    atomic::write(path, &serde_json::to_vec(predictions)?)
        .with_context(|| format!("cannot write `{}`", path.display()))
}
