//! `scrl predict`

mod inputs;
mod report;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use scrl_core::config::share;
use scrl_core::data::error::DataError;
use scrl_core::data::loader::{LoaderOptions, load_batches};
use scrl_core::data::sampler;
use scrl_core::engine::{Monitor, atomic};
use scrl_core::structures::Size;
use scrl_core::transforms::{ImageError, RgbImage, decode};
use scrl_transfer::data::{Labels, Preprocessing, Sample};
use scrl_transfer::detection::Target;
use scrl_transfer::visualize::{DrawOptions, save_detections, text};

use super::Ending;
use super::detector::{self, Detector};
use crate::cli::PredictArgs;
use inputs::Input;
use report::{ImageName, Prediction};

/// Batches that are prepared ahead.
const PREFETCH: usize = 2;

/// An image that was read.
struct Opened {
    image: RgbImage,
    sample: Sample,
}

/// What was found so far, and the names of the images that could not be read.
#[derive(Default)]
struct Progress {
    predictions: Vec<Prediction>,
    skipped: Vec<String>,
    interrupted: bool,
}

pub fn run(args: PredictArgs, mut monitor: Monitor) -> Result<Ending> {
    share("--score", f64::from(args.score))?;
    let inputs = inputs::collect(&args.images)?;
    let results = args.out.join("predictions.json");
    inputs::check_output(&inputs, &args.out, &results, args.overwrite)?;
    let detector = detector::open(&args.detector, &args.device, args.precision)?;
    if args.masks && detector.labels() == Labels::Boxes {
        bail!("--masks: this detector gives no masks; Mask R-CNN does");
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create `{}`", args.out.display()))?;
    if let Some(legend) = text::legend(detector.categories().iter().map(|class| class.name.as_str())) {
        let path = args.out.join("legend.txt");
        atomic::write(&path, legend.as_bytes())
            .with_context(|| format!("cannot write `{}`", path.display()))?;
        tracing::info!(
            "names that cannot be drawn are numbers on the pictures; `{}` lists them",
            path.display()
        );
    }

    let mut progress = Progress::default();
    let outcome = predict(detector.as_ref(), &inputs, &args, &mut progress, &mut monitor);
    // Whatever ended the loop, what was found is kept.
    report::write(&results, &progress.predictions)?;
    outcome?;
    if !progress.skipped.is_empty() {
        bail!(
            "{} of {} images could not be read: {}",
            progress.skipped.len(),
            inputs.len(),
            progress.skipped.join(", ")
        );
    }
    Ok(if progress.interrupted { Ending::Interrupted } else { Ending::Done })
}

fn predict(
    detector: &dyn Detector,
    inputs: &[Input],
    args: &PredictArgs,
    progress: &mut Progress,
    monitor: &mut Monitor,
) -> Result<()> {
    let mut done = 0;
    monitor.progress.start(inputs.len() as u64, 0, "prediction");
    for batch in batches(inputs, args.batch, detector.preprocessing().clone()) {
        if monitor.interrupt.is_requested() {
            progress.interrupted = true;
            break;
        }
        let batch = batch?;
        done += batch.len() as u64;
        let (mut images, mut samples) = (Vec::new(), Vec::new());
        for (index, opened) in batch {
            match opened {
                Ok(Opened { image, sample }) => {
                    images.push((index, image));
                    samples.push(sample);
                }
                Err(error) => skip(&inputs[index], &error, args.json, progress),
            }
        }
        if !samples.is_empty() {
            let found = detector.detect(samples)?;
            for ((index, image), found) in images.into_iter().zip(found) {
                let name = ImageName::new(index, &inputs[index], size_of(&image));
                let picture = inputs[index].picture(&args.out);
                create_parent(&picture)?;
                let options = DrawOptions { min_score: args.score, ..DrawOptions::default() };
                save_detections(&picture, &image, &found, detector.categories(), &options)?;
                if args.masks {
                    let path = inputs[index].masks(&args.out);
                    report::write_masks(&path, &found, args.score, size_of(&image))?;
                }
                let rows = name.predictions(&found, detector.categories());
                println!("{}", name.line(&rows, args.score, args.json)?);
                progress.predictions.extend(rows);
            }
        }
        monitor.progress.update(done, "");
    }
    monitor.progress.finish("");
    Ok(())
}

/// An image's place among the inputs, and the image or why it cannot be read.
type Prepared = (usize, Result<Opened, ImageError>);

/// Decodes and prepares the images on threads ahead of the detector.
fn batches(
    inputs: &[Input],
    batch_size: usize,
    preprocessing: Preprocessing,
) -> impl Iterator<Item = Result<Vec<Prepared>, DataError>> + use<> {
    let places = sampler::batches(inputs.len(), batch_size, false, None);
    let options = LoaderOptions { seed: 0, epoch: 0, threads: 0, prefetch: PREFETCH };
    let paths: Vec<_> = inputs.iter().map(|input| input.path.clone()).collect();
    let prepare = move |index: usize, _: &mut _| Ok((index, open(index, &paths[index], &preprocessing)));
    load_batches(places, options, Arc::new(prepare))
}

fn open(index: usize, path: &Path, preprocessing: &Preprocessing) -> Result<Opened, ImageError> {
    let image = decode::decode(path)?;
    let (pixels, size) = preprocessing.apply(&image);
    let source = size_of(&image);
    Ok(Opened { sample: Sample { index, pixels, size, source, target: Target::default() }, image })
}

fn size_of(image: &RgbImage) -> Size {
    Size { width: image.width(), height: image.height() }
}

/// Names an image that cannot be read, now and at the end.
fn skip(input: &Input, error: &ImageError, json: bool, progress: &mut Progress) {
    let name = report::slashed(&input.name);
    eprintln!("skipped: {error}");
    if json {
        println!("{}", serde_json::json!({ "file_name": name, "error": error.to_string() }));
    }
    progress.skipped.push(name);
}

fn create_parent(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))
}
