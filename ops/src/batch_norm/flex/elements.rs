//! Tensors as kernels see them, some of them to be written over.

use burn_flex::FlexTensor;
use std::{array::from_fn, ops::Range, slice};

use crate::cpu::{DisjointMut, Number, contiguous, tensor_of, values};

/// The elements of a tensor.
pub(super) enum Elements<'a, N> {
    /// Somebody else may read them, too.
    Shared(&'a [N]),
    /// A result may take their place.
    Owned(DisjointMut<'a, N>),
}

impl<N> Clone for Elements<'_, N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<N> Copy for Elements<'_, N> {}

impl<'a, N: Number> Elements<'a, N> {
    fn of(tensor: &'a mut FlexTensor) -> Self {
        let length = tensor.layout().num_elements();
        let whole = tensor.layout().start_offset() == 0 && tensor.storage::<N>().len() == length;
        if whole && tensor.is_unique() {
            Elements::Owned(DisjointMut::new(tensor.storage_mut()))
        } else {
            Elements::Shared(values(tensor))
        }
    }

    /// The first element of `range`; the others follow it.
    #[inline(always)]
    pub(super) fn pointer(self, range: &Range<usize>) -> *const N {
        match self {
            Elements::Shared(values) => values[range.clone()].as_ptr(),
            Elements::Owned(values) => values.pointer(range.start, range.len()),
        }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// While the slice lives, nobody writes these elements.
    #[inline(always)]
    pub(super) unsafe fn values(self, range: &Range<usize>) -> &'a [N] {
        match self {
            Elements::Shared(values) => &values[range.clone()],
            // SAFETY: the elements are in bounds and initialised; the rest is the caller's promise.
            Elements::Owned(values) => unsafe {
                slice::from_raw_parts(values.pointer(range.start, range.len()), range.len())
            },
        }
    }
}

/// Makes `M` tensors of the shape of the given ones by `fill(operands, results)`.
///
/// A result takes the memory of a given tensor that nobody else holds, the first result that of the first
/// such tensor; what is left is allocated.
///
/// # Safety
/// `fill` writes every element of the results, and reads no element of an operand after it has written
/// that element of a result.
///
/// # Panics
/// If no tensor is given or they differ in shape.
pub(super) unsafe fn replaced<N: Number, const K: usize, const M: usize>(
    tensors: [Option<FlexTensor>; K],
    fill: impl FnOnce([Option<Elements<'_, N>>; K], [DisjointMut<'_, N>; M]),
) -> [FlexTensor; M] {
    let mut tensors = tensors.map(|tensor| tensor.map(contiguous));
    let shape = tensors.iter().flatten().next().expect("a tensor").layout().shape().clone();
    assert!(tensors.iter().flatten().all(|tensor| tensor.layout().shape() == &shape), "tensors of one shape");
    let length = shape.num_elements();
    let operands = tensors.each_mut().map(|tensor| tensor.as_mut().map(Elements::of));
    let mut owned = operands.iter().enumerate().filter_map(|(index, operand)| match operand {
        Some(Elements::Owned(values)) => Some((index, *values)),
        _ => None,
    });
    let taken: [_; M] = from_fn(|_| owned.next());
    let mut allocated = taken.map(|taken| Vec::with_capacity(if taken.is_some() { 0 } else { length }));
    let mut places = taken.iter().zip(&mut allocated).map(|(taken, allocated)| match taken {
        Some((_, values)) => *values,
        None => DisjointMut::unwritten(&mut allocated.spare_capacity_mut()[..length]),
    });
    let results: [_; M] = from_fn(|_| places.next().expect("one place a result"));
    fill(operands, results);
    let mut taken = taken.map(|taken| taken.map(|(index, _)| index)).into_iter();
    allocated.map(|mut values| match taken.next().flatten() {
        Some(index) => tensors[index].take().expect("the tensor whose memory the result has taken"),
        None => {
            // SAFETY: `fill` has written that many elements.
            unsafe { values.set_len(length) };
            tensor_of(values, shape.clone())
        }
    })
}
