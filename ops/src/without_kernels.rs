//! What a build without the CPU's kernels has in their place.

/// Keeps nothing: other backends keep weights as they are.
#[must_use = "weights are kept as long as it lives"]
pub struct KeptWeights(());

/// Keeps nothing: other backends keep weights as they are.
pub fn keep_weights() -> KeptWeights {
    KeptWeights(())
}

/// Whether the CPU multiplies bfloat16 numbers: without kernels it does not compute at all.
pub fn bf16_products() -> bool {
    false
}
