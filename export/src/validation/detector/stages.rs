//! Where in the graph a difference appears first.
//!
//! The detector is exported once more with what its parts compute as outputs, and these are compared in the order of the
//! computation. From the proposals on, the model computes with those of ONNX Runtime, so that a difference in one part is
//! not blamed on the next.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Tensor;
use burn::tensor::activation::{relu, sigmoid};
use onnx_ir::TensorProto;
use ort::session::Session;
use scrl_core::structures::BoxXyxy;
use scrl_core::structures::Size;
use scrl_transfer::detection::{
    AnchorGenerator, BackboneWithFpn, Detection, Detector, FasterRcnn, Pooler, RetinaNet, Roi,
    retinanet_detections,
};
use serde::Serialize;

use super::matching::unmatched_boxes;
use super::{Case, DetectorTolerance};
use crate::ExportError;
use crate::backbone::OutputTensor;
use crate::detector::{self, DetectorInfo, DetectorOptions, NO_SCORE};
use crate::detector_runtime::{bbox, run};
use crate::graph;
use crate::inspect::read_model;
use crate::pyramid::level_names;
use crate::runtime::runtime;

/// Share of the proposals that may differ: ties among a thousand near-equal scores and overlaps.
const PROPOSAL_TIES: f64 = 0.02;

/// A part's result on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// Name of the tensor.
    pub name: String,
    /// Largest absolute difference; of `proposals` the number without a partner.
    pub error: f64,
    /// Its bound.
    pub allowed: f64,
}

impl Stage {
    /// Whether the bound is kept.
    pub fn passed(&self) -> bool {
        self.error <= self.allowed
    }
}

/// The detector with its parts' results as outputs, in ONNX Runtime.
pub(super) struct StagesSession {
    session: Session,
    options: DetectorOptions,
}

impl StagesSession {
    /// Exports it, with the weights of the file that is examined, and opens it.
    ///
    /// # Errors
    /// When the stages cannot be exported, or ONNX Runtime refuses them.
    pub fn open(
        onnx: &Path,
        model: &Detector,
        info: &DetectorInfo,
        options: &DetectorOptions,
    ) -> Result<Self, ExportError> {
        let failed = |source| ExportError::Io { action: "write", path: std::env::temp_dir(), source };
        let folder = tempfile::tempdir().map_err(failed)?;
        let path = folder.path().join("stages.onnx");
        detector::export_stages(model, info, &path, options)?;
        let mut stages = read_model(&path)?;
        let mut weights: BTreeMap<String, TensorProto> = read_model(onnx)?
            .graph
            .mut_or_insert_default()
            .initializer
            .drain(..)
            .map(|tensor| (tensor.name.clone(), tensor))
            .collect();
        for tensor in &mut stages.graph.mut_or_insert_default().initializer {
            if !tensor.name.starts_with("constant.")
                && let Some(own) = weights.remove(&tensor.name)
            {
                *tensor = own;
            }
        }
        graph::save(&stages, &path)?;
        Ok(Self { session: runtime()?.session(&path, 0)?, options: *options })
    }

    /// Every part's result on this case, in the order of the computation.
    ///
    /// # Errors
    /// When ONNX Runtime fails.
    pub fn compare(
        &mut self,
        model: &FasterRcnn,
        case: &Case,
        tolerance: &DetectorTolerance,
    ) -> ort::Result<Vec<Stage>> {
        let outputs = run(&mut self.session, &case.batch, self.options.image_sizes)?;
        let images = case.normalized(&model.backbone);
        let (mut list, levels) = maps(&model.backbone, images.clone(), &outputs, tolerance);
        let rpn = model.rpn.forward(&levels);
        list.push(tensor_stage("objectness", values(rpn.objectness), &outputs, tolerance));
        list.push(tensor_stage("deltas", values(rpn.deltas), &outputs, tolerance));
        list.push(proposals_stage(&model.proposals(images, &case.batch.sizes), &outputs, tolerance));
        let [logits, deltas] = heads(model, &levels, &outputs);
        list.push(tensor_stage("class_logits", logits, &outputs, tolerance));
        list.push(tensor_stage("box_deltas", deltas, &outputs, tolerance));
        Ok(list)
    }

    /// The tensors of RetinaNet on this case, and the detections that the model's own post-processing makes of those of ONNX
    /// Runtime: every decision is compared with the same numbers on both sides.
    ///
    /// # Errors
    /// When ONNX Runtime fails.
    pub fn compare_retinanet(
        &mut self,
        model: &RetinaNet,
        case: &Case,
        tolerance: &DetectorTolerance,
    ) -> ort::Result<(Vec<Stage>, Vec<Vec<Detection>>)> {
        let outputs = run(&mut self.session, &case.batch, self.options.image_sizes)?;
        let images = case.normalized(&model.backbone);
        let [_, _, height, width] = images.dims();
        let (mut list, levels) = maps(&model.backbone, images, &outputs, tolerance);
        let predictions = model.head.forward(&levels);
        let anchors = AnchorGenerator::new(&model.config).generate([height, width], &predictions.grids);
        list.push(tensor_stage("logits", values(predictions.logits.clone()), &outputs, tolerance));
        list.push(tensor_stage("probabilities", values(sigmoid(predictions.logits)), &outputs, tolerance));
        list.push(tensor_stage("deltas", values(predictions.deltas), &outputs, tolerance));
        let (scores, deltas) = (output(&outputs, "probabilities"), output(&outputs, "deltas"));
        let count = anchors.boxes.len();
        let classes = model.config.num_classes;
        let of_image = |(image, &size): (usize, &Size)| {
            let scores = scores.get(image * count * classes..(image + 1) * count * classes);
            let deltas = deltas.get(image * count * 4..(image + 1) * count * 4);
            let (deltas, _) = deltas.unwrap_or_default().as_chunks::<4>();
            match scores {
                Some(scores) if deltas.len() == count => {
                    retinanet_detections(scores, deltas, &anchors, size, &model.config)
                }
                // Tensors of another shape fail their own comparison.
                _ => Vec::new(),
            }
        };
        Ok((list, case.batch.sizes.iter().enumerate().map(of_image).collect()))
    }
}

/// The comparison of the backbone's and the pyramid's maps, and the model's pyramid.
fn maps(
    model: &BackboneWithFpn,
    images: Tensor<4>,
    outputs: &[OutputTensor],
    tolerance: &DetectorTolerance,
) -> (Vec<Stage>, Vec<Tensor<4>>) {
    let stages = model.body.forward(images);
    let levels = model.fpn.forward(&stages);
    let maps = ["c2", "c3", "c4", "c5"].into_iter().zip(stages.iter().map(|(_, map)| map.clone()));
    let maps = maps.chain(level_names(model).into_iter().zip(levels.iter().cloned()));
    let list = maps.map(|(name, map)| tensor_stage(name, values(map), outputs, tolerance)).collect();
    (list, levels)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn output<'a>(outputs: &'a [OutputTensor], name: &str) -> &'a [f32] {
    let output = outputs.iter().find(|output| output.name == name);
    output.map(|output| output.values.as_slice()).unwrap_or_default()
}

fn tensor_stage(
    name: &str,
    expected: Vec<f32>,
    outputs: &[OutputTensor],
    tolerance: &DetectorTolerance,
) -> Stage {
    let found = output(outputs, name);
    let largest = expected.iter().map(|value| f64::from(value.abs())).fold(0.0, f64::max);
    let difference = |(&a, &b): (&f32, &f32)| f64::from(a) - f64::from(b);
    let error = match expected.len() == found.len() {
        true => expected
            .iter()
            .zip(found)
            .map(difference)
            .fold(0.0, |a: f64, b: f64| if b.is_nan() { f64::INFINITY } else { a.max(b.abs()) }),
        false => f64::INFINITY,
    };
    Stage { name: name.to_string(), error, allowed: tolerance.tensors * (1.0 + largest) }
}

/// Counts proposals without a partner.
fn proposals_stage(
    expected: &[Vec<BoxXyxy>],
    outputs: &[OutputTensor],
    tolerance: &DetectorTolerance,
) -> Stage {
    let (boxes, scores) = (output(outputs, "proposals"), output(outputs, "proposal_scores"));
    let rows = scores.len() / expected.len().max(1);
    let lost = expected.iter().enumerate().map(|(image, expected)| {
        let found = (image * rows..(image + 1) * rows).filter(|&row| scores[row] > NO_SCORE);
        let found: Vec<BoxXyxy> = found.map(|row| bbox(&boxes[row * 4..row * 4 + 4])).collect();
        unmatched_boxes(expected, &found, tolerance.boxes)
    });
    let count: usize = expected.iter().map(Vec::len).sum();
    let allowed = ((PROPOSAL_TIES + tolerance.unmatched) * count as f64).ceil();
    Stage { name: "proposals".to_string(), error: lost.sum::<usize>() as f64, allowed }
}

/// The model's logits and deltas of ONNX Runtime's proposals.
fn heads(model: &FasterRcnn, levels: &[Tensor<4>], outputs: &[OutputTensor]) -> [Vec<f32>; 2] {
    let (places, boxes) = (output(outputs, "roi_places"), output(outputs, "rois"));
    let rois: Vec<Roi> = places
        .chunks_exact(2)
        .zip(boxes.chunks_exact(4))
        .map(|(place, row)| Roi { image: place[0] as usize, bbox: bbox(row) })
        .collect();
    if rois.is_empty() {
        return [Vec::new(), Vec::new()];
    }
    let heads = &model.roi_heads;
    let pooled = Pooler::new(&model.config).forward(levels, &rois).flatten(1, 3);
    let hidden = relu(heads.box_head.fc7.forward(relu(heads.box_head.fc6.forward(pooled))));
    [
        values(heads.box_predictor.cls_score.forward(hidden.clone())),
        values(heads.box_predictor.bbox_pred.forward(hidden)),
    ]
}
