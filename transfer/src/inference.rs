//! Runs a detector over images; boxes come back in pixels of the original image.

use std::path::Path;
use std::sync::Arc;

use crate::data::{Category, DetectionDataset};
use burn::tensor::Device;
use rayon::prelude::*;
use scrl_core::data::error::DataError;
use scrl_core::data::loader::{LoaderOptions, load_batches};
use scrl_core::data::sampler;
use scrl_core::engine::Monitor;
use scrl_core::structures::{BoxXyxy, Size};
use scrl_core::transforms::RgbImage;
use scrl_ops::{Group, keep_weights};

use crate::data::{Batch, Mapper, Preprocessing, Sample, collate};
use crate::detection::{Detection, Detector, Target, Variant};
use crate::error::TransferError;
use crate::evaluation::{DetectionMetrics, ImageDetections, evaluate_detections};
use crate::mask::{Mask, Rle};
use crate::weights::load_detector;

/// How images are fed to the detector.
#[derive(Clone, Copy, Debug)]
pub struct EvaluateOptions {
    /// Images per batch.
    pub batch_size: usize,
    /// Threads that decode images; 0 for one a processor core.
    pub threads: usize,
    /// Batches ahead.
    pub prefetch: usize,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        Self { batch_size: 1, threads: 0, prefetch: 4 }
    }
}

/// Detections and what they are worth.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Of each image, in the order of the data.
    pub detections: Vec<ImageDetections>,
    /// What they are worth.
    pub metrics: DetectionMetrics,
}

/// Evaluates a detector's weight file, or a transfer run's, on a data set of the same classes.
///
/// `None` when the monitor asked to stop.
///
/// # Errors
/// When the detector or an image cannot be read, or the classes differ.
pub fn evaluate_weights(
    weights: &Path,
    dataset: &Arc<DetectionDataset>,
    options: EvaluateOptions,
    device: &Device,
    monitor: &mut Monitor,
) -> Result<Option<Evaluation>, TransferError> {
    let detector = load_detector(weights, device)?;
    let dataset = Arc::new(match_classes(&detector.metadata.categories, DetectionDataset::clone(dataset))?);
    let (model, preprocessing) = (&detector.model, &detector.metadata.preprocessing);
    evaluate_model(model, &dataset, preprocessing, options, device, &Group::alone(), monitor)
}

/// Evaluates a detector without autodiff (`model.valid()`); `None` when the monitor asked to stop.
///
/// # Errors
/// When an image cannot be read.
pub fn evaluate_model(
    model: &Detector,
    dataset: &Arc<DetectionDataset>,
    preprocessing: &Preprocessing,
    options: EvaluateOptions,
    device: &Device,
    group: &Group,
    monitor: &mut Monitor,
) -> Result<Option<Evaluation>, TransferError> {
    let found = detect_dataset(model, dataset, preprocessing, options, device, group, monitor)?;
    let Some(detections) = found else {
        return Ok(None);
    };
    let metrics = evaluate_detections(dataset, &detections)?;
    Ok(Some(Evaluation { detections, metrics }))
}

/// Detections in every image of a data set, in its order; `None` when the monitor asked to stop. The processes of `group` share the
/// images, and each gets the detections in all.
///
/// # Errors
/// When an image cannot be read.
pub fn detect_dataset(
    model: &Detector,
    dataset: &Arc<DetectionDataset>,
    preprocessing: &Preprocessing,
    options: EvaluateOptions,
    device: &Device,
    group: &Group,
    monitor: &mut Monitor,
) -> Result<Option<Vec<ImageDetections>>, TransferError> {
    let _weights = keep_weights();
    let detect = |samples| -> Result<_, TransferError> {
        let found = detect_batch(model, collate(samples, device));
        Ok(found.into_iter().map(|(_, detections)| detections).collect())
    };
    detect_with(detect, dataset, preprocessing, options, group, monitor)
}

/// As [`detect_dataset`], by whatever finds the objects of a batch of samples, in the samples' order and in pixels of the
/// image files.
///
/// # Errors
/// When an image cannot be read, or those of `detect`.
pub fn detect_with<E: From<DataError>>(
    mut detect: impl FnMut(Vec<Sample>) -> Result<Vec<Vec<Detection>>, E>,
    dataset: &Arc<DetectionDataset>,
    preprocessing: &Preprocessing,
    options: EvaluateOptions,
    group: &Group,
    monitor: &mut Monitor,
) -> Result<Option<Vec<ImageDetections>>, E> {
    let total = dataset.images.len();
    // Whole batches, since images of one are padded to a common size.
    let batches = sampler::batches(total, options.batch_size, false, None);
    let own = batches.into_iter().skip(group.rank()).step_by(group.size());
    let batches: Vec<_> = own.filter(|batch| !batch.is_empty()).collect();
    let loader = LoaderOptions { seed: 0, epoch: 0, threads: options.threads, prefetch: options.prefetch };
    let (source, mapper) = (Arc::clone(dataset), Mapper::test(preprocessing.clone()));
    let sample = move |index: usize, rng: &mut _| mapper.map(index, &source.images[index], rng);
    let mut results: Vec<Found> = Vec::new();
    let mut interrupted = false;
    monitor.progress.start(total as u64, 0, "evaluation");
    for samples in load_batches(batches, loader, Arc::new(sample)) {
        if monitor.interrupt.is_requested() {
            interrupted = true;
            break;
        }
        let samples = samples?;
        let indices: Vec<usize> = samples.iter().map(|sample| sample.index).collect();
        results.extend(indices.into_iter().zip(detect(samples)?));
        monitor.progress.update((results.len() * group.size()).min(total) as u64, "");
    }
    if group.any(interrupted) {
        monitor.progress.finish("interrupted");
        return Ok(None);
    }
    monitor.progress.finish("");
    let of_image = |(index, detections): Found| {
        let image_id = dataset.images[index].id;
        ImageDetections { image_id, detections }
    };
    Ok(Some(gathered(results, group).into_iter().map(of_image).collect()))
}

/// The index of an image and what was found in it.
type Found = (usize, Vec<Detection>);

/// What all processes have found, in the order of the images.
fn gathered(own: Vec<Found>, group: &Group) -> Vec<Found> {
    if group.is_alone() {
        return own;
    }
    let mut bytes = Vec::new();
    for (index, detections) in &own {
        bytes.extend([*index as u64, detections.len() as u64].map(u64::to_le_bytes).concat());
        for Detection { bbox, class, score, mask } in detections {
            bytes.extend((*class as u64).to_le_bytes());
            bytes.extend(bbox.to_array().iter().chain([score]).flat_map(|value| value.to_le_bytes()));
            let mask = mask.as_ref().and_then(Mask::pixels);
            let text = mask.map(Rle::compressed).unwrap_or_default();
            let Size { width, height } = mask.map_or(Size { width: 0, height: 0 }, Rle::size);
            bytes.extend(
                [text.len() as u64, u64::from(width), u64::from(height)].map(u64::to_le_bytes).concat(),
            );
            bytes.extend(text.as_bytes());
        }
    }
    let all = group.all_gather(&bytes).concat();
    let mut rest = all.as_slice();
    let mut found = Vec::new();
    while let Some(index) = integer(&mut rest) {
        let count = integer(&mut rest).unwrap_or(0);
        found.push((index, (0..count).filter_map(|_| detection(&mut rest)).collect()));
    }
    found.sort_by_key(|(index, _)| *index);
    found
}

fn integer(bytes: &mut &[u8]) -> Option<usize> {
    let (value, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*value) as usize)
}

fn detection(bytes: &mut &[u8]) -> Option<Detection> {
    let class = integer(bytes)?;
    let mut number = || {
        let (value, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(f32::from_le_bytes(*value))
    };
    let [x1, y1, x2, y2, score] = [number()?, number()?, number()?, number()?, number()?];
    let length = integer(bytes)?;
    let (width, height) = (integer(bytes)? as u32, integer(bytes)? as u32);
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    let rle = || Rle::from_compressed(std::str::from_utf8(text).ok()?, Size { width, height }).ok();
    let mask = if length > 0 { Some(Mask::Pixels(rle()?)) } else { None };
    Some(Detection { bbox: BoxXyxy::new(x1, y1, x2, y2), class, score, mask })
}

/// Detections in one image, best first.
pub fn detect_image(
    model: &Detector,
    image: &RgbImage,
    preprocessing: &Preprocessing,
    device: &Device,
) -> Vec<Detection> {
    let source = Size { width: image.width(), height: image.height() };
    let (pixels, size) = preprocessing.apply(image);
    let sample = Sample { index: 0, pixels, size, source, target: Target::default() };
    let found = detect_batch(model, collate(vec![sample], device));
    found.into_iter().next().map(|(_, detections)| detections).unwrap_or_default()
}

/// Data set index and detections, in pixels of the image file, of each image of a batch; `model` is one without autodiff.
pub fn detect_batch(model: &Detector, batch: Batch) -> Vec<(usize, Vec<Detection>)> {
    let Batch { images, sizes, indices, sources, .. } = batch;
    let found = model.detect(images, &sizes);
    let places = sizes.into_iter().zip(sources).zip(indices);
    let variant = model.config().variant;
    let restore = |(found, ((size, source), index))| (index, to_source(found, size, source, variant));
    found.into_iter().zip(places).map(restore).collect()
}

/// From pixels of the network's input to pixels of the image file, limited to it; masks from cells to pixels, as `variant` does.
pub fn to_source(detections: Vec<Detection>, size: Size, source: Size, variant: Variant) -> Vec<Detection> {
    let (width, height) = (source.width as f32, source.height as f32);
    let (x, y) = (width / size.width as f32, height / size.height as f32);
    let restore = |found: Detection| {
        let bbox = found.bbox.scale(x, y).clip(width, height);
        let mask = found.mask.map(|mask| match mask {
            Mask::Cells(cells) => Mask::Pixels(cells.paste(&bbox, source, variant)),
            pixels @ Mask::Pixels(_) => pixels,
        });
        Detection { bbox, mask, ..found }
    };
    let restored = detections.into_par_iter().map(restore);
    restored.filter(|found| found.bbox.area() > 0.0).collect()
}

/// The data set with the detector's classes, matched by name; classes that the data set lacks have no object in it and
/// count in no mean.
///
/// # Errors
/// When the data set has a class that the detector does not know.
pub fn match_classes(
    detector: &[Category],
    dataset: DetectionDataset,
) -> Result<DetectionDataset, TransferError> {
    let data = dataset.name.clone();
    let names = |list: &[Category]| list.iter().map(|class| class.name.clone()).collect::<Vec<_>>();
    let known = names(&dataset.categories);
    let absent: Vec<String> = names(detector).into_iter().filter(|name| !known.contains(name)).collect();
    let matched = dataset.with_classes(detector).map_err(|unknown| TransferError::Classes {
        data: data.clone(),
        unknown: unknown.join(", "),
        known: names(detector).join(", "),
    })?;
    if !absent.is_empty() {
        tracing::warn!(
            data,
            "the data lack {} classes of the detector ({}); classes were matched by name, and these count in no mean",
            absent.len(),
            absent.join(", ")
        );
    }
    Ok(matched)
}

#[cfg(test)]
mod tests {
    use scrl_core::structures::BoxXyxy;

    use super::*;

    #[test]
    fn boxes_return_to_the_original_image_and_inside_it() {
        let found = |bbox| Detection { bbox, class: 2, score: 0.5, mask: None };
        let (size, source) = (Size { width: 200, height: 50 }, Size { width: 100, height: 100 });
        let restored = to_source(
            vec![found(BoxXyxy::new(20.0, 10.0, 210.0, 40.0)), found(BoxXyxy::new(201.0, 0.0, 210.0, 9.0))],
            size,
            source,
            Variant::Detectron2,
        );
        assert_eq!(restored, [found(BoxXyxy::new(10.0, 20.0, 100.0, 80.0))]);
    }

    #[test]
    fn a_data_set_of_other_classes_is_refused_by_their_names() {
        let data = |names: &[&str]| DetectionDataset {
            name: "val".into(),
            images: Vec::new(),
            categories: (1..).zip(names).map(|(id, name)| Category { id, name: name.to_string() }).collect(),
            dropped: 0,
        };
        let detector = data(&["cat", "dog"]).categories;
        let matched = match_classes(&detector, data(&["dog"])).unwrap();
        let ids: Vec<_> = matched.categories.iter().map(|c| (c.id, c.name.as_str())).collect();
        assert_eq!(ids, [(2, "cat"), (1, "dog")]);
        let message = match_classes(&detector, data(&["dog", "cow"])).unwrap_err().to_string();
        assert!(message.contains("`val` has the classes cow") && message.contains("cat, dog"), "{message}");
    }
}
