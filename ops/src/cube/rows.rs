//! Tensors as rows of channels, and how work on them is shared out.

use super::{buffer, empty, one_unit_each};
use burn::tensor::Shape;
use burn_cubecl::{kernel::into_contiguous, ops::permute, tensor::CubeTensor};
use cubecl::prelude::*;

/// Units of a cube.
const UNITS: u32 = 256;
/// Units of a cube where each has an element of its own.
const SHARE_UNITS: u32 = 128;
/// Units of a cube side by side on the channels of a row.
const MAX_UNITS_ACROSS: u32 = 32;
/// Cubes that keep a large GPU busy.
const CUBES: u32 = 1024;
/// Rows below which a unit has too little to do.
const MIN_ROWS: u32 = 4;

/// `[batch, channels, ...]` as a matrix with a row for each pixel of each image.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// `[batch, ..., channels]`
    tensor: CubeTensor,
    /// Elements from one row to the next.
    pitch: usize,
}

impl Rows {
    /// The rows of `[batch, channels, ...]`, copied only where channels are not side by side or pixels not evenly spaced.
    pub(crate) fn of(tensor: CubeTensor) -> Self {
        let axes = channels_last(tensor_rank(&tensor));
        let tensor = permute(tensor, &axes);
        match pitch(tensor.meta.shape(), tensor.meta.strides()) {
            Some(pitch) => Self { tensor, pitch },
            None => {
                let tensor = into_contiguous(tensor);
                let pitch = channels(&tensor);
                Self { tensor, pitch }
            }
        }
    }

    /// Memory for a tensor of the same shape.
    pub(crate) fn another(&self) -> Self {
        let tensor = empty(&self.tensor, self.tensor.meta.shape().clone(), self.tensor.dtype);
        Self { pitch: self.channels(), tensor }
    }

    /// Memory for `[batch, channels, ...]` of this shape and type, beside a tensor on the same device.
    pub(crate) fn empty(shape: &[usize], beside: &CubeTensor) -> Self {
        let shape: Vec<usize> = channels_last(shape.len()).into_iter().map(|axis| shape[axis]).collect();
        let tensor = empty(beside, Shape::from(shape), beside.dtype);
        Self { pitch: channels(&tensor), tensor }
    }

    /// `[batch, channels, ...]`
    pub(crate) fn into_tensor(self) -> CubeTensor {
        let rank = tensor_rank(&self.tensor);
        let axes: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
        permute(self.tensor, &axes)
    }

    pub(crate) fn channels(&self) -> usize {
        channels(&self.tensor)
    }

    /// The number of rows.
    pub(crate) fn count(&self) -> usize {
        self.tensor.meta.shape().iter().rev().skip(1).product()
    }

    /// Rows apart, in vectors of `width` elements.
    pub(crate) fn pitch(&self, width: usize) -> usize {
        self.pitch / width
    }

    pub(crate) fn tensor(&self) -> &CubeTensor {
        &self.tensor
    }

    pub(crate) fn client(&self) -> &Client {
        &self.tensor.client
    }

    pub(crate) fn argument(&self) -> BufferArg {
        buffer(&self.tensor)
    }

    /// Elements of the vectors that the rows of these tensors consist of.
    pub(crate) fn width_with(&self, others: &[&Self]) -> usize {
        if self.takes(4) && others.iter().all(|rows| rows.takes(4)) { 4 } else { 1 }
    }

    /// Whether rows consist of whole vectors of this width at multiples of their size.
    fn takes(&self, width: usize) -> bool {
        let bytes = (width * self.tensor.dtype.size()) as u64;
        let aligned = self.tensor.handle.offset_start.is_none_or(|offset| offset.is_multiple_of(bytes));
        aligned && self.channels().is_multiple_of(width) && self.pitch.is_multiple_of(width)
    }
}

fn tensor_rank(tensor: &CubeTensor) -> usize {
    tensor.meta.shape().len()
}

fn channels(tensor: &CubeTensor) -> usize {
    tensor.meta.shape()[tensor_rank(tensor) - 1]
}

fn channels_last(rank: usize) -> Vec<usize> {
    [0].into_iter().chain(2..rank).chain([1]).collect()
}

/// Elements between the rows of a tensor whose last axis is the channels, if they are evenly spaced.
fn pitch(shape: &[usize], strides: &[usize]) -> Option<usize> {
    let (channels, rest) = shape.split_last()?;
    if *channels > 1 && *strides.last()? != 1 {
        return None;
    }
    let (mut pitch, mut next) = (None, 0);
    for (size, stride) in rest.iter().zip(strides).rev().filter(|(size, _)| **size > 1) {
        match pitch {
            None if *stride >= *channels => pitch = Some(*stride),
            Some(_) if *stride == next => {}
            _ => return None,
        }
        next = size * stride;
    }
    Some(pitch.unwrap_or(*channels))
}

/// How the elements of some tensors of one shape are shared out: units across the channels of a row and down the rows, each
/// taking a vector of channels of every so many-th row.
///
/// It follows from the shapes alone, so that sums are grouped alike on every device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    /// Elements of a vector.
    pub width: usize,
    /// Vectors of a row.
    pub vectors: usize,
    pub rows: usize,
    /// Units of a cube across and down.
    pub units: [u32; 2],
    /// Cubes across and down.
    cubes: [u32; 2],
}

impl Grid {
    /// Shares out what is in `tensors`.
    pub(crate) fn of(tensors: &[&Rows]) -> Self {
        let (rows, channels) = (tensors[0].count(), tensors[0].channels());
        let width = tensors[0].width_with(&tensors[1..]);
        let vectors = channels / width;
        let across = (vectors as u32).next_power_of_two().min(MAX_UNITS_ACROSS);
        let units = [across, UNITS / across];
        let cubes_across = (vectors as u32).div_ceil(across);
        let most = (rows as u32).div_ceil(units[1] * MIN_ROWS).max(1);
        let cubes = [cubes_across, (CUBES / cubes_across).clamp(1, most)];
        Self { width, vectors, rows, units, cubes }
    }

    /// Cubes that share the rows.
    pub(crate) fn slices(&self) -> usize {
        self.cubes[1] as usize
    }

    pub(crate) fn count(&self) -> CubeCount {
        CubeCount::Static(self.cubes[0], self.cubes[1], 1)
    }

    pub(crate) fn dim(&self) -> CubeDim {
        CubeDim::new_2d(self.units[0], self.units[1])
    }
}

/// How the elements of an output are shared out where no two are summed: a unit for each vector of channels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    /// Elements of a vector.
    pub width: usize,
    /// Vectors in all.
    pub size: usize,
}

/// Sizes of an operator from one map to another: pixels of the larger one, rows and columns of the smaller one or of each box, and
/// the tensor that is read.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(crate) struct Maps {
    /// Vectors of the result.
    pub size: usize,
    /// Vectors of a pixel.
    pub channels: usize,
    /// Vectors from one pixel to the next.
    pub pitch: usize,
    pub height: usize,
    pub width: usize,
    pub rows: usize,
    pub columns: usize,
}

impl Shares {
    /// For kernels that read `read`; `[height, width]` and `[rows, columns]`.
    pub(crate) fn maps(
        &self,
        read: &Rows,
        [[height, width], [rows, columns]]: [[usize; 2]; 2],
    ) -> MapsLaunch {
        let channels = read.channels() / self.width;
        MapsLaunch::new(self.size, channels, read.pitch(self.width), height, width, rows, columns)
    }

    /// For the vectors of `output`, which follow from those of the same channels of `others`.
    pub(crate) fn of(output: &Rows, others: &[&Rows]) -> Self {
        Self::new(output.count(), output, others)
    }

    /// For so many rows of the channels that `some` and `others` have.
    pub(crate) fn new(rows: usize, some: &Rows, others: &[&Rows]) -> Self {
        let width = some.width_with(others);
        Self { width, size: rows * some.channels() / width }
    }

    pub(crate) fn count(&self) -> CubeCount {
        one_unit_each(self.size, SHARE_UNITS).0
    }

    pub(crate) fn dim(&self) -> CubeDim {
        one_unit_each(self.size, SHARE_UNITS).1
    }
}

/// The sum of a value over the units down a cube; only the uppermost ones get it. All units of the cube must come here.
#[cube]
pub(crate) fn fold<N: Size>(value: Vector<f32, N>, #[comptime] units: [u32; 2]) -> Vector<f32, N> {
    let across = comptime!(units[0] as usize);
    let mut values = Shared::<[Vector<f32, N>]>::new_slice(comptime!((units[0] * units[1]) as usize));
    values[UNIT_POS as usize] = value;
    sync_cube();
    let mut sum = value;
    if UNIT_POS_Y == 0 {
        for unit in 1..comptime!(units[1] as usize) {
            sum += values[unit * across + UNIT_POS_X as usize];
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evenly_spaced_rows_have_a_pitch() {
        // [2, 3, 4, 8], dense; with padded rows; a slice of its channels.
        assert_eq!(pitch(&[2, 3, 4, 8], &[96, 32, 8, 1]), Some(8));
        assert_eq!(pitch(&[2, 3, 4, 8], &[192, 64, 16, 1]), Some(16));
        assert_eq!(pitch(&[5, 1, 1, 8], &[8, 8, 8, 1]), Some(8));
        assert_eq!(pitch(&[1, 1, 1, 8], &[9, 9, 9, 1]), Some(8));
        assert_eq!(pitch(&[7, 3], &[3, 1]), Some(3));
    }

    #[test]
    fn other_tensors_have_none() {
        // Channels first; rows of pixels with something in between; one image repeated.
        assert_eq!(pitch(&[2, 3, 4, 8], &[96, 4, 1, 12]), None);
        assert_eq!(pitch(&[2, 3, 4, 8], &[192, 64, 8, 1]), None);
        assert_eq!(pitch(&[2, 3, 4, 8], &[0, 32, 8, 1]), None);
    }

    proptest::proptest! {
        #[test]
        fn a_pitch_gives_the_place_of_every_element(
            shape in proptest::collection::vec(1_usize..4, 2..5),
            strides in proptest::collection::vec(0_usize..30, 4),
        ) {
            let strides = &strides[..shape.len()];
            if let Some(pitch) = pitch(&shape, strides) {
                let channels = shape[shape.len() - 1];
                for index in 0..shape.iter().product::<usize>() {
                    let mut rest = index;
                    let place: usize = (0..shape.len()).rev().map(|axis| {
                        let position = rest % shape[axis];
                        rest /= shape[axis];
                        position * strides[axis]
                    }).sum();
                    proptest::prop_assert_eq!(place, index / channels * pitch + index % channels);
                }
            }
        }
    }
}
