//! Rotation of hue through 8-bit hue, saturation and value, with Pillow's results.
//!
//! Pillow computes in a mixture of single and double precision. Here every step is an exact integer or one rounding of a
//! single-precision operation, without branches, so that it runs on many pixels at a time; that the results are Pillow's is
//! shown for all colours below.

use image::RgbImage;

use super::vectorized::{BLOCK, Block, change_blocks, truncate};

/// The square of the largest level.
const ONE: f32 = 65025.0;

/// Adds `steps` of 1/256 turn to the 8-bit hue of every pixel.
pub(super) fn rotate(image: &mut RgbImage, steps: u8) {
    change_blocks(
        image,
        #[inline(always)]
        |block| rotate_block(block, steps),
    );
}

#[inline(always)]
fn rotate_block(block: &mut Block, steps: u8) {
    let (hue, saturation, value) = to_hsv(block);
    let [mut position, mut lack] = [[0; BLOCK]; 2];
    for i in 0..BLOCK {
        let hue = hue[i].wrapping_add(steps);
        // Sixths of a turn and 255ths of one, where a turn is 255: 6 · hue = 255 · sixths + fraction.
        let sixths = [43, 85, 128, 170, 213].into_iter().map(|limit| u8::from(hue >= limit)).sum();
        let double = hue.wrapping_add(hue);
        let fraction = double.wrapping_add(double).wrapping_add(double).wrapping_add(sixths);
        position[i] = sixths;
        lack[i] = if sixths % 2 == 0 { !fraction } else { fraction };
    }
    // One channel has the full value, one the least, and one lies between.
    let [mut middle, mut least] = [[0; BLOCK]; 2];
    for i in 0..BLOCK {
        let product = f32::from(saturation[i]) * f32::from(lack[i]);
        // All integers are below 2^24. The quotient is rounded to multiples of 2^-16, and 65025 of them are nearly 1: what
        // lies below an integer stays below it.
        middle[i] = truncate((f32::from(value[i]) * (ONE - product) + 32512.0) / ONE) as u8;
    }
    for i in 0..BLOCK {
        let product = u16::from(value[i]) * u16::from(255 - saturation[i]) + 128;
        least[i] = ((product + (product >> 8)) >> 8) as u8;
    }
    let [red, green, blue] = block;
    for i in 0..BLOCK {
        let (value, middle, least) = (value[i], middle[i], least[i]);
        let pick = |full: [u8; 2], between: [u8; 2]| {
            let is = |places: [u8; 2]| (position[i] == places[0]) | (position[i] == places[1]);
            if is(full) {
                value
            } else if is(between) {
                middle
            } else {
                least
            }
        };
        red[i] = pick([0, 5], [1, 4]);
        green[i] = pick([1, 2], [0, 3]);
        blue[i] = pick([3, 4], [2, 5]);
    }
}

/// Pillow's `rgb2hsv`: hue, saturation and value, rounded towards zero.
#[inline(always)]
fn to_hsv([red, green, blue]: &Block) -> ([u8; BLOCK], [u8; BLOCK], [u8; BLOCK]) {
    let [mut value, mut range, mut distance] = [[0; BLOCK]; 3];
    let [mut start, mut direction] = [[0i8; BLOCK]; 2];
    for i in 0..BLOCK {
        let (r, g, b) = (red[i], green[i], blue[i]);
        let (max, min) = (r.max(g).max(b), r.min(g).min(b));
        let middle = r.min(g).max(r.max(g).min(b));
        value[i] = max;
        range[i] = max - min;
        distance[i] = max - middle;
        // Sixths of a turn where the middle channel equals the largest, and which way they go from there.
        start[i] = if r == max {
            if b <= g { 1 } else { -1 }
        } else if g == max {
            if b <= r { 1 } else { 3 }
        } else if r <= g {
            3
        } else {
            5
        };
        let forwards = if r == max {
            b > g
        } else if g == max {
            b <= r
        } else {
            r <= g
        };
        direction[i] = if forwards { 1 } else { -1 };
    }
    let [mut hue, mut saturation] = [[0; BLOCK]; 2];
    for i in 0..BLOCK {
        // A grey pixel has saturation 0, and then its hue does not matter.
        let range = f32::from(range[i].max(1)) ;
        let sixths = f32::from(start[i]) + f32::from(direction[i]) * (f32::from(distance[i]) / range);
        let turns = sixths / 6.0;
        let turns = if turns < 0.0 { turns + 1.0 } else { turns };
        // Where the product is rounded up to an integer, what is left of it is negative, and exact.
        let whole = truncate(turns * 255.0);
        let left = turns * 256.0 - whole as f32 - turns;
        hue[i] = (whole - i32::from(left < 0.0)) as u8;
    }
    for i in 0..BLOCK {
        saturation[i] = truncate(255.0 * f32::from(range[i]) / f32::from(value[i].max(1))) as u8;
    }
    (hue, saturation, value)
}
