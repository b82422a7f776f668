//! Proof that an exported detector computes what the model computes, part by part.
//!
//! N images in a batch, H and W in pixels.

mod filters;
mod generated;
mod inputs;
mod matching;
mod parts;
mod subgraph;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use scrl_transfer::detection::{BackboneWithFpn, Detection, Detector};
use serde::Serialize;

use crate::ExportError;
use crate::detector::{DetectorInfo, DetectorOptions};
use crate::detector_runtime::{ImageBatch, OnnxDetector};

pub use inputs::DetectorInputs;
pub use matching::{Errors, Matches};
pub use parts::Stage;
use parts::{Compared, Parts};

/// Half the distance of 1 and the next 32-bit float: what rounding makes of a number, relative to it.
const ROUNDING: f64 = 1.0 / (1u64 << 24) as f64;
/// The same of 16-bit floats.
const HALF_ROUNDING: f64 = 1.0 / (1u64 << 11) as f64;

/// How far two computations of the same part from the same numbers may lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DetectorTolerance {
    /// Of a corner, relative to the longer side of the batch: a box is decoded and clipped in a dozen operations.
    pub boxes: f64,
    /// Of a score in `[0, 1]`.
    pub scores: f64,
    /// Two boxes whose overlap is so close to a limit may be on either side of it.
    pub overlap: f64,
    /// Of a tensor, relative to its largest value.
    pub tensors: f64,
}

impl DetectorTolerance {
    /// For the number format of the file.
    ///
    /// A decision's numbers are a few operations of 32-bit floats from those that both sides are given. A corner may be off by
    /// 16 roundings of the image's side, a score by 16 of one, and the overlap of small boxes, whose sides are differences of
    /// large coordinates, by 1e-4.
    ///
    /// A tensor is a chain of sums of thousands of products. Roundings of either sign add up like the steps of a random walk:
    /// with the longest sum of a detector (12,544 products, of the first layer of the box head) and 60 layers that are
    /// √(60 · 12544) = 868 roundings of the largest value, 5e-5, and half of it is allowed. Measured are 1e-6 to 3e-6. A file of
    /// 16-bit weights rounds every layer's output to 11 bits; 60 layers give √60 of these roundings, and twice that is allowed
    /// (0.8 %).
    pub fn of(options: &DetectorOptions) -> Self {
        let walk = (60.0f64 * 12_544.0).sqrt();
        let tensors = match options.half {
            false => 0.5 * walk * ROUNDING,
            true => 2.0 * 60.0f64.sqrt() * HALF_ROUNDING,
        };
        Self { boxes: 16.0 * ROUNDING, scores: 16.0 * ROUNDING, overlap: 1e-4, tensors }
    }

    /// Of a corner in a batch whose longer side has so many pixels.
    fn pixels(&self, side: usize) -> f64 {
        self.boxes * side as f64
    }
}

/// One input.
#[derive(Clone, Debug, Serialize)]
pub struct DetectorCase {
    /// `random 2×3×96×128` or the image files.
    pub name: String,
    /// Detections in each image that the model's filter makes of ONNX Runtime's scores.
    pub detections: Vec<usize>,
    /// How they match those of ONNX Runtime.
    #[serde(flatten)]
    pub matches: Matches,
    /// How the detections of the model alone match those of the file, within a pixel and a hundredth: for information, since
    /// errors of all parts add up and decide where scores are crowded.
    pub end_to_end: Matches,
    /// Whether every part agrees, and every detection has a partner or is explained by a tie.
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
    /// The parts of the graph in the order of the computation, each with its worst result over all inputs.
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
            None => "every part agrees, but the file's detections are not those of its parts".to_string(),
        };
        match failed.first() {
            Some(first) => {
                format!(
                    "{} of {} inputs failed, the first is {}; {place}",
                    failed.len(),
                    self.cases.len(),
                    first.name
                )
            }
            None => place,
        }
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

/// Runs an exported detector in ONNX Runtime and compares its metadata, every part of it and its detections with the model's,
/// which computes with its running statistics.
///
/// # Errors
/// [`ExportError::DetectorMismatch`] when a part or a detection differs, which says in which part of the graph the difference
/// appears first; [`ExportError::Metadata`] when the file's metadata differ; others when ONNX Runtime, the file or an image cannot
/// be used.
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
    let mut parts = Parts::open(onnx, &model, info, &options)?;
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
        let alone = model.detect(case.normalized(model.backbone()), &case.batch.sizes);
        report.runtime_seconds += (middle - start).as_secs_f64();
        report.model_seconds += middle.elapsed().as_secs_f64();
        let compared = parts.compare(&model, &case, &tolerance);
        let Compared { stages, expected, found: by_parts } =
            compared.map_err(|error| failed(onnx, &case.name, &error))?;
        let pixels = tolerance.pixels(case.batch.shape[2].max(case.batch.shape[3]));
        let matches = compare_all(&expected, &by_parts, &model, &tolerance, pixels);
        // ONNX Runtime fuses other operators where it need not show what lies between; that may move a tensor's last digits.
        let end_to_end = compare_all(&alone, &found, &model, &END_TO_END, END_TO_END_PIXELS);
        let of_file = compare_all(&by_parts, &found, &model, &END_TO_END, END_TO_END_PIXELS);
        let passed = stages.iter().all(Stage::passed)
            && matches.unexplained == 0
            && matches.ties_are_rare()
            && of_file.unexplained * 50 <= of_file.matched;
        parts::merge(&mut report.stages, stages);
        report.total.merge(&matches);
        let detections = expected.iter().map(Vec::len).collect();
        report.cases.push(DetectorCase { name: case.name, detections, matches, end_to_end, passed });
    }
    let generated = parts.compare_generated(&model, inputs.seed, &tolerance);
    parts::merge(&mut report.stages, generated.map_err(|error| failed(onnx, "generated scores", &error))?);
    report.passed = report.cases.iter().all(|case| case.passed) && report.stages.iter().all(Stage::passed);
    if !report.passed {
        return Err(ExportError::DetectorMismatch { path: onnx.to_path_buf(), report: Box::new(report) });
    }
    tracing::info!(path = %onnx.display(), cases = report.cases.len(), "validated");
    Ok(report)
}

/// What is called equal where errors of all parts have added up.
const END_TO_END: DetectorTolerance =
    DetectorTolerance { boxes: 0.0, scores: 1e-2, overlap: 1e-2, tensors: 0.0 };
const END_TO_END_PIXELS: f64 = 1.0;

fn compare_all(
    expected: &[Vec<Detection>],
    found: &[Vec<Detection>],
    model: &Detector,
    tolerance: &DetectorTolerance,
    pixels: f64,
) -> Matches {
    let mut matches = Matches::default();
    for (expected, found) in expected.iter().zip(found) {
        matches.merge(&matching::compare(expected, found, model.config(), tolerance, pixels));
    }
    matches
}

fn failed(onnx: &Path, case: &str, error: &ort::Error) -> ExportError {
    ExportError::Run { path: onnx.to_path_buf(), case: case.to_string(), reason: error.to_string() }
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
