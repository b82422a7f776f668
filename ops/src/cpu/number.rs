//! The numbers that the kernels read and write.

use burn::tensor::{Element, bf16};

/// A number as a tensor holds it. Whatever it is, sums are taken in at least 32 bits.
pub(crate) trait Number: Element + bytemuck::Pod {
    /// Whether the number has all 32 bits, so that sums may be kept in its place.
    const IS_F32: bool;

    /// The number nearest to `value`, the even one of two equally near; NaN stays NaN.
    fn rounded(value: f32) -> Self;

    /// The same number in 32 bits.
    fn widened(self) -> f32;
}

impl Number for f32 {
    const IS_F32: bool = true;

    #[inline(always)]
    fn rounded(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn widened(self) -> f32 {
        self
    }
}

/// Without branches, so that loops over it get wide registers.
impl Number for bf16 {
    const IS_F32: bool = false;

    #[inline(always)]
    fn rounded(value: f32) -> Self {
        let bits = value.to_bits();
        let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        let kept = if value.is_nan() { bits | 0x0040_0000 } else { nearest };
        Self::from_bits((kept >> 16) as u16)
    }

    #[inline(always)]
    fn widened(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfloat16_numbers_are_rounded_as_the_half_crate_rounds_them() {
        // Every upper half with the lower halves around a tie.
        for upper in 0..=u16::MAX {
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(u32::from(upper) << 16 | lower);
                let (ours, theirs) = (<bf16 as Number>::rounded(value), bf16::from_f32(value));
                assert_eq!(ours.to_bits(), theirs.to_bits(), "{value:e}");
                if !value.is_nan() {
                    assert_eq!(ours.widened().to_bits(), theirs.to_f32().to_bits());
                }
            }
        }
    }
}
