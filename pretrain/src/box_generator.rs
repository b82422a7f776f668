//! Draws the boxes that SCRL compares: regions of the source image that both views show.
//!
//! After `SCRLBoxGenerator` of the official code (kakaobrain/scrl 62730fb, `models/box_generator.py`), in real numbers where
//! that has whole pixels. Pure host code over two [`ViewGeometry`] values. "Less zoomed" is the view with fewer view pixels per source
//! pixel; there a region is smallest, so the minimum size is measured in its pixels, per axis.

use scrl_core::config::{SettingError, at_least_one, positive, require, share};
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
    /// How far the box of view 2 is moved and resized at random, as a share of its sides, below 0.5; 0, which every
    /// published recipe uses, leaves both boxes on the same region.
    #[serde(skip_serializing_if = "is_zero")]
    pub jitter: f32,
}

fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

impl Default for BoxConfig {
    fn default() -> Self {
        Self { count: 10, min_size: 32.0, iou_threshold: 0.5, max_tries: 50, grid: true, jitter: 0.0 }
    }
}

/// One region of the source image as each view sees it, in view pixels; the second one off the mark with
/// [`BoxConfig::jitter`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatchedBox {
    /// The box in pixels of the first view.
    pub view1: BoxXyxy,
    /// The same part of the image in pixels of the second view.
    pub view2: BoxXyxy,
}

impl BoxConfig {
    /// Refuses settings that leave no box in views of this side.
    pub(crate) fn validate(&self, view_size: u32) -> Result<(), SettingError> {
        at_least_one("count", self.count)?;
        positive("min_size", f64::from(self.min_size))?;
        let fits = self.min_size < view_size as f32;
        require(fits, "min_size", self.min_size, "smaller than augment.view_size, or no box fits")?;
        share("iou_threshold", f64::from(self.iou_threshold))?;
        let kept = (0.0..0.5).contains(&self.jitter);
        require(kept, "jitter", self.jitter, "from 0 to below 0.5, or a box may vanish")?;
        at_least_one("max_tries", self.max_tries)
    }

    /// Boxes that both views contain; none when the views' common region is too small.
    pub fn generate(&self, views: [&ViewGeometry; 2], rng: &mut Rng) -> Vec<MatchedBox> {
        self.generate_counting(views, rng).0
    }

    /// The boxes and how many were drawn until they were found.
    fn generate_counting(&self, views: [&ViewGeometry; 2], rng: &mut Rng) -> (Vec<MatchedBox>, usize) {
        let Some(region) = Region::new(views, self.min_size) else { return (Vec::new(), 0) };
        let mut kept: Vec<MatchedBox> = Vec::with_capacity(self.count);
        let mut draws = 0;
        for _ in 0..self.count {
            let mut candidate = self.draw(&region, views, rng);
            draws += 1;
            for _ in 1..self.max_tries {
                if kept.iter().all(|k| self.differs(k, &candidate)) {
                    break;
                }
                candidate = self.draw(&region, views, rng);
                draws += 1;
            }
            kept.push(candidate);
        }
        (kept, draws)
    }

    fn differs(&self, kept: &MatchedBox, candidate: &MatchedBox) -> bool {
        self.iou_threshold >= 1.0 || kept.view1.iou(&candidate.view1) < self.iou_threshold
    }

    fn draw(&self, region: &Region, views: [&ViewGeometry; 2], rng: &mut Rng) -> MatchedBox {
        let (x1, x2) = self.draw_side(region.common.x1, region.common.x2, region.min_size[0], rng);
        let (y1, y2) = self.draw_side(region.common.y1, region.common.y2, region.min_size[1], rng);
        let source = BoxXyxy::new(x1, y1, x2, y2);
        let [view1, view2] = views.map(|view| view.to_view(&source));
        let view2 = if self.jitter > 0.0 { self.jittered(&view2, rng) } else { view2 };
        let clipped =
            |b: BoxXyxy, view: &ViewGeometry| b.clip(view.output.width as f32, view.output.height as f32);
        MatchedBox { view1: clipped(view1, views[0]), view2: clipped(view2, views[1]) }
    }

    /// The corner moves by up to `jitter` of the sides, then the sides change by up to as much.
    fn jittered(&self, b: &BoxXyxy, rng: &mut Rng) -> BoxXyxy {
        let mut change = || rng.random_range(-self.jitter..=self.jitter);
        let (x, y) = (b.x1 + b.width() * change(), b.y1 + b.height() * change());
        BoxXyxy::from_xywh(x, y, b.width() * (1.0 + change()), b.height() * (1.0 + change()))
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
mod tests;
