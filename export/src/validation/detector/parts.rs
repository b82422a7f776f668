//! The parts of an exported detector, each compared with the model's on the same numbers.
//!
//! The file runs with the values between its parts as further outputs. The maps are compared with the model's own. From there on
//! the model computes with the values of ONNX Runtime: its heads on ONNX's maps, its filters on ONNX's scores and deltas. So no
//! part is blamed for another, no rounding adds up, and every decision is taken from equal numbers on both sides.
//!
//! What filters the scores is also cut out of the file and given generated scores and deltas, many of them beside its limits. So
//! each limit is compared, whatever the network finds in the images of the validation.

mod file_run;

use std::path::Path;

use onnx_ir::ModelProto;
use scrl_core::structures::BoxXyxy;
use scrl_transfer::detection::{Detection, Detector, DetectorConfig};
use serde::Serialize;

use self::file_run::FileRun;
use super::generated::{BOUNDLESS, Generator, Regions, leads};
use super::matching::{Matches, compare, unmatched_boxes};
use super::subgraph::{self, PartSession, Probe, level_probes, part, shape, values, with_outputs};
use super::{Case, DetectorTolerance};
use crate::ExportError;
use crate::backbone::OutputTensor;
use crate::detector::{self, DetectorInfo, DetectorOptions, FasterRcnnNames, HeadNames, NO_SCORE, PartNames};
use crate::detector_runtime::{bbox, detections, run};

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

fn roi_probes(names: &FasterRcnnNames) -> Vec<Probe> {
    let floats = [&names.class_logits, &names.box_deltas, &names.rois, &names.proposal_scores];
    floats.map(|name| Probe::float(name)).into_iter().chain([Probe::int(&names.roi_places)]).collect()
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
    let lost = if matches.ties_are_rare() { matches.unexplained } else { matches.ties + matches.unexplained };
    decisions(name, lost, expected.iter().map(Vec::len).sum())
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
