//! Where each backbone finds a box of one view in the other view.

use crate::error::{BenchmarkError, Context, Result};
use scrl_core::checkpoint::weights;
use scrl_core::data::image_folder::ImageFolder;
use scrl_core::data::loader::{LoaderOptions, load_batches};
use scrl_core::data::sampler;
use scrl_core::transforms::RgbImage;
use scrl_pretrain::PretrainConfig;
use scrl_pretrain::image_views::{ImageViews, load_views_with_boxes};

use super::pictures::save;
use super::{FIGURES, Finished};
use crate::plan::Source;
use scrl_figures::document::{Block, Picture};
use scrl_figures::sheet::{self, Outline};
use scrl_figures::similarity::ImageFeatures;

/// Width of a box's edge, in pixels of a panel.
const LINE: u32 = 4;

/// Maps of a few images for every init that has weights; nothing where no method makes two views.
///
/// # Errors
/// When images or weights cannot be read, or a picture cannot be written.
pub fn maps(finished: &Finished) -> Result<Vec<Block>> {
    let count = finished.plan.plan.report.similarity_images;
    let Some(settings) = view_settings(finished).filter(|_| count > 0) else { return Ok(Vec::new()) };
    let backbones: Vec<_> = finished
        .arms
        .iter()
        .filter_map(|arm| match &arm.source {
            Source::Pretrained(_) => {
                Some((arm.name.clone(), finished.out.join(&finished.pretraining(&arm.name)?.0.id)))
            }
            Source::Weights(path) => Some((arm.name.clone(), path.clone())),
            Source::Random => None,
        })
        .collect();
    if backbones.is_empty() {
        return Ok(Vec::new());
    }
    let samples = samples(finished, &settings, count)?;
    let side = settings.augment.view_size;
    let device = (finished.host.device)("cpu").map_err(BenchmarkError::Refused)?;
    let numbers: Vec<Option<usize>> = samples.iter().map(largest).collect();
    let mut rows: Vec<(String, Vec<Option<Picture>>)> = Vec::new();
    for (row, (sample, number)) in samples.iter().zip(&numbers).enumerate() {
        let mut pictures = Vec::new();
        for (view, name) in ["view 1", "view 2"].iter().enumerate() {
            let outline = number.map(|number| outline(sample, number, view));
            let panel =
                sheet::panel(&sheet::picture(&sample.views[view].values, side), &Vec::from_iter(outline));
            let what = format!("{name} of image {}", row + 1);
            pictures.push(Some(figure(finished, &format!("views-{row}-{view}"), &panel, what)?));
        }
        rows.push((format!("image {}", row + 1), pictures));
    }
    for (name, path) in &backbones {
        let (encoder, ..) = weights::load_backbone(path, &device)?;
        for (row, (sample, number)) in samples.iter().zip(&numbers).enumerate() {
            let Some(number) = *number else {
                rows[row].1.push(None);
                continue;
            };
            let features = ImageFeatures::compute(&encoder, sample, settings.level(), &device)?;
            let view = sheet::picture(&sample.views[1].values, side);
            let heat = sheet::heat(&view, &features.similarity(number));
            let panel = sheet::panel(&heat, &[outline(sample, number, 1)]);
            let what = format!("similarity by {name}, image {}", row + 1);
            rows[row].1.push(Some(figure(finished, &format!("similarity-{row}-{name}"), &panel, what)?));
        }
    }
    let columns = ["view 1 with the box", "view 2, the same place"].map(String::from).into_iter();
    Ok(vec![
        Block::Heading("Box similarity".into()),
        Block::Paragraph(
            "Each map shows how alike every place of view 2 is to the outlined box of view 1: the cosine of the backbone's \
             features, from dark (least in this map) to bright (most). A backbone that knows places is brightest in the box \
             of view 2. Pretraining images with the augmentations of the recipe; the coarse cells are the feature \
             map's, and a map of a single cell is dark throughout."
                .into(),
        ),
        Block::Gallery { columns: columns.chain(backbones.into_iter().map(|(name, _)| name)).collect(), rows },
    ])
}

/// The recipe whose views are shown: the subject's, or else the first that makes two of them.
fn view_settings(finished: &Finished) -> Option<PretrainConfig> {
    let two_views = |arm: &&crate::plan::Arm| arm.method().is_some_and(|method| method.facts().views == 2);
    let mut arms = finished.arms.iter().filter(two_views);
    let subject = arms.clone().find(|arm| arm.name == finished.plan.subject());
    subject.or(arms.next())?.recipe().cloned()
}

fn samples(finished: &Finished, settings: &PretrainConfig, count: usize) -> Result<Vec<ImageViews>> {
    let folders = finished.sources.of(settings.method, finished.plan.plan.pretrain_images);
    let data = ImageFolder::scan(&folders)?;
    let seed = finished.plan.plan.seeds[0];
    let chosen = sampler::batches(data.samples.len(), count, false, Some((seed, 0))).swap_remove(0);
    let options = LoaderOptions { seed, epoch: 0, threads: settings.data.threads, prefetch: 1 };
    let mut batches = load_batches(vec![chosen], options, load_views_with_boxes(settings, &data));
    Ok(batches.next().context("the loader gave no images")??)
}

/// The number of the box that is largest in view 1.
fn largest(sample: &ImageViews) -> Option<usize> {
    let area = |number: usize| sample.boxes[number].view1.area();
    (0..sample.boxes.len()).max_by(|&a, &b| area(a).total_cmp(&area(b)))
}

fn outline(sample: &ImageViews, number: usize, view: usize) -> Outline {
    let boxes = &sample.boxes[number];
    let bbox = if view == 0 { boxes.view1 } else { boxes.view2 };
    Outline { bbox, number, color: sheet::pair_color(number), width: LINE }
}

fn figure(finished: &Finished, name: &str, picture: &RgbImage, description: String) -> Result<Picture> {
    let file = format!("{FIGURES}/{name}.jpg");
    save(finished, &file, picture)?;
    Ok(Picture { file, description, note: None })
}
