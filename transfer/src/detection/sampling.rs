//! Which candidates take part in a loss.

use scrl_core::data::sampler::shares;
use scrl_core::random::{Rng, RngExt, stream};
use scrl_ops::Group;

use super::matcher::Match;

/// Draws a fixed number of candidates, of which a given share is matched where there are enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Candidates to draw from one image.
    pub batch: usize,
    /// Largest share of matched ones; background fills the rest.
    pub positive_fraction: f64,
}

/// Indices of the drawn candidates, each list in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampledIndices {
    /// Matched to a target.
    pub positive: Vec<usize>,
    /// Background.
    pub negative: Vec<usize>,
}

impl Sampler {
    /// Fewer than `batch` come back when there are not enough; ignored candidates never do.
    pub fn draw(&self, matches: &[Match], rng: &mut Rng) -> SampledIndices {
        let positive = indices(matches, |m| matches!(m, Match::Target(_)));
        let negative = indices(matches, |m| matches!(m, Match::Background));
        let wanted = (self.batch as f64 * self.positive_fraction) as usize;
        let positive = choose(positive, wanted, rng);
        let wanted = self.batch - positive.len();
        SampledIndices { positive, negative: choose(negative, wanted, rng) }
    }
}

fn indices(matches: &[Match], keep: impl Fn(&Match) -> bool) -> Vec<usize> {
    matches.iter().enumerate().filter(|(_, m)| keep(m)).map(|(index, _)| index).collect()
}

/// `wanted` of the items, or all of them, without repetition and in their order.
fn choose(items: Vec<usize>, wanted: usize, rng: &mut Rng) -> Vec<usize> {
    if items.len() <= wanted {
        return items;
    }
    let mut places = rand::seq::index::sample(rng, items.len(), wanted).into_vec();
    places.sort_unstable();
    places.into_iter().map(|place| items[place]).collect()
}

/// One stream an image, so that images can be sampled in parallel with the same result as one by one.
///
/// With several processes, `images` is this one's part of the batch, and its images draw what they would in one process.
pub(super) fn image_streams(rng: &mut Rng, images: usize, group: &Group) -> Vec<Rng> {
    let total = group.sum(images);
    let own = shares(total, 1, group).into_iter().next().unwrap_or(0..0);
    assert_eq!(own.len(), images, "a process has its share of the batch");
    let mut streams: Vec<Rng> = (0..total).map(|_| stream(rng.random(), &[])).collect();
    streams.drain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches() -> Vec<Match> {
        let kind = |index: usize| match index % 4 {
            0 => Match::Target(index),
            1 => Match::Ignored,
            _ => Match::Background,
        };
        (0..100).map(kind).collect()
    }

    #[test]
    fn the_batch_is_full_and_holds_the_wanted_share_of_positives() {
        let sampler = Sampler { batch: 40, positive_fraction: 0.25 };
        let sample = sampler.draw(&matches(), &mut stream(1, &[]));
        assert_eq!((sample.positive.len(), sample.negative.len()), (10, 30));
        assert!(sample.positive.iter().all(|index| index % 4 == 0));
        assert!(sample.negative.iter().all(|index| index % 4 >= 2));
        assert!(sample.negative.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn background_fills_up_when_positives_are_few() {
        let sampler = Sampler { batch: 60, positive_fraction: 0.5 };
        let sample = sampler.draw(&matches(), &mut stream(1, &[]));
        assert_eq!((sample.positive.len(), sample.negative.len()), (25, 35));
    }

    #[test]
    fn the_same_stream_draws_the_same_sample_and_another_one_another() {
        let sampler = Sampler { batch: 40, positive_fraction: 0.25 };
        let draw = |seed| sampler.draw(&matches(), &mut stream(seed, &[]));
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }
}
