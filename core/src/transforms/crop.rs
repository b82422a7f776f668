//! Which part of an image a view shows.

use crate::random::{Rng, RngExt};
use crate::structures::{Rect, Size};

const TRIES: usize = 10;

/// A random rectangle inside an image: torchvision's `RandomResizedCrop.get_params`.
///
/// The rectangle's area is a uniform share of the image's in `scale`, its width over height log-uniform in `ratio`. When
/// ten tries do not fit, it is the largest central rectangle whose ratio is within `ratio`.
///
/// # Panics
/// If the image is empty, or a range is not positive and in order.
pub fn random_crop_rect(source: Size, scale: (f32, f32), ratio: (f32, f32), rng: &mut Rng) -> Rect {
    assert!(source.width > 0 && source.height > 0, "an empty image has no crops");
    assert!(0.0 < scale.0 && scale.0 <= scale.1, "scale {scale:?} must be positive and in order");
    assert!(0.0 < ratio.0 && ratio.0 <= ratio.1, "ratio {ratio:?} must be positive and in order");
    let area = f64::from(source.width) * f64::from(source.height);
    let log_ratio = f64::from(ratio.0).ln()..=f64::from(ratio.1).ln();
    for _ in 0..TRIES {
        let target = area * rng.random_range(f64::from(scale.0)..=f64::from(scale.1));
        let aspect = rng.random_range(log_ratio.clone()).exp();
        let width = (target * aspect).sqrt().round_ties_even() as u32;
        let height = (target / aspect).sqrt().round_ties_even() as u32;
        if (1..=source.width).contains(&width) && (1..=source.height).contains(&height) {
            let y = rng.random_range(0..=source.height - height);
            let x = rng.random_range(0..=source.width - width);
            return Rect { x, y, width, height };
        }
    }
    central_rect(source, ratio)
}

fn central_rect(source: Size, ratio: (f32, f32)) -> Rect {
    let (low, high) = (f64::from(ratio.0), f64::from(ratio.1));
    let aspect = f64::from(source.width) / f64::from(source.height);
    let (mut width, mut height) = (source.width, source.height);
    if aspect < low {
        height = (f64::from(width) / low).round_ties_even() as u32;
    } else if aspect > high {
        width = (f64::from(height) * high).round_ties_even() as u32;
    }
    let (width, height) = (width.clamp(1, source.width), height.clamp(1, source.height));
    Rect { x: (source.width - width) / 2, y: (source.height - height) / 2, width, height }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;
    use proptest::prelude::*;

    const RATIO: (f32, f32) = (3.0 / 4.0, 4.0 / 3.0);

    fn rects(source: Size, scale: (f32, f32), count: u64) -> Vec<Rect> {
        (0..count).map(|i| random_crop_rect(source, scale, RATIO, &mut stream(3, &[i]))).collect()
    }

    #[test]
    fn area_and_ratio_stay_in_their_ranges_and_average_as_uniform_variables_do() {
        let source = Size { width: 500, height: 500 };
        let found = rects(source, (0.2, 0.5), 4000);
        let (mut area_sum, mut log_ratio_sum) = (0.0, 0.0);
        for r in &found {
            let area = f64::from(r.width * r.height) / 250_000.0;
            let ratio = f64::from(r.width) / f64::from(r.height);
            assert!((0.197..0.503).contains(&area), "{r:?}");
            assert!((0.74..1.345).contains(&ratio), "{r:?}");
            area_sum += area;
            log_ratio_sum += ratio.ln();
        }
        // Standard errors are 0.0014 and 0.0026; the bounds are five of them.
        assert!((area_sum / 4000.0 - 0.35).abs() < 0.007);
        assert!((log_ratio_sum / 4000.0).abs() < 0.013);
    }

    #[test]
    fn positions_reach_both_edges() {
        let found = rects(Size { width: 12, height: 9 }, (0.2, 0.9), 2000);
        assert!(found.iter().any(|r| r.x == 0) && found.iter().any(|r| r.x + r.width == 12));
        assert!(found.iter().any(|r| r.y == 0) && found.iter().any(|r| r.y + r.height == 9));
    }

    #[test]
    fn an_image_that_is_too_long_gives_its_central_part() {
        let expected = Rect { x: 434, y: 0, width: 133, height: 100 };
        assert_eq!(rects(Size { width: 1001, height: 100 }, (1.0, 1.0), 1), [expected]);
        let expected = Rect { x: 0, y: 433, width: 100, height: 133 };
        assert_eq!(rects(Size { width: 100, height: 1000 }, (1.0, 1.0), 1), [expected]);
    }

    proptest! {
        #[test]
        fn a_crop_lies_inside_its_image(width in 1u32..700, height in 1u32..700, seed: u64) {
            let rng = &mut stream(seed, &[]);
            let r = random_crop_rect(Size { width, height }, (0.08, 1.0), RATIO, rng);
            prop_assert!(r.width > 0 && r.height > 0);
            prop_assert!(r.x + r.width <= width && r.y + r.height <= height);
        }
    }
}
