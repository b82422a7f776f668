//! Pixels to network input.

use image::RgbImage;

/// Mean of ImageNet's training images, red, green, blue, for values in `[0, 1]`.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];

/// Standard deviation of ImageNet's training images, red, green, blue, for values in `[0, 1]`.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Writes `(value / 255 − mean) / std`, channel by channel.
///
/// # Shapes
/// - output: `[3, height, width]`, row by row
///
/// # Panics
/// If `out` does not hold `3 · height · width` values.
pub fn to_chw(image: &RgbImage, mean: [f32; 3], std: [f32; 3], out: &mut [f32]) {
    let area = image.width() as usize * image.height() as usize;
    assert_eq!(out.len(), 3 * area, "the output must hold 3 × height × width values");
    if area == 0 {
        return;
    }
    for (channel, plane) in out.chunks_exact_mut(area).enumerate() {
        let table: [f32; 256] = std::array::from_fn(|v| (v as f32 / 255.0 - mean[channel]) / std[channel]);
        let values = image.as_raw()[channel..].iter().step_by(3);
        for (value, out) in values.zip(plane) {
            *out = table[usize::from(*value)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_has_its_plane_mean_and_deviation() {
        let image = RgbImage::from_raw(2, 1, vec![0, 255, 51, 255, 0, 102]).expect("an image");
        let mut out = [0.0; 6];
        to_chw(&image, [0.5, 0.0, 0.2], [0.5, 1.0, 0.1], &mut out);
        for (got, expected) in out.into_iter().zip([-1.0, 1.0, 1.0, 0.0, 0.0, 2.0]) {
            assert!((got - expected).abs() < 1e-6, "{got} is not {expected}");
        }
    }
}
