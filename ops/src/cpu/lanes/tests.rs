use super::*;

/// Every operation on every pair of some values.
#[derive(Clone, Copy)]
struct Everything;

impl Work for Everything {
    type Output = Vec<u32>;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> Vec<u32> {
        let values = [0.0, -0.0, 1.5, -2.25, 1e-40, -3e38, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        let mut results = Vec::new();
        for (index, value) in values.into_iter().enumerate() {
            let others: Vec<f32> = values.iter().cycle().skip(index).take(WIDTH).copied().collect();
            // SAFETY: the caller's promise, and there are as many values.
            let (a, b) = unsafe { (L::splat(value), L::load(others.as_ptr())) };
            let all = [
                a.add(b),
                a.sub(b),
                a.mul(b),
                a.mul_add(b, a),
                b.mul_add(b, a),
                a.raise(b),
                b.raise(a),
                a.pass(b, a),
                b.pass(a, b),
            ];
            for result in all {
                let mut written = [0.0f32; WIDTH];
                // SAFETY: there is as much room.
                unsafe { result.store(written.as_mut_ptr()) };
                // The bits of a NaN are the processor's affair.
                results.extend(written.map(|value| if value.is_nan() { u32::MAX } else { value.to_bits() }));
                let mut numbers = [bf16::ZERO; WIDTH];
                // SAFETY: there is as much room, and as many values.
                let widened = unsafe {
                    result.store_rounded(numbers.as_mut_ptr());
                    L::load_widened(numbers.as_ptr())
                };
                // SAFETY: there is as much room.
                unsafe { widened.store(written.as_mut_ptr()) };
                results.extend(written.map(|value| if value.is_nan() { u32::MAX } else { value.to_bits() }));
            }
        }
        results
    }
}

#[test]
fn every_width_computes_the_same_bits() {
    // SAFETY: portable lanes need nothing of the processor.
    let portable = unsafe { Everything.run::<Portable>() };
    assert_eq!(run(Everything), portable);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the features that the function is compiled for.
        assert_eq!(unsafe { with_avx2(Everything) }, portable);
    }
    // One value at a time: the first of each sixteen.
    // SAFETY: as above.
    let single: Vec<u32> = unsafe { Everything.run::<f32>() }.into_iter().step_by(WIDTH).collect();
    assert_eq!(single, portable.into_iter().step_by(WIDTH).collect::<Vec<_>>());
}

/// The transpose of a square with rows far from each other.
struct Transposed;

impl Work for Transposed {
    type Output = Vec<f32>;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> Vec<f32> {
        let (source_stride, target_stride) = (WIDTH + 3, WIDTH + 5);
        let source: Vec<f32> = (0u16..).take(WIDTH * source_stride).map(f32::from).collect();
        let mut target = vec![-1.0; WIDTH * target_stride];
        // SAFETY: the caller's promise, and both have as many rows.
        unsafe { L::transpose(source.as_ptr(), source_stride, target.as_mut_ptr(), target_stride) };
        target
    }
}

#[test]
fn every_width_transposes() {
    let value = |place: usize| {
        let [row, column] = [place / (WIDTH + 5), place % (WIDTH + 5)];
        if column < WIDTH { (column * (WIDTH + 3) + row) as f32 } else { -1.0 }
    };
    let expected: Vec<f32> = (0..WIDTH * (WIDTH + 5)).map(value).collect();
    // SAFETY: portable lanes need nothing of the processor.
    assert_eq!(unsafe { Transposed.run::<Portable>() }, expected);
    assert_eq!(run(Transposed), expected);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the features that the function is compiled for.
        assert_eq!(unsafe { with_avx2(Transposed) }, expected);
    }
}

#[test]
fn the_activation_keeps_nan_and_passes_no_gradient_at_zero() {
    assert!(f32::NAN.raise(0.0).is_nan());
    assert_eq!((-1.0f32).raise(0.0), 0.0);
    assert_eq!(3.0f32.pass(0.0, 0.0), 0.0);
    assert_eq!(3.0f32.pass(1e-30, 0.0), 3.0);
    assert_eq!(3.0f32.pass(-5.0, f32::NEG_INFINITY), 3.0);
}
