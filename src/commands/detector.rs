//! What finds objects in images, whatever computes it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use scrl_core::models::Precision;
use scrl_core::structures::Size;
use scrl_export::OnnxDetector;
use scrl_ops::{KeptWeights, keep_weights};
use scrl_transfer::data::{Category, Labels, Preprocessing, Sample, collate};
use scrl_transfer::detection::Detection;
use scrl_transfer::inference::{detect_batch, to_source};
use scrl_transfer::{LoadedDetector, load_detector};

use crate::cli::DetectorArgs;
use crate::device;

/// A trained detector on some runtime.
pub trait Detector {
    /// The classes, in the order of [`Detection::class`].
    fn categories(&self) -> &[Category];

    /// What of annotations it is judged by.
    fn labels(&self) -> Labels;

    /// How images are prepared for [`Self::detect`].
    fn preprocessing(&self) -> &Preprocessing;

    /// The objects in each prepared image, in the images' order, boxes in pixels of [`Sample::source`].
    fn detect(&self, batch: Vec<Sample>) -> Result<Vec<Vec<Detection>>>;
}

/// The detector that a command line names.
///
/// # Errors
/// When it cannot be read, or ONNX Runtime is missing, or does not run on the device.
pub fn open(args: &DetectorArgs, device: &str, precision: Precision) -> Result<Box<dyn Detector>> {
    if let Some(model) = &args.model {
        ensure!(
            matches!(device, "cpu" | "auto"),
            "--device is {device}, but an exported model runs on ONNX Runtime's CPU provider; leave --device out"
        );
        ensure!(
            precision.is_f32(),
            "--precision is {precision}, but an exported model computes in f32; leave --precision out"
        );
        return Ok(Box::new(ExportedDetector::open(model)?));
    }
    let weights = args.run.as_ref().or(args.weights.as_ref()).context("pass --run, --weights or --model")?;
    let precision = device::usable(precision, device, false)?;
    let mut detector = TrainedDetector::load(weights, device::parse(device)?)?;
    detector.detector.model = detector.detector.model.compute_in(precision);
    Ok(Box::new(detector))
}

/// A detector as training leaves it, computed by Burn.
pub struct TrainedDetector {
    detector: LoadedDetector,
    device: Device,
    _weights: KeptWeights,
}

impl TrainedDetector {
    /// From a weights file or a transfer run's directory.
    pub fn load(path: &Path, device: Device) -> Result<Self> {
        Ok(Self { detector: load_detector(path, &device)?, device, _weights: keep_weights() })
    }
}

impl Detector for TrainedDetector {
    fn categories(&self) -> &[Category] {
        &self.detector.metadata.categories
    }

    fn labels(&self) -> Labels {
        self.detector.metadata.config.labels()
    }

    fn preprocessing(&self) -> &Preprocessing {
        &self.detector.metadata.preprocessing
    }

    fn detect(&self, batch: Vec<Sample>) -> Result<Vec<Vec<Detection>>> {
        let found = detect_batch(&self.detector.model, collate(batch, &self.device));
        Ok(found.into_iter().map(|(_, detections)| detections).collect())
    }
}

/// A file of `scrl export detector`, computed by ONNX Runtime.
pub struct ExportedDetector {
    detector: OnnxDetector,
}

impl ExportedDetector {
    /// From an ONNX file; operators use one thread a core.
    pub fn open(path: &Path) -> Result<Self> {
        // ONNX Runtime's own message about a path that leads nowhere is about protobuf.
        std::fs::File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        Ok(Self { detector: OnnxDetector::open(path, 0)? })
    }
}

impl Detector for ExportedDetector {
    fn categories(&self) -> &[Category] {
        &self.detector.info.metadata.categories
    }

    fn labels(&self) -> Labels {
        self.detector.info.metadata.config.labels()
    }

    fn preprocessing(&self) -> &Preprocessing {
        &self.detector.info.metadata.preprocessing
    }

    fn detect(&self, batch: Vec<Sample>) -> Result<Vec<Vec<Detection>>> {
        let sizes: Vec<(Size, Size)> = batch.iter().map(|sample| (sample.size, sample.source)).collect();
        let images: Vec<(Vec<f32>, Size)> =
            batch.into_iter().map(|sample| (sample.pixels, sample.size)).collect();
        let found = self.detector.detect_normalized(&images)?;
        let variant = self.detector.info.metadata.config.variant;
        let found = found.into_iter().zip(sizes);
        Ok(found.map(|(found, (size, source))| to_source(found, size, source, variant)).collect())
    }
}
