//! Greedy non-maximum suppression on the host.

/// Indices of the kept boxes, by descending score; ties keep the lower index first.
///
/// `boxes` are `[x1, y1, x2, y2]`; a box is suppressed when its IoU with a kept one is above `iou_threshold`.
pub fn nms(boxes: &[[f32; 4]], scores: &[f32], iou_threshold: f32) -> Vec<usize> {
    let _ = (boxes, scores, iou_threshold);
    todo!()
}

/// [`nms`] within each class; the result is sorted by descending score over all classes.
pub fn batched_nms(boxes: &[[f32; 4]], scores: &[f32], classes: &[usize], iou_threshold: f32) -> Vec<usize> {
    let _ = (boxes, scores, classes, iou_threshold);
    todo!()
}
