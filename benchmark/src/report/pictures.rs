//! The same test images with what the detector of every init finds.

use crate::error::{Context, Result};
use scrl_core::transforms::{RgbImage, decode::decode};
use scrl_transfer::data::{DetectionDataset, DetectionImage};
use scrl_transfer::detection::Detection;
use scrl_transfer::evaluation::read_results;
use scrl_transfer::mask::Mask;
use scrl_transfer::visualize::{DrawOptions, draw_detections};

use super::{FIGURES, Finished};
use crate::graph::percent;
use crate::job::Job;
use scrl_figures::document::{Block, Picture};

/// Small images are enlarged to this side at least, so that their boxes show.
const SIDE: u32 = 240;

/// A gallery for each data set.
///
/// # Errors
/// When images or detections cannot be read, or a picture cannot be written.
pub fn detections(finished: &Finished) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    if finished.plan.plan.report.images == 0 {
        return Ok(blocks);
    }
    for dataset in finished.results.datasets() {
        blocks.extend(gallery(finished, dataset)?);
    }
    Ok(blocks)
}

fn gallery(finished: &Finished, name: &str) -> Result<Vec<Block>> {
    let arms = finished.arms.iter();
    let runs: Vec<_> =
        arms.filter_map(|arm| Some((&arm.name, finished.fine_tuning(name, &arm.name)?.0))).collect();
    let Some((_, first)) = runs.first() else { return Ok(Vec::new()) };
    let Job::Transfer(job) = &first.job else { return Ok(Vec::new()) };
    let source = job.settings.data.val.as_ref().context("a fine-tuning has test images")?;
    let dataset = source.load(job.settings.model.labels())?;
    let found = runs
        .iter()
        .map(|(_, cell)| Ok(read_results(&finished.out.join(&cell.id).join("results.json"), &dataset)?))
        .collect::<Result<Vec<_>>>()?;
    let min_score = finished.plan.plan.report.min_score;
    let mut rows = Vec::new();
    for image in chosen(&dataset, finished.plan.plan.report.images) {
        let pixels = decode(&image.path)?;
        let truth: Vec<Detection> = image
            .objects
            .iter()
            .map(|object| Detection {
                bbox: object.bbox,
                class: object.category,
                score: 1.0,
                mask: object.mask.as_ref().map(|mask| Mask::Pixels(mask.to_rle(image.size()))),
            })
            .collect();
        let mut pictures = vec![Some(draw(finished, &dataset, name, image, "truth", &pixels, &truth, 0.0)?)];
        for ((init, _), results) in runs.iter().zip(&found) {
            let of_image = results.iter().find(|r| r.image_id == image.id);
            let boxes = of_image.map(|r| r.detections.as_slice()).unwrap_or_default();
            pictures.push(Some(draw(finished, &dataset, name, image, init, &pixels, boxes, min_score)?));
        }
        rows.push((image.file_name.clone(), pictures));
    }
    let columns =
        std::iter::once("annotation".to_string()).chain(runs.iter().map(|(init, _)| init.to_string()));
    let most = finished.results.fractions(name).last().copied().unwrap_or(1.0);
    Ok(vec![
        Block::Heading(finished.titled("Detections", name)),
        Block::Paragraph(format!(
            "The same test images for every init: the first seed with {} % of the labels, detections with a score of {} or \
             more (their number in brackets), scores in percent.",
            percent(most),
            min_score,
        )),
        Block::Gallery { columns: columns.collect(), rows },
    ])
}

/// Evenly spaced images with objects.
fn chosen(dataset: &DetectionDataset, count: usize) -> Vec<&DetectionImage> {
    let full: Vec<_> = dataset.images.iter().filter(|image| !image.objects.is_empty()).collect();
    let stride = full.len().div_ceil(count).max(1);
    full.into_iter().step_by(stride).take(count).collect()
}

fn draw(
    finished: &Finished,
    dataset: &DetectionDataset,
    name: &str,
    image: &DetectionImage,
    init: &str,
    pixels: &RgbImage,
    boxes: &[Detection],
    min_score: f32,
) -> Result<Picture> {
    let factor = SIDE.div_ceil(pixels.width().min(pixels.height()).max(1));
    let large = RgbImage::from_fn(pixels.width() * factor, pixels.height() * factor, |x, y| {
        *pixels.get_pixel(x / factor, y / factor)
    });
    // Masks are scaled to the picture when they are drawn.
    let enlarged = |found: &Detection| Detection {
        bbox: found.bbox.scale(factor as f32, factor as f32),
        ..found.clone()
    };
    let boxes: Vec<Detection> = boxes.iter().map(enlarged).collect();
    let shown = boxes.iter().filter(|found| found.score >= min_score).count();
    let drawn = draw_detections(
        &large,
        &boxes,
        &dataset.categories,
        &DrawOptions { min_score, line_width: 2, labels: true },
    );
    let file = format!("{FIGURES}/{name}-{}-{init}.jpg", image.id);
    save(finished, &file, &drawn)?;
    let what =
        if init == "truth" { "annotated objects".to_string() } else { format!("detections from {init}") };
    let note = Some(format!("({shown})"));
    Ok(Picture { file, description: format!("{}: {shown} {what}", image.file_name), note })
}

/// Writes a picture below the benchmark's folder.
///
/// # Errors
/// When the picture cannot be written.
pub fn save(finished: &Finished, file: &str, picture: &RgbImage) -> Result<()> {
    let path = finished.out.join(file);
    let failed = || format!("cannot write `{}`", path.display());
    std::fs::create_dir_all(finished.out.join(FIGURES)).with_context(failed)?;
    picture.save(&path).with_context(failed)
}
