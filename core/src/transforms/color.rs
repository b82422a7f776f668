//! Colour changes with Pillow's arithmetic, which is what torchvision applies to images read from files.

use image::RgbImage;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::hue;
use super::vectorized::{BLOCK, Block, change_blocks, level, sum_blocks, vectorized};
use crate::random::{Rng, RngExt};

/// Changes brightness, contrast, saturation and hue at random, in random order: torchvision's `ColorJitter`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColorJitter {
    /// The factor is uniform in `[max(0, 1 − brightness), 1 + brightness]`.
    pub brightness: f32,
    /// The factor is uniform in `[max(0, 1 − contrast), 1 + contrast]`.
    pub contrast: f32,
    /// The factor is uniform in `[max(0, 1 − saturation), 1 + saturation]`.
    pub saturation: f32,
    /// The shift is uniform in `[−hue, hue]`, in turns; at most 0.5.
    pub hue: f32,
}

impl ColorJitter {
    /// Changes the image. The number of random values used does not depend on the settings.
    ///
    /// # Panics
    /// If a setting is negative or `hue` is above 0.5.
    pub fn apply(&self, image: &mut RgbImage, rng: &mut Rng) {
        let mut order = [0, 1, 2, 3];
        order.shuffle(rng);
        let brightness = factor(self.brightness, rng);
        let contrast = factor(self.contrast, rng);
        let saturation = factor(self.saturation, rng);
        let hue = rng.random_range(-self.hue..=self.hue);
        for change in order {
            match change {
                0 => adjust_brightness(image, brightness),
                1 => adjust_contrast(image, contrast),
                2 => adjust_saturation(image, saturation),
                // The way through 8-bit hue costs precision, so it is taken only when asked for.
                _ if self.hue > 0.0 => adjust_hue(image, hue),
                _ => {}
            }
        }
    }
}

fn factor(strength: f32, rng: &mut Rng) -> f32 {
    rng.random_range((1.0 - strength).max(0.0)..=1.0 + strength)
}

/// Blends with black: 0 gives black, 1 the image.
///
/// # Panics
/// If the factor is negative.
pub fn adjust_brightness(image: &mut RgbImage, factor: f32) {
    blend_with_level(image, 0, factor);
}

/// Blends with the mean grey: 0 gives a flat image, 1 the image.
///
/// # Panics
/// If the factor is negative.
pub fn adjust_contrast(image: &mut RgbImage, factor: f32) {
    let count = u64::from(image.width()) * u64::from(image.height());
    if count == 0 {
        return;
    }
    let sum = sum_blocks(
        image,
        #[inline(always)]
        |block, pixels| {
            let mut sum = 0;
            for &grey in &luma(block)[..pixels] {
                sum += u32::from(grey);
            }
            sum.into()
        },
    );
    let mean = (sum as f64 / count as f64 + 0.5) as u8;
    blend_with_level(image, mean, factor);
}

/// Blends with the grey image: 0 gives grey, 1 the image.
///
/// # Panics
/// If the factor is negative.
pub fn adjust_saturation(image: &mut RgbImage, factor: f32) {
    assert!(factor >= 0.0, "the factor {factor} must not be negative");
    if factor == 1.0 {
        return;
    }
    change_blocks(
        image,
        #[inline(always)]
        |block| {
            let grey = luma(block);
            for channel in block {
                for i in 0..BLOCK {
                    channel[i] = blend(grey[i], channel[i], factor);
                }
            }
        },
    );
}

/// Turns the hue by `shift` full turns, through 8-bit hue, saturation and value as Pillow has them.
///
/// The way through 8 bits changes colours a little even for a shift of 0.
///
/// # Panics
/// If the shift is not in `[−0.5, 0.5]`.
pub fn adjust_hue(image: &mut RgbImage, shift: f32) {
    assert!((-0.5..=0.5).contains(&shift), "the hue shift {shift} must be between -0.5 and 0.5");
    let steps = (f64::from(shift) * 255.0) as i32;
    hue::rotate(image, steps.rem_euclid(256) as u8);
}

/// Replaces every pixel by its luma.
pub fn grayscale(image: &mut RgbImage) {
    change_blocks(
        image,
        #[inline(always)]
        |block| *block = [luma(block); 3],
    );
}

/// Inverts every value that is not below the threshold.
pub fn solarize(image: &mut RgbImage, threshold: u8) {
    vectorized(
        #[inline(always)]
        || {
            for value in image.iter_mut() {
                *value = if *value >= threshold { 255 - *value } else { *value };
            }
        },
    );
}

/// ITU-R 601 luma in 16-bit fixed point, rounded.
#[inline(always)]
fn luma([red, green, blue]: &Block) -> [u8; BLOCK] {
    let mut grey = [0; BLOCK];
    for i in 0..BLOCK {
        let [r, g, b] = [red[i], green[i], blue[i]].map(u32::from);
        grey[i] = ((19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16) as u8;
    }
    grey
}

/// `from + factor · (to − from)` in single precision, cut to `[0, 255]` and rounded towards zero.
#[inline(always)]
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    let (from, to) = (f32::from(from), f32::from(to));
    level(from + factor * (to - from))
}

fn blend_with_level(image: &mut RgbImage, level: u8, factor: f32) {
    assert!(factor >= 0.0, "the factor {factor} must not be negative");
    if factor == 1.0 {
        return;
    }
    vectorized(
        #[inline(always)]
        || image.iter_mut().for_each(|v| *v = blend(level, *v, factor)),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;
    use image::Rgb;
    use proptest::prelude::{prop_assert_eq, proptest};

    fn pixel(rgb: [u8; 3], change: impl Fn(&mut RgbImage)) -> [u8; 3] {
        let mut image = RgbImage::from_pixel(1, 1, Rgb(rgb));
        change(&mut image);
        image.get_pixel(0, 0).0
    }

    fn noise(size: u32) -> RgbImage {
        let mut rng = stream(5, &[]);
        RgbImage::from_fn(size, size, |_, _| Rgb(rng.random()))
    }

    #[test]
    fn factors_scale_cut_and_round_towards_zero() {
        assert_eq!(pixel([100, 201, 3], |i| adjust_brightness(i, 0.5)), [50, 100, 1]);
        assert_eq!(pixel([100, 201, 3], |i| adjust_brightness(i, 1.4)), [140, 255, 4]);
        assert_eq!(pixel([255, 0, 0], grayscale), [76, 76, 76]);
        assert_eq!(pixel([255, 0, 0], |i| adjust_saturation(i, 0.0)), [76, 76, 76]);
        assert_eq!(pixel([255, 0, 0], |i| adjust_saturation(i, 1.5)), [255, 0, 0]);
        let mut two = RgbImage::from_raw(2, 1, vec![10, 10, 10, 31, 31, 31]).expect("an image");
        adjust_contrast(&mut two, 2.0);
        assert_eq!(two.as_raw(), &[0, 0, 0, 41, 41, 41], "around the mean 20.5, rounded to 21");
    }

    #[test]
    fn a_third_of_a_turn_of_hue_moves_red_to_green() {
        assert_eq!(pixel([200, 0, 0], |i| adjust_hue(i, 1.0 / 3.0)), [0, 200, 0]);
        // 85 steps back end one step beyond blue: a turn has 256 steps, while blue is at 170 of 255.
        assert_eq!(pixel([200, 0, 0], |i| adjust_hue(i, -1.0 / 3.0)), [5, 0, 200]);
        assert_eq!(pixel([90, 90, 90], |i| adjust_hue(i, 0.25)), [90, 90, 90]);
    }

    #[test]
    fn solarize_inverts_from_the_threshold_on() {
        assert_eq!(pixel([127, 128, 255], |i| solarize(i, 128)), [127, 127, 0]);
    }

    #[test]
    fn jitter_of_no_strength_changes_nothing_and_uses_as_many_random_values() {
        let after = |jitter: ColorJitter| {
            let mut rng = stream(1, &[]);
            let mut image = noise(16);
            jitter.apply(&mut image, &mut rng);
            (image, rng.random::<u64>())
        };
        let none = ColorJitter { brightness: 0.0, contrast: 0.0, saturation: 0.0, hue: 0.0 };
        let some = ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.2, hue: 0.1 };
        let (same, next) = after(none);
        assert_eq!(same, noise(16));
        let (changed, next_of_some) = after(some);
        assert_ne!(changed, noise(16));
        assert_eq!(next, next_of_some);
    }

    #[test]
    fn the_order_of_the_changes_is_random() {
        // Brightness 0.5 before or after contrast gives different images; both orders must occur.
        let jitter = ColorJitter { brightness: 0.9, contrast: 0.9, saturation: 0.0, hue: 0.0 };
        let (mut first, mut second) = (0, 0);
        for seed in 0..40 {
            let mut rng = stream(seed, &[]);
            let mut image = noise(8);
            jitter.apply(&mut image, &mut rng);
            let mut rng = stream(seed, &[]);
            [0, 1, 2, 3].shuffle(&mut rng);
            let (brightness, contrast) = (factor(0.9, &mut rng), factor(0.9, &mut rng));
            let (mut a, mut b) = (noise(8), noise(8));
            adjust_brightness(&mut a, brightness);
            adjust_contrast(&mut a, contrast);
            adjust_contrast(&mut b, contrast);
            adjust_brightness(&mut b, brightness);
            assert!(image == a || image == b);
            first += usize::from(image == a);
            second += usize::from(image == b);
        }
        assert!(first > 8 && second > 8, "{first} and {second} of 40");
    }

    fn luma_of(Rgb([r, g, b]): Rgb<u8>) -> u8 {
        ((19595 * u32::from(r) + 38470 * u32::from(g) + 7471 * u32::from(b) + 0x8000) >> 16) as u8
    }

    /// Pillow's blend, with a cast that cuts.
    fn blended(from: u8, to: u8, factor: f32) -> u8 {
        (f32::from(from) + factor * (f32::from(to) - f32::from(from))) as u8
    }

    fn by_pixel(image: &RgbImage, change: impl Fn(Rgb<u8>) -> [u8; 3]) -> RgbImage {
        RgbImage::from_fn(image.width(), image.height(), |x, y| Rgb(change(image[(x, y)])))
    }

    fn changed(image: &RgbImage, change: impl Fn(&mut RgbImage)) -> RgbImage {
        let mut image = image.clone();
        change(&mut image);
        image
    }

    proptest! {
        #[test]
        fn images_of_every_size_change_to_the_byte_as_their_pixels_do_one_by_one(
            width in 1u32..90, height in 1u32..5, factor in 0.0f32..3.0, threshold: u8, seed: u64,
        ) {
            let mut rng = stream(seed, &[]);
            let image = RgbImage::from_fn(width, height, |_, _| Rgb(rng.random()));
            let mean = {
                let sum: u64 = image.pixels().map(|p| u64::from(luma_of(*p))).sum();
                (sum as f64 / f64::from(width * height) + 0.5) as u8
            };
            prop_assert_eq!(
                changed(&image, |i| adjust_brightness(i, factor)),
                by_pixel(&image, |p| p.0.map(|v| blended(0, v, factor)))
            );
            prop_assert_eq!(
                changed(&image, |i| adjust_contrast(i, factor)),
                by_pixel(&image, |p| p.0.map(|v| blended(mean, v, factor)))
            );
            prop_assert_eq!(
                changed(&image, |i| adjust_saturation(i, factor)),
                by_pixel(&image, |p| p.0.map(|v| blended(luma_of(p), v, factor)))
            );
            prop_assert_eq!(changed(&image, grayscale), by_pixel(&image, |p| [luma_of(p); 3]));
            prop_assert_eq!(
                changed(&image, |i| solarize(i, threshold)),
                by_pixel(&image, |p| p.0.map(|v| if v >= threshold { 255 - v } else { v }))
            );
        }
    }
}
