//! Memory that a thread keeps from one tile to the next.

use std::cell::RefCell;

/// Buffers of one thread; they grow to the largest tile seen and stay.
#[derive(Default)]
pub(super) struct Scratch {
    /// im2col patches, `[patch length, pixels]`.
    pub patches: Vec<f32>,
    /// Output values or their gradients, `[channels out, pixels]`.
    pub panel: Vec<f32>,
}

/// Lends the thread's buffers. `body` must not call back into the thread pool.
pub(super) fn with_scratch<R>(body: impl FnOnce(&mut Scratch) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    SCRATCH.with_borrow_mut(body)
}

/// The first `length` elements of a buffer, with whatever they hold.
pub(super) fn take(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    &mut buffer[..length]
}
