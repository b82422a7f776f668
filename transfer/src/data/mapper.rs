//! From an image file to the detector's input, after detectron2's `DatasetMapper` and `ResizeShortestEdge`.

use std::sync::Arc;

use crate::data::DetectionImage;
use rand::Rng as _;
use scrl_core::data::error::DataError;
use scrl_core::random::Rng;
use scrl_core::structures::{BoxXyxy, Size};
use scrl_core::transforms::normalize::{IMAGENET_MEAN, IMAGENET_STD, to_chw};
use scrl_core::transforms::{RgbImage, decode, flip, resample};
use serde::{Deserialize, Serialize};

use crate::detection::Target;
use crate::mask::{ObjectMask, Segmentation};

/// How images are resized; antialiased when they shrink, as in Pillow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// Over the four neighbours, wider where the image shrinks.
    #[default]
    Bilinear,
    /// Over sixteen neighbours, wider where the image shrinks.
    Bicubic,
}

/// What a detector expects of its input; travels with its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Preprocessing {
    /// Short side in pixels.
    pub min_size: u32,
    /// Limit of the long side in pixels; wins over `min_size`.
    pub max_size: u32,
    /// How images are resized.
    pub interpolation: Interpolation,
    /// Per channel (RGB), of values in `[0, 1]`.
    pub mean: [f32; 3],
    /// Standard deviation of RGB values in `[0, 1]`.
    pub std: [f32; 3],
}

impl Default for Preprocessing {
    /// The test setting of the COCO protocol: 800/1333.
    fn default() -> Self {
        Self {
            min_size: 800,
            max_size: 1333,
            interpolation: Interpolation::Bilinear,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }
}

impl Preprocessing {
    /// Resizes and normalises; pixels as `[3, H, W]` in the new size.
    pub fn apply(&self, image: &RgbImage) -> (Vec<f32>, Size) {
        let source = Size { width: image.width(), height: image.height() };
        let size = resized(source, self.min_size, self.max_size);
        let image = self.resize(image, size);
        (self.normalize(&image), size)
    }

    fn resize(&self, image: &RgbImage, size: Size) -> RgbImage {
        match self.interpolation {
            Interpolation::Bilinear => resample::resize_bilinear(image, size),
            Interpolation::Bicubic => resample::resize(image, size),
        }
    }

    fn normalize(&self, image: &RgbImage) -> Vec<f32> {
        let mut pixels = vec![0.0; 3 * (image.width() * image.height()) as usize];
        to_chw(image, self.mean, self.std, &mut pixels);
        pixels
    }
}

/// The size with the short side at `min_size`, or less where the long side would exceed `max_size`.
pub fn resized(source: Size, min_size: u32, max_size: u32) -> Size {
    let (width, height) = (f64::from(source.width), f64::from(source.height));
    let mut scale = f64::from(min_size) / width.min(height);
    if (scale * width).max(scale * height) > f64::from(max_size) {
        scale = f64::from(max_size) / width.max(height);
    }
    let side = |length: f64| ((length * scale + 0.5).floor() as u32).max(1);
    Size { width: side(width), height: side(height) }
}

/// One input of the detector.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Index into the data set's images.
    pub index: usize,
    /// `[3, H, W]`, normalised.
    pub pixels: Vec<f32>,
    /// W and H.
    pub size: Size,
    /// Size of the image file.
    pub source: Size,
    /// Boxes in pixels of the input; without crowds.
    pub target: Target,
}

/// Turns a data set's images into samples.
#[derive(Clone, Debug)]
pub struct Mapper {
    /// Short sides to choose from.
    pub min_sizes: Vec<u32>,
    /// Probability of mirroring left to right.
    pub flip: f64,
    /// Everything else; its `min_size` is not used.
    pub preprocessing: Preprocessing,
}

impl Mapper {
    /// One fixed size, never mirrored; draws no random number.
    pub fn test(preprocessing: Preprocessing) -> Self {
        Self { min_sizes: vec![preprocessing.min_size], flip: 0.0, preprocessing }
    }

    /// Decodes, resizes, perhaps mirrors and normalises an image, its boxes with it.
    ///
    /// # Errors
    /// When the file cannot be decoded or has another size than its annotation says.
    pub fn map(&self, index: usize, image: &DetectionImage, rng: &mut Rng) -> Result<Sample, DataError> {
        let pixels = decode::decode(&image.path)?;
        let source = Size { width: pixels.width(), height: pixels.height() };
        image.check_size(source)?;
        let choice =
            if self.min_sizes.len() > 1 { rng.random_range(0..self.min_sizes.len() as u32) } else { 0 };
        let size = resized(source, self.min_sizes[choice as usize], self.preprocessing.max_size);
        let mirrored = self.flip > 0.0 && rng.random_bool(self.flip);
        let mut pixels = self.preprocessing.resize(&pixels, size);
        if mirrored {
            pixels = flip::flip_horizontal(&pixels);
        }
        let target = target(image, size, mirrored);
        Ok(Sample { index, pixels: self.preprocessing.normalize(&pixels), size, source, target })
    }
}

/// The boxes to learn, in pixels of the resized and perhaps mirrored image.
fn target(image: &DetectionImage, size: Size, mirrored: bool) -> Target {
    let (width, height) = (size.width as f32, size.height as f32);
    let (x, y) = (width / image.width as f32, height / image.height as f32);
    let place = |bbox: &BoxXyxy| {
        let scaled = bbox.scale(x, y).clip(width, height);
        if mirrored { scaled.flip_horizontal(width) } else { scaled }
    };
    let objects = image.objects.iter().filter(|object| !object.crowd);
    let kept: Vec<_> =
        objects.map(|object| (place(&object.bbox), object)).filter(|(bbox, _)| bbox.area() > 0.0).collect();
    let mask = |segmentation: &Arc<Segmentation>| ObjectMask {
        segmentation: Arc::clone(segmentation),
        source: image.size(),
        input: size,
        mirrored,
    };
    Target {
        boxes: kept.iter().map(|(bbox, _)| *bbox).collect(),
        labels: kept.iter().map(|(_, object)| object.category).collect(),
        masks: match kept.iter().any(|(_, object)| object.mask.is_some()) {
            true => kept.iter().map(|(_, object)| object.mask.as_ref().map(mask)).collect(),
            false => Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use crate::data::DetectionObject;
    use scrl_core::random::stream;

    use super::*;

    fn size(width: u32, height: u32) -> Size {
        Size { width, height }
    }

    #[test]
    fn the_short_side_is_set_and_the_long_side_limited() {
        assert_eq!(resized(size(640, 480), 800, 1333), size(1067, 800));
        assert_eq!(resized(size(480, 640), 800, 1333), size(800, 1067));
        assert_eq!(resized(size(640, 240), 800, 1333), size(1333, 500));
        assert_eq!(resized(size(1, 1000), 8, 100), size(1, 100));
    }

    /// A dark image with a bright rectangle at the object's place.
    fn scene(folder: &tempfile::TempDir) -> DetectionImage {
        let bbox = BoxXyxy::new(4.0, 8.0, 20.0, 24.0);
        let inside = |x: u32, y: u32| (4..20).contains(&x) && (8..24).contains(&y);
        let pixels =
            RgbImage::from_fn(64, 32, |x, y| image::Rgb(if inside(x, y) { [255; 3] } else { [0; 3] }));
        let path: PathBuf = folder.path().join("scene.png");
        pixels.save(&path).unwrap();
        let object = |crowd| DetectionObject {
            bbox,
            category: 3,
            crowd,
            difficult: false,
            area: bbox.area(),
            mask: None,
        };
        let objects = vec![object(false), object(true)];
        DetectionImage {
            id: 1,
            path,
            file_name: "scene.png".into(),
            width: 64,
            height: 32,
            objects,
            annotated: None,
        }
    }

    fn mapper(flip: f64, interpolation: Interpolation) -> Mapper {
        let preprocessing =
            Preprocessing { mean: [0.0; 3], std: [1.0; 3], interpolation, ..Default::default() };
        Mapper { min_sizes: vec![64], flip, preprocessing }
    }

    /// The bounds of the pixels above one half in the first channel.
    fn bright(sample: &Sample) -> BoxXyxy {
        let width = sample.size.width as usize;
        let plane = &sample.pixels[..width * sample.size.height as usize];
        let on: Vec<(usize, usize)> = plane
            .iter()
            .enumerate()
            .filter(|(_, v)| **v > 0.5)
            .map(|(i, _)| (i % width, i / width))
            .collect();
        let x = |f: fn(usize, usize) -> usize| on.iter().map(|p| p.0).reduce(f).unwrap() as f32;
        let y = |f: fn(usize, usize) -> usize| on.iter().map(|p| p.1).reduce(f).unwrap() as f32;
        BoxXyxy::new(x(usize::min), y(usize::min), x(usize::max) + 1.0, y(usize::max) + 1.0)
    }

    #[test]
    fn boxes_stay_on_their_pixels_when_the_image_is_resized_and_mirrored() {
        let folder = tempfile::tempdir().unwrap();
        let image = scene(&folder);
        for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic] {
            for (flip, x1) in [(0.0, 8.0), (1.0, 88.0)] {
                let sample = mapper(flip, interpolation).map(0, &image, &mut stream(1, &[])).unwrap();
                assert_eq!((sample.size, sample.source), (size(128, 64), size(64, 32)));
                assert_eq!(sample.target.labels, [3], "the crowd is no target");
                assert_eq!(sample.target.boxes, [BoxXyxy::new(x1, 16.0, x1 + 32.0, 48.0)]);
                assert_eq!(bright(&sample), sample.target.boxes[0]);
            }
        }
    }

    #[test]
    fn training_draws_sizes_and_flips_from_its_random_stream() {
        let folder = tempfile::tempdir().unwrap();
        let image = scene(&folder);
        let mapper = Mapper { min_sizes: vec![16, 32, 48], ..mapper(0.5, Interpolation::Bilinear) };
        let draw = |seed| {
            let sample = mapper.map(0, &image, &mut stream(seed, &[])).unwrap();
            (sample.size.height, sample.target.boxes[0].x1 < sample.size.width as f32 / 4.0)
        };
        let draws: std::collections::BTreeSet<_> = (0..40).map(draw).collect();
        assert_eq!(draws.len(), 6, "{draws:?}");
        assert_eq!(draw(5), draw(5));
    }

    #[test]
    fn an_image_of_another_size_than_annotated_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let image = DetectionImage { width: 63, ..scene(&folder) };
        let message = mapper(0.0, Interpolation::Bilinear).map(0, &image, &mut stream(1, &[])).unwrap_err();
        assert!(message.to_string().contains("64×32") && message.to_string().contains("63×32"), "{message}");
    }
}
