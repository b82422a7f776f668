//! Rotation of hue through 8-bit hue, saturation and value, with Pillow's arithmetic.

use image::RgbImage;

/// One in the fixed point of [`channel_lacks`] times 255.
const ONE: u32 = 255 * 255;

/// Adds `steps` of 1/256 turn to the 8-bit hue of every pixel.
pub(super) fn rotate(image: &mut RgbImage, steps: u8) {
    let lacks: [[u32; 3]; 256] = std::array::from_fn(|hue| channel_lacks((hue as u8).wrapping_add(steps)));
    for pixel in image.chunks_exact_mut(3) {
        let (hue, saturation, value) = to_hsv(pixel[0], pixel[1], pixel[2]);
        let (saturation, value) = (u32::from(saturation), u32::from(value));
        for (channel, lack) in pixel.iter_mut().zip(lacks[usize::from(hue)]) {
            *channel = ((value * (ONE - saturation * lack) + ONE / 2) / ONE) as u8;
        }
    }
}

/// Pillow's `rgb2hsv`: fractions in single, offsets and scaling in double precision, rounded towards zero.
fn to_hsv(r: u8, g: u8, b: u8) -> (u8, u8, u8) {
    let max = r.max(g).max(b);
    let min = r.min(g).min(b);
    if max == min {
        return (0, 0, max);
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
    ((f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, max)
}

/// What each channel of a hue lacks at full saturation, in 1/255: red, green, blue. One channel lacks nothing, one all.
///
/// Pillow's `hsv2rgb` computes the same in floating point. All results agree, since an exact result is never halfway
/// between two integers.
fn channel_lacks(hue: u8) -> [u32; 3] {
    let position = 6 * u32::from(hue);
    let (sextant, fraction) = (position / 255, position % 255);
    match sextant % 6 {
        0 => [0, 255 - fraction, 255],
        1 => [fraction, 0, 255],
        2 => [255, 0, 255 - fraction],
        3 => [255, fraction, 0],
        4 => [255 - fraction, 255, 0],
        _ => [0, 255, fraction],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primary_colours_lie_a_third_of_a_turn_apart() {
        assert_eq!(to_hsv(200, 0, 0), (0, 255, 200));
        assert_eq!(to_hsv(0, 200, 0), (85, 255, 200));
        assert_eq!(to_hsv(0, 0, 200), (170, 255, 200));
        assert_eq!(to_hsv(9, 9, 9), (0, 0, 9));
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
