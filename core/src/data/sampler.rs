//! Which samples go into which batch.

use std::ops::Range;

use rand::seq::SliceRandom;
use scrl_ops::Group;

use crate::random::stream;

/// The purpose of the random stream that orders the samples of an epoch.
const SHUFFLE: u64 = u64::from_be_bytes(*b"shuffle_");

/// Cuts the indices `0..len` into batches.
///
/// `shuffle` is the pair (seed, epoch): the same pair always gives the same order. With `drop_last` a last batch that is
/// not full is left out.
///
/// # Panics
/// If `batch_size` is zero.
pub fn batches(
    len: usize,
    batch_size: usize,
    drop_last: bool,
    shuffle: Option<(u64, u64)>,
) -> Vec<Vec<usize>> {
    assert!(batch_size > 0, "batch_size must be positive");
    let mut indices: Vec<usize> = (0..len).collect();
    if let Some((seed, epoch)) = shuffle {
        indices.shuffle(&mut stream(seed, &[SHUFFLE, epoch]));
    }
    let full = |batch: &&[usize]| !drop_last || batch.len() == batch_size;
    indices.chunks(batch_size).filter(full).map(<[usize]>::to_vec).collect()
}

/// The places of a batch of `total` samples that this process takes, of each of `accumulate` micro-batches.
///
/// The batch is cut into micro-batches first, as one process would, and each of these is shared out: sizes differ by one at most.
/// A part is empty where a micro-batch has fewer samples than there are processes.
pub fn shares(total: usize, accumulate: usize, group: &Group) -> Vec<Range<usize>> {
    let length = total.div_ceil(accumulate.max(1)).max(1);
    let (rank, size) = (group.rank(), group.size());
    let starts = (0..total).step_by(length);
    let share = |start: usize| {
        let samples = length.min(total - start);
        start + rank * samples / size..start + (rank + 1) * samples / size
    };
    starts.map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use scrl_ops::threads;

    #[test]
    fn micro_batches_are_those_of_one_process_and_shared_out_evenly() {
        for (total, accumulate) in [(8, 1), (7, 2), (10, 4), (3, 1), (1, 1)] {
            let whole = shares(total, accumulate, &Group::alone());
            assert_eq!(whole.iter().cloned().flatten().collect::<Vec<_>>(), (0..total).collect::<Vec<_>>());
            for size in 2..=4 {
                let parts = threads(size, |group| shares(total, accumulate, &group));
                for (index, micro_batch) in whole.iter().enumerate() {
                    let parts: Vec<_> = parts.iter().map(|shares| shares[index].clone()).collect();
                    assert_eq!(
                        parts.iter().cloned().flatten().collect::<Vec<_>>(),
                        micro_batch.clone().collect::<Vec<_>>()
                    );
                    let lengths = parts.iter().map(ExactSizeIterator::len);
                    assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1);
                }
            }
        }
    }

    #[test]
    fn without_shuffling_the_batches_are_in_order() {
        assert_eq!(batches(5, 2, false, None), [vec![0, 1], vec![2, 3], vec![4]]);
        assert_eq!(batches(5, 2, true, None), [vec![0, 1], vec![2, 3]]);
        assert!(batches(0, 2, false, None).is_empty());
        assert!(batches(1, 2, true, None).is_empty());
    }

    #[test]
    fn an_epoch_visits_every_sample_once_in_an_order_of_its_own() {
        let order = |seed, epoch| batches(100, 8, false, Some((seed, epoch))).concat();
        let mut sorted = order(1, 0);
        assert_eq!(sorted, order(1, 0));
        assert_ne!(sorted, order(1, 1));
        assert_ne!(sorted, order(2, 0));
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }
}
