//! Where a view comes from in its source image.

use serde::{Deserialize, Serialize};

use crate::structures::{BoxXyxy, Rect, Size};

/// How a view was made: cut out of the source, resized, perhaps mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewGeometry {
    /// The part of the source that the view shows, in source pixels.
    pub crop: Rect,
    /// Whether the view was mirrored left to right after resizing.
    pub flipped: bool,
    /// The source's size.
    pub source: Size,
    /// The view's size.
    pub output: Size,
}

impl ViewGeometry {
    /// A box in source pixels, in view pixels; not clipped to the view.
    pub fn to_view(&self, b: &BoxXyxy) -> BoxXyxy {
        let (x, y) = (self.crop.x as f32, self.crop.y as f32);
        let (scale_x, scale_y) = self.scale();
        let placed = BoxXyxy::new(b.x1 - x, b.y1 - y, b.x2 - x, b.y2 - y).scale(scale_x, scale_y);
        self.mirror(placed)
    }

    /// A box in view pixels, in source pixels: the inverse of [`ViewGeometry::to_view`].
    pub fn to_source(&self, b: &BoxXyxy) -> BoxXyxy {
        let (x, y) = (self.crop.x as f32, self.crop.y as f32);
        let (scale_x, scale_y) = self.scale();
        let b = self.mirror(*b).scale(1.0 / scale_x, 1.0 / scale_y);
        BoxXyxy::new(b.x1 + x, b.y1 + y, b.x2 + x, b.y2 + y)
    }

    /// View pixels per source pixel, across and down.
    fn scale(&self) -> (f32, f32) {
        let across = self.output.width as f32 / self.crop.width as f32;
        (across, self.output.height as f32 / self.crop.height as f32)
    }

    fn mirror(&self, b: BoxXyxy) -> BoxXyxy {
        if self.flipped { b.flip_horizontal(self.output.width as f32) } else { b }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn geometry(flipped: bool) -> ViewGeometry {
        ViewGeometry {
            crop: Rect { x: 100, y: 50, width: 200, height: 100 },
            flipped,
            source: Size { width: 500, height: 375 },
            output: Size { width: 100, height: 200 },
        }
    }

    #[test]
    fn a_box_is_shifted_scaled_and_mirrored_as_the_pixels_are() {
        let b = BoxXyxy::new(120.0, 60.0, 160.0, 150.0);
        assert_eq!(geometry(false).to_view(&b), BoxXyxy::new(10.0, 20.0, 30.0, 200.0));
        assert_eq!(geometry(true).to_view(&b), BoxXyxy::new(70.0, 20.0, 90.0, 200.0));
    }

    #[test]
    fn the_crop_fills_the_view_and_what_lies_outside_is_not_clipped() {
        let crop = BoxXyxy::new(100.0, 50.0, 300.0, 150.0);
        for flipped in [false, true] {
            assert_eq!(geometry(flipped).to_view(&crop), BoxXyxy::new(0.0, 0.0, 100.0, 200.0));
        }
        let corner = BoxXyxy::new(0.0, 0.0, 100.0, 50.0);
        assert_eq!(geometry(false).to_view(&corner), BoxXyxy::new(-50.0, -100.0, 0.0, 0.0));
    }

    fn geometries() -> impl Strategy<Value = ViewGeometry> {
        let crop = (0u32..800, 0u32..800, 1u32..800, 1u32..800);
        (crop, any::<bool>(), 16u32..512, 16u32..512).prop_map(|((x, y, width, height), flipped, w, h)| {
            ViewGeometry {
                crop: Rect { x, y, width, height },
                flipped,
                source: Size { width: 1600, height: 1600 },
                output: Size { width: w, height: h },
            }
        })
    }

    proptest! {
        #[test]
        fn going_to_the_view_and_back_is_the_identity(
            geometry in geometries(),
            x in 0.0f32..1600.0, y in 0.0f32..1600.0, width in 0.0f32..800.0, height in 0.0f32..800.0,
        ) {
            let b = BoxXyxy::from_xywh(x, y, width, height);
            let back = geometry.to_source(&geometry.to_view(&b));
            for (got, expected) in back.to_array().into_iter().zip(b.to_array()) {
                // Coordinates below 2^12 and two multiplications: a few units in the last of 24 bits.
                prop_assert!((got - expected).abs() < 5e-3, "{got} is not {expected}");
            }
        }

        #[test]
        fn a_view_box_keeps_its_corners_in_order(geometry in geometries(), x in 0.0f32..800.0, side in 0.5f32..800.0) {
            let b = geometry.to_view(&BoxXyxy::from_xywh(x, x, side, side));
            prop_assert!(b.x1 < b.x2 && b.y1 < b.y2);
        }
    }
}
