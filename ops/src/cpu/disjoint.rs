//! A slice that several threads write, each at places of its own.

use std::{marker::PhantomData, ops::Range};

/// A mutable slice shared between threads whose parts never overlap.
///
/// Rows of a tile lie scattered over a tensor, so `chunks_mut` cannot hand them out.
#[derive(Clone, Copy)]
pub(crate) struct DisjointMut<'a> {
    start: *mut f32,
    length: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer comes from an exclusive borrow of `Send` data, and every access goes through
// an unsafe method whose caller promises that no other thread touches the same elements.
unsafe impl Send for DisjointMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for DisjointMut<'_> {}

impl<'a> DisjointMut<'a> {
    /// Takes the slice for as long as the parts are in use.
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        Self { start: slice.as_mut_ptr(), length: slice.len(), lifetime: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// While the returned slice lives, no other access to these elements may happen.
    ///
    /// # Panics
    /// If the range ends behind the slice.
    pub(crate) unsafe fn part(self, range: Range<usize>) -> &'a mut [f32] {
        assert!(range.start <= range.end && range.end <= self.length);
        // SAFETY: the range lies inside the borrowed slice; exclusiveness is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// Pointer to element `offset`, for the product of matrices.
    ///
    /// # Panics
    /// If `offset + span` lies behind the slice.
    pub(crate) fn pointer(self, offset: usize, span: usize) -> *mut f32 {
        assert!(offset + span <= self.length);
        // SAFETY: in bounds by the assertion.
        unsafe { self.start.add(offset) }
    }
}
