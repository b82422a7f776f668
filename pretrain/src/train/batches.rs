//! The batches of a run: which images each has, and their preparation.

use std::ops::Range;
use std::path::{Path, PathBuf};

use scrl_core::data::DataError;
use scrl_core::data::image_folder::ImageFolder;
use scrl_core::data::loader::{BatchIter, LoaderOptions, load_batches};
use scrl_core::data::sampler;
use scrl_ops::Group;

use crate::config::PretrainConfig;
use crate::error::PretrainError;
use crate::image_views::{ImageViews, LoadViews, load_views};

/// Every image once an epoch, in an order of the epoch's own.
pub(super) struct RunBatches<'a> {
    data: &'a ImageFolder,
    load: LoadViews,
    seed: u64,
    batch_size: usize,
    threads: usize,
    prefetch: usize,
    /// The places of a batch that this process prepares.
    shares: Vec<Range<usize>>,
    /// Full batches; images beyond them are left out of the epoch.
    pub(super) per_epoch: usize,
}

impl<'a> RunBatches<'a> {
    /// Refuses data that the method cannot learn from.
    pub(super) fn new(
        settings: &PretrainConfig,
        data: &'a ImageFolder,
        group: &Group,
    ) -> Result<Self, PretrainError> {
        let (images, batch_size) = (data.samples.len(), settings.schedule.batch_size);
        let per_epoch = images / batch_size;
        if per_epoch == 0 {
            return Err(PretrainError::TooFewImages { images, batch_size });
        }
        let shares = sampler::shares(batch_size, settings.schedule.accumulate, group);
        if group.any(shares.iter().any(Range::is_empty)) {
            let (processes, accumulate) = (group.size(), settings.schedule.accumulate);
            return Err(PretrainError::TooManyProcesses { processes, batch_size, accumulate });
        }
        let facts = settings.method.facts();
        if facts.needs_labels && data.classes.is_empty() {
            let path = data.samples[0].path.parent().unwrap_or(Path::new(".")).to_path_buf();
            return Err(PretrainError::NoLabels { method: facts.name, path });
        }
        Ok(Self {
            data,
            load: load_views(settings, data),
            seed: settings.seed,
            batch_size,
            threads: settings.data.threads,
            prefetch: settings.data.prefetch,
            shares,
            per_epoch,
        })
    }

    /// This process's part of the batches of an epoch from number `first` on.
    pub(super) fn of_epoch(&self, epoch: u64, first: usize) -> BatchIter<ImageViews> {
        let mut batches = self.order(epoch).split_off(first);
        for batch in &mut batches {
            *batch = self.shares.iter().flat_map(|share| &batch[share.clone()]).copied().collect();
        }
        self.load(epoch, batches)
    }

    /// The images of a batch, by their position in the data and by their files.
    pub(super) fn images(&self, epoch: u64, batch: usize) -> (Vec<usize>, Vec<PathBuf>) {
        let indices = self.order(epoch).swap_remove(batch);
        let paths = indices.iter().map(|&index| self.data.samples[index].path.clone()).collect();
        (indices, paths)
    }

    /// A batch once more: it depends on seed, epoch and files only.
    pub(super) fn again(&self, epoch: u64, batch: usize) -> Result<Vec<ImageViews>, DataError> {
        let mut batches = self.load(epoch, vec![self.order(epoch).swap_remove(batch)]);
        batches.next().unwrap_or(Ok(Vec::new()))
    }

    fn order(&self, epoch: u64) -> Vec<Vec<usize>> {
        sampler::batches(self.data.samples.len(), self.batch_size, true, Some((self.seed, epoch)))
    }

    fn load(&self, epoch: u64, batches: Vec<Vec<usize>>) -> BatchIter<ImageViews> {
        let (seed, threads, prefetch) = (self.seed, self.threads, self.prefetch);
        load_batches(batches, LoaderOptions { seed, epoch, threads, prefetch }, self.load.clone())
    }
}
