//! What the kernels for GPUs share.
//!
//! Convolutions of the Cube backend write their outputs with the channels of a pixel side by side, so kernels see a tensor as
//! rows of channels, one row for each pixel. Where a tensor lies otherwise in memory it is copied first.

mod rows;

pub(crate) use rows::{Grid, Maps, Rows, Shares, fold};

use burn::tensor::{DType, Shape};
use burn_cubecl::{ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor};
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::{BufferArg, CubeCount, CubeDim};

/// The type of a tensor's numbers in a kernel, if there are kernels for it.
pub(crate) fn element(dtype: DType) -> Option<ElemType> {
    match dtype {
        DType::F32 => Some(ElemType::Float(FloatKind::F32)),
        DType::F16 => Some(ElemType::Float(FloatKind::F16)),
        DType::BF16 => Some(ElemType::Float(FloatKind::BF16)),
        _ => None,
    }
}

/// Dense memory beside a tensor on its device, not written yet.
pub(crate) fn empty(beside: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(beside.client.clone(), beside.device.clone(), shape, dtype)
}

/// The tensor with its numbers as another type.
pub(crate) fn converted(tensor: CubeTensor, dtype: DType) -> CubeTensor {
    if tensor.dtype == dtype { tensor } else { burn_cubecl::kernel::cast(tensor, dtype) }
}

/// A tensor's memory as an argument of a kernel.
pub(crate) fn buffer(tensor: &CubeTensor) -> BufferArg {
    let length = tensor.handle.size_in_used() as usize / tensor.dtype.size();
    // SAFETY: the length is that of the memory behind the handle.
    unsafe { BufferArg::from_raw_parts(tensor.handle.clone(), length) }
}

/// Cubes of so many units for `size` units in all; the last ones have nothing to do.
pub(crate) fn one_unit_each(size: usize, units: u32) -> (CubeCount, CubeDim) {
    /// As many as every API takes along one axis.
    const MAX_CUBES: usize = 65_535;
    let cubes = size.div_ceil(units as usize);
    let down = cubes.div_ceil(MAX_CUBES);
    let across = cubes.div_ceil(down.max(1));
    (CubeCount::new_2d(across as u32, down as u32), CubeDim::new_1d(units))
}
