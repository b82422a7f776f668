//! Scores, deltas and regions for the filters of a detector, many of them beside the filters' limits.

use scrl_core::random::{Rng, RngExt, standard_normal, stream};
use scrl_core::structures::{BoxXyxy, Size};
use scrl_transfer::detection::{AnchorGenerator, Anchors, BoxCoder, Detection, DetectorConfig, Roi};

use super::filters::{detect, propose, retinanet_of_all};
use super::subgraph::{Probe, Values, level_probes};
use crate::detector::{FasterRcnnNames, PartNames, RetinaNetNames};

/// Sides of the images of generated scores, in pixels: a multiple of the largest stride.
const SIDE: usize = 384;
/// Sides of an image that limits no box of generated scores. Filters read an image's size from the numbers that they are given,
/// so the batch need not be as large.
pub(super) const BOUNDLESS: u32 = 4096;
/// Regions of an image of generated scores.
const ROIS: usize = 400;
/// Share of the generated deltas that are far out, where the size of a box is limited.
const OUTLIERS: f64 = 0.06;
/// Share of the anchors whose deltas all give one box, where suppression shall leave few.
const COLLAPSED: f64 = 0.85;
/// How much better the anchors of one level score than all others.
const LEAD: f32 = 20.0;

/// Regions of generated scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Regions {
    /// Half of them are of one class, the others of any.
    Mixed,
    /// All are of one class, whose own limit is reached.
    OfOneClass,
    /// So few, and so many of their scores beside the threshold, that it decides.
    AtTheThreshold,
}

/// Each level that leads with the share of its boxes that are one: none, so that the number of boxes is limited after
/// suppression, and most, so that it is before.
pub(super) fn leads(levels: usize) -> impl Iterator<Item = (usize, f64)> {
    (0..levels).flat_map(|level| [(level, 0.0), (level, COLLAPSED)])
}

/// An input of a filter with its shape.
pub(super) type Input = (Probe, Vec<usize>, Values);

/// Inputs of a filter and what the model's filter makes of them.
pub(super) struct Generated<T> {
    pub inputs: Vec<Input>,
    /// Of each image.
    pub expected: Vec<T>,
}

/// Makes scores, deltas and boxes.
pub(super) struct Generator {
    rng: Rng,
    sizes: Vec<Size>,
}

impl Generator {
    pub fn new(seed: u64, with_sizes: bool) -> Self {
        let size = |width, height| Size { width, height };
        let sizes = match with_sizes {
            true => vec![size(301, 277), size(BOUNDLESS, BOUNDLESS)],
            false => vec![size(SIDE as u32, SIDE as u32); 2],
        };
        Self { rng: stream(seed, &[u64::from_be_bytes(*b"onnxpart")]), sizes }
    }

    fn normal(&mut self, count: usize, deviation: f32) -> Vec<f32> {
        (0..count).map(|_| deviation * standard_normal(&mut self.rng)).collect()
    }

    /// Deltas that move and resize boxes a little, and some of them beyond all limits.
    fn deltas(&mut self, count: usize, weights: [f32; 4]) -> Vec<f32> {
        let value = |index: usize| {
            let deviation = if self.rng.random_bool(OUTLIERS) { 8.0 } else { 0.2 };
            weights[index % 4] * deviation * standard_normal(&mut self.rng)
        };
        (0..4 * count).map(value).collect()
    }

    /// Logits of regions, `[rois, K + 1]`.
    fn logits(&mut self, rois: usize, config: &DetectorConfig, regions: Regions) -> Vec<f32> {
        let columns = config.num_classes + 1;
        let threshold = f64::from(config.test.score_threshold);
        let deviation: f32 = if regions == Regions::AtTheThreshold { 1.0 } else { 2.0 };
        let mut logits = self.normal(rois * columns, deviation);
        // The logit that gives one class a probability among the others, whose exponentials have the mean exp(deviation² / 2).
        let others = (columns as f64).ln() + f64::from(deviation * deviation) / 2.0;
        let of_probability = |p: f64| ((p / (1.0 - p)).ln() + others) as f32;
        let likely = of_probability(threshold.clamp(0.5, 1.0 - 1e-6));
        let background = (1.0 - config.num_classes as f64 * threshold).clamp(1e-6, 1.0 - 1e-6);
        for (index, row) in logits.chunks_exact_mut(columns).enumerate() {
            match regions {
                Regions::Mixed if index % 2 == 0 => row[1] += likely,
                Regions::Mixed => {}
                Regions::OfOneClass => row[1] += likely,
                Regions::AtTheThreshold if threshold > 0.5 => row[1] += likely,
                Regions::AtTheThreshold => row[0] += of_probability(background),
            }
        }
        logits
    }

    /// Deltas of the anchors of all images; a share of them leads to one box in the middle.
    fn anchor_deltas(&mut self, anchors: &Anchors, collapsed: f64) -> Vec<f32> {
        let images = self.sizes.len();
        let mut deltas = self.deltas(images * anchors.boxes.len(), [1.0; 4]);
        let side = SIDE as f32;
        let target = BoxXyxy::new(0.3 * side, 0.4 * side, 0.6 * side, 0.7 * side);
        for (row, anchor) in deltas.chunks_exact_mut(4).zip(anchors.boxes.iter().cycle()) {
            if self.rng.random_bool(collapsed) {
                row.copy_from_slice(&BoxCoder::UNIT.encode(anchor, &target));
            }
        }
        deltas
    }

    /// What every filter may need of the images.
    fn images(&self) -> Vec<Input> {
        let count = self.sizes.len();
        let sizes =
            self.sizes.iter().flat_map(|size| [i64::from(size.height), i64::from(size.width)]).collect();
        vec![
            (
                Probe::float("images"),
                vec![count, 3, SIDE, SIDE],
                Values::Float(vec![0.0; count * 3 * SIDE * SIDE]),
            ),
            (Probe::int("image_sizes"), vec![count, 2], Values::Int(sizes)),
        ]
    }

    /// Empty maps of the pyramid's sizes, and their sides.
    fn maps(&self, names: &PartNames, first: usize, half: bool) -> (Vec<Input>, Vec<[usize; 2]>) {
        let count = self.sizes.len();
        let grids: Vec<[usize; 2]> = (0..5).map(|level| [SIDE.div_ceil(first << level); 2]).collect();
        let map = |(probe, &[height, width]): (Probe, &[usize; 2])| {
            (probe, vec![count, 1, height, width], Values::Float(vec![0.0; count * height * width]))
        };
        (level_probes(names, half).into_iter().zip(&grids).map(map).collect(), grids)
    }

    /// Splits values of all images by level, as the file has them.
    fn levels(
        values: &[f32],
        names: &[String],
        anchors: &Anchors,
        images: usize,
        columns: usize,
        shape: impl Fn(usize) -> Vec<usize>,
    ) -> Vec<Input> {
        let count = anchors.boxes.len() * columns;
        let level = |(name, range): (&String, &std::ops::Range<usize>)| {
            let of_image = |image: usize| {
                &values[image * count + range.start * columns..image * count + range.end * columns]
            };
            let own = (0..images).flat_map(of_image).copied().collect();
            (Probe::float(name), shape(range.len()), Values::Float(own))
        };
        names.iter().zip(&anchors.levels).map(level).collect()
    }

    pub fn proposals(
        &mut self,
        config: &DetectorConfig,
        names: &PartNames,
        heads: &FasterRcnnNames,
        half: bool,
        leading: usize,
        collapsed: f64,
    ) -> Generated<Vec<BoxXyxy>> {
        let images = self.sizes.len();
        let (maps, grids) = self.maps(names, 4, half);
        let anchors = AnchorGenerator::new(config).generate([SIDE, SIDE], &grids);
        let count = images * anchors.boxes.len();
        let mut objectness = self.normal(count, 2.0);
        for image in objectness.chunks_exact_mut(anchors.boxes.len()) {
            image[anchors.levels[leading].clone()].iter_mut().for_each(|logit| *logit += LEAD);
        }
        let deltas = self.anchor_deltas(&anchors, collapsed);
        let mut inputs = [self.images(), maps].concat();
        inputs.extend(Self::levels(&objectness, &heads.objectness, &anchors, images, 1, |rows| {
            vec![images, rows]
        }));
        inputs
            .extend(Self::levels(&deltas, &heads.deltas, &anchors, images, 4, |rows| vec![images, rows, 4]));
        let expected = propose(&objectness, &deltas, &anchors, &self.sizes, config);
        Generated { inputs, expected }
    }

    pub fn detections(
        &mut self,
        config: &DetectorConfig,
        names: &FasterRcnnNames,
        regions: Regions,
    ) -> Generated<Vec<Detection>> {
        let (images, columns) = (self.sizes.len(), config.num_classes + 1);
        let rows = match regions {
            Regions::AtTheThreshold => {
                (config.test.detections_per_image / config.num_classes.max(1)).clamp(1, ROIS)
            }
            _ => ROIS,
        };
        let mut rois = Vec::new();
        for (image, size) in self.sizes.clone().into_iter().enumerate() {
            for _ in 0..rows {
                // Close enough to overlap.
                let mut side = |length: u32| {
                    let length = length.min(SIDE as u32);
                    let start = self.rng.random_range(0.0..length as f32 - 4.0);
                    let end = start + self.rng.random_range(4.0..90.0f32);
                    (start, end.min(length as f32))
                };
                let ((x1, x2), (y1, y2)) = (side(size.width), side(size.height));
                rois.push(Roi { image, bbox: BoxXyxy::new(x1, y1, x2, y2) });
            }
        }
        let logits = self.logits(rois.len(), config, regions);
        let deltas = self.deltas(rois.len() * columns, config.roi_heads.box_weights);
        let places =
            (0..images).flat_map(|image| (0..rows).flat_map(move |row| [image as i64, row as i64])).collect();
        let boxes: Vec<f32> = rois.iter().flat_map(|roi| roi.bbox.to_array()).collect();
        let mut inputs = self.images();
        inputs.extend([
            (Probe::float(&names.class_logits), vec![rois.len(), columns], Values::Float(logits.clone())),
            (Probe::float(&names.box_deltas), vec![rois.len(), 4 * columns], Values::Float(deltas.clone())),
            (Probe::float(&names.rois), vec![rois.len(), 4], Values::Float(boxes)),
            (
                Probe::float(&names.proposal_scores),
                vec![images, rows],
                Values::Float(vec![0.0; images * rows]),
            ),
            (Probe::int(&names.roi_places), vec![rois.len(), 2], Values::Int(places)),
        ]);
        let expected = detect(logits, &deltas, &rois, &self.sizes, config);
        Generated { inputs, expected }
    }

    pub fn retinanet(
        &mut self,
        config: &DetectorConfig,
        names: &PartNames,
        heads: &RetinaNetNames,
        half: bool,
        leading: usize,
        collapsed: f64,
    ) -> Generated<Vec<Detection>> {
        let images = self.sizes.len();
        let (maps, grids) = self.maps(names, 8, half);
        let anchors = AnchorGenerator::new(config).generate([SIDE, SIDE], &grids);
        let count = images * anchors.boxes.len();
        let classes = config.num_classes;
        let threshold = f64::from(config.test.score_threshold).clamp(1e-6, 1.0 - 1e-6);
        let level = (threshold / (1.0 - threshold)).ln() as f32;
        let mut logits = self.normal(count * classes, 1.5);
        for image in logits.chunks_exact_mut(anchors.boxes.len() * classes) {
            let range = anchors.levels[leading].clone();
            // Above the threshold nearly all; those of the other levels about as often above as below.
            image[range.start * classes..range.end * classes].iter_mut().for_each(|logit| *logit += 4.0);
        }
        let probabilities: Vec<f32> =
            logits.into_iter().map(|logit| 1.0 / (1.0 + (-logit - level).exp())).collect();
        let deltas = self.anchor_deltas(&anchors, collapsed);
        let mut inputs = [self.images(), maps].concat();
        inputs.extend(Self::levels(
            &probabilities,
            &heads.probabilities,
            &anchors,
            images,
            classes,
            |rows| vec![images, rows * classes],
        ));
        inputs
            .extend(Self::levels(&deltas, &heads.deltas, &anchors, images, 4, |rows| vec![images, rows, 4]));
        let expected = retinanet_of_all(&probabilities, &deltas, &anchors, &self.sizes, config);
        Generated { inputs, expected }
    }
}
