//! Memory of large operands that are gone. Fresh memory of that size costs more than many a product.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Buffers for other operands of the same kind.
pub(crate) struct Spare<T> {
    buffers: Mutex<Vec<Vec<T>>>,
    /// Buffers that are kept at most.
    limit: usize,
}

impl<T: Clone> Spare<T> {
    pub(crate) const fn new(limit: usize) -> Self {
        Self { buffers: Mutex::new(Vec::new()), limit }
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
        if buffers.len() < self.limit {
            buffers.push(buffer);
        }
    }

    fn buffers(&self) -> MutexGuard<'_, Vec<Vec<T>>> {
        // Buffers come and go whole, so a thread that has panicked leaves nothing half done.
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
