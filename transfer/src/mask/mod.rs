//! Masks of objects: COCO's polygons and run lengths, the targets that a mask head learns, and its output pasted into images.
//!
//! A pixel belongs to a polygon as pycocotools says. Run lengths go down the columns, as COCO's do.

mod crop;
mod paste;
mod rle;
mod segmentation;

pub use crop::ObjectMask;
pub use paste::SoftMask;
pub use rle::Rle;
pub use segmentation::Segmentation;
pub(crate) use segmentation::SegmentationField;

#[cfg(test)]
mod tests;

/// The mask of a detection.
#[derive(Clone, Debug, PartialEq)]
pub enum Mask {
    /// As the network gives it, in cells of the box.
    Cells(SoftMask),
    /// In the image.
    Pixels(Rle),
}

impl Mask {
    /// The mask in the image, once it is there.
    pub fn pixels(&self) -> Option<&Rle> {
        match self {
            Self::Cells(_) => None,
            Self::Pixels(rle) => Some(rle),
        }
    }
}
