//! What both sides are compared on.

use std::path::PathBuf;

use scrl_core::random::{standard_normal, stream};
use scrl_core::structures::Size;
use scrl_core::transforms::decode::decode;
use scrl_transfer::data::Preprocessing;

use super::{Case, DetectorTolerance};
use crate::ExportError;
use crate::detector::{DetectorOptions, InputKind};
use crate::detector_runtime::{ImageBatch, to_input};

/// Side of the blocks of one colour that random images are made of, in pixels.
const BLOCK: usize = 8;

/// What a detector is validated on.
#[derive(Clone, Debug)]
pub struct DetectorInputs {
    /// Batches of random images of these sizes, each with its padding: sides become a multiple of it.
    pub random: Vec<(Vec<Size>, usize)>,
    /// Whether one grey image of 64×64 pixels takes part.
    pub blank: bool,
    /// Seed of the random images.
    pub seed: u64,
    /// Image files: each by itself, then all in one padded batch.
    pub images: Vec<PathBuf>,
    /// The permitted difference; `None` for [`DetectorTolerance::of`] the file's options.
    pub tolerance: Option<DetectorTolerance>,
    /// ONNX Runtime's threads within one operator; 0 means one a core.
    pub threads: usize,
}

impl Default for DetectorInputs {
    /// One image of 64×64, one of an odd size that is not padded, two and four of different sizes that are padded to a
    /// multiple of 32, and a blank one.
    fn default() -> Self {
        let size = |width, height| Size { width, height };
        Self {
            random: vec![
                (vec![size(64, 64)], 1),
                (vec![size(131, 97)], 1),
                (vec![size(128, 96), size(100, 120)], 32),
                (vec![size(96, 64), size(75, 101), size(64, 96), size(33, 65)], 32),
            ],
            blank: true,
            seed: 0,
            images: Vec::new(),
            tolerance: None,
            threads: 0,
        }
    }
}

impl DetectorInputs {
    /// The inputs of both sides. Where the graph takes no sizes, random images fill their batch and files stay by themselves.
    pub(super) fn cases(
        &self,
        preprocessing: &Preprocessing,
        options: &DetectorOptions,
    ) -> Result<Vec<Case>, ExportError> {
        let case = |name: &str, images: &[(Vec<f32>, Size)], padding: usize| {
            let padding = if options.image_sizes { padding } else { 1 };
            Case::new(name, ImageBatch::pad(images, padding), preprocessing, options.input)
        };
        let mut cases = Vec::new();
        for (index, (sizes, padding)) in self.random.iter().enumerate() {
            let sizes = self.filled(sizes, options);
            let image = |(place, size): (usize, &Size)| {
                (random_image(self.seed, &[index as u64, place as u64], *size, options.input), *size)
            };
            let images: Vec<_> = sizes.iter().enumerate().map(image).collect();
            cases.push(case("random", &images, *padding));
        }
        if self.blank {
            let value = if options.input == InputKind::Raw { 128.0 } else { 0.0 };
            cases.push(case("blank", &[(vec![value; 3 * 64 * 64], Size { width: 64, height: 64 })], 1));
        }
        let mut files = Vec::new();
        for path in &self.images {
            let (pixels, size) = preprocessing.apply(&decode(path)?);
            files.push((to_input(&pixels, preprocessing, options.input), size));
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            cases.push(case(&name, &files[files.len() - 1..], 32));
        }
        if files.len() > 1 && options.image_sizes {
            cases.push(case("all files", &files, 32));
        }
        Ok(cases)
    }

    /// Sizes that need no padding where the graph takes no sizes.
    fn filled(&self, sizes: &[Size], options: &DetectorOptions) -> Vec<Size> {
        match (options.image_sizes, sizes.first()) {
            (false, Some(first)) => vec![*first; sizes.len()],
            _ => sizes.to_vec(),
        }
    }
}

impl Case {
    fn new(name: &str, batch: ImageBatch, preprocessing: &Preprocessing, input: InputKind) -> Self {
        let [count, _, height, width] = batch.shape;
        let pixels = match input {
            InputKind::Normalized => batch.values.clone(),
            InputKind::Raw => normalized(&batch, preprocessing),
        };
        Self { name: format!("{name} {count}×3×{height}×{width}"), batch, pixels }
    }
}

/// Blocks and noise, so that deep levels differ too; `[3, H, W]`.
fn random_image(seed: u64, place: &[u64], size: Size, input: InputKind) -> Vec<f32> {
    let (width, height) = (size.width as usize, size.height as usize);
    let mut rng = stream(seed, place);
    let blocks = width.div_ceil(BLOCK);
    let mut colours = |count: usize| (0..count).map(|_| standard_normal(&mut rng)).collect::<Vec<f32>>();
    let mut values = Vec::with_capacity(3 * width * height);
    for _ in 0..3 {
        let coarse = colours(blocks * height.div_ceil(BLOCK));
        let fine = colours(width * height);
        let pixel = |(index, fine): (usize, f32)| {
            let (x, y) = (index % width, index / width);
            let value = coarse[y / BLOCK * blocks + x / BLOCK] + 0.5 * fine;
            match input {
                InputKind::Normalized => value,
                InputKind::Raw => (128.0 + 60.0 * value).clamp(0.0, 255.0).round(),
            }
        };
        values.extend(fine.into_iter().enumerate().map(pixel));
    }
    values
}

/// The batch normalised as the loader does it, zero in the padding.
fn normalized(batch: &ImageBatch, preprocessing: &Preprocessing) -> Vec<f32> {
    let [_, channels, height, width] = batch.shape;
    let pixel = |(index, &value): (usize, &f32)| {
        let (x, y) = (index % width, index / width % height);
        let channel = index / (width * height) % channels;
        let size = batch.sizes[index / (width * height * channels)];
        if x >= size.width as usize || y >= size.height as usize {
            return 0.0;
        }
        (value / 255.0 - preprocessing.mean[channel]) / preprocessing.std[channel]
    };
    batch.values.iter().enumerate().map(pixel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_and_normalised_inputs_are_the_same_image_for_the_model() {
        let size = Size { width: 10, height: 9 };
        let image = random_image(3, &[0], size, InputKind::Raw);
        assert!(image.iter().all(|value| value.fract() == 0.0 && (0.0..=255.0).contains(value)));
        let preprocessing = Preprocessing { mean: [0.5; 3], std: [0.5; 3], ..Default::default() };
        let batch = ImageBatch::pad(&[(image, size)], 32);
        let case = Case::new("x", batch, &preprocessing, InputKind::Raw);
        assert_eq!(case.name, "x 1×3×32×32");
        let raw = case.batch.values[5 * 32 + 4];
        assert_eq!(case.pixels[5 * 32 + 4], (raw / 255.0 - 0.5) / 0.5);
        assert_eq!((case.pixels[10], case.pixels[9 * 32]), (0.0, 0.0));
    }

    #[test]
    fn without_sizes_no_image_is_padded() {
        let options = DetectorOptions { image_sizes: false, ..Default::default() };
        let cases = DetectorInputs::default().cases(&Preprocessing::default(), &options).unwrap();
        assert_eq!(cases.len(), 5);
        for case in cases {
            let [_, _, height, width] = case.batch.shape;
            let full = |size: &Size| (size.width as usize, size.height as usize) == (width, height);
            assert!(case.batch.sizes.iter().all(full), "{}", case.name);
        }
    }
}
