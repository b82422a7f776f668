//! Proof that an exported backbone computes what the model computes: both run on the same inputs.
//!
//! N images in a batch, H and W in pixels.

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use ort::session::Session;
use ort::value::TensorRef;
use scrl_core::checkpoint::weights::BackboneMetadata;
use scrl_core::models::Backbone;
use scrl_core::random::{standard_normal, stream};
use scrl_core::structures::{Rect, Size};
use scrl_core::transforms::{decode::decode, normalize::to_chw, resample::crop_resize};
use serde::{Deserialize, Serialize};

use crate::ExportError;
use crate::backbone::{BackboneOutput, OutputTensor, properties, select};
use crate::runtime::runtime;

/// How far two computations of the same tensor may lie apart: `absolute + relative · max|reference|`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tolerance {
    /// In units of the tensor.
    pub absolute: f64,
    /// In units of the tensor's largest absolute value.
    pub relative: f64,
}

impl Default for Tolerance {
    /// 1e-4 each. Both sides compute in 32-bit floats but sum in different orders, and ONNX Runtime folds batch
    /// norms into convolutions, which makes 1e-6 to 2e-6 of the largest value for ResNet-18 to ResNet-101. The rest
    /// is room for other processors and their fused instructions.
    fn default() -> Self {
        Self { absolute: 1e-4, relative: 1e-4 }
    }
}

/// A batch of random images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomBatch {
    /// Number of images.
    pub images: usize,
    /// Their size.
    pub size: Size,
}

/// What the two sides are compared on.
#[derive(Clone, Debug)]
pub struct ValidationInputs {
    /// Batches of normally distributed pixels: mean 0 and deviation 1, as normalised images have.
    pub random: Vec<RandomBatch>,
    /// Seed of the random batches.
    pub seed: u64,
    /// Image files, each a batch of its own: the central square, resized to the metadata's image size, normalised.
    pub images: Vec<PathBuf>,
    /// The permitted difference.
    pub tolerance: Tolerance,
    /// ONNX Runtime's threads within one operator; 0 means one a core.
    pub threads: usize,
}

impl ValidationInputs {
    /// Three random batches, of 1, 2 and 3 images: a square of `image_size` pixels, a rectangle, and an odd size that no
    /// stride divides. No image files.
    pub fn new(image_size: u32) -> Self {
        let batch = |images, width, height| RandomBatch { images, size: Size { width, height } };
        Self {
            random: vec![
                batch(1, image_size.max(32), image_size.max(32)),
                batch(2, 128, 96),
                batch(3, 75, 101),
            ],
            seed: 0,
            images: Vec::new(),
            tolerance: Tolerance::default(),
            threads: 0,
        }
    }
}

/// One output of one input.
#[derive(Clone, Debug, Serialize)]
pub struct ValidationCase {
    /// The input: `random 2×3×96×128` or an image's file name.
    pub name: String,
    /// The output: `c5`, for example.
    pub output: String,
    /// The output's shape.
    pub shape: Vec<usize>,
    /// Largest absolute difference; infinite if a value is not a number or the shapes differ.
    pub max_abs_error: f64,
    /// The same over the reference's largest absolute value.
    pub max_rel_error: f64,
    /// The bound on `max_abs_error`.
    pub tolerance: f64,
    /// Whether it is kept.
    pub passed: bool,
}

/// Every comparison of a validation.
#[derive(Clone, Debug, Serialize)]
pub struct ValidationReport {
    /// One entry an input and output.
    pub cases: Vec<ValidationCase>,
    /// The largest of the cases.
    pub max_abs_error: f64,
    /// The rule that the bounds follow.
    pub tolerance: Tolerance,
    /// Whether every case passed.
    pub passed: bool,
    /// Time ONNX Runtime took for all inputs.
    pub runtime_seconds: f64,
    /// Time the model took for all inputs.
    pub model_seconds: f64,
}

impl ValidationReport {
    /// One line: how many cases failed, and the worst of them.
    pub fn summary(&self) -> String {
        let failed: Vec<_> = self.cases.iter().filter(|case| !case.passed).collect();
        let worst = failed.iter().max_by(|a, b| a.max_abs_error.total_cmp(&b.max_abs_error));
        let worst = worst.map(|case| {
            let (name, output) = (&case.name, &case.output);
            format!(
                "; worst is {output} of {name}: {:.3e}, allowed {:.3e}",
                case.max_abs_error, case.tolerance
            )
        });
        format!("{} of {} comparisons failed{}", failed.len(), self.cases.len(), worst.unwrap_or_default())
    }
}

/// Runs an exported backbone in ONNX Runtime and compares its metadata and its outputs with the model's, which
/// computes with its running statistics.
///
/// # Errors
/// [`ExportError::Mismatch`] when an output differs by more than the tolerance, [`ExportError::Metadata`] when the
/// file's metadata differ; others when ONNX Runtime, the file or an image cannot be used.
pub fn validate_backbone(
    onnx: &Path,
    model: &Backbone,
    metadata: &BackboneMetadata,
    inputs: &ValidationInputs,
) -> Result<ValidationReport, ExportError> {
    let session = runtime()?.session(onnx, inputs.threads)?;
    let output = check_metadata(onnx, &session, metadata)?;
    let model = model.valid();
    let device = model.conv1.weight.val().device();
    let forward = |images: TensorData| select(output, model.forward(Tensor::<4>::from_data(images, &device)));
    let images = ImageSettings { side: metadata.image_size.max(32), mean: metadata.mean, std: metadata.std };
    Comparison { onnx, forward: &forward, images, inputs }.run(Some(session))
}

/// How image files become inputs: a central square, resized to this side.
pub(crate) struct ImageSettings {
    pub side: u32,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// A file and the function that it should compute, from `[N, 3, H, W]` to the outputs in order.
pub(crate) struct Comparison<'a> {
    pub onnx: &'a Path,
    pub forward: &'a dyn Fn(TensorData) -> Vec<OutputTensor>,
    pub images: ImageSettings,
    pub inputs: &'a ValidationInputs,
}

impl Comparison<'_> {
    /// Both sides on every input; without a session it opens one.
    ///
    /// # Errors
    /// When ONNX Runtime cannot be loaded, or refuses the file or an input.
    pub fn run(&self, session: Option<Session>) -> Result<ValidationReport, ExportError> {
        let mut session = match session {
            Some(session) => session,
            None => runtime()?.session(self.onnx, self.inputs.threads)?,
        };
        let mut report = ValidationReport {
            cases: Vec::new(),
            max_abs_error: 0.0,
            tolerance: self.inputs.tolerance,
            passed: true,
            runtime_seconds: 0.0,
            model_seconds: 0.0,
        };
        for (index, batch) in self.inputs.random.iter().enumerate() {
            self.compare(&mut session, &random_input(self.inputs.seed, index, batch), &mut report)?;
        }
        for path in &self.inputs.images {
            self.compare(&mut session, &image_input(path, &self.images)?, &mut report)?;
        }
        report.passed = report.cases.iter().all(|case| case.passed);
        report.max_abs_error = report.cases.iter().map(|case| case.max_abs_error).fold(0.0, f64::max);
        if !report.passed {
            return Err(ExportError::Mismatch { path: self.onnx.to_path_buf(), report: Box::new(report) });
        }
        let (path, cases, error) = (self.onnx.display(), report.cases.len(), report.max_abs_error);
        tracing::info!(%path, cases, error, "validated");
        Ok(report)
    }

    fn compare(
        &self,
        session: &mut Session,
        input: &Input,
        report: &mut ValidationReport,
    ) -> Result<(), ExportError> {
        let start = Instant::now();
        let found =
            run(session, input).map_err(|error| run_error(self.onnx, &input.name, error.to_string()))?;
        let middle = Instant::now();
        let expected = (self.forward)(TensorData::new(input.values.clone(), input.shape));
        report.runtime_seconds += (middle - start).as_secs_f64();
        report.model_seconds += middle.elapsed().as_secs_f64();
        for (expected, found) in expected.into_iter().zip(found) {
            let case = judge(&input.name, expected, &found, report.tolerance);
            report.cases.push(case);
        }
        Ok(())
    }
}

/// Compares the file's properties with the expected ones; which outputs the file has is for the file to say.
fn check_metadata(
    onnx: &Path,
    session: &Session,
    metadata: &BackboneMetadata,
) -> Result<BackboneOutput, ExportError> {
    let file = session.metadata().map_err(|error| run_error(onnx, "metadata", error.to_string()))?;
    let differs = |key: &str, found: Option<String>, expected: String| ExportError::Metadata {
        path: onnx.to_path_buf(),
        key: key.to_string(),
        found,
        expected,
    };
    let name = file.custom("scrl.output").unwrap_or_default();
    let Some(output) = BackboneOutput::from_name(&name) else {
        return Err(differs("scrl.output", Some(name), "c5, pooled or pyramid".to_string()));
    };
    for (key, expected) in properties(metadata, output) {
        let found = file.custom(&key);
        if found.as_ref() != Some(&expected) {
            return Err(differs(&key, found, expected));
        }
    }
    let found: Vec<&str> = session.outputs().iter().map(|outlet| outlet.name()).collect();
    if found != output.tensors() {
        return Err(differs("outputs", Some(found.join(", ")), output.tensors().join(", ")));
    }
    Ok(output)
}

/// A batch `[N, 3, H, W]` in row-major order.
struct Input {
    name: String,
    shape: [usize; 4],
    values: Vec<f32>,
}

fn random_input(seed: u64, index: usize, batch: &RandomBatch) -> Input {
    let shape = [batch.images, 3, batch.size.height as usize, batch.size.width as usize];
    let mut rng = stream(seed, &[index as u64]);
    let values = (0..shape.iter().product()).map(|_| standard_normal(&mut rng)).collect();
    Input { name: format!("random {}×3×{}×{}", shape[0], shape[2], shape[3]), shape, values }
}

fn image_input(path: &Path, settings: &ImageSettings) -> Result<Input, ExportError> {
    let image = decode(path)?;
    let (width, height) = (image.width(), image.height());
    let side = width.min(height);
    let square = Rect { x: (width - side) / 2, y: (height - side) / 2, width: side, height: side };
    let size = settings.side;
    let view = crop_resize(&image, square, Size { width: size, height: size });
    let size = size as usize;
    let mut values = vec![0.0; 3 * size * size];
    to_chw(&view, settings.mean, settings.std, &mut values);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Input { name, shape: [1, 3, size, size], values })
}

fn run(session: &mut Session, input: &Input) -> ort::Result<Vec<OutputTensor>> {
    let images = TensorRef::from_array_view((input.shape, input.values.as_slice()))?;
    let outputs = session.run(ort::inputs!["images" => images])?;
    let tensors = outputs.iter().map(|(name, value)| {
        let (shape, values) = value.try_extract_tensor::<f32>()?;
        let shape = shape.iter().map(|&dim| dim as usize).collect();
        Ok(OutputTensor { name: name.to_string(), shape, values: values.to_vec() })
    });
    tensors.collect()
}

/// Compares an output of the two sides; another shape, or a value that is not finite on either side, fails.
fn judge(input: &str, expected: OutputTensor, found: &OutputTensor, tolerance: Tolerance) -> ValidationCase {
    let largest = expected.values.iter().map(|value| f64::from(value.abs())).fold(0.0, f64::max);
    let allowed = tolerance.absolute + tolerance.relative * largest;
    let difference = |(&a, &b): (&f32, &f32)| {
        let difference = (f64::from(a) - f64::from(b)).abs();
        if difference.is_nan() { f64::INFINITY } else { difference }
    };
    let error = match expected.shape == found.shape {
        true => expected.values.iter().zip(&found.values).map(difference).fold(0.0, f64::max),
        false => f64::INFINITY,
    };
    ValidationCase {
        name: input.to_string(),
        output: expected.name,
        shape: expected.shape,
        max_abs_error: error,
        max_rel_error: if error == 0.0 { 0.0 } else { error / largest },
        tolerance: allowed,
        passed: allowed.is_finite() && error <= allowed,
    }
}

fn run_error(onnx: &Path, case: &str, reason: String) -> ExportError {
    ExportError::Run { path: onnx.to_path_buf(), case: case.to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Tolerance = Tolerance { absolute: 0.5, relative: 0.25 };

    fn case(expected: &[f32], found: &[f32]) -> ValidationCase {
        let tensor = |values: &[f32]| OutputTensor {
            name: "c5".to_string(),
            shape: vec![values.len()],
            values: values.to_vec(),
        };
        judge("input", tensor(expected), &tensor(found), TOLERANCE)
    }

    #[test]
    fn the_bound_grows_with_the_largest_reference_value() {
        // 0.5 + 0.25 · 8 = 2.5.
        let kept = case(&[1.0, -8.0], &[3.5, -8.0]);
        assert_eq!((kept.tolerance, kept.max_abs_error, kept.max_rel_error), (2.5, 2.5, 0.3125));
        assert!(kept.passed);
        assert!(!case(&[1.0, -8.0], &[3.6, -8.0]).passed);
    }

    #[test]
    fn values_that_are_not_finite_never_pass() {
        for (expected, found) in [(f32::NAN, 0.0), (0.0, f32::NAN), (f32::NAN, f32::NAN)] {
            let case = case(&[1.0, expected], &[1.0, found]);
            assert!(!case.passed && case.max_abs_error.is_infinite());
        }
        assert!(!case(&[f32::INFINITY], &[f32::INFINITY]).passed);
        assert!(!case(&[0.0], &[f32::INFINITY]).passed);
    }

    #[test]
    fn another_shape_does_not_pass() {
        assert!(!case(&[1.0, 1.0], &[1.0]).passed);
    }
}
