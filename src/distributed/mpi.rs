//! Processes that MPI connects.

use std::fmt::{Debug, Formatter};
use std::sync::OnceLock;

use ::mpi::collective::SystemOperation;
use ::mpi::datatype::PartitionMut;
use ::mpi::environment::Universe;
use ::mpi::topology::{Communicator, SimpleCommunicator};
use ::mpi::traits::{CommunicatorCollectives, Equivalence, Root};
use ::mpi::{Count, Threading};
use anyhow::{Result, bail};
use scrl_ops::{Collective, Group};

use super::Processes;

/// Values of a call: MPI counts in 32 bits.
const MOST_VALUES: usize = 1 << 28;

/// Kept until the process ends; ends MPI when it is dropped.
static UNIVERSE: OnceLock<Shared<Universe>> = OnceLock::new();

/// Connects the processes.
pub(super) fn start() -> Result<Processes> {
    let Some((universe, threading)) = ::mpi::initialize_with_threading(Threading::Serialized) else {
        bail!("MPI has been started before");
    };
    if threading < Threading::Serialized {
        bail!("this MPI cannot be called from several threads; use one built with thread support");
    }
    let world = universe.world();
    let local = world.split_shared(world.rank());
    let local = [local.rank() as usize, local.size() as usize];
    let _ = UNIVERSE.set(Shared(universe));
    Ok(Processes { group: Group::new(World(Shared(world))), local, abort })
}

/// Ends MPI; to be called by every process when all is done.
pub(super) fn end() {
    if let Some(universe) = UNIVERSE.get() {
        universe.0.world().barrier();
        // SAFETY: a process calls this last, and MPI has been started.
        unsafe { ::mpi::ffi::MPI_Finalize() };
    }
}

fn abort(code: u8) -> ! {
    match UNIVERSE.get() {
        Some(universe) => universe.0.world().abort(code.into()),
        None => std::process::exit(code.into()),
    }
}

/// A handle of MPI that threads pass on.
struct Shared<T>(T);

// SAFETY: MPI was started for calls from any thread, one at a time, which `Collective` asks of its callers; `abort`, which may come
// in between, ends the process.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

/// All processes of the launcher.
struct World(Shared<SimpleCommunicator>);

impl Debug for World {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "MPI rank {} of {}", self.rank(), self.size())
    }
}

impl World {
    fn reduce<T: Equivalence + Copy>(&self, values: &mut [T], operation: SystemOperation) {
        for values in values.chunks_mut(MOST_VALUES) {
            let own = values.to_vec();
            self.0.0.all_reduce_into(&own[..], values, operation);
        }
    }

    fn lengths(&self, own: usize) -> Vec<usize> {
        let mut lengths = vec![0_u64; self.size()];
        self.0.0.all_gather_into(&(own as u64), &mut lengths[..]);
        lengths.into_iter().map(|length| length as usize).collect()
    }
}

impl Collective for World {
    fn rank(&self) -> usize {
        self.0.0.rank() as usize
    }

    fn size(&self) -> usize {
        self.0.0.size() as usize
    }

    fn sum_f32(&self, values: &mut [f32]) {
        self.reduce(values, SystemOperation::sum());
    }

    fn sum_f64(&self, values: &mut [f64]) {
        self.reduce(values, SystemOperation::sum());
    }

    fn max(&self, values: &mut [u64]) {
        self.reduce(values, SystemOperation::max());
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) {
        let root = self.0.0.process_at_rank(root as i32);
        let mut length = bytes.len() as u64;
        root.broadcast_into(&mut length);
        bytes.resize(length as usize, 0);
        for bytes in bytes.chunks_mut(MOST_VALUES) {
            root.broadcast_into(bytes);
        }
    }

    fn all_gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let lengths = self.lengths(bytes.len());
        let total: usize = lengths.iter().sum();
        assert!(
            total < i32::MAX as usize,
            "the processes gather {total} bytes, more than MPI takes in one call"
        );
        let counts: Vec<Count> = lengths.iter().map(|length| *length as Count).collect();
        let starts = lengths.iter().scan(0, |next, length| {
            let start = *next;
            *next += *length as Count;
            Some(start)
        });
        let starts: Vec<Count> = starts.collect();
        let mut all = vec![0_u8; total];
        self.0.0.all_gather_varcount_into(bytes, &mut PartitionMut::new(&mut all[..], counts, &starts[..]));
        let mut rest = all.as_slice();
        let mut take = |length: usize| {
            let (own, after) = rest.split_at(length);
            rest = after;
            own.to_vec()
        };
        lengths.into_iter().map(&mut take).collect()
    }
}
