//! Memory of large operands that are gone. Fresh memory of that size costs more than many a product.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Buffers for other operands of the same kind.
pub(crate) struct Spare<T>(Mutex<Vec<Vec<T>>>);

/// Buffers of a kind that are kept.
const MAX_BUFFERS: usize = 8;

impl<T: Clone> Spare<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// A buffer of at least `length` elements, which hold whatever they held before, or `value`.
    pub(crate) fn take(&self, length: usize, value: T) -> Vec<T> {
        let mut buffer = self.buffers().pop().unwrap_or_default();
        if buffer.len() < length {
            buffer.resize(length, value);
        }
        buffer
    }

    /// Keeps a buffer for the next one who needs it.
    pub(crate) fn give(&self, buffer: Vec<T>) {
        let mut buffers = self.buffers();
        if buffers.len() < MAX_BUFFERS {
            buffers.push(buffer);
        }
    }

    fn buffers(&self) -> MutexGuard<'_, Vec<Vec<T>>> {
        // Buffers come and go whole, so a thread that has panicked leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
