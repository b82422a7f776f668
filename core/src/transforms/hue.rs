//! Rotation of hue through 8-bit hue, saturation and value, with Pillow's results.
//!
//! Pillow computes in a mixture of single and double precision. Here every step is an exact integer or one rounding of a
//! single-precision operation, without branches, so that it runs on many pixels at a time; the tests compare
//! every hue, saturation and value with Pillow's formulas.

use image::RgbImage;

use super::vectorized::{BLOCK, Block, change_blocks, level};

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
        middle[i] = level((f32::from(value[i]) * (ONE - product) + 32512.0) / ONE);
    }
    for i in 0..BLOCK {
        let product = u16::from(value[i]) * u16::from(255 - saturation[i]) + 128;
        least[i] = ((product + (product >> 8)) >> 8) as u8;
    }
    let [red, green, blue] = block;
    for i in 0..BLOCK {
        let (value, middle, least) = (value[i], middle[i], least[i]);
        let is = |places: [u8; 2]| mask(position[i] == places[0]) | mask(position[i] == places[1]);
        let pick = |full, between| least ^ ((least ^ value) & is(full)) ^ ((least ^ middle) & is(between));
        red[i] = pick([0, 5], [1, 4]);
        green[i] = pick([1, 2], [0, 3]);
        blue[i] = pick([3, 4], [2, 5]);
    }
}

/// All bits where something holds: choosing by bits takes no branches.
#[inline(always)]
fn mask(holds: bool) -> u8 {
    u8::from(holds).wrapping_neg()
}

/// Pillow's `rgb2hsv`: hue, saturation and value, rounded towards zero.
#[inline(always)]
fn to_hsv([red, green, blue]: &Block) -> ([u8; BLOCK], [u8; BLOCK], [u8; BLOCK]) {
    let [mut value, mut range, mut distance] = [[0; BLOCK]; 3];
    let [mut start, mut direction] = [[0; BLOCK]; 2];
    for i in 0..BLOCK {
        let (r, g, b) = (red[i], green[i], blue[i]);
        let (max, min) = (r.max(g).max(b), r.min(g).min(b));
        let middle = r.min(g).max(r.max(g).min(b));
        value[i] = max;
        range[i] = max - min;
        distance[i] = max - middle;
        let is_red = mask(r == max);
        let is_green = mask(g == max) & !is_red;
        let is_blue = !(is_red | is_green);
        // Whether the hue lies before its primary colour, so that it grows with the middle channel's distance.
        let is_before = (is_red & mask(b > g)) | (is_green & mask(b <= r)) | (is_blue & mask(r <= g));
        direction[i] = (is_before & 2).wrapping_sub(1) as i8;
        // Where the middle channel equals the largest one, in sixths of a turn.
        start[i] = ((is_green & 2) | (is_blue & 4)) as i8 - direction[i];
    }
    let [mut hue, mut saturation] = [[0; BLOCK]; 2];
    for i in 0..BLOCK {
        // A grey pixel has saturation 0, and then its hue does not matter.
        let range = f32::from(range[i].max(1));
        let sixths = f32::from(start[i]) + f32::from(direction[i]) * (f32::from(distance[i]) / range);
        let turns = sixths / 6.0;
        let turns = if turns < 0.0 { turns + 1.0 } else { turns };
        // Where the product is rounded up to an integer, what is left of it is negative, and exact.
        let whole = level(turns * 255.0);
        let left = turns * 256.0 - f32::from(whole) - turns;
        hue[i] = whole.wrapping_sub(u8::from(left < 0.0));
    }
    for i in 0..BLOCK {
        saturation[i] = level(255.0 * f32::from(range[i]) / f32::from(value[i].max(1)));
    }
    (hue, saturation, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pillow's `rgb2hsv`: fractions in single, offsets and scaling in double precision, rounded towards zero.
    fn pillows_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
        let max = r.max(g).max(b);
        let min = r.min(g).min(b);
        if max == min {
            return [0, 0, max];
        }
        let range = f32::from(max - min);
        let saturation = range / f32::from(max);
        let distance = |v: u8| f32::from(max - v) / range;
        let sextants = if r == max {
            distance(b) - distance(g)
        } else if g == max {
            (2.0 + f64::from(distance(r)) - f64::from(distance(b))) as f32
        } else {
            (4.0 + f64::from(distance(g)) - f64::from(distance(r))) as f32
        };
        let turns = f64::from(sextants) / 6.0 + 1.0;
        let hue = (if turns >= 1.0 { turns - 1.0 } else { turns }) as f32;
        [(f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, max]
    }

    /// Pillow's `hsv2rgb`, in integers: it computes in floating point, with the same results, since an exact result is
    /// never halfway between two integers.
    fn pillows_rgb([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
        let (sextant, fraction) = (6 * u32::from(hue) / 255, 6 * u32::from(hue) % 255);
        let lacks = match sextant % 6 {
            0 => [0, 255 - fraction, 255],
            1 => [fraction, 0, 255],
            2 => [255, 0, 255 - fraction],
            3 => [255, fraction, 0],
            4 => [255 - fraction, 255, 0],
            _ => [0, 255, fraction],
        };
        lacks.map(|lack| {
            let share = 65025 - u32::from(saturation) * lack;
            ((u32::from(value) * share + 65025 / 2) / 65025) as u8
        })
    }

    fn assert_rotated_as_pillow_does(colours: &[[u8; 3]], steps: u8) {
        let mut image =
            RgbImage::from_raw(colours.len() as u32, 1, colours.as_flattened().to_vec()).expect("an image");
        rotate(&mut image, steps);
        for (&colour, got) in colours.iter().zip(image.pixels()) {
            let [hue, saturation, value] = pillows_hsv(colour);
            let wanted = pillows_rgb([hue.wrapping_add(steps), saturation, value]);
            assert_eq!(got.0, wanted, "{colour:?} by {steps}");
        }
    }

    /// A colour's six arrangements in the three channels.
    fn arrangements([a, b, c]: [u8; 3]) -> [[u8; 3]; 6] {
        [[a, b, c], [a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]]
    }

    // Hue depends only on the differences, so brightest colours show all of them.
    #[test]
    fn every_hue_is_pillows() {
        for steps in [0, 77, 200] {
            for least in 0..=255 {
                let colours: Vec<[u8; 3]> =
                    (least..=255).flat_map(|middle| arrangements([255, middle, least])).collect();
                assert_rotated_as_pillow_does(&colours, steps);
            }
        }
    }

    #[test]
    fn every_saturation_and_value_are_pillows() {
        for value in 0..=255 {
            let colours: Vec<[u8; 3]> = (0..=value)
                .flat_map(|least| {
                    [0, 13, 64, 128, 201, 255]
                        .map(|share| least + ((u16::from(value - least) * share) / 255) as u8)
                        .map(|middle| [value, middle, least])
                })
                .flat_map(arrangements)
                .collect();
            assert_rotated_as_pillow_does(&colours, value.wrapping_mul(37));
        }
    }

    #[test]
    fn the_quotient_of_the_middle_channel_is_exact() {
        for value in 0..=255u32 {
            for share in (0..=65025).rev().step_by(7) {
                let sum = value * share + 32512;
                assert_eq!(u32::from(level(sum as f32 / ONE)), sum / 65025);
            }
        }
    }

    #[test]
    fn primary_colours_lie_a_third_of_a_turn_apart() {
        let mut block = [[0; BLOCK]; 3];
        for (i, [r, g, b]) in [[200, 0, 0], [0, 200, 0], [0, 0, 200]].into_iter().enumerate() {
            (block[0][i], block[1][i], block[2][i]) = (r, g, b);
        }
        let (hue, saturation, value) = to_hsv(&block);
        assert_eq!(hue[..3], [0, 85, 170]);
        assert_eq!(saturation[..3], [255; 3]);
        assert_eq!(value[..3], [200; 3]);
    }

    #[test]
    fn the_way_there_and_back_stays_within_the_rounding_of_eight_bits() {
        let mut image =
            RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * 4) as u8, (y * 4) as u8, (x * y / 16) as u8]));
        let original = image.clone();
        rotate(&mut image, 0);
        // A hue step is 6/255 of a channel's range, a saturation step 1/255 of it.
        let worst = image.iter().zip(original.iter()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(7), "{worst:?}");
    }
}
