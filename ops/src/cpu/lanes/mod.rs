//! Sixteen values side by side in the processor's widest registers.
//!
//! Every width computes the same bits.

#[cfg(target_arch = "x86_64")]
mod x86;

use crate::cpu::Number;
use burn::tensor::bf16;
#[cfg(target_arch = "x86_64")]
use x86::{with_avx2, with_avx512};

/// Values in [`Lanes`], except for the single one of `f32`.
pub(crate) const WIDTH: usize = 16;

/// Values side by side, for which the processor has the instructions: each comes from [`splat`](Self::splat) or
/// [`load`](Self::load), whose callers promise so. `f32` is a single value, for what is left at the end of a run.
pub(crate) trait Lanes: Copy {
    /// Whether the processor has registers for 24 of these and some more, or only for eight.
    const MANY: bool;

    /// `value` in every lane.
    ///
    /// # Safety
    /// The processor has the instructions of these lanes.
    unsafe fn splat(value: f32) -> Self;

    /// The values from `place` on.
    ///
    /// # Safety
    /// The processor has the instructions of these lanes, and the values may be read.
    unsafe fn load(place: *const f32) -> Self;

    /// Writes the values from `place` on.
    ///
    /// # Safety
    /// The values may be written.
    unsafe fn store(self, place: *mut f32);

    /// The bfloat16 numbers from `place` on.
    ///
    /// # Safety
    /// As for [`load`](Self::load).
    unsafe fn load_widened(place: *const bf16) -> Self;

    /// Writes the values, rounded, from `place` on.
    ///
    /// # Safety
    /// As for [`store`](Self::store).
    unsafe fn store_rounded(self, place: *mut bf16);

    /// `value` in every lane of another one of this kind.
    #[inline(always)]
    fn filled(self, value: f32) -> Self {
        // SAFETY: that `self` exists shows that the processor has the instructions.
        unsafe { Self::splat(value) }
    }

    fn add(self, other: Self) -> Self;

    fn sub(self, other: Self) -> Self;

    fn mul(self, other: Self) -> Self;

    /// `self · factor + summand`, rounded once. Slow without [`has_fused_products`].
    fn mul_add(self, factor: Self, summand: Self) -> Self;

    /// Transposes a square matrix of as many rows as there are lanes. Strides are from row to row.
    ///
    /// # Safety
    /// The processor has the instructions of these lanes; `source` may be read and `target` written.
    unsafe fn transpose(source: *const f32, source_stride: usize, target: *mut f32, target_stride: usize);

    /// `floor` where the value is less; NaN stays NaN.
    fn raise(self, floor: Self) -> Self;

    /// Zero where `output` is at most `floor`, otherwise the value.
    fn pass(self, output: Self, floor: Self) -> Self;
}

/// A number that lanes load and store.
pub(crate) trait InLanes: Number {
    /// The numbers from `place` on.
    ///
    /// # Safety
    /// As for [`Lanes::load`].
    unsafe fn load<L: Lanes>(place: *const Self) -> L;

    /// Writes the values, rounded to such numbers, from `place` on.
    ///
    /// # Safety
    /// As for [`Lanes::store`].
    unsafe fn store<L: Lanes>(values: L, place: *mut Self);
}

impl InLanes for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(place: *const Self) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load(place) }
    }

    #[inline(always)]
    unsafe fn store<L: Lanes>(values: L, place: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe { values.store(place) }
    }
}

impl InLanes for bf16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(place: *const Self) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_widened(place) }
    }

    #[inline(always)]
    unsafe fn store<L: Lanes>(values: L, place: *mut Self) {
        // SAFETY: the caller's promise.
        unsafe { values.store_rounded(place) }
    }
}

impl Lanes for f32 {
    const MANY: bool = false;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        value
    }

    #[inline(always)]
    unsafe fn load(place: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { place.read() }
    }

    #[inline(always)]
    unsafe fn store(self, place: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { place.write(self) }
    }

    #[inline(always)]
    unsafe fn load_widened(place: *const bf16) -> Self {
        // SAFETY: the caller's promise.
        unsafe { place.read() }.widened()
    }

    #[inline(always)]
    unsafe fn store_rounded(self, place: *mut bf16) {
        // SAFETY: the caller's promise.
        unsafe { place.write(Number::rounded(self)) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self - other
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self * other
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, summand: Self) -> Self {
        Self::mul_add(self, factor, summand)
    }

    #[inline(always)]
    unsafe fn transpose(source: *const f32, _: usize, target: *mut f32, _: usize) {
        // SAFETY: the caller's promise.
        unsafe { target.write(source.read()) }
    }

    #[inline(always)]
    fn raise(self, floor: Self) -> Self {
        if self < floor { floor } else { self }
    }

    #[inline(always)]
    fn pass(self, output: Self, floor: Self) -> Self {
        if output <= floor { 0.0 } else { self }
    }
}

/// Any processor's lanes, left to the compiler.
#[derive(Clone, Copy)]
struct Portable([f32; WIDTH]);

impl Portable {
    #[inline(always)]
    fn with(mut self, other: Self, function: impl Fn(f32, f32) -> f32) -> Self {
        for (value, other) in self.0.iter_mut().zip(other.0) {
            *value = function(*value, other);
        }
        self
    }
}

impl Lanes for Portable {
    const MANY: bool = false;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; WIDTH])
    }

    #[inline(always)]
    unsafe fn load(place: *const f32) -> Self {
        // SAFETY: the caller's promise; an array is aligned as its elements are.
        Self(unsafe { place.cast::<[f32; WIDTH]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, place: *mut f32) {
        // SAFETY: as above.
        unsafe { place.cast::<[f32; WIDTH]>().write(self.0) }
    }

    #[inline(always)]
    unsafe fn load_widened(place: *const bf16) -> Self {
        // SAFETY: the caller's promise; an array is aligned as its elements are.
        Self(unsafe { place.cast::<[bf16; WIDTH]>().read() }.map(Number::widened))
    }

    #[inline(always)]
    unsafe fn store_rounded(self, place: *mut bf16) {
        // SAFETY: as above.
        unsafe { place.cast::<[bf16; WIDTH]>().write(self.0.map(Number::rounded)) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.with(other, f32::add)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.with(other, f32::sub)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.with(other, f32::mul)
    }

    #[inline(always)]
    fn mul_add(mut self, factor: Self, summand: Self) -> Self {
        for ((value, factor), summand) in self.0.iter_mut().zip(factor.0).zip(summand.0) {
            *value = f32::mul_add(*value, factor, summand);
        }
        self
    }

    #[inline(always)]
    unsafe fn transpose(source: *const f32, source_stride: usize, target: *mut f32, target_stride: usize) {
        for row in 0..WIDTH {
            for column in 0..WIDTH {
                // SAFETY: the caller's promise.
                unsafe {
                    let value = source.add(row * source_stride + column).read();
                    target.add(column * target_stride + row).write(value);
                }
            }
        }
    }

    #[inline(always)]
    fn raise(self, floor: Self) -> Self {
        self.with(floor, f32::raise)
    }

    #[inline(always)]
    fn pass(self, output: Self, floor: Self) -> Self {
        let mask = output.with(floor, |output, floor| if output <= floor { 0.0 } else { 1.0 });
        self.with(mask, |value, mask| if mask == 0.0 { 0.0 } else { value })
    }
}

/// `[value(0), value(1), …]`. Unlike the standard library's, it is always inlined, and so compiled for the lanes of its
/// caller; mark the closure `#[inline(always)]` too.
#[inline(always)]
pub(crate) fn array<T: Copy, const N: usize>(mut value: impl FnMut(usize) -> T) -> [T; N] {
    let mut values = [value(0); N];
    for (index, place) in values.iter_mut().enumerate().skip(1) {
        *place = value(index);
    }
    values
}

/// Work that can be done with lanes of any kind.
pub(crate) trait Work {
    type Output;

    /// Mark the body `#[inline(always)]`, or it is not compiled for the kind.
    ///
    /// # Safety
    /// The processor has the instructions of the lanes.
    unsafe fn run<L: Lanes>(self) -> Self::Output;
}

/// Does the work with the widest registers of the processor.
pub(crate) fn run<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the features that the function is compiled for.
            return unsafe { with_avx512(work) };
        }
        if has_fused_products() {
            // SAFETY: as above.
            return unsafe { with_avx2(work) };
        }
    }
    // SAFETY: portable lanes need nothing of the processor.
    unsafe { work.run::<Portable>() }
}

/// Whether [`run`] uses lanes that multiply and add in one instruction.
pub(crate) fn has_fused_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f")
        || (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"));
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

#[cfg(test)]
mod tests;
