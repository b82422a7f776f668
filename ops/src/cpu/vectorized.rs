//! Loops compiled for wide registers.

/// Runs `body` compiled for AVX2 where the processor has it.
///
/// The build targets the oldest x86-64 processors, so plain loops use 128-bit registers; a body that is
/// inlined here (mark the closure `#[inline(always)]`) uses 256-bit ones.
#[inline(always)]
pub(crate) fn vectorized<R>(body: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn wide<R>(body: impl FnOnce() -> R) -> R {
            body()
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the features that the function is compiled for.
            return unsafe { wide(body) };
        }
    }
    body()
}
