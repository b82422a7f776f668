//! The parts of an exported detector, each compared with the model's on the same numbers.
//!
//! The file runs with the values between its parts as further outputs. The maps are compared with the model's own. From there on
//! the model computes with the values of ONNX Runtime: its heads on ONNX's maps, its filters on ONNX's scores and deltas. So no
//! part is blamed for another, no rounding adds up, and every decision is taken from equal numbers on both sides.
//!
//! What filters the scores is also cut out of the file and given generated scores and deltas, many of them beside its limits. So
//! each limit is compared, whatever the network finds in the images of the validation.

use std::path::Path;

use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{Device, Tensor, TensorData};
use onnx_ir::ModelProto;
use scrl_core::random::{Rng, RngExt, standard_normal, stream};
use scrl_core::structures::{BoxXyxy, Size};
use scrl_transfer::detection::{
    AnchorGenerator, Anchors, BackboneWithFpn, BoxCoder, BoxPredictions, Detection, Detector, DetectorConfig,
    FasterRcnn, Pooler, ProposalFilter, RetinaNet, Roi, detections as filter_detections,
    retinanet_detections,
};
use serde::Serialize;

use super::matching::{Matches, compare, unmatched_boxes};
use super::subgraph::{self, PartSession, Probe, Values, part, shape, values, with_outputs};
use super::{Case, DetectorTolerance};
use crate::ExportError;
use crate::backbone::OutputTensor;
use crate::detector::{
    self, DetectorInfo, DetectorOptions, FasterRcnnNames, HeadNames, NO_SCORE, PartNames, RetinaNetNames,
};
use crate::detector_runtime::{bbox, detections, run};

/// Sides of the images of generated scores, in pixels: a multiple of the largest stride.
const SIDE: usize = 384;
/// Sides of an image that limits no box of generated scores. Filters read an image's size from the numbers that they are given,
/// so the batch need not be as large.
const BOUNDLESS: u32 = 4096;
/// Regions of an image of generated scores.
const ROIS: usize = 400;
/// Share of the generated deltas that are far out, where the size of a box is limited.
const OUTLIERS: f64 = 0.06;
/// Share of the anchors whose deltas all give one box, where suppression shall leave few.
const COLLAPSED: f64 = 0.85;
/// How much better the anchors of one level score than all others.
const LEAD: f32 = 20.0;

/// A part's result on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// Name of the part.
    pub name: String,
    /// Largest absolute difference of a tensor; of boxes the number without a partner.
    pub error: f64,
    /// Its bound.
    pub allowed: f64,
}

impl Stage {
    /// Whether the bound is kept.
    pub fn passed(&self) -> bool {
        self.error <= self.allowed
    }

    /// How much of its bound the part uses.
    fn share(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { self.error / self.allowed }
    }
}

/// The worst result of each part, in the order of the computation.
pub(super) fn merge(all: &mut Vec<Stage>, stages: Vec<Stage>) {
    for stage in stages {
        match all.iter_mut().find(|known| known.name == stage.name) {
            Some(known) if stage.share() > known.share() || stage.share().is_nan() => *known = stage,
            Some(_) => {}
            None => all.push(stage),
        }
    }
}

/// What the parts of a file made of a case.
pub(super) struct Compared {
    pub stages: Vec<Stage>,
    /// The detections that the model's filter makes of ONNX Runtime's scores and deltas.
    pub expected: Vec<Vec<Detection>>,
    /// Those of ONNX Runtime.
    pub found: Vec<Vec<Detection>>,
}

/// An exported file in parts.
pub(super) struct Parts {
    names: PartNames,
    options: DetectorOptions,
    whole: PartSession,
    filters: Vec<PartSession>,
}

impl Parts {
    /// Takes the file apart.
    ///
    /// # Errors
    /// When the file cannot be read, or ONNX Runtime refuses a part of it.
    pub fn open(
        onnx: &Path,
        model: &Detector,
        info: &DetectorInfo,
        options: &DetectorOptions,
    ) -> Result<Self, ExportError> {
        let names = detector::part_names(model, info, options)?;
        let file = subgraph::read(onnx)?;
        let whole = PartSession::open(&with_outputs(file.clone(), &probes(&names, options.half)))?;
        let filters = filter_graphs(file, &names, options.half);
        let filters = filters.iter().map(PartSession::open).collect::<Result<_, _>>()?;
        Ok(Self { names, options: *options, whole, filters })
    }

    /// Every part on a case.
    ///
    /// # Errors
    /// When ONNX Runtime fails.
    pub fn compare(
        &mut self,
        model: &Detector,
        case: &Case,
        tolerance: &DetectorTolerance,
    ) -> ort::Result<Compared> {
        let outputs = run(self.whole.session(), &case.batch, self.options.image_sizes)?;
        let mut file =
            FileRun { names: &self.names, half: self.options.half, outputs, tolerance, stages: Vec::new() };
        let images = case.normalized(model.backbone());
        let levels = file.maps(model.backbone(), images.clone());
        let [_, _, height, width] = images.dims();
        let sizes = &case.batch.sizes;
        let expected = match (model, &self.names.heads) {
            (Detector::FasterRcnn(model), HeadNames::FasterRcnn(names)) => {
                file.faster_rcnn(model, names, &levels, [height, width], sizes)
            }
            (Detector::RetinaNet(model), HeadNames::RetinaNet(names)) => {
                file.retinanet(model, names, &levels, [height, width], sizes)
            }
            _ => unreachable!("the names were made from this model"),
        };
        Ok(Compared { expected, found: detections(&file.outputs), stages: file.stages })
    }

    /// The filters on generated scores and deltas.
    ///
    /// # Errors
    /// When ONNX Runtime fails.
    pub fn compare_generated(
        &mut self,
        model: &Detector,
        seed: u64,
        tolerance: &DetectorTolerance,
    ) -> ort::Result<Vec<Stage>> {
        let half = self.options.half;
        let mut generator = Generator::new(seed, self.options.image_sizes);
        match (model, &self.names.heads) {
            (Detector::FasterRcnn(model), HeadNames::FasterRcnn(names)) => {
                let (mut lost, mut count) = (0, 0);
                for (level, collapsed) in leads(names.objectness.len()) {
                    let proposals =
                        generator.proposals(&model.config, &self.names, names, half, level, collapsed);
                    let outputs = self.filters[0].run(&proposals.inputs)?;
                    let found = proposal_boxes(&outputs, names, proposals.expected.len());
                    for (expected, found) in proposals.expected.iter().zip(found) {
                        lost += unmatched_boxes(expected, &found, tolerance.pixels(BOUNDLESS as usize));
                        count += expected.len();
                    }
                }
                let (mut expected, mut found) = (Vec::new(), Vec::new());
                for regions in [Regions::Mixed, Regions::OfOneClass, Regions::AtTheThreshold] {
                    let rois = generator.detections(&model.config, names, regions);
                    let outputs = self.filters[1].run(&rois.inputs)?;
                    expected.extend(rois.expected);
                    found.extend(detections(&outputs));
                }
                Ok(vec![
                    decisions("generated proposals", lost, count),
                    judged("generated detections", &expected, &found, &model.config, tolerance),
                ])
            }
            (Detector::RetinaNet(model), HeadNames::RetinaNet(names)) => {
                let (mut expected, mut found) = (Vec::new(), Vec::new());
                for (level, collapsed) in leads(names.probabilities.len()) {
                    let scores =
                        generator.retinanet(&model.config, &self.names, names, half, level, collapsed);
                    let outputs = self.filters[0].run(&scores.inputs)?;
                    expected.extend(scores.expected);
                    found.extend(detections(&outputs));
                }
                Ok(vec![judged("generated detections", &expected, &found, &model.config, tolerance)])
            }
            _ => unreachable!("the names were made from this model"),
        }
    }
}

/// The values that are compared.
fn probes(names: &PartNames, half: bool) -> Vec<Probe> {
    let maps = names.maps.iter().map(|(_, name)| Probe::map(name, half));
    let heads: Vec<Probe> = match &names.heads {
        HeadNames::FasterRcnn(names) => {
            let of_levels = names.objectness.iter().chain(&names.deltas);
            let others = [
                &names.proposals,
                &names.proposal_scores,
                &names.rois,
                &names.class_logits,
                &names.box_deltas,
            ];
            let floats = of_levels.chain(others).map(|name| Probe::float(name));
            floats.chain([Probe::int(&names.roi_places)]).collect()
        }
        HeadNames::RetinaNet(names) => {
            let of_levels = names.logits.iter().chain(&names.probabilities).chain(&names.deltas);
            of_levels.map(|name| Probe::float(name)).collect()
        }
    };
    maps.chain(heads).collect()
}

/// The nodes that filter: proposals and detections, or RetinaNet's detections.
fn filter_graphs(file: ModelProto, names: &PartNames, half: bool) -> Vec<ModelProto> {
    let floats = |names: &[String]| names.iter().map(|name| Probe::float(name)).collect::<Vec<_>>();
    let maps = level_probes(names, half);
    match &names.heads {
        HeadNames::FasterRcnn(names) => {
            let scores = [floats(&names.objectness), floats(&names.deltas), maps].concat();
            let proposals = [Probe::float(&names.proposals), Probe::float(&names.proposal_scores)];
            vec![part(file.clone(), &scores, &proposals), part(file, &roi_probes(names), &[])]
        }
        HeadNames::RetinaNet(names) => {
            let scores = [floats(&names.probabilities), floats(&names.deltas), maps].concat();
            vec![part(file, &scores, &[])]
        }
    }
}

/// The levels of the pyramid; the maps of the backbone come before them.
fn level_probes(names: &PartNames, half: bool) -> Vec<Probe> {
    names.maps[4..].iter().map(|(_, name)| Probe::map(name, half)).collect()
}

fn roi_probes(names: &FasterRcnnNames) -> Vec<Probe> {
    let floats = [&names.class_logits, &names.box_deltas, &names.rois, &names.proposal_scores];
    floats.map(|name| Probe::float(name)).into_iter().chain([Probe::int(&names.roi_places)]).collect()
}

/// One run of a file, and what was found out about it.
struct FileRun<'a> {
    names: &'a PartNames,
    half: bool,
    outputs: Vec<OutputTensor>,
    tolerance: &'a DetectorTolerance,
    stages: Vec<Stage>,
}

impl FileRun<'_> {
    /// Compares the maps of backbone and pyramid; gives those of ONNX Runtime.
    fn maps(&mut self, model: &BackboneWithFpn, images: Tensor<4>) -> Vec<Tensor<4>> {
        let device = images.device();
        let stages = model.body.forward(images);
        let levels = model.fpn.forward(&stages);
        let expected = stages.iter().map(|(_, map)| map.clone()).chain(levels.iter().cloned());
        let mut found = Vec::new();
        for ((name, value), map) in self.names.maps.iter().zip(expected) {
            let probe = Probe::map(value, self.half);
            let dims = map.dims();
            self.tensor(name, host(map), values(&self.outputs, &probe).to_vec());
            // Another shape has failed already; the model's own map is as good as any then.
            let own = values(&self.outputs, &probe).to_vec();
            let usable = own.len() == dims.iter().product::<usize>();
            found.push(match usable {
                true => Tensor::from_data(TensorData::new(own, dims), &device),
                false => Tensor::zeros(dims, &device),
            });
        }
        found.split_off(4)
    }

    fn tensor(&mut self, name: &str, expected: Vec<f32>, found: Vec<f32>) {
        let largest = expected.iter().map(|value| f64::from(value.abs())).fold(0.0, f64::max);
        let difference = |(&a, &b): (&f32, &f32)| f64::from(a) - f64::from(b);
        let error = match expected.len() == found.len() {
            true => expected
                .iter()
                .zip(&found)
                .map(difference)
                .fold(0.0, |a: f64, b: f64| if b.is_nan() { f64::INFINITY } else { a.max(b.abs()) }),
            false => f64::INFINITY,
        };
        let allowed = self.tolerance.tensors * largest;
        self.stages.push(Stage { name: name.to_string(), error, allowed });
    }

    /// The values of all levels, image after image, each image's levels one after another.
    fn by_image(&self, levels: &[String], images: usize) -> Vec<f32> {
        let levels: Vec<&[f32]> =
            levels.iter().map(|name| values(&self.outputs, &Probe::float(name))).collect();
        let of_image = |image: usize| {
            levels.iter().flat_map(move |level| {
                let count = level.len() / images.max(1);
                &level[image * count..(image + 1) * count]
            })
        };
        (0..images).flat_map(of_image).copied().collect()
    }

    fn faster_rcnn(
        &mut self,
        model: &FasterRcnn,
        names: &FasterRcnnNames,
        levels: &[Tensor<4>],
        image: [usize; 2],
        sizes: &[Size],
    ) -> Vec<Vec<Detection>> {
        let config = &model.config;
        let rpn = model.rpn.forward(levels);
        let anchors = AnchorGenerator::new(config).generate(image, &rpn.grids);
        let objectness = self.by_image(&names.objectness, sizes.len());
        let deltas = self.by_image(&names.deltas, sizes.len());
        self.tensor("objectness", host(rpn.objectness), objectness.clone());
        self.tensor("deltas", host(rpn.deltas), deltas.clone());
        let expected = propose(&objectness, &deltas, &anchors, sizes, config);
        let found = proposal_boxes(&self.outputs, names, sizes.len());
        let pixels = self.tolerance.pixels(image[0].max(image[1]));
        let lost = expected
            .iter()
            .zip(&found)
            .map(|(expected, found)| unmatched_boxes(expected, found, pixels))
            .sum();
        self.stages.push(decisions("proposals", lost, expected.iter().map(Vec::len).sum()));

        let rois = rois(&self.outputs, names);
        let logits = values(&self.outputs, &Probe::float(&names.class_logits)).to_vec();
        let box_deltas = values(&self.outputs, &Probe::float(&names.box_deltas)).to_vec();
        if rois.is_empty() {
            return vec![Vec::new(); sizes.len()];
        }
        let BoxPredictions { logits: own_logits, deltas: own_deltas } =
            model.roi_heads.predict(levels, &rois, Pooler::new(config));
        self.tensor("class_logits", host(own_logits), logits.clone());
        self.tensor("box_deltas", host(own_deltas), box_deltas.clone());
        detect(logits, &box_deltas, &rois, sizes, config)
    }

    fn retinanet(
        &mut self,
        model: &RetinaNet,
        names: &RetinaNetNames,
        levels: &[Tensor<4>],
        image: [usize; 2],
        sizes: &[Size],
    ) -> Vec<Vec<Detection>> {
        let predictions = model.head.forward(levels);
        let anchors = AnchorGenerator::new(&model.config).generate(image, &predictions.grids);
        let logits = self.by_image(&names.logits, sizes.len());
        let probabilities = self.by_image(&names.probabilities, sizes.len());
        let deltas = self.by_image(&names.deltas, sizes.len());
        self.tensor("logits", host(predictions.logits), logits.clone());
        self.tensor("deltas", host(predictions.deltas), deltas.clone());
        let expected =
            sigmoid(Tensor::<1>::from_data(TensorData::new(logits.clone(), [logits.len()]), &device()));
        self.tensor("probabilities", host(expected), probabilities.clone());
        retinanet_of_all(&probabilities, &deltas, &anchors, sizes, &model.config)
    }
}

/// Where small tensors of the host are computed with.
fn device() -> Device {
    Device::default()
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// Boxes that one side lacks; none may be.
fn decisions(name: &str, lost: usize, count: usize) -> Stage {
    // Without a box nothing has been compared.
    let error = if count == 0 { f64::INFINITY } else { lost as f64 };
    Stage { name: name.to_string(), error, allowed: 0.0 }
}

/// Detections that one side lacks and no tie explains; none may be, and ties must be rare.
fn judged(
    name: &str,
    expected: &[Vec<Detection>],
    found: &[Vec<Detection>],
    config: &DetectorConfig,
    tolerance: &DetectorTolerance,
) -> Stage {
    let mut matches = Matches::default();
    for (expected, found) in expected.iter().zip(found) {
        matches.merge(&compare(expected, found, config, tolerance, tolerance.pixels(BOUNDLESS as usize)));
    }
    let lost = if matches.ties * 100 > matches.matched {
        matches.ties + matches.unexplained
    } else {
        matches.unexplained
    };
    decisions(name, lost, expected.iter().map(Vec::len).sum())
}

/// The model's proposals from scores and deltas of all images.
fn propose(
    objectness: &[f32],
    deltas: &[f32],
    anchors: &Anchors,
    sizes: &[Size],
    config: &DetectorConfig,
) -> Vec<Vec<BoxXyxy>> {
    let count = anchors.boxes.len();
    let (deltas, _) = deltas.as_chunks::<4>();
    let filter = ProposalFilter::test(config);
    let of_image = |(image, &size): (usize, &Size)| {
        let range = image * count..(image + 1) * count;
        match (objectness.get(range.clone()), deltas.get(range)) {
            (Some(objectness), Some(deltas)) => filter.select(objectness, deltas, anchors, size),
            // Tensors of another shape fail their own comparison.
            _ => Vec::new(),
        }
    };
    sizes.iter().enumerate().map(of_image).collect()
}

/// The model's detections from the logits and deltas of all regions.
fn detect(
    logits: Vec<f32>,
    deltas: &[f32],
    rois: &[Roi],
    sizes: &[Size],
    config: &DetectorConfig,
) -> Vec<Vec<Detection>> {
    let columns = config.num_classes + 1;
    let (deltas, _) = deltas.as_chunks::<4>();
    if logits.len() != rois.len() * columns || deltas.len() != rois.len() * columns {
        return vec![Vec::new(); sizes.len()];
    }
    let logits = Tensor::<2>::from_data(TensorData::new(logits, [rois.len(), columns]), &device());
    filter_detections(&host(softmax(logits, 1)), deltas, rois, sizes, config)
}

fn retinanet_of_all(
    probabilities: &[f32],
    deltas: &[f32],
    anchors: &Anchors,
    sizes: &[Size],
    config: &DetectorConfig,
) -> Vec<Vec<Detection>> {
    let (count, classes) = (anchors.boxes.len(), config.num_classes);
    let (deltas, _) = deltas.as_chunks::<4>();
    let of_image = |(image, &size): (usize, &Size)| {
        let scores = probabilities.get(image * count * classes..(image + 1) * count * classes);
        match (scores, deltas.get(image * count..(image + 1) * count)) {
            (Some(scores), Some(deltas)) => retinanet_detections(scores, deltas, anchors, size, config),
            _ => Vec::new(),
        }
    };
    sizes.iter().enumerate().map(of_image).collect()
}

/// The proposals of each image.
fn proposal_boxes(outputs: &[OutputTensor], names: &FasterRcnnNames, images: usize) -> Vec<Vec<BoxXyxy>> {
    let boxes = values(outputs, &Probe::float(&names.proposals));
    let scores = values(outputs, &Probe::float(&names.proposal_scores));
    let rows = shape(outputs, &Probe::float(&names.proposal_scores)).get(1).copied().unwrap_or(0);
    let of_image = |image: usize| {
        let found = (image * rows..(image + 1) * rows).filter(|&row| scores[row] > NO_SCORE);
        found.map(|row| bbox(&boxes[row * 4..row * 4 + 4])).collect()
    };
    (0..images).map(of_image).collect()
}

/// The regions that the file's box head sees.
fn rois(outputs: &[OutputTensor], names: &FasterRcnnNames) -> Vec<Roi> {
    let places = values(outputs, &Probe::int(&names.roi_places));
    let boxes = values(outputs, &Probe::float(&names.rois));
    let rows = places.chunks_exact(2).zip(boxes.chunks_exact(4));
    rows.map(|(place, row)| Roi { image: place[0] as usize, bbox: bbox(row) }).collect()
}

/// Regions of generated scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Regions {
    /// Half of them are of one class, the others of any.
    Mixed,
    /// All are of one class, whose own limit is reached.
    OfOneClass,
    /// So few, and so many of their scores beside the threshold, that it decides.
    AtTheThreshold,
}

/// Each level that leads with the share of its boxes that are one: none, so that the number of boxes is limited after
/// suppression, and most, so that it is before.
fn leads(levels: usize) -> impl Iterator<Item = (usize, f64)> {
    (0..levels).flat_map(|level| [(level, 0.0), (level, COLLAPSED)])
}

/// An input of a filter with its shape.
type Input = (Probe, Vec<usize>, Values);

/// Inputs of a filter and what the model's filter makes of them.
struct Generated<T> {
    inputs: Vec<Input>,
    /// Of each image.
    expected: Vec<T>,
}

/// Makes scores, deltas and boxes.
struct Generator {
    rng: Rng,
    sizes: Vec<Size>,
}

impl Generator {
    fn new(seed: u64, with_sizes: bool) -> Self {
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

    fn proposals(
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

    fn detections(
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

    fn retinanet(
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
