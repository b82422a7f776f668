//! The threads that the kernels compute on.

use anyhow::{Context, Result};

/// Starts the kernels' threads, of which the calling one is the first; 0 for what `RAYON_NUM_THREADS` says, or as many as there
/// are cores. To be called once, on the thread that trains, before anything computes.
///
/// A thread outside of rayon's pool hands every kernel over to it and sleeps until it is done. Small networks have thousands of
/// kernels a second, and waking two threads for each takes a good part of their time (docs/performance.md).
///
/// # Errors
/// When the threads cannot be started.
pub fn start(number: usize) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(number).use_current_thread().build();
    // Its threads end with it, and they are needed as long as the program runs.
    std::mem::forget(pool.context("cannot start the threads of the kernels")?);
    Ok(())
}
