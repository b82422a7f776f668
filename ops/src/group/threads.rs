//! A group of threads of one process.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Collective, Group};

/// Runs `body` on `size` threads, each with a group that connects them; what they return, by rank.
///
/// # Panics
/// As the first thread that panicked by itself. Threads that wait for one that has ended panic, too.
pub fn threads<R: Send>(size: usize, body: impl Fn(Group) -> R + Sync) -> Vec<R> {
    let meeting = Arc::new(Meeting::new(size));
    let results = std::thread::scope(|scope| {
        let run = |rank: usize| {
            let (meeting, body) = (Arc::clone(&meeting), &body);
            scope.spawn(move || {
                let group = Group::new(Threads { rank, meeting: Arc::clone(&meeting) });
                let result = catch_unwind(AssertUnwindSafe(|| body(group)));
                // Whoever still waits for this thread waits in vain.
                meeting.leave();
                result
            })
        };
        let handles: Vec<_> = (0..size).map(run).collect();
        handles.into_iter().map(|handle| handle.join().and_then(|result| result)).collect::<Vec<_>>()
    });
    let mut panics = Vec::new();
    let results: Vec<R> =
        results.into_iter().filter_map(|result| result.map_err(|e| panics.push(e)).ok()).collect();
    let by_another = |panic: &Box<dyn std::any::Any + Send>| panic.downcast_ref::<&str>() == Some(&LEFT);
    panics.sort_by_key(by_another);
    match panics.into_iter().next() {
        Some(panic) => resume_unwind(panic),
        None => results,
    }
}

/// The panic of a thread that waits for one that has ended.
const LEFT: &str = "another rank of the group has ended";

#[derive(Debug)]
struct Threads {
    rank: usize,
    meeting: Arc<Meeting>,
}

/// Where the threads exchange bytes: each brings its own and takes everybody's.
#[derive(Debug)]
struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// What has been brought so far, by rank.
    brought: Vec<Option<Vec<u8>>>,
    /// Everybody's, of the last exchange.
    exchanged: Arc<Vec<Vec<u8>>>,
    /// Exchanges so far.
    exchanges: u64,
    /// Whether a thread has ended.
    left: bool,
}

impl Meeting {
    fn new(size: usize) -> Self {
        let state = State { brought: vec![None; size], exchanged: Arc::default(), exchanges: 0, left: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self) {
        self.lock().left = true;
        self.changed.notify_all();
    }

    fn exchange(&self, rank: usize, bytes: Vec<u8>) -> Arc<Vec<Vec<u8>>> {
        let mut state = self.lock();
        state.brought[rank] = Some(bytes);
        let number = state.exchanges;
        if state.brought.iter().all(Option::is_some) {
            state.exchanged = Arc::new(state.brought.iter_mut().filter_map(Option::take).collect());
            state.exchanges += 1;
            self.changed.notify_all();
        }
        // Nobody can begin an exchange after this one before all have taken its result, since all bring something to each.
        while state.exchanges == number {
            if state.left {
                drop(state);
                std::panic::panic_any(LEFT);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Arc::clone(&state.exchanged)
    }
}

impl Threads {
    /// Folds everybody's values, in the order of the ranks.
    fn fold<T: bytemuck::Pod>(&self, values: &mut [T], fold: impl Fn(T, T) -> T) {
        let all = self.meeting.exchange(self.rank, bytemuck::cast_slice(values).to_vec());
        let mut all = all.iter().map(|bytes| bytemuck::pod_collect_to_vec::<u8, T>(bytes));
        let mut folded = all.next().unwrap_or_default();
        for other in all {
            assert_eq!(folded.len(), other.len(), "the ranks bring different numbers of values");
            folded.iter_mut().zip(other).for_each(|(folded, other)| *folded = fold(*folded, other));
        }
        values.copy_from_slice(&folded);
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.meeting.lock().brought.len()
    }

    fn sum_f32(&self, values: &mut [f32]) {
        self.fold(values, |a, b| a + b);
    }

    fn sum_f64(&self, values: &mut [f64]) {
        self.fold(values, |a, b| a + b);
    }

    fn max(&self, values: &mut [u64]) {
        self.fold(values, u64::max);
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) {
        let own = if self.rank == root { std::mem::take(bytes) } else { Vec::new() };
        bytes.clone_from(&self.meeting.exchange(self.rank, own)[root]);
    }

    fn all_gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.meeting.exchange(self.rank, bytes.to_vec()).to_vec()
    }
}
