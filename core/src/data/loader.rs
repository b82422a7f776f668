//! Prepares batches on threads ahead of the loop that uses them.
//!
//! What a sample looks like depends on the seed, the epoch and its index only. The number of threads and who finishes
//! first change the speed and nothing else.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::DataError;
use crate::random::{Rng, stream};

/// The purpose of the random streams that samples are prepared with.
const LOADER: u64 = u64::from_be_bytes(*b"loader__");

/// How batches are prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderOptions {
    /// The run's seed.
    pub seed: u64,
    /// The epoch, from 0; with the seed and a sample's index it determines the sample's random stream.
    pub epoch: u64,
    /// Worker threads; 0 for as many as the kernels use, one a processor core unless somebody said otherwise.
    pub threads: usize,
    /// Batches being prepared or waiting, beyond those handed out; 0 counts as 1.
    pub prefetch: usize,
}

/// Prepares one sample from its index and its own random stream.
pub type SampleFn<T> = dyn Fn(usize, &mut Rng) -> Result<T, DataError> + Send + Sync;

/// Starts threads that prepare `batches`, each a list of sample indices, in order.
///
/// `sample` is called once for every index, from several threads at a time, with the random stream of
/// `(seed, epoch, index)`. The iterator yields each batch's samples in the order of its indices. After an error, which
/// arrives in its batch's turn, it yields nothing more. A panic in `sample` becomes [`DataError::Panicked`].
///
/// # Panics
/// If a batch is empty.
pub fn load_batches<T: Send + 'static>(
    batches: Vec<Vec<usize>>,
    options: LoaderOptions,
    sample: Arc<SampleFn<T>>,
) -> BatchIter<T> {
    assert!(batches.iter().all(|batch| !batch.is_empty()), "a batch must not be empty");
    let shared = Arc::new(Shared::new(batches, options));
    let mut workers = Vec::new();
    let mut failed = None;
    for number in 0..threads(options.threads) {
        let (shared, sample) = (Arc::clone(&shared), Arc::clone(&sample));
        let builder = std::thread::Builder::new().name(format!("loader-{number}"));
        match builder.spawn(move || shared.work(&*sample)) {
            Ok(worker) => workers.push(worker),
            Err(reason) if workers.is_empty() => failed = Some(DataError::Threads { reason }),
            Err(reason) => tracing::warn!("cannot start loader thread {number}: {reason}"),
        }
    }
    BatchIter { shared, workers, failed }
}

fn threads(asked: usize) -> usize {
    match asked {
        0 => rayon::current_num_threads(),
        n => n,
    }
}

/// The batches of [`load_batches`], in order. Dropping it stops the threads after the samples they are at.
pub struct BatchIter<T> {
    shared: Arc<Shared<T>>,
    workers: Vec<JoinHandle<()>>,
    failed: Option<DataError>,
}

impl<T> Iterator for BatchIter<T> {
    type Item = Result<Vec<T>, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.shared.stop();
            return Some(Err(error));
        }
        let batch = self.shared.take_batch()?;
        if batch.is_err() {
            self.shared.stop();
        }
        Some(batch)
    }
}

impl<T> Drop for BatchIter<T> {
    fn drop(&mut self) {
        self.shared.stop();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of samples; one of its own has been printed by the panic hook.
            let _ = worker.join();
        }
    }
}

/// What the threads and the iterator share.
struct Shared<T> {
    batches: Vec<Vec<usize>>,
    seed: u64,
    epoch: u64,
    prefetch: usize,
    state: Mutex<State<T>>,
    /// Signalled when a task may have become available, or the work ends.
    work: Condvar,
    /// Signalled when the front batch is complete.
    ready: Condvar,
}

struct State<T> {
    /// Batches handed out; the front of `pending` is the next one.
    taken: usize,
    /// Started batches that have not been handed out.
    pending: VecDeque<Pending<T>>,
    /// The next sample to prepare: batch and position in it.
    next: (usize, usize),
    /// Batches from here on are not started: the number of batches, or less after an error.
    end: usize,
    stopped: bool,
}

struct Pending<T> {
    samples: Vec<Option<Result<T, DataError>>>,
    missing: usize,
}

struct Task {
    batch: usize,
    position: usize,
    index: usize,
}

impl<T> Shared<T> {
    fn new(batches: Vec<Vec<usize>>, options: LoaderOptions) -> Self {
        let end = batches.len();
        let state = State { taken: 0, pending: VecDeque::new(), next: (0, 0), end, stopped: false };
        Self {
            batches,
            seed: options.seed,
            epoch: options.epoch,
            prefetch: options.prefetch.max(1),
            state: Mutex::new(state),
            work: Condvar::new(),
            ready: Condvar::new(),
        }
    }

    /// No caller's code runs under the lock, except the drop of samples.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        drop(pending);
        self.work.notify_all();
        self.ready.notify_all();
    }

    fn work(&self, sample: &SampleFn<T>) {
        while let Some(task) = self.next_task() {
            let mut rng = stream(self.seed, &[LOADER, self.epoch, task.index as u64]);
            let result =
                catch_unwind(AssertUnwindSafe(|| sample(task.index, &mut rng))).unwrap_or_else(|panic| {
                    Err(DataError::Panicked { index: task.index, message: message(&*panic) })
                });
            self.deliver(&task, result);
        }
    }

    /// The next sample to prepare; waits while enough batches are ahead, `None` at the end.
    fn next_task(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if state.stopped || state.next.0 >= state.end {
                return None;
            }
            if state.next.0 < state.taken + self.prefetch {
                return Some(self.start(&mut state));
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn start(&self, state: &mut State<T>) -> Task {
        let (batch, position) = state.next;
        let indices = &self.batches[batch];
        if position == 0 {
            let samples = indices.iter().map(|_| None).collect();
            state.pending.push_back(Pending { samples, missing: indices.len() });
        }
        state.next = if position + 1 < indices.len() { (batch, position + 1) } else { (batch + 1, 0) };
        Task { batch, position, index: indices[position] }
    }

    fn deliver(&self, task: &Task, result: Result<T, DataError>) {
        let mut state = self.lock();
        if state.stopped {
            return;
        }
        if result.is_err() {
            state.end = state.end.min(task.batch + 1);
            self.work.notify_all();
        }
        let front = state.taken;
        let pending = &mut state.pending[task.batch - front];
        pending.samples[task.position] = Some(result);
        pending.missing -= 1;
        if pending.missing == 0 && task.batch == front {
            self.ready.notify_all();
        }
    }

    /// Waits for the next batch; `None` after the last one and after [`Shared::stop`].
    fn take_batch(&self) -> Option<Result<Vec<T>, DataError>> {
        let mut state = self.lock();
        loop {
            if state.stopped || state.taken >= state.end {
                return None;
            }
            if state.pending.front().is_some_and(|batch| batch.missing == 0) {
                break;
            }
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let batch = state.pending.pop_front()?;
        state.taken += 1;
        drop(state);
        self.work.notify_all();
        Some(batch.samples.into_iter().flatten().collect())
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::RngExt;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    fn options(threads: usize, prefetch: usize) -> LoaderOptions {
        LoaderOptions { seed: 3, epoch: 1, threads, prefetch }
    }

    fn in_order(len: usize, batch_size: usize) -> Vec<Vec<usize>> {
        crate::data::sampler::batches(len, batch_size, false, None)
    }

    fn draws(options: LoaderOptions) -> Vec<Vec<(usize, u64)>> {
        // Early samples take longer, so that threads finish out of order.
        let sample = |index: usize, rng: &mut Rng| {
            let rounds = if index.is_multiple_of(4) { 20_000 } else { 1 };
            let noise = (0..rounds).fold(0u64, |sum, i| std::hint::black_box(sum ^ i));
            Ok((index, rng.random::<u64>() ^ (noise & 1)))
        };
        load_batches(in_order(50, 7), options, Arc::new(sample)).map(|b| b.expect("a batch")).collect()
    }

    #[test]
    fn batches_are_the_same_whatever_the_number_of_threads() {
        let one = draws(options(1, 1));
        assert_eq!(one.len(), 8);
        assert_eq!(one.concat().iter().map(|s| s.0).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
        for (threads, prefetch) in [(2, 1), (3, 2), (3, 100), (0, 0)] {
            assert_eq!(draws(options(threads, prefetch)), one);
        }
        assert_ne!(draws(LoaderOptions { epoch: 2, ..options(1, 1) }), one);
        assert_ne!(draws(LoaderOptions { seed: 4, ..options(1, 1) }), one);
    }

    #[test]
    fn a_sample_is_drawn_alike_in_whatever_batch_it_comes() {
        let sample: Arc<SampleFn<u64>> = Arc::new(|_, rng| Ok(rng.random()));
        let load = |batches| -> Vec<u64> {
            load_batches(batches, options(2, 2), Arc::clone(&sample))
                .flat_map(|b| b.expect("a batch"))
                .collect()
        };
        assert_eq!(load(vec![vec![8, 5]])[0], load(vec![vec![1, 2], vec![8]])[2]);
    }

    #[test]
    fn no_more_than_prefetch_batches_are_prepared_ahead() {
        let (started, starts) = mpsc::channel();
        let sample = move |index: usize, _: &mut Rng| {
            started.send(index).expect("the test listens");
            Ok(index)
        };
        let mut batches = load_batches(in_order(20, 2), options(3, 2), Arc::new(sample));
        let mut seen = 0;
        for taken in 0..4 {
            // Two batches of two run ahead of those taken; a fifth sample does not arrive.
            while seen < 2 * (taken + 2) {
                starts.recv_timeout(Duration::from_secs(20)).expect("a sample is started");
                seen += 1;
            }
            assert!(starts.recv_timeout(Duration::from_millis(30)).is_err(), "too far ahead");
            assert_eq!(batches.next().expect("a batch").expect("samples"), [2 * taken, 2 * taken + 1]);
        }
    }

    fn failing(index: usize) -> Result<usize, DataError> {
        match index {
            6 => Err(DataError::invalid(Path::new("six.jpg"), "broken")),
            9 => Err(DataError::invalid(Path::new("nine.jpg"), "broken")),
            _ => Ok(index),
        }
    }

    #[test]
    fn an_error_comes_in_its_batchs_turn_and_ends_the_epoch() {
        for threads in [1, 2, 3] {
            let sample = |index: usize, _: &mut Rng| failing(index);
            let mut batches = load_batches(in_order(100, 4), options(threads, 8), Arc::new(sample));
            assert_eq!(batches.next().expect("a batch").expect("samples"), [0, 1, 2, 3]);
            let error = batches.next().expect("a batch").expect_err("an error");
            assert_eq!(error.to_string(), "`six.jpg` is not valid: broken");
            assert!(batches.next().is_none());
            assert!(batches.next().is_none());
        }
    }

    #[test]
    fn a_panic_in_a_sample_becomes_an_error_that_names_it() {
        let sample = |index: usize, _: &mut Rng| {
            assert!(index != 3, "sample {index} is bad");
            Ok(index)
        };
        let mut batches = load_batches(in_order(8, 2), options(2, 2), Arc::new(sample));
        assert!(batches.next().expect("a batch").is_ok());
        let error = batches.next().expect("a batch").expect_err("an error").to_string();
        assert!(error.starts_with("preparing sample 3 panicked: sample 3 is bad"), "{error}");
        assert!(batches.next().is_none());
    }

    #[test]
    fn dropping_the_batches_stops_the_threads_and_frees_the_samples() {
        let alive = Arc::new(());
        let prepared = Arc::new(AtomicUsize::new(0));
        let (held, count) = (Arc::clone(&alive), Arc::clone(&prepared));
        let sample = move |_: usize, _: &mut Rng| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(Arc::clone(&held))
        };
        let mut batches = load_batches(in_order(1_000_000, 10), options(3, 4), Arc::new(sample));
        let first = batches.next().expect("a batch").expect("samples");
        drop(batches);
        assert!(prepared.load(Ordering::SeqCst) <= 50, "one batch taken and four ahead, ten samples each");
        assert_eq!(Arc::strong_count(&alive), 1 + first.len(), "neither threads nor samples are left");
    }

    #[test]
    fn an_epoch_without_batches_ends_at_once() {
        let sample: Arc<SampleFn<usize>> = Arc::new(|index, _| Ok(index));
        assert!(load_batches(Vec::new(), options(2, 2), sample).next().is_none());
    }
}
