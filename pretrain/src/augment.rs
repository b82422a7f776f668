//! The augmentation of SCRL and BYOL: two views of an image, each with its geometry.
//!
//! Order and probabilities follow BYOL's appendix B and the official SCRL code (kakaobrain/scrl 62730fb): random
//! resized crop, horizontal flip, colour jitter, greyscale, blur, solarize, normalise.

use scrl_core::random::{Rng, RngExt};
use scrl_core::structures::{Rect, Size};
use scrl_core::transforms::RgbImage;
use scrl_core::transforms::blur::{gaussian_blur, resized_blur};
use scrl_core::transforms::color::{ColorJitter, grayscale, solarize};
use scrl_core::transforms::crop::random_crop_rect;
use scrl_core::transforms::flip::flip_horizontal;
use scrl_core::transforms::geometry::ViewGeometry;
use scrl_core::transforms::normalize::{IMAGENET_MEAN, IMAGENET_STD, to_chw};
use scrl_core::transforms::resample::crop_resize;
use serde::{Deserialize, Serialize};

/// Which blur is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlurKind {
    /// True Gaussian, sigma 0.1 to 2.0, kernel a tenth of the view (BYOL).
    Gaussian,
    /// Shrunk and enlarged by 1.1, 1.2 or 1.5 (the official SCRL code).
    Resized,
}

/// Settings of both views.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentConfig {
    /// Side of a square view, in pixels.
    pub view_size: u32,
    /// Share of the image's area that a crop covers.
    pub crop_scale: (f32, f32),
    /// Aspect ratio of a crop.
    pub crop_ratio: (f32, f32),
    pub flip: f32,
    /// Strengths of brightness, contrast, saturation and hue.
    pub color_jitter: (f32, f32, f32, f32),
    pub color_jitter_probability: f32,
    pub grayscale: f32,
    pub blur_kind: BlurKind,
    /// Probability of blur in view 1 and in view 2.
    pub blur: (f32, f32),
    /// Probability of solarize (threshold 128) in view 1 and in view 2.
    pub solarize: (f32, f32),
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self {
            view_size: 224,
            crop_scale: (0.2, 1.0),
            crop_ratio: (3.0 / 4.0, 4.0 / 3.0),
            flip: 0.5,
            color_jitter: (0.4, 0.4, 0.2, 0.1),
            color_jitter_probability: 0.8,
            grayscale: 0.2,
            blur_kind: BlurKind::Gaussian,
            blur: (1.0, 0.1),
            solarize: (0.0, 0.2),
        }
    }
}

/// An augmented image and how it was cut out.
#[derive(Clone, Debug)]
pub struct View {
    /// Normalised pixels, `[3, view_size, view_size]`.
    pub pixels: Vec<f32>,
    pub geometry: ViewGeometry,
}

impl AugmentConfig {
    /// Both views of an image.
    pub fn two_views(&self, image: &RgbImage, rng: &mut Rng) -> [View; 2] {
        let first = self.view(image, self.blur.0, self.solarize.0, rng);
        let second = self.view(image, self.blur.1, self.solarize.1, rng);
        [first, second]
    }

    /// The view of supervised pretraining: crop and flip alone.
    pub fn supervised_view(&self, image: &RgbImage, rng: &mut Rng) -> View {
        let (view, geometry) = self.crop_and_flip(image, rng);
        View { pixels: normalise(&view), geometry }
    }

    fn view(&self, image: &RgbImage, blur: f32, solarized: f32, rng: &mut Rng) -> View {
        let (mut view, geometry) = self.crop_and_flip(image, rng);
        if rng.random::<f32>() < self.color_jitter_probability {
            let (brightness, contrast, saturation, hue) = self.color_jitter;
            ColorJitter { brightness, contrast, saturation, hue }.apply(&mut view, rng);
        }
        if rng.random::<f32>() < self.grayscale {
            grayscale(&mut view);
        }
        if rng.random::<f32>() < blur {
            view = self.blurred(&view, rng);
        }
        if rng.random::<f32>() < solarized {
            solarize(&mut view, 128);
        }
        View { pixels: normalise(&view), geometry }
    }

    fn crop_and_flip(&self, image: &RgbImage, rng: &mut Rng) -> (RgbImage, ViewGeometry) {
        let source = Size { width: image.width(), height: image.height() };
        let output = Size { width: self.view_size, height: self.view_size };
        let crop: Rect = random_crop_rect(source, self.crop_scale, self.crop_ratio, rng);
        let flipped = rng.random::<f32>() < self.flip;
        let mut view = crop_resize(image, crop, output);
        if flipped {
            view = flip_horizontal(&view);
        }
        (view, ViewGeometry { crop, flipped, source, output })
    }

    fn blurred(&self, view: &RgbImage, rng: &mut Rng) -> RgbImage {
        match self.blur_kind {
            BlurKind::Gaussian => {
                let kernel = (self.view_size as usize / 10) | 1;
                gaussian_blur(view, kernel.max(3), rng.random_range(0.1..2.0))
            }
            BlurKind::Resized => resized_blur(view, [1.1, 1.2, 1.5][rng.random_range(0..3)]),
        }
    }
}

fn normalise(view: &RgbImage) -> Vec<f32> {
    let mut pixels = vec![0.0; (view.width() * view.height() * 3) as usize];
    to_chw(view, IMAGENET_MEAN, IMAGENET_STD, &mut pixels);
    pixels
}
