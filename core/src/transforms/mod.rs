//! Image transforms: pure functions of an image and a random stream.

pub mod blur;
pub mod color;
pub mod crop;
pub mod decode;
mod error;
pub mod flip;
pub mod geometry;
mod hue;
pub mod normalize;
pub mod resample;
#[doc(hidden)]
pub mod scratch;
mod vectorized;

pub use color::ColorJitter;
pub use error::ImageError;
pub use geometry::ViewGeometry;
pub use image::RgbImage;
