//! The numbers that a network computes with.

use burn::tensor::{FloatDType, Tensor};
use scrl_ops::cast;
use serde::{Deserialize, Serialize};

/// In which numbers a network computes.
///
/// Weights, their gradients, the statistics of batch norms and losses are of 32 bits in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits throughout.
    #[default]
    F32,
    /// Activations in bfloat16: products of bfloat16 numbers, summed in 32 bits.
    Bf16,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Precision; 2] = [Precision::F32, Precision::Bf16];

    /// As settings spell it: `f32` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }

    /// Whether it is the default, which needs no mention.
    pub fn is_f32(&self) -> bool {
        *self == Precision::F32
    }

    /// What a network is given, in the numbers that it computes with: layers keep the type of their input.
    pub fn of<const D: usize>(self, input: Tensor<D>) -> Tensor<D> {
        match self {
            Precision::F32 => input,
            Precision::Bf16 => cast(input, FloatDType::BF16),
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Precision::ALL.into_iter().find(|precision| precision.name() == text);
        known.ok_or_else(|| format!("expected {}", Precision::ALL.map(Precision::name).join(" or ")))
    }
}

/// What a network has computed, in 32 bits: for losses and for whatever is read from it.
pub fn in_f32<const D: usize>(output: Tensor<D>) -> Tensor<D> {
    cast(output, FloatDType::F32)
}
