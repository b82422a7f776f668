//! Proof that an exported detector finds what the model finds: both run on the same inputs and their detections are
//! matched.
//!
//! N images in a batch, H and W in pixels.

mod inputs;
mod matching;
mod stages;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use scrl_transfer::detection::{BackboneWithFpn, Detection, Detector, FasterRcnn};
use serde::Serialize;

use crate::ExportError;
use crate::detector::{DetectorInfo, DetectorOptions};
use crate::detector_runtime::{ImageBatch, OnnxDetector};

pub use inputs::DetectorInputs;
pub use matching::{Errors, Matches};
pub use stages::Stage;
use stages::StagesSession;

/// How far two computations of the same detections may lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DetectorTolerance {
    /// Of a corner, in pixels.
    pub boxes: f64,
    /// Of a score.
    pub scores: f64,
    /// Two boxes whose overlap is so close to a limit may be on either side of it.
    pub overlap: f64,
    /// Share of the detections that may have no partner and no tie that explains it.
    pub unmatched: f64,
    /// Of a tensor within the graph, in units of one plus its largest value; it finds where a difference appears.
    pub tensors: f64,
}

impl DetectorTolerance {
    /// For 32-bit floats, 0.2 pixels and 5e-3: both sides sum in other orders, which makes about 1e-3 pixels and 1e-5 in
    /// trained detectors, and up to 0.07 pixels and 2e-3 in random ones with logits of a hundred, where PyTorch is as far
    /// from ONNX Runtime as Burn is. Every detection has its partner.
    ///
    /// For 16-bit floats, of 11 significant bits, 4 pixels and 0.05, and 5 % may differ: that is what they make of a
    /// ResNet-50 with random weights, whose scores and overlaps are crowded. Of a trained small one they make 0.05 pixels
    /// and 2e-4, and nothing differs.
    pub fn of(options: &DetectorOptions) -> Self {
        match options.half {
            false => Self { boxes: 0.2, scores: 5e-3, overlap: 2e-3, unmatched: 0.0, tensors: 2e-4 },
            true => Self { boxes: 4.0, scores: 0.05, overlap: 0.05, unmatched: 0.05, tensors: 2e-2 },
        }
    }

    /// How many detections of so many on both sides may differ.
    fn allowed(&self, detections: usize) -> usize {
        (self.unmatched * detections as f64).ceil() as usize
    }
}

/// One input.
#[derive(Clone, Debug, Serialize)]
pub struct DetectorCase {
    /// `random 2×3×96×128` or the image files.
    pub name: String,
    /// Detections of the model in each image.
    pub detections: Vec<usize>,
    /// How they match those of ONNX Runtime.
    #[serde(flatten)]
    pub matches: Matches,
    /// Whether every detection, but for the permitted share, has a partner or is explained by a tie.
    pub passed: bool,
}

/// Every comparison of a validation.
#[derive(Clone, Debug, Serialize)]
pub struct DetectorReport {
    /// One entry an input.
    pub cases: Vec<DetectorCase>,
    /// All cases together.
    pub total: Matches,
    /// The bounds.
    pub tolerance: DetectorTolerance,
    /// The parts of the graph on the first input that failed, in order; empty when none did.
    pub stages: Vec<Stage>,
    /// Whether every case passed.
    pub passed: bool,
    /// Time ONNX Runtime took for all inputs.
    pub runtime_seconds: f64,
    /// Time the model took for all inputs.
    pub model_seconds: f64,
}

impl DetectorReport {
    /// The first part of the graph that differs.
    pub fn first_difference(&self) -> Option<&Stage> {
        self.stages.iter().find(|stage| !stage.passed())
    }

    /// One line: how many cases failed, and where the difference appears.
    pub fn summary(&self) -> String {
        let failed: Vec<_> = self.cases.iter().filter(|case| !case.passed).collect();
        let place = match self.first_difference() {
            Some(stage) => format!(
                "the first difference is in {}: {:.3e}, allowed {:.3e}",
                stage.name, stage.error, stage.allowed
            ),
            None => "every part up to the box head's outputs agrees, the difference is in their decoding or suppression"
                .to_string(),
        };
        let name = failed.first().map_or("", |case| &case.name);
        format!("{} of {} inputs failed, the first is {name}; {place}", failed.len(), self.cases.len())
    }

    /// A table, one line a case.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<28} {:>10} {:>7} {:>5} {:>11}  {:>9} {:>9}  {:>9} {:>9}\n",
            "input", "detections", "matched", "ties", "unexplained", "boxes max", "mean", "score max", "mean"
        );
        for case in &self.cases {
            let Matches { matched, ties, unexplained, boxes, scores, .. } = &case.matches;
            let count: usize = case.detections.iter().sum();
            let _ = writeln!(
                text,
                "{:<28} {count:>10} {matched:>7} {ties:>5} {unexplained:>11}  {:>9.2e} {:>9.2e}  {:>9.2e} {:>9.2e}",
                case.name, boxes.max, boxes.mean, scores.max, scores.mean
            );
        }
        text
    }
}

/// One input on both sides.
pub(crate) struct Case {
    name: String,
    /// As the graph takes it.
    batch: ImageBatch,
    /// As the model takes it, `[N, 3, H, W]`.
    pixels: Vec<f32>,
}

impl Case {
    fn normalized(&self, model: &BackboneWithFpn) -> Tensor<4> {
        let device = model.body.conv1.weight.val().device();
        Tensor::from_data(TensorData::new(self.pixels.clone(), self.batch.shape), &device)
    }
}

/// Runs an exported detector in ONNX Runtime and compares its metadata and its detections with the model's, which
/// computes with its running statistics.
///
/// # Errors
/// [`ExportError::DetectorMismatch`] when a detection has no partner and no tie explains that, which says in which part of
/// the graph the difference appears first; [`ExportError::Metadata`] when the file's metadata differ; others when ONNX
/// Runtime, the file or an image cannot be used.
pub fn validate_detector(
    onnx: &Path,
    model: &Detector,
    info: &DetectorInfo,
    inputs: &DetectorInputs,
) -> Result<DetectorReport, ExportError> {
    let detector = OnnxDetector::open(onnx, inputs.threads)?;
    check_metadata(onnx, &detector, info)?;
    let options = detector.options;
    let tolerance = inputs.tolerance.unwrap_or(DetectorTolerance::of(&options));
    let model = model.valid();
    let mut report = DetectorReport {
        cases: Vec::new(),
        total: Matches::default(),
        tolerance,
        stages: Vec::new(),
        passed: true,
        runtime_seconds: 0.0,
        model_seconds: 0.0,
    };
    for case in inputs.cases(&info.metadata.preprocessing, &options)? {
        let start = Instant::now();
        let found = detector.detect_batch(&case.batch)?;
        let middle = Instant::now();
        let mut expected = model.detect(case.normalized(model.backbone()), &case.batch.sizes);
        report.runtime_seconds += (middle - start).as_secs_f64();
        report.model_seconds += middle.elapsed().as_secs_f64();
        let mut passed = true;
        if let Detector::RetinaNet(retinanet) = &model {
            let mut session = StagesSession::open(onnx, &model, info, &options)?;
            let compared = session.compare_retinanet(retinanet, &case, &tolerance);
            let (stages, forced) = compared.map_err(|error| failed(onnx, &case, &error))?;
            passed = stages.iter().all(Stage::passed);
            if !passed && report.stages.is_empty() {
                report.stages = stages;
            }
            expected = forced;
        }
        let mut matches = compare_all(&expected, &found, &model, &tolerance);
        let allowed = tolerance.allowed(expected.iter().chain(&found).map(Vec::len).sum());
        if let Detector::FasterRcnn(model) = &model
            && matches.unexplained > allowed
        {
            explain(onnx, model, info, &options, &case, &mut matches, &mut report)?;
        }
        report.total.merge(&matches);
        let detections = expected.iter().map(Vec::len).collect();
        passed &= matches.unexplained <= allowed;
        report.cases.push(DetectorCase { name: case.name, detections, matches, passed });
    }
    report.passed = report.cases.iter().all(|case| case.passed);
    if !report.passed {
        return Err(ExportError::DetectorMismatch { path: onnx.to_path_buf(), report: Box::new(report) });
    }
    tracing::info!(path = %onnx.display(), cases = report.cases.len(), "validated");
    if report.total.matched == 0 {
        tracing::warn!(
            "the detector found nothing in these inputs, so no detection was compared; pass images of its data"
        );
    }
    Ok(report)
}

fn compare_all(
    expected: &[Vec<Detection>],
    found: &[Vec<Detection>],
    model: &Detector,
    tolerance: &DetectorTolerance,
) -> Matches {
    let mut matches = Matches::default();
    for (expected, found) in expected.iter().zip(found) {
        matches.merge(&matching::compare(expected, found, model.config(), tolerance));
    }
    matches
}

fn failed(onnx: &Path, case: &Case, error: &ort::Error) -> ExportError {
    ExportError::Run { path: onnx.to_path_buf(), case: case.name.clone(), reason: error.to_string() }
}

/// Share of the detections whose numbers may be beyond the tolerance where all tensors of the graph agree.
const AMPLIFIED: f64 = 0.05;

/// Looks into the graph. Where all tensors agree, proposals whose order is a tie explain as many detections on either side as
/// they are, and a few numbers beyond the tolerance are what badly conditioned weights make of errors within that of the
/// tensors: a logit of some hundreds may be off by a hundredth. Else the stages go into the report.
fn explain(
    onnx: &Path,
    model: &FasterRcnn,
    info: &DetectorInfo,
    options: &DetectorOptions,
    case: &Case,
    matches: &mut Matches,
    report: &mut DetectorReport,
) -> Result<(), ExportError> {
    let mut session = StagesSession::open(onnx, &Detector::FasterRcnn(model.clone()), info, options)?;
    let compared = session.compare(model, case, &report.tolerance);
    let stages = compared.map_err(|error| failed(onnx, case, &error))?;
    let swapped = stages.iter().find(|stage| stage.name == "proposals").map_or(0.0, |stage| stage.error);
    let (matched, inexact) = (matches.matched, matches.inexact);
    let amplified = if inexact <= 2 + (AMPLIFIED * 2.0 * matched as f64) as usize { inexact } else { 0 };
    if stages.iter().all(Stage::passed) && (matches.unexplained - amplified) as f64 <= 2.0 * swapped {
        matches.ties += std::mem::take(&mut matches.unexplained);
    } else if report.stages.is_empty() {
        report.stages = stages;
    }
    Ok(())
}

/// The file's properties must be those of this detector; how it was exported is for the file to say.
fn check_metadata(onnx: &Path, detector: &OnnxDetector, info: &DetectorInfo) -> Result<(), ExportError> {
    let found = detector.info.properties(&detector.options);
    for (key, expected) in info.properties(&detector.options) {
        let found = found.get(&key).cloned();
        if found.as_ref() != Some(&expected) {
            return Err(ExportError::Metadata { path: onnx.to_path_buf(), key, found, expected });
        }
    }
    Ok(())
}
