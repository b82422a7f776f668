//! Loops over pixels, compiled for the widest registers of the processor.

use image::RgbImage;

/// Pixels handled at a time: one 512-bit register a channel, and little enough to stay in the nearest cache.
pub(super) const BLOCK: usize = 64;

/// Red, green and blue of [`BLOCK`] neighbouring pixels.
pub(super) type Block = [[u8; BLOCK]; 3];

/// Runs `body` compiled for AVX-512 or AVX2 where the processor has it.
///
/// The build targets the oldest x86-64 processors, so plain loops use 128-bit registers; a body that is inlined here
/// (mark the closure `#[inline(always)]`) uses wider ones. The results are the same: nothing is reordered or fused.
#[inline(always)]
pub(super) fn vectorized<R>(body: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
        fn widest<R>(body: impl FnOnce() -> R) -> R {
            body()
        }
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

/// Calls `change` with all pixels, [`BLOCK`] by [`BLOCK`]; the last block may have black ones behind them.
pub(super) fn change_blocks(image: &mut RgbImage, change: impl Fn(&mut Block)) {
    vectorized(
        #[inline(always)]
        || {
            let (blocks, rest) = image.as_chunks_mut();
            for pixels in blocks {
                change_block(pixels, &change);
            }
            if !rest.is_empty() {
                let mut pixels = padded(rest);
                change_block(&mut pixels, &change);
                rest.copy_from_slice(&pixels[..rest.len()]);
            }
        },
    );
}

/// Sums what `number` makes of every block, with the number of its pixels.
pub(super) fn sum_blocks(image: &RgbImage, number: impl Fn(&Block, usize) -> u64) -> u64 {
    vectorized(
        #[inline(always)]
        || {
            let (blocks, rest) = image.as_chunks();
            let mut sum = 0;
            for pixels in blocks {
                sum += number(&split(pixels), BLOCK);
            }
            if !rest.is_empty() {
                sum += number(&split(&padded(rest)), rest.len() / 3);
            }
            sum
        },
    )
}

/// The integer part of a number from −2^31 to 2^31.
///
/// A cast with `as` would also treat numbers outside and NaN, which costs four instructions.
#[inline(always)]
pub(super) fn truncate(value: f32) -> i32 {
    debug_assert!((-2147483648.0..2147483648.0).contains(&value), "{value} is out of range");
    // SAFETY: see above; every caller shows the range of its values.
    unsafe { value.to_int_unchecked() }
}

#[inline(always)]
fn change_block(pixels: &mut [u8; 3 * BLOCK], change: impl Fn(&mut Block)) {
    let mut block = split(pixels);
    change(&mut block);
    let [red, green, blue] = block;
    for i in 0..BLOCK {
        pixels[3 * i] = red[i];
        pixels[3 * i + 1] = green[i];
        pixels[3 * i + 2] = blue[i];
    }
}

#[inline(always)]
pub(super) fn split(pixels: &[u8; 3 * BLOCK]) -> Block {
    let [mut red, mut green, mut blue] = [[0; BLOCK]; 3];
    for i in 0..BLOCK {
        red[i] = pixels[3 * i];
        green[i] = pixels[3 * i + 1];
        blue[i] = pixels[3 * i + 2];
    }
    [red, green, blue]
}

fn padded(rest: &[u8]) -> [u8; 3 * BLOCK] {
    let mut pixels = [0; 3 * BLOCK];
    pixels[..rest.len()].copy_from_slice(rest);
    pixels
}
