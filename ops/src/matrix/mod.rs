//! Products of matrices on the calling thread.
//!
//! Where the processor has AMX, both operands are cut into bfloat16 parts: 32-bit numbers into three that sum to
//! them exactly, and six products of parts make one product as accurate as 32-bit arithmetic (see `split`); bfloat16
//! numbers are their only part. Elsewhere the `gemm` crate multiplies in 32 bits.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod amx;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod cut;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod dot;
pub(crate) mod kept;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod packed;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod split;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod store;

mod epilogue;

use crate::cpu::{DisjointMut, Number};
use crate::vectorized;
use burn::tensor::bf16;
use burn_flex::FlexTensor;
pub(crate) use epilogue::Epilogue;
pub use kept::KeptWeights;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use std::sync::Arc;

/// A matrix inside a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, N = f32> {
    pub data: &'a [N],
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub column_stride: usize,
}

impl<'a, N> Matrix<'a, N> {
    /// Rows of `row_stride` elements, one after the other.
    pub(crate) fn rows(data: &'a [N], row_stride: usize) -> Self {
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

/// A number that matrices are made of.
pub(crate) trait Factor: Number {
    /// How it is cut into parts.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    type Cut: cut::Cut<Number = Self>;
    /// How weights, which are always of 32 bits, are cut where they multiply such numbers.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    type WeightCut: cut::Cut<Number = f32>;

    /// Parts of a number.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn parts() -> usize {
        <Self::WeightCut as cut::Cut>::PARTS
    }

    /// Whether products of such numbers are computed by the kernels for tiles, whatever their sizes.
    fn only_tiles() -> bool {
        !Self::IS_F32
    }

    /// Whether there are kernels for tiles of such numbers. They want their operands large: packing costs as much as many
    /// a small product.
    fn has_tiles() -> bool {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        return amx::has_tiles::<Self::Cut>();
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        return false;
    }
}

impl Factor for f32 {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    type Cut = cut::Exact;
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    type WeightCut = cut::Exact;
}

impl Factor for bf16 {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    type Cut = cut::Stored;
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    type WeightCut = cut::Rounded;
}

/// What computes products of matrices on the CPU of this machine: `amx` or `gemm`.
pub fn cpu_products() -> &'static str {
    if f32::has_tiles() { "amx" } else { "gemm" }
}

/// Lets convolutions keep their weights packed, from one inference to the next, until the result is dropped.
///
/// Weights that are trained meanwhile are copied at their next change, and packed anew.
pub fn keep_weights() -> KeptWeights {
    KeptWeights::new()
}

/// Whether this processor multiplies bfloat16 numbers faster than those of 32 bits.
pub fn bf16_products() -> bool {
    bf16::has_tiles()
}

/// A left operand, `[m, k]`, that is used in many products.
pub(crate) struct Left<'a, N: Factor = f32> {
    /// Missing where the operand is only there packed.
    matrix: Option<Matrix<'a, N>>,
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    packed: Option<Arc<packed::Packed>>,
}

impl<'a, N: Factor> Left<'a, N> {
    /// Prepares a weight with all threads for products with wide right operands of numbers of this type. Where the matrix
    /// is the `whole` of a tensor, its rows one after the other, the packed weight may be [kept](kept).
    pub(crate) fn weight(matrix: Matrix<'a>, [rows, depth]: [usize; 2], whole: Option<&FlexTensor>) -> Self {
        assert!(matrix.holds(rows, depth), "a matrix of {rows}×{depth} overruns its slice");
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if N::only_tiles() || amx::pays([rows, usize::MAX, depth]) {
            let pack = || packed::Packed::new::<N::WeightCut>(matrix, [rows, depth]);
            let packed = match whole {
                Some(tensor) => kept::packed(tensor, kept::Layout::Rows(N::parts()), pack),
                None => Arc::new(pack()),
            };
            return Self { matrix: None, packed: Some(packed) };
        }
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        let _ = whole;
        Self {
            matrix: Some(matrix.of_type()),
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            packed: None,
        }
    }
}

impl<'a> Matrix<'a> {
    /// Itself, where `N` is the type of its numbers.
    fn of_type<N: Number>(self) -> Matrix<'a, N> {
        assert!(N::IS_F32, "a matrix of 32-bit numbers");
        Matrix {
            data: bytemuck::cast_slice(self.data),
            row_stride: self.row_stride,
            column_stride: self.column_stride,
        }
    }
}

impl<'a, N: Factor> From<Matrix<'a, N>> for Left<'a, N> {
    /// A left operand that is used once.
    fn from(matrix: Matrix<'a, N>) -> Self {
        Self {
            matrix: Some(matrix),
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            packed: None,
        }
    }
}

/// Where a product goes: rows of adjacent elements inside a slice that other threads write too.
#[derive(Clone, Copy)]
pub(crate) struct Destination<'a, O = f32> {
    pub data: DisjointMut<'a, O>,
    pub offset: usize,
    pub row_stride: usize,
    /// What is done to the values first.
    pub epilogue: Epilogue<'a, O>,
}

/// `destination = lhs · rhs`, or `destination += lhs · rhs`; `[m, k] · [k, n]`. An epilogue comes last.
///
/// # Safety
/// No other thread may access the `m × n` elements of the destination meanwhile; where they are added to,
/// they have been written.
///
/// # Panics
/// If a matrix is smaller than the sizes say, or something is added to a destination that is not of 32 bits, or there
/// are no products of such numbers on this machine.
pub(crate) unsafe fn multiply<N: Factor, O: Number>(
    sizes: [usize; 3],
    lhs: &Left<'_, N>,
    rhs: Matrix<'_, N>,
    destination: Destination<'_, O>,
    accumulate: bool,
) {
    let [m, n, k] = sizes;
    if m == 0 || n == 0 {
        return;
    }
    let holds = lhs.matrix.is_none_or(|matrix| matrix.holds(m, k)) && rhs.holds(k, n);
    assert!(holds, "matrices of {m}×{k} and {k}×{n} overrun their slices");
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if N::only_tiles() || lhs.packed.is_some() || (rhs.is_dense() && amx::pays(sizes)) {
        amx::require::<N::Cut>();
        assert!(rhs.is_dense(), "rows or columns of adjacent elements");
        // SAFETY: the kernels are there, all three matrices lie inside their slices (asserted above, the left one where it was
        // packed), and the destination's elements are exclusive by the caller's promise.
        unsafe { amx::multiply(sizes, lhs, rhs, destination, accumulate) };
        return;
    }
    let of_32_bits = N::IS_F32 && O::IS_F32;
    assert!(of_32_bits, "this processor multiplies numbers of 32 bits only");
    let matrix = lhs.matrix.expect("what is not packed is a matrix");
    let pointer = destination.data.pointer(destination.offset, (m - 1) * destination.row_stride + n);
    // SAFETY: the same promises, and the numbers are f32, a type that `gemm` knows.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            pointer.cast::<f32>(),
            1,
            destination.row_stride as isize,
            accumulate,
            matrix.data.as_ptr().cast::<f32>(),
            matrix.column_stride as isize,
            matrix.row_stride as isize,
            rhs.data.as_ptr().cast::<f32>(),
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
    if destination.epilogue.is_none() {
        return;
    }
    let Destination { data, offset, row_stride, epilogue } = destination;
    let mut values = vec![0.0; n];
    for row in 0..m {
        let offset = offset + row * row_stride;
        // SAFETY: the product has written these elements, which are numbers of 32 bits, and the caller promises that
        // nobody else accesses them.
        let target = unsafe {
            std::ptr::copy_nonoverlapping(data.pointer(offset, n).cast(), values.as_mut_ptr(), n);
            data.unwritten_part(offset..offset + n)
        };
        vectorized(
            #[inline(always)]
            || epilogue.write(row, offset, &values, target),
        );
    }
}
