//! Loops over many values at once, in a form that compilers turn into vector instructions.
//!
//! Sums are taken in an order that depends on the number of values alone.

use std::array::from_fn;

/// Values that a loop takes at once.
const LANES: usize = 16;
/// Values that are summed up in single precision before the sums go on in double precision.
pub(super) const BLOCK: usize = 128 * LANES;

/// Sums of `terms` of the values at the same place of all sources, [`BLOCK`] at a time.
///
/// # Panics
/// If a source is shorter than the first.
#[inline(always)]
pub(super) fn sums<const K: usize, const M: usize>(
    sources: [&[f32]; K],
    terms: impl Fn([f32; K]) -> [f32; M],
) -> [f64; M] {
    let length = sources[0].len();
    let mut totals = [0.0; M];
    for start in (0..length).step_by(BLOCK) {
        let end = length.min(start + BLOCK);
        let sums = block_sums(sources.map(|source| &source[start..end]), &terms);
        totals = from_fn(|m| totals[m] + sums[m]);
    }
    totals
}

/// [`sums`] of a single block.
#[inline(always)]
pub(super) fn block_sums<const K: usize, const M: usize>(
    sources: [&[f32]; K],
    terms: impl Fn([f32; K]) -> [f32; M],
) -> [f64; M] {
    let length = sources[0].len();
    let sources = sources.map(|source| &source[..length]);
    let whole = length - length % LANES;
    let mut lanes = [[0.0f32; LANES]; M];
    for start in (0..whole).step_by(LANES) {
        // SAFETY: `start + LANES` is at most the length of every source.
        let values: [[f32; LANES]; K] =
            sources.map(|source| unsafe { source.as_ptr().add(start).cast::<[f32; LANES]>().read() });
        for lane in 0..LANES {
            let terms = terms(from_fn(|k| values[k][lane]));
            for m in 0..M {
                lanes[m][lane] += terms[m];
            }
        }
    }
    for place in whole..length {
        let terms = terms(sources.map(|source| source[place]));
        for m in 0..M {
            lanes[m][place - whole] += terms[m];
        }
    }
    lanes.map(|lanes| folded(lanes.map(f64::from)))
}

/// The sum of all lanes, halves first.
#[inline(always)]
fn folded(mut lanes: [f64; LANES]) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Writes `results` of the values at the same place of all sources to that place of the targets.
///
/// # Safety
/// Sources and targets are `length` values long; a target may be a source, but does not overlap one
/// otherwise, and nobody else accesses the targets.
#[inline(always)]
pub(super) unsafe fn map<const K: usize, const M: usize>(
    length: usize,
    sources: [*const f32; K],
    targets: [*mut f32; M],
    results: impl Fn([f32; K]) -> [f32; M],
) {
    let whole = length - length % LANES;
    for start in (0..whole).step_by(LANES) {
        // Everything is read before anything is written: a target may be a source.
        // SAFETY: `start + LANES <= length`.
        let values: [[f32; LANES]; K] =
            sources.map(|source| unsafe { source.add(start).cast::<[f32; LANES]>().read() });
        let mut written = [[0.0f32; LANES]; M];
        for lane in 0..LANES {
            let results = results(from_fn(|k| values[k][lane]));
            for m in 0..M {
                written[m][lane] = results[m];
            }
        }
        for m in 0..M {
            // SAFETY: as above.
            unsafe { targets[m].add(start).cast::<[f32; LANES]>().write(written[m]) };
        }
    }
    for place in whole..length {
        // SAFETY: `place < length`.
        let results = results(sources.map(|source| unsafe { source.add(place).read() }));
        for m in 0..M {
            // SAFETY: as above.
            unsafe { targets[m].add(place).write(results[m]) };
        }
    }
}

/// Adds `terms` of the values at each place to the totals of that place.
///
/// # Panics
/// If a source or a total is shorter than the first source.
#[inline(always)]
pub(super) fn add_columns<const K: usize, const M: usize>(
    sources: [&[f32]; K],
    totals: [&mut [f64]; M],
    terms: impl Fn([f32; K]) -> [f32; M],
) {
    let length = sources[0].len();
    let sources = sources.map(|source| &source[..length]);
    let totals = totals.map(|totals| &mut totals[..length]);
    let whole = length - length % LANES;
    for start in (0..whole).step_by(LANES) {
        // SAFETY: `start + LANES` is at most the length of every source.
        let values: [[f32; LANES]; K] =
            sources.map(|source| unsafe { source.as_ptr().add(start).cast::<[f32; LANES]>().read() });
        let mut added = [[0.0f32; LANES]; M];
        for lane in 0..LANES {
            let terms = terms(from_fn(|k| values[k][lane]));
            for m in 0..M {
                added[m][lane] = terms[m];
            }
        }
        for m in 0..M {
            for (total, added) in totals[m][start..start + LANES].iter_mut().zip(added[m]) {
                *total += f64::from(added);
            }
        }
    }
    for place in whole..length {
        let terms = terms(sources.map(|source| source[place]));
        for m in 0..M {
            totals[m][place] += f64::from(terms[m]);
        }
    }
}
