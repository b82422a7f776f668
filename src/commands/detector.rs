//! What finds objects in images, whatever computes it.

use std::path::Path;

use anyhow::Result;
use burn::tensor::Device;
use scrl_core::data::detection::Category;
use scrl_transfer::data::{Preprocessing, Sample, collate};
use scrl_transfer::detection::Detection;
use scrl_transfer::evaluate::detect_batch;
use scrl_transfer::{LoadedDetector, load_detector};

/// A trained detector on some runtime.
pub trait Detector {
    /// The classes, in the order of [`Detection::class`].
    fn categories(&self) -> &[Category];

    /// How images are prepared for [`Self::detect`].
    fn preprocessing(&self) -> &Preprocessing;

    /// The objects in each prepared image, in the images' order, boxes in pixels of [`Sample::source`].
    fn detect(&self, batch: Vec<Sample>) -> Result<Vec<Vec<Detection>>>;
}

/// A detector as training leaves it, computed by Burn.
pub struct TrainedDetector {
    detector: LoadedDetector,
    device: Device,
}

impl TrainedDetector {
    /// From a weights file or a transfer run's directory.
    pub fn load(path: &Path, device: Device) -> Result<Self> {
        Ok(Self { detector: load_detector(path, &device)?, device })
    }
}

impl Detector for TrainedDetector {
    fn categories(&self) -> &[Category] {
        &self.detector.metadata.categories
    }

    fn preprocessing(&self) -> &Preprocessing {
        &self.detector.metadata.preprocessing
    }

    fn detect(&self, batch: Vec<Sample>) -> Result<Vec<Vec<Detection>>> {
        let found = detect_batch(&self.detector.model, collate(batch, &self.device));
        Ok(found.into_iter().map(|(_, detections)| detections).collect())
    }
}
