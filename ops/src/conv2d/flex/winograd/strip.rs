//! Pixels in lanes: values of sixteen channels side by side.

use super::transforms::square;
use crate::cpu::lanes::{Lanes, WIDTH};

/// Writes the first `length` values of sixteen rows to `target`, `[length, 16]`.
///
/// # Safety
/// The processor has the instructions of the lanes; the rows may be read and the target written.
#[inline(always)]
pub(super) unsafe fn to_lanes<L: Lanes>(source: *const f32, stride: usize, length: usize, target: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        if length < WIDTH {
            for row in 0..WIDTH {
                for place in 0..length {
                    target.add(place * WIDTH + row).write(source.add(row * stride + place).read());
                }
            }
            return;
        }
        // The last square may overlap the one before.
        for start in (0..length).step_by(WIDTH) {
            let start = start.min(length - WIDTH);
            L::transpose(source.add(start), stride, target.add(start * WIDTH), WIDTH);
        }
    }
}

/// Writes `[length, 16]` values to sixteen rows. Both have room for a `length` that is a multiple of sixteen.
///
/// # Safety
/// The processor has the instructions of the lanes; the source may be read and the rows written.
#[inline(always)]
pub(super) unsafe fn from_lanes<L: Lanes>(
    source: *const f32,
    length: usize,
    target: *mut f32,
    stride: usize,
) {
    for start in (0..length).step_by(WIDTH) {
        // SAFETY: the caller's promise.
        unsafe { L::transpose(source.add(start * WIDTH), WIDTH, target.add(start), stride) };
    }
}

/// Some rows of sixteen channels of an image, in lanes; outside there are zeros.
#[derive(Clone, Copy)]
pub(super) struct Strip<'a> {
    /// `[rows, width, 16]`
    pub pixels: &'a [f32],
    /// The row of the image that is the first of the strip.
    pub top: usize,
    pub rows: usize,
    pub width: usize,
}

impl Strip<'_> {
    /// The square of pixels whose first one is at `y − padding` and `x − padding` of the image.
    ///
    /// # Safety
    /// The processor has the instructions of the lanes.
    #[inline(always)]
    pub(super) unsafe fn square<L: Lanes, const SIDE: usize>(
        self,
        [y, x]: [usize; 2],
        [padding_y, padding_x]: [usize; 2],
    ) -> [[L; SIDE]; SIDE] {
        const ZEROS: [f32; WIDTH] = [0.0; WIDTH];
        debug_assert_eq!(self.pixels.len(), self.rows * self.width * WIDTH);
        square(
            #[inline(always)]
            |row, column| {
                let row = (y + row).wrapping_sub(padding_y + self.top);
                let column = (x + column).wrapping_sub(padding_x);
                let place = if row < self.rows && column < self.width {
                    self.pixels[(row * self.width + column) * WIDTH..][..WIDTH].as_ptr()
                } else {
                    ZEROS.as_ptr()
                };
                // SAFETY: sixteen values; the rest is the caller's promise.
                unsafe { L::load(place) }
            },
        )
    }
}
