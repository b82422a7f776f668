//! Losses on the host.

use burn::tensor::Tensor;
use serde_json::{Map, Value};

use crate::detection::Losses;

/// The losses of an iteration and the size of their samples, on the host.
#[derive(Clone, Debug)]
pub struct LossValues {
    terms: Vec<(&'static str, f64)>,
    counts: Vec<(&'static str, usize)>,
}

impl LossValues {
    /// One read from the device.
    pub fn read(losses: &Losses) -> Self {
        let terms = losses.terms.iter().map(|(_, term)| term.clone().detach()).collect();
        let values = Tensor::cat(terms, 0).into_data();
        let values = values.iter::<f64>().chain(std::iter::repeat(f64::NAN));
        let names = losses.terms.iter().map(|&(name, _)| name);
        Self { terms: names.zip(values).collect(), counts: losses.counts.clone() }
    }

    /// What is minimised.
    pub fn total(&self) -> f64 {
        self.terms.iter().map(|(_, value)| value).sum()
    }

    /// Each loss under its name in the events.
    pub fn terms(&self) -> &[(&'static str, f64)] {
        &self.terms
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
        figures.extend(self.terms.iter().map(|&(name, value)| (name.to_string(), value.into())));
        figures.extend(self.counts.iter().map(|&(name, count)| (name.to_string(), count.into())));
        figures.insert("lr".into(), lr.into());
        figures.insert("grad_norm".into(), grad_norm.into());
        figures.insert("images_per_second".into(), images_per_second.into());
        figures
    }
}
