//! Axis-aligned boxes in pixels. A pixel's left edge is at its column index, so a full image is `(0, 0, width, height)`.

use serde::{Deserialize, Serialize};

/// Width and height of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// A rectangle of whole pixels: its top-left corner and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rect {
    /// First column.
    pub x: u32,
    /// First row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// A box by its corners, in pixels: `x1 ≤ x2` to the right, `y1 ≤ y2` downwards.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BoxXyxy {
    /// Left edge.
    pub x1: f32,
    /// Upper edge.
    pub y1: f32,
    /// Right edge.
    pub x2: f32,
    /// Lower edge.
    pub y2: f32,
}

impl BoxXyxy {
    /// A box of these edges, in pixels.
    pub fn new(x1: f32, y1: f32, x2: f32, y2: f32) -> Self {
        Self { x1, y1, x2, y2 }
    }

    /// From COCO's `[x, y, width, height]`.
    pub fn from_xywh(x: f32, y: f32, width: f32, height: f32) -> Self {
        Self::new(x, y, x + width, y + height)
    }

    /// `[x1, y1, x2, y2]`.
    pub fn to_array(self) -> [f32; 4] {
        [self.x1, self.y1, self.x2, self.y2]
    }

    /// `x2 - x1`.
    pub fn width(&self) -> f32 {
        self.x2 - self.x1
    }

    /// `y2 - y1`.
    pub fn height(&self) -> f32 {
        self.y2 - self.y1
    }

    /// Area in square pixels; zero for an empty or inverted box.
    pub fn area(&self) -> f32 {
        self.width().max(0.0) * self.height().max(0.0)
    }

    /// The common part of two boxes, `None` when they do not overlap.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let common = Self::new(
            self.x1.max(other.x1),
            self.y1.max(other.y1),
            self.x2.min(other.x2),
            self.y2.min(other.y2),
        );
        (common.width() > 0.0 && common.height() > 0.0).then_some(common)
    }

    /// Intersection over union in `[0, 1]`; zero when both boxes are empty.
    pub fn iou(&self, other: &Self) -> f32 {
        let common = self.intersection(other).map_or(0.0, |c| c.area());
        let union = self.area() + other.area() - common;
        if union > 0.0 { common / union } else { 0.0 }
    }

    /// The box limited to an image.
    pub fn clip(&self, width: f32, height: f32) -> Self {
        Self::new(
            self.x1.clamp(0.0, width),
            self.y1.clamp(0.0, height),
            self.x2.clamp(0.0, width),
            self.y2.clamp(0.0, height),
        )
    }

    /// The box with its corners scaled per axis.
    pub fn scale(&self, x: f32, y: f32) -> Self {
        Self::new(self.x1 * x, self.y1 * y, self.x2 * x, self.y2 * y)
    }

    /// The box mirrored left to right in an image of this width.
    pub fn flip_horizontal(&self, width: f32) -> Self {
        Self::new(width - self.x2, self.y1, width - self.x1, self.y2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iou_of_half_overlapping_squares_is_one_third() {
        let a = BoxXyxy::new(0.0, 0.0, 2.0, 2.0);
        let b = BoxXyxy::new(1.0, 0.0, 3.0, 2.0);
        assert!((a.iou(&b) - 1.0 / 3.0).abs() < 1e-6);
        assert_eq!(a.iou(&BoxXyxy::new(2.0, 0.0, 3.0, 2.0)), 0.0);
        let point = BoxXyxy::new(1.0, 1.0, 1.0, 1.0);
        assert_eq!(point.iou(&point), 0.0);
    }

    #[test]
    fn mirroring_twice_gives_the_box_back() {
        let b = BoxXyxy::new(1.0, 2.0, 5.0, 7.0);
        assert_eq!(b.flip_horizontal(10.0), BoxXyxy::new(5.0, 2.0, 9.0, 7.0));
        assert_eq!(b.flip_horizontal(10.0).flip_horizontal(10.0), b);
    }
}
