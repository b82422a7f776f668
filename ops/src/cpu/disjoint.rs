//! A slice that several threads write, each at places of its own.

use super::Number;
use std::{marker::PhantomData, mem::MaybeUninit, ops::Range};

/// A mutable slice shared between threads whose parts never overlap; its elements may not be written yet.
///
/// Rows of a tile lie scattered over a tensor, so `chunks_mut` cannot hand them out, and filling a result
/// with zeros first would cost as much time as many an operator.
pub(crate) struct DisjointMut<'a, T = f32> {
    start: *mut MaybeUninit<T>,
    length: usize,
    lifetime: PhantomData<&'a mut [MaybeUninit<T>]>,
}

impl<T> Clone for DisjointMut<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DisjointMut<'_, T> {}

// SAFETY: the pointer comes from an exclusive borrow of `Send` data, and every access goes through
// an unsafe method whose caller promises that no other thread touches the same elements.
unsafe impl<T: Send> Send for DisjointMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for DisjointMut<'_, T> {}

impl<'a, T> DisjointMut<'a, T> {
    /// Takes a slice for as long as the parts are in use.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr().cast(), length: slice.len(), lifetime: PhantomData }
    }

    /// Takes a slice whose elements are yet to be written.
    pub(crate) fn unwritten(slice: &'a mut [MaybeUninit<T>]) -> Self {
        Self { start: slice.as_mut_ptr(), length: slice.len(), lifetime: PhantomData }
    }

    /// Elements of the whole slice.
    pub(crate) fn len(self) -> usize {
        self.length
    }

    /// The elements of `range`, to be written.
    ///
    /// # Safety
    /// While the returned slice lives, no other access to these elements may happen.
    ///
    /// # Panics
    /// If the range ends behind the slice.
    pub(crate) unsafe fn unwritten_part(self, range: Range<usize>) -> &'a mut [MaybeUninit<T>] {
        let start = self.pointer(range.start, range.len());
        // SAFETY: the range lies inside the borrowed slice; exclusiveness is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(start.cast(), range.len()) }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// The elements have been written, and while the returned slice lives, no other access to them may
    /// happen.
    ///
    /// # Panics
    /// If the range ends behind the slice.
    pub(crate) unsafe fn part(self, range: Range<usize>) -> &'a mut [T] {
        let start = self.pointer(range.start, range.len());
        // SAFETY: as above, and the elements are initialised by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(start, range.len()) }
    }

    /// Pointer to element `offset`, which is followed by at least `span` elements of the slice.
    ///
    /// # Panics
    /// If `offset + span` lies behind the slice.
    pub(crate) fn pointer(self, offset: usize, span: usize) -> *mut T {
        assert!(offset <= self.length && span <= self.length - offset);
        // SAFETY: in bounds by the assertion.
        unsafe { self.start.add(offset).cast() }
    }
}

impl<'a, N: Number> DisjointMut<'a, N> {
    /// Itself, where its numbers are of 32 bits.
    ///
    /// # Panics
    /// If they are not.
    pub(crate) fn of_32_bits(self) -> DisjointMut<'a> {
        assert!(N::IS_F32, "32-bit numbers");
        DisjointMut { start: self.start.cast(), length: self.length, lifetime: PhantomData }
    }
}
