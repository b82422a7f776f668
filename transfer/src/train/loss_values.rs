//! Losses on the host.

use burn::tensor::Tensor;
use serde_json::{Map, Value};

use crate::detection::Losses;

/// The losses of an iteration and the size of their samples, on the host.
#[derive(Clone, Copy, Debug)]
pub struct LossValues {
    rpn_objectness: f64,
    rpn_box: f64,
    classifier: f64,
    box_regression: f64,
    foreground_anchors: usize,
    foreground_rois: usize,
}

impl LossValues {
    /// One device read; the detector has synchronised already to choose its regions.
    pub fn read(losses: &Losses) -> Self {
        let parts = [&losses.rpn_objectness, &losses.rpn_box, &losses.classifier, &losses.box_regression];
        let values = Tensor::cat(parts.map(|part| part.clone().detach()).to_vec(), 0).into_data();
        let mut values = values.iter::<f64>();
        let mut next = || values.next().unwrap_or(f64::NAN);
        Self {
            rpn_objectness: next(),
            rpn_box: next(),
            classifier: next(),
            box_regression: next(),
            foreground_anchors: losses.foreground_anchors,
            foreground_rois: losses.foreground_rois,
        }
    }

    /// What is minimised.
    pub fn total(&self) -> f64 {
        self.rpn_objectness + self.rpn_box + self.classifier + self.box_regression
    }

    /// Each loss under its name in the events.
    pub fn parts(&self) -> [(&'static str, f64); 4] {
        [
            ("loss_rpn_objectness", self.rpn_objectness),
            ("loss_rpn_box", self.rpn_box),
            ("loss_classifier", self.classifier),
            ("loss_box_regression", self.box_regression),
        ]
    }

    /// The fields of a `train` event.
    pub fn figures(
        &self,
        lr: f64,
        images_per_second: Option<f64>,
        grad_norm: Option<f64>,
    ) -> Map<String, Value> {
        let mut figures = Map::new();
        figures.insert("loss".into(), self.total().into());
        figures.extend(self.parts().map(|(name, value)| (name.to_string(), value.into())));
        figures.insert("foreground_anchors".into(), self.foreground_anchors.into());
        figures.insert("foreground_rois".into(), self.foreground_rois.into());
        figures.insert("lr".into(), lr.into());
        figures.insert("grad_norm".into(), grad_norm.into());
        figures.insert("images_per_second".into(), images_per_second.into());
        figures
    }
}
