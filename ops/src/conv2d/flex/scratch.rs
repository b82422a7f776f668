//! Memory that a thread keeps from one tile to the next.

use crate::matrix::Factor;
use burn::tensor::bf16;
use std::cell::RefCell;

/// Buffers of one thread; they grow to the largest tile seen and stay.
#[derive(Default)]
pub(super) struct Scratch<N> {
    /// im2col patches, `[patch length, pixels]`.
    pub patches: Vec<N>,
    /// The input that patches are copied from, one channel at a time.
    pub lines: Vec<N>,
    /// Output values or their gradients, `[channels out, pixels]`.
    pub panel: Vec<N>,
    /// Products that are to be summed up, `[patch length, pixels]`.
    pub products: Vec<f32>,
    /// Input gradients before they are rounded.
    pub sums: Vec<f32>,
}

/// A number that convolutions know.
pub(super) trait Scratched: Factor {
    /// Lends the thread's buffers. `body` must not call back into the thread pool.
    fn with_scratch<R>(body: impl FnOnce(&mut Scratch<Self>) -> R) -> R;
}

/// A type has buffers of its own, as a `static` cannot be generic.
macro_rules! scratched {
    ($number:ty) => {
        impl Scratched for $number {
            fn with_scratch<R>(body: impl FnOnce(&mut Scratch<Self>) -> R) -> R {
                thread_local! {
                    static SCRATCH: RefCell<Scratch<$number>> = RefCell::default();
                }
                SCRATCH.with_borrow_mut(body)
            }
        }
    };
}

scratched!(f32);
scratched!(bf16);

/// The first `length` elements of a buffer, with whatever they hold.
pub(super) fn take<T: Clone + Default>(buffer: &mut Vec<T>, length: usize) -> &mut [T] {
    if buffer.len() < length {
        buffer.resize(length, T::default());
    }
    &mut buffer[..length]
}
