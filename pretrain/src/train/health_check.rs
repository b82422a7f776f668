//! The images that the signs of life are taken from.

use scrl_core::data::image_folder::ImageFolder;
use scrl_core::data::loader::{BatchIter, LoaderOptions, load_batches};
use scrl_core::data::sampler;

use crate::config::PretrainConfig;
use crate::image_views::{ImageViews, LoadViews, load_views};

/// The epoch of the random streams that choose and prepare the images of health checks; training never gets there.
const HEALTH_EPOCH: u64 = u64::MAX;
/// Images at a time in a health check.
const HEALTH_BATCH: usize = 32;

/// The same images with the same augmentations at every check of a run.
pub(super) struct HealthCheck {
    batches: Vec<Vec<usize>>,
    options: LoaderOptions,
    load: LoadViews,
}

impl HealthCheck {
    /// Chooses `log.health_images` of the images by the run's seed.
    pub(super) fn new(settings: &PretrainConfig, images: &ImageFolder) -> Self {
        let count = images.samples.len();
        let order = Some((settings.seed, HEALTH_EPOCH));
        let mut indices = sampler::batches(count, count, false, order).concat();
        indices.truncate(settings.log.health_images.max(2));
        let options = LoaderOptions {
            seed: settings.seed,
            epoch: HEALTH_EPOCH,
            threads: settings.data.threads,
            prefetch: settings.data.prefetch,
        };
        let batches = indices.chunks(HEALTH_BATCH).map(<[usize]>::to_vec).collect();
        Self { batches, options, load: load_views(settings, images) }
    }

    pub(super) fn batches(&self) -> BatchIter<ImageViews> {
        load_batches(self.batches.clone(), self.options, self.load.clone())
    }
}
