//! Training batches from any iteration on.

use std::ops::Range;
use std::sync::Arc;

use crate::data::DetectionDataset;
use scrl_core::data::error::DataError;
use scrl_core::data::loader::{BatchIter, LoaderOptions, load_batches};
use scrl_core::data::sampler::shares;
use scrl_ops::Group;

use super::{BatchPlan, Mapper, Sample};

/// Batches whose list is handed to the loader at a time.
const CHUNK: u64 = 256;

/// What [`TrainingLoader::new`] needs besides the data.
#[derive(Clone, Copy, Debug)]
pub struct TrainingLoaderOptions {
    /// Of order and augmentation.
    pub seed: u64,
    /// Images per batch.
    pub batch_size: usize,
    /// Whether a batch holds either wide images or others; see [`BatchPlan`].
    pub aspect_ratio_grouping: bool,
    /// Total of the run.
    pub iterations: u64,
    /// Worker threads; 0 for one a processor core.
    pub threads: usize,
    /// Batches ahead.
    pub prefetch: usize,
}

/// The run's batches in order, starting at any iteration.
///
/// Which images a batch holds, and how each is resized and mirrored, depends only on the seed and the iteration: the
/// loader's sample index is the sample's place in the run, `iteration · batch_size + position`.
pub struct TrainingLoader {
    dataset: Arc<DetectionDataset>,
    mapper: Arc<Mapper>,
    options: TrainingLoaderOptions,
    /// The places of a batch that this process prepares.
    share: Range<usize>,
    plan: BatchPlan,
    /// First iteration that no chunk holds yet.
    planned: u64,
    chunk: Option<BatchIter<Sample>>,
}

impl TrainingLoader {
    /// This process's part of the batches from `iteration` on.
    ///
    /// # Panics
    /// If the data set is empty, the batch size zero, or a batch smaller than the group.
    pub fn new(
        dataset: Arc<DetectionDataset>,
        mapper: Mapper,
        options: TrainingLoaderOptions,
        iteration: u64,
        group: &Group,
    ) -> Self {
        let share = shares(options.batch_size, 1, group).swap_remove(0);
        assert!(!share.is_empty(), "every process has a part of a batch");
        let mut plan =
            BatchPlan::new(&dataset, options.batch_size, options.aspect_ratio_grouping, options.seed);
        plan.by_ref().take(iteration as usize).for_each(drop);
        Self { dataset, mapper: Arc::new(mapper), options, share, plan, planned: iteration, chunk: None }
    }

    fn next_chunk(&mut self) -> BatchIter<Sample> {
        let batch_size = self.options.batch_size;
        let count = CHUNK.min(self.options.iterations - self.planned) as usize;
        let images: Vec<usize> = self.plan.by_ref().take(count).flatten().collect();
        let first = self.planned as usize * batch_size;
        let places: Vec<usize> = (first..first + images.len()).collect();
        let batches = places.chunks(batch_size).map(|batch| batch[self.share.clone()].to_vec()).collect();
        self.planned += count as u64;
        let (dataset, mapper) = (Arc::clone(&self.dataset), Arc::clone(&self.mapper));
        let options = LoaderOptions {
            seed: self.options.seed,
            epoch: 0,
            threads: self.options.threads,
            prefetch: self.options.prefetch,
        };
        let sample = move |place: usize, rng: &mut _| {
            let index = images[place - first];
            mapper.map(index, &dataset.images[index], rng)
        };
        load_batches(batches, options, Arc::new(sample))
    }
}

impl Iterator for TrainingLoader {
    type Item = Result<Vec<Sample>, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(batch) = self.chunk.as_mut().and_then(Iterator::next) {
            return Some(batch);
        }
        if self.planned >= self.options.iterations {
            return None;
        }
        self.chunk = Some(self.next_chunk());
        self.chunk.as_mut().and_then(Iterator::next)
    }
}
