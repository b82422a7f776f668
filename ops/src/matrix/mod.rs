//! Products of matrices on the calling thread.
//!
//! Where the processor has AMX, both operands are cut into three bfloat16 parts that sum to the 32-bit
//! numbers exactly, and six products of parts make one product as accurate as 32-bit arithmetic
//! (see `split`); elsewhere the `gemm` crate multiplies in 32 bits.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod amx;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod packed;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod split;

use crate::cpu::DisjointMut;

/// A matrix inside a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub data: &'a [f32],
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `row_stride` elements, one after the other.
    pub(crate) fn rows(data: &'a [f32], row_stride: usize) -> Self {
        Self { data, row_stride, column_stride: 1 }
    }

    pub(crate) fn transposed(self) -> Self {
        Self { data: self.data, row_stride: self.column_stride, column_stride: self.row_stride }
    }

    /// The matrix without its first rows.
    pub(crate) fn starting_at_row(self, row: usize) -> Self {
        Self { data: self.data.get(row * self.row_stride..).unwrap_or_default(), ..self }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0
            || columns == 0
            || (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.data.len()
    }

    /// Whether its rows or its columns are adjacent elements.
    fn is_dense(&self) -> bool {
        self.row_stride == 1 || self.column_stride == 1
    }
}

/// What computes products of matrices on the CPU of this machine: `amx` or `gemm`.
pub fn cpu_products() -> &'static str {
    if wide_products() { "amx" } else { "gemm" }
}

/// Whether products want their operands large: packing costs as much as many a small product.
pub(crate) fn wide_products() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return amx::available();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    return false;
}

/// A left operand, `[m, k]`, that is used in many products.
pub(crate) struct Left<'a> {
    matrix: Matrix<'a>,
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    packed: Option<packed::Packed>,
}

impl<'a> Left<'a> {
    /// Prepares a matrix with all threads for products with wide right operands.
    pub(crate) fn prepare(matrix: Matrix<'a>, [rows, depth]: [usize; 2]) -> Self {
        assert!(matrix.holds(rows, depth), "a matrix of {rows}×{depth} overruns its slice");
        Self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            packed: amx::pays([rows, usize::MAX, depth]).then(|| packed::Packed::new(matrix, [rows, depth])),
            matrix,
        }
    }
}

impl<'a> From<Matrix<'a>> for Left<'a> {
    /// A left operand that is used once.
    fn from(matrix: Matrix<'a>) -> Self {
        Self {
            matrix,
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            packed: None,
        }
    }
}

/// Where a product goes: rows of adjacent elements inside a slice that other threads write too.
#[derive(Clone, Copy)]
pub(crate) struct Destination<'a> {
    pub data: DisjointMut<'a>,
    pub offset: usize,
    pub row_stride: usize,
}

/// `destination = lhs · rhs`, or `destination += lhs · rhs`; `[m, k] · [k, n]`.
///
/// # Safety
/// No other thread may access the `m × n` elements of the destination meanwhile; where they are added to,
/// they have been written.
///
/// # Panics
/// If a matrix is smaller than the sizes say.
pub(crate) unsafe fn multiply(
    sizes: [usize; 3],
    lhs: &Left<'_>,
    rhs: Matrix<'_>,
    destination: Destination<'_>,
    accumulate: bool,
) {
    let [m, n, k] = sizes;
    if m == 0 || n == 0 {
        return;
    }
    let matrix = lhs.matrix;
    assert!(matrix.holds(m, k) && rhs.holds(k, n), "matrices of {m}×{k} and {k}×{n} overrun their slices");
    let pointer = destination.data.pointer(destination.offset, (m - 1) * destination.row_stride + n);
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if rhs.is_dense() && amx::pays(sizes) {
        // SAFETY: AMX is there (`pays`), all three matrices lie inside their slices (asserted above), and the
        // destination's elements are exclusive by the caller's promise.
        unsafe { amx::multiply(sizes, lhs, rhs, pointer, destination.row_stride, accumulate) };
        return;
    }
    // SAFETY: the same promises, and f32 is a type that `gemm` knows.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            pointer,
            1,
            destination.row_stride as isize,
            accumulate,
            matrix.data.as_ptr(),
            matrix.column_stride as isize,
            matrix.row_stride as isize,
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
