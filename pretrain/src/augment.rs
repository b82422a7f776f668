//! The augmentation of SCRL and BYOL: two views of an image, each with its geometry.
//!
//! Order and probabilities follow BYOL's appendix B and the official SCRL code (kakaobrain/scrl 62730fb): random
//! resized crop, horizontal flip, colour jitter, greyscale, blur, solarize, normalise.

use std::path::Path;

use scrl_core::config::{SettingError, not_negative, range, require, share};
use scrl_core::random::{Rng, RngExt};
use scrl_core::structures::{Rect, Size};
use scrl_core::transforms::blur::{gaussian_blur, resized_blur};
use scrl_core::transforms::color::{ColorJitter, grayscale, solarize};
use scrl_core::transforms::crop::random_crop_rect;
use scrl_core::transforms::decode::decode;
use scrl_core::transforms::flip::flip_horizontal_in_place;
use scrl_core::transforms::geometry::ViewGeometry;
use scrl_core::transforms::normalize::{IMAGENET_MEAN, IMAGENET_STD, chw};
use scrl_core::transforms::resample::crop_resize;
use scrl_core::transforms::scratch::recycle;
use scrl_core::transforms::{ImageError, RgbImage};
use serde::{Deserialize, Serialize};

/// Side of the views that the published settings are made for, in pixels.
const PUBLISHED_VIEW: f32 = 224.0;

/// Which blur is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlurKind {
    /// True Gaussian, kernel a tenth of the view (BYOL).
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
    /// Probability of mirroring.
    pub flip: f32,
    /// Strengths of brightness, contrast, saturation and hue.
    pub color_jitter: (f32, f32, f32, f32),
    /// Probability of changing the colours.
    pub color_jitter_probability: f32,
    /// Probability of grey.
    pub grayscale: f32,
    /// How the blur is computed.
    pub blur_kind: BlurKind,
    /// Range of the Gaussian's sigma, in pixels of a view of 224: it shrinks with the view, as its kernel does, so that a
    /// small view keeps as much detail as a large one.
    pub blur_sigma: (f32, f32),
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
            blur_sigma: (0.1, 2.0),
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
    /// Where the view lies in the image.
    pub geometry: ViewGeometry,
}

impl AugmentConfig {
    pub(crate) fn validate(&self) -> Result<(), SettingError> {
        let stride = "32 to 8192 pixels; 32 is the backbone's stride";
        require((32..=8192).contains(&self.view_size), "view_size", self.view_size, stride)?;
        range("crop_scale", self.crop_scale)?;
        let (low, high) = self.crop_scale;
        require(high <= 1.0, "crop_scale", format!("[{low}, {high}]"), "shares of the area, at most 1")?;
        range("crop_ratio", self.crop_ratio)?;
        range("blur_sigma", self.blur_sigma)?;
        let (brightness, contrast, saturation, hue) = self.color_jitter;
        for strength in [brightness, contrast, saturation, hue] {
            not_negative("color_jitter", f64::from(strength))?;
        }
        require(hue <= 0.5, "color_jitter", format!("{hue} for hue"), "at most 0.5, half a turn")?;
        let probabilities = [
            ("flip", self.flip),
            ("color_jitter_probability", self.color_jitter_probability),
            ("grayscale", self.grayscale),
            ("blur", self.blur.0),
            ("blur", self.blur.1),
            ("solarize", self.solarize.0),
            ("solarize", self.solarize.1),
        ];
        probabilities.into_iter().try_for_each(|(key, value)| share(key, f64::from(value)))
    }

    /// Both views of an image file.
    ///
    /// # Errors
    /// When the file cannot be decoded.
    pub fn load_two_views(&self, path: &Path, rng: &mut Rng) -> Result<[View; 2], ImageError> {
        let image = decode(path)?;
        let views = self.two_views(&image, rng);
        recycle(image);
        Ok(views)
    }

    /// The view of supervised pretraining of an image file.
    ///
    /// # Errors
    /// When the file cannot be decoded.
    pub fn load_supervised_view(&self, path: &Path, rng: &mut Rng) -> Result<View, ImageError> {
        let image = decode(path)?;
        let view = self.supervised_view(&image, rng);
        recycle(image);
        Ok(view)
    }

    /// Both views of an image.
    pub fn two_views(&self, image: &RgbImage, rng: &mut Rng) -> [View; 2] {
        let first = self.view(image, self.blur.0, self.solarize.0, rng);
        let second = self.view(image, self.blur.1, self.solarize.1, rng);
        [first, second]
    }

    /// The view of supervised pretraining: only crop and flip.
    pub fn supervised_view(&self, image: &RgbImage, rng: &mut Rng) -> View {
        let (view, geometry) = self.crop_and_flip(image, rng);
        View { pixels: normalise(view), geometry }
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
            let blurred = self.blurred(&view, rng);
            recycle(std::mem::replace(&mut view, blurred));
        }
        if rng.random::<f32>() < solarized {
            solarize(&mut view, 128);
        }
        View { pixels: normalise(view), geometry }
    }

    fn crop_and_flip(&self, image: &RgbImage, rng: &mut Rng) -> (RgbImage, ViewGeometry) {
        let source = Size { width: image.width(), height: image.height() };
        let output = Size { width: self.view_size, height: self.view_size };
        let crop: Rect = random_crop_rect(source, self.crop_scale, self.crop_ratio, rng);
        let flipped = rng.random::<f32>() < self.flip;
        let mut view = crop_resize(image, crop, output);
        if flipped {
            flip_horizontal_in_place(&mut view);
        }
        (view, ViewGeometry { crop, flipped, source, output })
    }

    fn blurred(&self, view: &RgbImage, rng: &mut Rng) -> RgbImage {
        match self.blur_kind {
            BlurKind::Gaussian => {
                let kernel = (self.view_size as usize / 10) | 1;
                let (low, high) = self.blur_sigma;
                let scale = self.view_size as f32 / PUBLISHED_VIEW;
                gaussian_blur(view, kernel.max(3), scale * rng.random_range(low..=high))
            }
            BlurKind::Resized => resized_blur(view, [1.1, 1.2, 1.5][rng.random_range(0..3)]),
        }
    }
}

fn normalise(view: RgbImage) -> Vec<f32> {
    let pixels = chw(&view, IMAGENET_MEAN, IMAGENET_STD);
    recycle(view);
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;
    use scrl_core::random::stream;

    fn picture(width: u32, height: u32) -> RgbImage {
        let values = (0..3 * width * height).map(|i| (i % 3 * 60 + i / 7 % 101 + i / (3 * width)) as u8);
        RgbImage::from_raw(width, height, values.collect()).expect("an image")
    }

    fn assert_same(a: &View, b: &View) {
        assert_eq!(a.geometry, b.geometry);
        assert_eq!(a.pixels, b.pixels);
    }

    #[test]
    fn views_of_a_file_are_those_of_its_image_whatever_the_thread_did_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("picture.png");
        let image = picture(90, 70);
        image.save(&path).expect("a file");
        for blur_kind in [BlurKind::Gaussian, BlurKind::Resized] {
            let config = AugmentConfig { view_size: 48, blur_kind, ..AugmentConfig::default() };
            for seed in 0..20 {
                let expected = config.two_views(&image, &mut stream(seed, &[]));
                config.two_views(&picture(40 + seed as u32, 60), &mut stream(seed, &[1]));
                let got = config.load_two_views(&path, &mut stream(seed, &[])).expect("views");
                assert_same(&got[0], &expected[0]);
                assert_same(&got[1], &expected[1]);
                let expected = config.supervised_view(&image, &mut stream(seed, &[]));
                let got = config.load_supervised_view(&path, &mut stream(seed, &[])).expect("a view");
                assert_same(&got, &expected);
            }
        }
    }

    #[test]
    fn half_the_view_is_blurred_half_as_widely() {
        let config = AugmentConfig {
            view_size: 112,
            blur_sigma: (1.6, 1.6),
            color_jitter_probability: 0.0,
            grayscale: 0.0,
            ..AugmentConfig::default()
        };
        let image = picture(200, 150);
        let (sharp, _) = config.crop_and_flip(&image, &mut stream(3, &[]));
        let expected = normalise(gaussian_blur(&sharp, 11, 0.8));
        let blurred = config.view(&image, 1.0, 0.0, &mut stream(3, &[])).pixels;
        assert_eq!(blurred, expected);
        assert_ne!(blurred, normalise(gaussian_blur(&sharp, 11, 1.6)));
    }

    #[test]
    fn a_file_that_is_no_image_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("text.jpg");
        std::fs::write(&path, "text").expect("a file");
        let error =
            AugmentConfig::default().load_two_views(&path, &mut stream(0, &[])).expect_err("an error");
        assert!(error.to_string().contains("text.jpg"), "{error}");
    }
}
