//! The losses of the steps, on the device until somebody needs them.
//!
//! A read makes the host wait for everything that a GPU has been given; between reads both work at the same time.

use burn::tensor::Tensor;
use scrl_ops::Group;
use serde_json::{Map, Value};

use crate::data::DetectionDataset;
use crate::detection::Losses;
use crate::error::TransferError;

/// Steps after which losses are read even if nobody asks: a detector whose loss is NaN must not be trained for long.
const MOST_UNREAD: usize = 20;

/// The losses of an iteration, still on the device, and what was in it.
#[derive(Clone, Debug)]
pub struct UnreadLosses {
    iteration: u64,
    /// By their position in the data.
    images: Vec<usize>,
    terms: Vec<(&'static str, Tensor<1>)>,
    counts: Vec<(&'static str, usize)>,
}

/// The losses of an iteration and the size of their samples, on the host.
#[derive(Clone, Debug)]
pub struct LossValues {
    iteration: u64,
    images: Vec<usize>,
    terms: Vec<(&'static str, f64)>,
    counts: Vec<(&'static str, usize)>,
}

impl UnreadLosses {
    /// Without their graph.
    pub(super) fn new(iteration: u64, images: Vec<usize>, losses: &Losses) -> Self {
        let terms = losses.terms.iter().map(|(name, term)| (*name, term.clone().inner())).collect();
        Self { iteration, images, terms, counts: losses.counts.clone() }
    }

    /// Reads one iteration's from the device.
    pub fn read(self) -> LossValues {
        let mut values = Self::read_all(vec![self]);
        values.pop().expect("as many values as losses")
    }

    /// One read for all.
    fn read_all(unread: Vec<Self>) -> Vec<LossValues> {
        let tensors: Vec<_> =
            unread.iter().flat_map(|losses| &losses.terms).map(|(_, term)| term.clone()).collect();
        if tensors.is_empty() {
            return Vec::new();
        }
        let values = Tensor::cat(tensors, 0).into_data();
        let mut values = values.iter::<f64>().chain(std::iter::repeat(f64::NAN));
        let read = |Self { iteration, images, terms, counts }| {
            let terms = terms.into_iter().map(|(name, _)| name).zip(&mut values).collect();
            LossValues { iteration, images, terms, counts }
        };
        unread.into_iter().map(read).collect()
    }
}

impl LossValues {
    /// What is minimised.
    pub fn total(&self) -> f64 {
        self.terms.iter().map(|(_, value)| value).sum()
    }

    /// The fields of a `train` event.
    pub(super) fn figures(
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

    /// Adds those of the other processes.
    fn sum(&mut self, group: &Group) {
        if group.is_alone() {
            return;
        }
        let terms = self.terms.iter().map(|(_, value)| *value);
        let mut values: Vec<f64> = terms.chain(self.counts.iter().map(|(_, count)| *count as f64)).collect();
        group.sum_f64(&mut values);
        let (terms, counts) = values.split_at(self.terms.len());
        self.terms.iter_mut().zip(terms).for_each(|((_, value), sum)| *value = *sum);
        self.counts.iter_mut().zip(counts).for_each(|((_, count), sum)| *count = *sum as usize);
        self.images = group.gather(&self.images);
    }

    /// Refuses losses that are NaN or infinite; the error names the images, which are of `dataset`.
    fn check(&self, dataset: &DetectionDataset) -> Result<(), TransferError> {
        if self.total().is_finite() {
            return Ok(());
        }
        let images: Vec<&str> =
            self.images.iter().map(|&index| dataset.images[index].file_name.as_str()).collect();
        let losses: Vec<String> = self.terms.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let (losses, images) = (losses.join(", "), images.join(", "));
        Err(TransferError::NonFinite { iteration: self.iteration, losses, images })
    }
}

/// The steps since the last read, and the last one that was read.
pub(super) struct LossLog {
    group: Group,
    unread: Vec<UnreadLosses>,
    last: Option<LossValues>,
}

impl LossLog {
    /// No step yet. The losses of a step are the sums of those of all processes.
    pub(super) fn new(group: Group) -> Self {
        Self { group, unread: Vec::new(), last: None }
    }

    pub(super) fn add(&mut self, losses: UnreadLosses) {
        self.unread.push(losses);
    }

    /// Whether so many steps are unread that they should be.
    pub(super) fn is_full(&self) -> bool {
        self.unread.len() >= MOST_UNREAD
    }

    /// The last step that was read.
    pub(super) fn last(&self) -> Option<&LossValues> {
        self.last.as_ref()
    }

    /// Reads the steps since the last call, all in one transfer; all processes call it after the same steps. The error is of the first whose loss is not finite.
    pub(super) fn read(&mut self, dataset: &DetectionDataset) -> Result<(), TransferError> {
        for mut values in UnreadLosses::read_all(std::mem::take(&mut self.unread)) {
            values.sum(&self.group);
            values.check(dataset)?;
            self.last = Some(values);
        }
        Ok(())
    }
}
