//! `scrl inspect views`

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use scrl_core::checkpoint::weights;
use scrl_core::config;
use scrl_core::data::image_folder::ImageFolder;
use scrl_core::data::loader::{LoaderOptions, load_batches};
use scrl_core::data::sampler;
use scrl_core::transforms::RgbImage;
use scrl_pretrain::PretrainConfig;
use scrl_pretrain::image_views::{ImageViews, load_views, load_views_with_boxes};

use crate::cli::InspectViewsArgs;
use crate::commands::Ending;
use crate::device;
use scrl_figures::sheet::{self, Outline};
use scrl_figures::similarity::{BoxCosines, ImageFeatures, SimilarityMap};

/// Widths of lines, in pixels of a panel: of boxes, and of the box whose similarity is shown.
const LINE: u32 = 2;
const THICK: u32 = 4;

pub fn run(args: &InspectViewsArgs) -> Result<Ending> {
    let mut settings = config::load::<PretrainConfig>(&args.config, &args.overrides)?.validate()?;
    settings.seed = args.seed.unwrap_or(settings.seed);
    refuse_what_cannot_be_shown(args, &settings)?;
    let data = ImageFolder::scan(&args.data)?;
    let chosen = first_of_an_epoch(&settings, &data, args.images);
    let samples = load(&settings, &data, &chosen)?;
    let similarities = match &args.weights {
        Some(path) => Some(Similarities::compute(path, &samples, args, &settings)?),
        None => None,
    };
    let mut rows = Vec::new();
    for (row, (sample, &index)) in samples.iter().zip(&chosen).enumerate() {
        let shown = similarities.as_ref().and_then(|found| found.maps[row].as_ref());
        rows.push(panels(sample, settings.augment.view_size, shown));
        println!("{:>3}  {}{}", row + 1, data.samples[index].path.display(), caption(sample, shown));
    }
    if let Some(similarities) = &similarities {
        similarities.print(&samples, settings.augment.view_size);
    }
    let sheet = sheet::stack(&rows);
    sheet.save(&args.out).with_context(|| format!("cannot write `{}`", args.out.display()))?;
    println!("{}: {} × {} pixels", args.out.display(), sheet.width(), sheet.height());
    Ok(Ending::Done)
}

fn refuse_what_cannot_be_shown(args: &InspectViewsArgs, settings: &PretrainConfig) -> Result<()> {
    if args.weights.is_some() && settings.method.facts().views < 2 {
        bail!(
            "a similarity map needs two views, and {} pretraining has one; pass a recipe of scrl or byol",
            settings.method.name()
        );
    }
    if let Some(number) = args.box_number {
        let count = settings.boxes.count;
        ensure!(
            number < count,
            "there is no box {number}: the recipe draws {count} boxes per image, numbered from 0"
        );
    }
    Ok(())
}

/// The images that a run's first epoch starts with.
fn first_of_an_epoch(settings: &PretrainConfig, data: &ImageFolder, images: usize) -> Vec<usize> {
    sampler::batches(data.samples.len(), images, false, Some((settings.seed, 0))).swap_remove(0)
}

/// The images as the run's loader prepares them.
fn load(settings: &PretrainConfig, data: &ImageFolder, chosen: &[usize]) -> Result<Vec<ImageViews>> {
    let options =
        LoaderOptions { seed: settings.seed, epoch: 0, threads: settings.data.threads, prefetch: 1 };
    let load = match settings.method.facts().views {
        1 => load_views(settings, data),
        _ => load_views_with_boxes(settings, data),
    };
    let mut batches = load_batches(vec![chosen.to_vec()], options, load);
    Ok(batches.next().context("the loader gave no batch")??)
}

/// The map of one box.
struct Shown {
    number: usize,
    map: SimilarityMap,
}

/// Of every image the map of one box, `None` without boxes.
struct Similarities {
    maps: Vec<Option<Shown>>,
    cosines: BoxCosines,
}

impl Similarities {
    fn compute(
        path: &Path,
        samples: &[ImageViews],
        args: &InspectViewsArgs,
        settings: &PretrainConfig,
    ) -> Result<Self> {
        let device = device::parse(&args.device)?;
        let (encoder, ..) = weights::load_backbone(path, &device)?;
        let level = settings.level();
        let features = samples
            .iter()
            .map(|sample| ImageFeatures::compute(&encoder, sample, level, &device))
            .collect::<Result<Vec<_>, _>>()?;
        let maps = samples.iter().zip(&features).map(|(sample, features)| {
            let number = args.box_number.filter(|_| !sample.boxes.is_empty()).or_else(|| largest(sample))?;
            Some(Shown { number, map: features.similarity(number) })
        });
        Ok(Self { maps: maps.collect(), cosines: BoxCosines::of(&features) })
    }

    fn print(&self, samples: &[ImageViews], side: u32) {
        let number = |value: Option<f64>| value.map_or("–".to_string(), |value| format!("{value:.3}"));
        println!("mean cosine of matched boxes             {}", number(self.cosines.matched));
        println!("  of other boxes of the same image       {}", number(self.cosines.same_image));
        println!("  of boxes of other images               {}", number(self.cosines.other_image));
        let shown: Vec<_> =
            self.maps.iter().zip(samples).filter_map(|(m, s)| Some((m.as_ref()?, s))).collect();
        let hits = shown.iter().filter(|(shown, sample)| {
            let (x, y) = shown.map.peak();
            let (x, y) = (x * side as f32, y * side as f32);
            let b = sample.boxes[shown.number].view2;
            (b.x1..=b.x2).contains(&x) && (b.y1..=b.y2).contains(&y)
        });
        println!("the map's maximum lies in the matched box in {} of {} images", hits.count(), shown.len());
    }
}

/// The number of the box that is largest in view 1.
fn largest(sample: &ImageViews) -> Option<usize> {
    let area = |number: usize| sample.boxes[number].view1.area();
    (0..sample.boxes.len()).max_by(|&a, &b| area(a).total_cmp(&area(b)))
}

/// The views of an image, with a map view 2 once more under it.
fn panels(sample: &ImageViews, side: u32, shown: Option<&Shown>) -> Vec<RgbImage> {
    let outline = |number: usize, view: usize| Outline {
        bbox: if view == 0 { sample.boxes[number].view1 } else { sample.boxes[number].view2 },
        number,
        color: sheet::pair_color(number),
        width: if shown.is_some_and(|shown| shown.number == number) { THICK } else { LINE },
    };
    let views: Vec<RgbImage> =
        sample.views.iter().map(|pixels| sheet::picture(&pixels.values, side)).collect();
    let mut panels: Vec<RgbImage> = views
        .iter()
        .enumerate()
        .map(|(view, image)| {
            let outlines: Vec<Outline> =
                (0..sample.boxes.len()).map(|number| outline(number, view)).collect();
            sheet::panel(image, &outlines)
        })
        .collect();
    if let Some(shown) = shown {
        panels.push(sheet::panel(&sheet::heat(&views[1], &shown.map), &[outline(shown.number, 1)]));
    }
    panels
}

/// What is worth telling beside a file's name.
fn caption(sample: &ImageViews, shown: Option<&Shown>) -> String {
    match shown {
        Some(shown) => {
            let (low, high) = shown.map.range();
            format!(": box {}, cosines {low:.3} to {high:.3}", shown.number)
        }
        None if sample.views.len() < 2 => String::new(),
        None if sample.boxes.is_empty() => ": no boxes, the views have too little in common".to_string(),
        None => format!(": {} boxes", sample.boxes.len()),
    }
}
