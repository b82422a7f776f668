//! Geometry on the host.

mod boxes;

pub use boxes::{BoxXyxy, Rect, Size};
