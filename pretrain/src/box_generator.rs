//! Draws the boxes that SCRL compares: regions of the source image that both views show.
//!
//! Pure host code over two [`ViewGeometry`] values. "Less zoomed" is the view with fewer view pixels per source
//! pixel; there a region is smallest, so the minimum size is measured in its pixels, per axis.

use scrl_core::random::{Rng, RngExt};
use scrl_core::structures::BoxXyxy;
use scrl_core::transforms::geometry::ViewGeometry;
use serde::{Deserialize, Serialize};

/// Settings of [`BoxConfig::generate`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BoxConfig {
    /// Boxes an image.
    pub count: usize,
    /// Smallest side in the less zoomed view, in pixels.
    pub min_size: f32,
    /// Boxes of one image overlap less than this in view 1; 1 turns the test off.
    pub iou_threshold: f32,
    /// Draws until the last one is kept in spite of its overlap.
    pub max_tries: usize,
    /// Draws the box inside a random cell of a random grid; otherwise anywhere in the common region.
    pub grid: bool,
}

impl Default for BoxConfig {
    fn default() -> Self {
        Self { count: 10, min_size: 32.0, iou_threshold: 0.5, max_tries: 50, grid: true }
    }
}

/// One region of the source image as each view sees it, in view pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatchedBox {
    pub view1: BoxXyxy,
    pub view2: BoxXyxy,
}

impl BoxConfig {
    /// Boxes that both views contain; none when the views' common region is too small.
    pub fn generate(&self, views: [&ViewGeometry; 2], rng: &mut Rng) -> Vec<MatchedBox> {
        let Some(region) = Region::new(views, self.min_size) else { return Vec::new() };
        let mut kept: Vec<MatchedBox> = Vec::with_capacity(self.count);
        for _ in 0..self.count {
            let mut candidate = self.draw(&region, views, rng);
            for _ in 1..self.max_tries {
                if kept.iter().all(|k| self.differs(k, &candidate)) {
                    break;
                }
                candidate = self.draw(&region, views, rng);
            }
            kept.push(candidate);
        }
        kept
    }

    fn differs(&self, kept: &MatchedBox, candidate: &MatchedBox) -> bool {
        self.iou_threshold >= 1.0 || kept.view1.iou(&candidate.view1) < self.iou_threshold
    }

    fn draw(&self, region: &Region, views: [&ViewGeometry; 2], rng: &mut Rng) -> MatchedBox {
        let (x1, x2) = self.draw_side(region.common.x1, region.common.x2, region.min_size[0], rng);
        let (y1, y2) = self.draw_side(region.common.y1, region.common.y2, region.min_size[1], rng);
        let source = BoxXyxy::new(x1, y1, x2, y2);
        let [view1, view2] = views.map(|view| {
            let output = view.output;
            view.to_view(&source).clip(output.width as f32, output.height as f32)
        });
        MatchedBox { view1, view2 }
    }

    /// One axis of a box in source pixels: the side is at least `min_size` and inside a random cell of `[low, high]`.
    fn draw_side(&self, low: f32, high: f32, min_size: f32, rng: &mut Rng) -> (f32, f32) {
        let cells = if self.grid {
            rng.random_range(1..=((high - low) / min_size).floor().max(1.0) as u32)
        } else {
            1
        };
        let cell = (high - low) / cells as f32;
        let start = low + cell * rng.random_range(0..cells) as f32;
        let side = min_size + rng.random::<f32>() * (cell - min_size).max(0.0);
        let offset = rng.random::<f32>() * (cell - side).max(0.0);
        (start + offset, start + offset + side)
    }
}

/// The common part of two crops, in source pixels, with the smallest allowed side per axis.
struct Region {
    common: BoxXyxy,
    min_size: [f32; 2],
}

impl Region {
    fn new(views: [&ViewGeometry; 2], min_size: f32) -> Option<Self> {
        let [first, second] = views.map(crop_box);
        let common = first.intersection(&second)?;
        let scale = |axis: fn(&ViewGeometry) -> f32| axis(views[0]).min(axis(views[1]));
        let min_size = [min_size / scale(scale_x), min_size / scale(scale_y)];
        (common.width() > min_size[0] && common.height() > min_size[1]).then_some(Self { common, min_size })
    }
}

fn crop_box(view: &ViewGeometry) -> BoxXyxy {
    let crop = view.crop;
    BoxXyxy::from_xywh(crop.x as f32, crop.y as f32, crop.width as f32, crop.height as f32)
}

/// View pixels per source pixel, horizontally.
fn scale_x(view: &ViewGeometry) -> f32 {
    view.output.width as f32 / view.crop.width as f32
}

/// View pixels per source pixel, vertically.
fn scale_y(view: &ViewGeometry) -> f32 {
    view.output.height as f32 / view.crop.height as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop_assert, proptest};
    use scrl_core::random::stream;
    use scrl_core::structures::Size;
    use scrl_core::transforms::crop::random_crop_rect;

    fn random_view(source: Size, output: u32, rng: &mut Rng) -> ViewGeometry {
        let crop = random_crop_rect(source, (0.2, 1.0), (0.75, 4.0 / 3.0), rng);
        let flipped = rng.random();
        ViewGeometry { crop, flipped, source, output: Size { width: output, height: output } }
    }

    proptest! {
        #[test]
        fn both_boxes_of_a_pair_show_the_same_source_rectangle(
            seed in 0u64..10_000, width in 60u32..700, height in 60u32..700, grid: bool,
        ) {
            let mut rng = stream(seed, &[]);
            let source = Size { width, height };
            let (a, b) = (random_view(source, 224, &mut rng), random_view(source, 224, &mut rng));
            let config = BoxConfig { grid, ..BoxConfig::default() };
            for pair in config.generate([&a, &b], &mut rng) {
                let (first, second) = (a.to_source(&pair.view1), b.to_source(&pair.view2));
                // Clipping by rounding and f32 arithmetic on hundreds of pixels stay below a hundredth of a pixel.
                for (p, q) in first.to_array().iter().zip(second.to_array()) {
                    prop_assert!((p - q).abs() < 0.02, "{first:?} {second:?}");
                }
                for view in [pair.view1, pair.view2] {
                    prop_assert!(view.x1 >= 0.0 && view.y1 >= 0.0 && view.x2 <= 224.0 && view.y2 <= 224.0);
                    prop_assert!(view.width() > 31.98 && view.height() > 31.98, "{view:?}");
                }
            }
        }
    }

    /// The reference values come from simulating the published generator on 500×375 sources; a side is √area.
    #[test]
    fn box_statistics_match_the_published_generator() {
        let (source, mut rng) = (Size { width: 500, height: 375 }, stream(3, &[]));
        let (pairs, mut usable, mut sides, mut zoom) = (2500, 0, Vec::new(), Vec::new());
        for _ in 0..pairs {
            let (a, b) = (random_view(source, 224, &mut rng), random_view(source, 224, &mut rng));
            let boxes = BoxConfig::default().generate([&a, &b], &mut rng);
            usable += usize::from(!boxes.is_empty());
            sides.extend(boxes.iter().map(|m| m.view1.area().sqrt()));
            zoom.extend(boxes.iter().map(|m| (m.view2.area() / m.view1.area()).sqrt()));
        }
        let quantile = |values: &mut Vec<f32>, q: f64| {
            values.sort_by(f32::total_cmp);
            values[((values.len() - 1) as f64 * q) as usize]
        };
        // Sampling error of 2,500 pairs: 0.3 points of the usable share, about 2 % of a quantile; the bounds are
        // several of these.
        assert!((usable as f64 / pairs as f64 - 0.986).abs() < 0.01, "usable {usable}");
        for (q, expected, tolerance) in [(0.05, 34.0, 2.0), (0.5, 52.0, 5.0), (0.95, 102.0, 10.0)] {
            let found = quantile(&mut sides, q);
            assert!((found - expected).abs() < tolerance, "side at {q}: {found}, expected {expected}");
        }
        for (q, expected) in [(0.05, 0.63), (0.5, 1.01), (0.95, 1.59)] {
            let found = quantile(&mut zoom, q);
            assert!((found / expected - 1.0).abs() < 0.08, "zoom at {q}: {found}, expected {expected}");
        }
    }

    #[test]
    fn views_without_a_common_region_give_no_boxes() {
        use scrl_core::structures::Rect;
        let output = Size { width: 224, height: 224 };
        let view = |x| ViewGeometry {
            crop: Rect { x, y: 0, width: 100, height: 100 },
            flipped: false,
            source: Size { width: 400, height: 100 },
            output,
        };
        assert!(BoxConfig::default().generate([&view(0), &view(200)], &mut stream(0, &[])).is_empty());
        // Twelve source pixels are 27 view pixels, less than the minimum of 32.
        assert!(BoxConfig::default().generate([&view(0), &view(88)], &mut stream(0, &[])).is_empty());
        assert_eq!(BoxConfig::default().generate([&view(0), &view(50)], &mut stream(0, &[])).len(), 10);
    }
}
