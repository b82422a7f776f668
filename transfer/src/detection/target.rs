//! What a training image should be detected as.

use scrl_core::structures::BoxXyxy;

use crate::mask::ObjectMask;

/// The objects of one training image; crowds are left out beforehand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    /// In pixels of the image that is given to the network.
    pub boxes: Vec<BoxXyxy>,
    /// 0-based foreground class of each box.
    pub labels: Vec<usize>,
    /// Mask of each box, none where its annotation has none; empty for a detector without masks.
    pub masks: Vec<Option<ObjectMask>>,
}
