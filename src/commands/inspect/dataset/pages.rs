//! Pages of images with what their annotations say.

use anyhow::Result;
use scrl_core::data::sampler;
use scrl_core::draw::{Rgb, distinct_color, draw_box};
use scrl_core::structures::Size;
use scrl_core::transforms::{RgbImage, decode, resample};
use scrl_transfer::data::{DetectionImage, DetectionObject};
use scrl_transfer::visualize::text::{class_label, draw_text, plate_size};
use scrl_transfer::visualize::tint;

use super::files::FileFacts;
use super::splits::{Content, Entry, Split};

const COLUMNS: usize = 4;
const ROWS: usize = 3;
/// Largest size of an image on a page, in pixels.
const WIDTH: u32 = 480;
const HEIGHT: u32 = 400;
/// Around each image.
const GAP: u32 = 8;
/// Under each image.
const CAPTION: u32 = 22;
/// Width of a box's edge.
const LINE: u32 = 2;
/// Pixels of a character's dot, in captions and on boxes.
const DOT: u32 = 2;
/// Up to this many boxes, names have large characters.
const FEW: usize = 8;
const GROUND: Rgb<u8> = Rgb([255; 3]);

/// Up to `count` readable images of a split, chosen by `seed`.
///
/// # Errors
/// When an image cannot be read any more.
pub fn draw(split: &Split, facts: &[FileFacts], count: usize, seed: u64) -> Result<Vec<RgbImage>> {
    let both = split.images.iter().zip(facts);
    let readable: Vec<&Entry> =
        both.filter(|(_, f)| matches!(f, FileFacts::Image { .. })).map(|(entry, _)| entry).collect();
    if readable.is_empty() || count == 0 {
        return Ok(Vec::new());
    }
    let mut chosen = sampler::batches(readable.len(), count, false, Some((seed, 0))).swap_remove(0);
    chosen.sort_unstable();
    chosen.chunks(COLUMNS * ROWS).map(|indices| page(split, indices, &readable)).collect()
}

fn page(split: &Split, indices: &[usize], entries: &[&Entry]) -> Result<RgbImage> {
    let columns = indices.len().min(COLUMNS) as u32;
    let rows = indices.len().div_ceil(COLUMNS) as u32;
    let (across, down) = (WIDTH + GAP, HEIGHT + CAPTION + GAP);
    let mut page = RgbImage::from_pixel(columns * across + GAP, rows * down + GAP, GROUND);
    for (place, &index) in indices.iter().enumerate() {
        let (column, row) = ((place % COLUMNS) as u32, (place / COLUMNS) as u32);
        let (left, top) = (GAP + column * across, GAP + row * down);
        let picture = picture(entries[index], split)?;
        for (x, y, pixel) in picture.enumerate_pixels() {
            page.put_pixel(left + x, top + y, *pixel);
        }
        let caption = caption(entries[index], split);
        draw_text(&mut page, &fitting(&caption), [left, top + HEIGHT + 2], GROUND, DOT);
    }
    Ok(page)
}

/// The image at the size of a page, with its boxes and masks.
fn picture(entry: &Entry, split: &Split) -> Result<RgbImage> {
    let image = decode::decode(&entry.path)?;
    let scale = (f64::from(WIDTH) / f64::from(image.width()))
        .min(f64::from(HEIGHT) / f64::from(image.height()))
        .min(4.0);
    let side = |length: u32, limit: u32| ((f64::from(length) * scale).round() as u32).clamp(1, limit);
    let size = Size { width: side(image.width(), WIDTH), height: side(image.height(), HEIGHT) };
    let mut picture = resample::resize_bilinear(&image, size);
    if let Content::Annotated(annotated) = &entry.content {
        draw_objects(&mut picture, annotated, split);
    }
    Ok(picture)
}

/// Large boxes first, so that small ones lie on top, then all names.
fn draw_objects(picture: &mut RgbImage, image: &DetectionImage, split: &Split) {
    let (x, y) = (picture.width() as f32 / image.width as f32, picture.height() as f32 / image.height as f32);
    let mut objects: Vec<&DetectionObject> = image.objects.iter().collect();
    objects.sort_by(|a, b| b.bbox.area().total_cmp(&a.bbox.area()));
    for object in &objects {
        if let Some(mask) = &object.mask {
            tint(picture, &mask.to_rle(image.size()), distinct_color(object.category));
        }
    }
    for object in &objects {
        draw_box(picture, &object.bbox.scale(x, y), distinct_color(object.category), LINE);
    }
    let dot = if objects.len() <= FEW { DOT } else { 1 };
    for object in &objects {
        let name = name(object, split);
        let corner = object.bbox.scale(x, y);
        // Inside the picture, also for a box at its right or lower edge.
        let [width, height] = plate_size(&name, dot);
        let left = (corner.x1.max(0.0) as u32).min(picture.width().saturating_sub(width));
        let top = (corner.y1.max(0.0) as u32).min(picture.height().saturating_sub(height));
        draw_text(picture, &name, [left, top], distinct_color(object.category), dot);
    }
}

fn name(object: &DetectionObject, split: &Split) -> String {
    let mark = match (object.crowd, object.difficult) {
        (true, _) => " (crowd)",
        (_, true) => " (difficult)",
        _ => "",
    };
    format!("{}{mark}", class_label(object.category, &split.categories[object.category].name))
}

fn caption(entry: &Entry, split: &Split) -> String {
    let file = entry.path.file_name().unwrap_or_default().to_string_lossy();
    match &entry.content {
        Content::Annotated(image) => format!("{file}: {} boxes", image.objects.len()),
        Content::Plain(Some(class)) => {
            format!("{}: {file}", class_label(*class, &split.categories[*class].name))
        }
        Content::Plain(None) => file.into_owned(),
    }
}

/// As much of a line as fits under an image.
fn fitting(text: &str) -> String {
    let fits = |end: usize| plate_size(&text[..end], DOT)[0] <= WIDTH;
    let ends = text.char_indices().map(|(start, c)| start + c.len_utf8());
    text[..ends.take_while(|&end| fits(end)).last().unwrap_or(0)].to_string()
}
