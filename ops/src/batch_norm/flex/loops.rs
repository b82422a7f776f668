//! Loops over runs of values. A loop has `K` sources and `M` results and applies a function to the values at
//! the same place of all sources.
//!
//! Sums are taken in an order that depends only on the number of values.

use crate::cpu::lanes::{InLanes, Lanes, WIDTH};

/// A function of `K` values with `M` results, for any number of lanes.
pub(super) trait Function<const K: usize, const M: usize> {
    /// Mark the body `#[inline(always)]`.
    fn apply<L: Lanes>(&self, values: [L; K]) -> [L; M];
}

/// Values that are summed up in single precision before the sums go on in double precision.
pub(super) const BLOCK: usize = 128 * WIDTH;

/// The values at a place of all sources.
///
/// # Safety
/// The processor has the instructions of the lanes, and the sources have values for them from the place on.
#[inline(always)]
unsafe fn load<L: Lanes, N: InLanes, const K: usize>(sources: &[*const N; K], place: usize) -> [L; K] {
    // SAFETY: the caller's promise.
    let mut values = [unsafe { L::splat(0.0) }; K];
    for (value, source) in values.iter_mut().zip(sources) {
        // SAFETY: as above.
        *value = unsafe { N::load(source.add(place)) };
    }
    values
}

/// Writes a value to the place of each target.
///
/// # Safety
/// The targets have room for the values from the place on, and nobody else accesses it.
#[inline(always)]
unsafe fn store<L: Lanes, N: InLanes, const M: usize>(targets: &[*mut N; M], place: usize, values: [L; M]) {
    for (value, target) in values.into_iter().zip(targets) {
        // SAFETY: the caller's promise.
        unsafe { N::store(value, target.add(place)) };
    }
}

#[inline(always)]
fn add<L: Lanes, const M: usize>(sums: &mut [L; M], terms: [L; M]) {
    for (sum, term) in sums.iter_mut().zip(terms) {
        *sum = sum.add(term);
    }
}

/// Writes the results at each place to that place of the targets.
///
/// # Safety
/// The processor has the instructions of the lanes. Sources and targets are `length` values long; a target may be
/// a source, but does not overlap one otherwise, and nobody else accesses the targets.
#[inline(always)]
pub(super) unsafe fn map<L: Lanes, N: InLanes, const K: usize, const M: usize>(
    length: usize,
    sources: [*const N; K],
    targets: [*mut N; M],
    function: impl Function<K, M>,
) {
    let whole = length - length % WIDTH;
    // SAFETY: places are less than the length, and what is written at a place has been read before; the rest is
    // the caller's promise.
    unsafe {
        for place in (0..whole).step_by(WIDTH) {
            store(&targets, place, function.apply(load::<L, N, K>(&sources, place)));
        }
        for place in whole..length {
            store(&targets, place, function.apply(load::<f32, N, K>(&sources, place)));
        }
    }
}

/// Sums of the results over all places, [`BLOCK`] at a time.
///
/// # Safety
/// The processor has the instructions of the lanes.
///
/// # Panics
/// If the sources differ in length.
#[inline(always)]
pub(super) unsafe fn sums<L: Lanes, N: InLanes, const K: usize, const M: usize>(
    sources: [&[N]; K],
    function: impl Function<K, M>,
) -> [f64; M] {
    let length = sources[0].len();
    assert!(sources.iter().all(|source| source.len() == length), "sources of equal length");
    let mut totals = [0.0; M];
    for start in (0..length).step_by(BLOCK) {
        let block = sources.map(|source| source[start..].as_ptr());
        // SAFETY: the block ends inside the sources; the rest is the caller's promise.
        let sums = unsafe { block_sums::<L, N, K, M>(BLOCK.min(length - start), block, &function) };
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total += sum;
        }
    }
    totals
}

/// Sums of the results over the places of a block.
///
/// # Safety
/// The processor has the instructions of the lanes, and sources are `length` values long.
#[inline(always)]
unsafe fn block_sums<L: Lanes, N: InLanes, const K: usize, const M: usize>(
    length: usize,
    sources: [*const N; K],
    function: &impl Function<K, M>,
) -> [f64; M] {
    let (whole, pairs) = (length - length % WIDTH, length - length % (2 * WIDTH));
    // SAFETY: the caller's promise.
    let mut even = [unsafe { L::splat(0.0) }; M];
    let mut odd = even;
    let mut rest = [0.0f32; M];
    // SAFETY: places are less than the length; the rest is the caller's promise.
    unsafe {
        for place in (0..pairs).step_by(2 * WIDTH) {
            add(&mut even, function.apply(load(&sources, place)));
            add(&mut odd, function.apply(load(&sources, place + WIDTH)));
        }
        if pairs < whole {
            add(&mut even, function.apply(load(&sources, pairs)));
        }
        for place in whole..length {
            add(&mut rest, function.apply(load(&sources, place)));
        }
    }
    add(&mut even, odd);
    let mut totals = [0.0; M];
    for m in 0..M {
        totals[m] = folded(even[m]) + f64::from(rest[m]);
    }
    totals
}

/// The sum of all lanes, halves first.
#[inline(always)]
fn folded<L: Lanes>(lanes: L) -> f64 {
    let mut values = [0.0f32; WIDTH];
    // SAFETY: there are as many values.
    unsafe { lanes.store(values.as_mut_ptr()) };
    let mut sums = values.map(f64::from);
    let mut width = WIDTH / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}
