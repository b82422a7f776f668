//! Loops compiled for wide registers.

/// Runs `body` compiled for AVX-512 or AVX2 where the processor has it.
///
/// The build targets the oldest x86-64 processors, so plain loops use 128-bit registers; a body that is
/// inlined here (mark the closure `#[inline(always)]`) uses wider ones. The results are the same: nothing is
/// reordered or fused.
#[inline(always)]
pub fn vectorized<R>(body: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        /// # Safety
        /// The processor has these features.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
        fn widest<R>(body: impl FnOnce() -> R) -> R {
            body()
        }
        /// # Safety
        /// The processor has AVX2.
        #[target_feature(enable = "avx2")]
        fn wide<R>(body: impl FnOnce() -> R) -> R {
            body()
        }
        let is_widest = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi");
        if is_widest {
            // SAFETY: the processor has the features that the function is compiled for.
            return unsafe { widest(body) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { wide(body) };
        }
    }
    body()
}
