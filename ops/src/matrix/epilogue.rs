//! What is done to a product on its way to its place.

use crate::cpu::{Affine, Number};
use std::mem::MaybeUninit;

/// What becomes of the values of a product before they are written: `max(floor, affine(x) + residual)`.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a, O> {
    /// One for each row; none leaves the values as they are.
    pub(crate) affines: &'a [Affine],
    /// A tensor of the shape of the whole destination.
    pub(crate) residual: Option<&'a [O]>,
    /// The least value that is written: 0 for ReLU, −∞ for none.
    pub(crate) floor: f32,
}

impl<'a, O: Number> Epilogue<'a, O> {
    /// Leaves the values as they are.
    pub(crate) const NONE: Self = Self { affines: &[], residual: None, floor: f32::NEG_INFINITY };

    /// Itself, where the numbers are of 32 bits.
    ///
    /// # Panics
    /// If they are not.
    pub(crate) fn of_32_bits(&self) -> Epilogue<'a, f32> {
        assert!(O::IS_F32, "32-bit numbers");
        Epilogue {
            affines: self.affines,
            residual: self.residual.map(bytemuck::cast_slice),
            floor: self.floor,
        }
    }

    /// Whether the values stay as they are.
    pub(crate) fn is_none(&self) -> bool {
        self.affines.is_empty() && self.residual.is_none() && self.floor == f32::NEG_INFINITY
    }

    /// That of a row.
    #[inline(always)]
    pub(crate) fn affine(&self, row: usize) -> Affine {
        self.affines.get(row).copied().unwrap_or(Affine::IDENTITY)
    }

    /// The part of the residual that is added to values which are written from place `offset` on.
    #[inline(always)]
    pub(crate) fn residual(&self, offset: usize, length: usize) -> Option<&'a [O]> {
        self.residual.map(|residual| &residual[offset..offset + length])
    }

    /// Writes values of row `row` to `target`, which lies at place `offset` of the destination.
    #[inline(always)]
    pub(crate) fn write(&self, row: usize, offset: usize, values: &[f32], target: &mut [MaybeUninit<O>]) {
        let (affine, floor) = (self.affine(row), self.floor);
        // NaN stays NaN.
        let raised = |value: f32| if value < floor { floor } else { value };
        match self.residual(offset, target.len()) {
            None => target.iter_mut().zip(values).for_each(|(target, value)| {
                target.write(O::rounded(raised(affine.of(*value))));
            }),
            Some(residual) => {
                target.iter_mut().zip(values).zip(residual).for_each(|((target, value), residual)| {
                    target.write(O::rounded(raised(affine.of(*value) + residual.widened())));
                });
            }
        }
    }
}
