//! The allocator of the program: mimalloc, which keeps freed memory for the next step.
//!
//! The C library gives large blocks back to the kernel as soon as they are freed, and the kernel clears every page anew when
//! the next tensor first touches it; that costs as much time as many an operator. docs/performance.md has the figures.

use std::ffi::{c_int, c_long};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's `mi_option_purge_delay`, by its place in `mi_option_e` of `mimalloc.h`.
const PURGE_DELAY: c_int = 15;
/// Freed memory goes back to the kernel after so many milliseconds: longer than a training step, so that none is cleared
/// anew within one. mimalloc's own is 1000.
const DELAY: c_long = 60_000;

/// Keeps freed memory for a minute, unless the environment's `MIMALLOC_PURGE_DELAY` says otherwise. To be called before
/// other threads run.
pub fn keep_freed_memory() {
    // SAFETY: the option exists, and no other thread changes options.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, DELAY) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_purge_delay() {
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_some() {
            return;
        }
        // SAFETY: the option exists; tests run on threads, but none of them changes options.
        let default = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(default, 1000, "mimalloc's default of this option, which no other has");
    }
}
