//! The product of two matrices, on the calling thread.

use crate::cpu::DisjointMut;

/// A matrix inside a slice.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub data: &'a [f32],
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `row_stride` elements, one after the other.
    pub(super) fn rows(data: &'a [f32], row_stride: usize) -> Self {
        Self { data, row_stride, column_stride: 1 }
    }

    pub(super) fn transposed(self) -> Self {
        Self { data: self.data, row_stride: self.column_stride, column_stride: self.row_stride }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0
            || columns == 0
            || (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.data.len()
    }
}

/// Where a product goes: rows of adjacent elements inside a slice that other threads write too.
#[derive(Clone, Copy)]
pub(super) struct Destination<'a> {
    pub data: DisjointMut<'a>,
    pub offset: usize,
    pub row_stride: usize,
}

/// `destination = lhs · rhs`, or `destination += lhs · rhs`; `[m, k] · [k, n]`.
///
/// # Safety
/// No other thread may access the `m × n` elements of the destination meanwhile.
///
/// # Panics
/// If a matrix is smaller than the sizes say.
pub(super) unsafe fn multiply(
    [m, n, k]: [usize; 3],
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    destination: Destination<'_>,
    accumulate: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(lhs.holds(m, k) && rhs.holds(k, n), "matrices of {m}×{k} and {k}×{n} overrun their slices");
    let pointer = destination.data.pointer(destination.offset, (m - 1) * destination.row_stride + n);
    // SAFETY: all three matrices lie inside their slices (asserted above), the destination's elements
    // are exclusive by the caller's promise, and f32 is a type that `gemm` knows.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            pointer,
            1,
            destination.row_stride as isize,
            accumulate,
            lhs.data.as_ptr(),
            lhs.column_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.column_stride as isize,
            rhs.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
