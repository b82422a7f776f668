//! The inputs of `fixtures/{parity,densecl}/generate.py`, from the same hashes.

use burn::tensor::TensorData;
use scrl_core::models::parameters::TensorMap;
use scrl_core::structures::BoxXyxy;
use scrl_pretrain::box_generator::MatchedBox;
use scrl_pretrain::image_views::{ImageViews, ViewPixels};

/// Width and height of a view, in pixels.
pub const SIDE: usize = 64;
/// Classes of the labels.
pub const CLASSES: usize = 7;

/// The hashes of `generate.py`.
#[derive(Clone, Copy)]
pub struct Inputs {
    /// Part of every hashed name.
    pub seed: u64,
    /// A batch.
    pub images: usize,
}

impl Inputs {
    fn bits(self, name: &str, count: usize) -> impl Iterator<Item = u32> {
        let full = format!("{}.{name}", self.seed);
        let key =
            full.bytes().fold(0x811c_9dc5u32, |key, byte| (key ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        (0..count as u32).map(move |index| {
            let mut h = key ^ index.wrapping_mul(0x9e37_79b9);
            h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
            h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
            h ^ (h >> 16)
        })
    }

    pub fn noise(self, name: &str, count: usize) -> Vec<f32> {
        self.bits(name, count).map(|bits| (bits >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    fn coarse_noise(self, name: &str, count: usize) -> Vec<f32> {
        self.bits(name, count).map(|bits| (bits >> 24) as f32 / 128.0 - 1.0).collect()
    }

    fn initial(self, name: &str, shape: &[usize]) -> TensorData {
        let count = shape.iter().product();
        let values = match name {
            _ if name.ends_with("running_mean") => vec![0.0; count],
            _ if name.ends_with("running_var") => vec![1.0; count],
            _ => {
                let inputs: usize = shape[1..].iter().product();
                let scale = if shape.len() > 1 { (6.0 / inputs as f64).sqrt() as f32 } else { 0.125 };
                let about = if shape.len() == 1 && name.ends_with("weight") { 1.0 } else { 0.0 };
                self.noise(name, count).into_iter().map(|value| value * scale + about).collect()
            }
        };
        TensorData::new(values, shape.to_vec())
    }

    /// Every tensor of a network from the hashes of `prefix.path`.
    pub fn network(self, prefix: &str, network: &TensorMap) -> TensorMap {
        let values = network
            .iter()
            .map(|(path, data)| (path.clone(), self.initial(&format!("{prefix}.{path}"), &data.shape()[..])));
        values.collect()
    }

    fn view(self, step: usize, view: usize, image: usize) -> ViewPixels {
        let cells = SIDE / 16;
        let pattern = self.coarse_noise(&format!("pattern.{step}.{image}"), 3 * cells * cells);
        let grain = self.coarse_noise(&format!("grain.{step}.{view}.{image}"), 3 * SIDE * SIDE);
        let pixel = |(index, grain): (usize, f32)| {
            let (channel, y, x) = (index / (SIDE * SIDE), index / SIDE % SIDE, index % SIDE);
            1.5 * pattern[(channel * cells + y / 16) * cells + x / 16] + 0.5 * grain
        };
        ViewPixels::square(grain.into_iter().enumerate().map(pixel).collect(), SIDE as u32)
    }

    fn boxes(self, step: usize, image: usize) -> Vec<MatchedBox> {
        let none = step == 7 || (step == 4 && image >= self.images / 2) || image % 3 == 2;
        let count = if none { 0 } else { 3 + (image + step) % 3 };
        let words: Vec<u32> = self.bits(&format!("boxes.{step}.{image}"), 8 * count).collect();
        let quarter = |word: u32| word as f32 / 4.0;
        let one = |words: &[u32]| {
            let [x, y] = [words[0], words[1]].map(|word| quarter(word % 128));
            let [width, height] = [words[2], words[3]].map(|word| quarter(word % 64 + 64));
            BoxXyxy::new(x, y, x + width, y + height)
        };
        words.chunks(8).map(|pair| MatchedBox { view1: one(&pair[..4]), view2: one(&pair[4..]) }).collect()
    }

    pub fn batch(self, step: usize) -> Vec<ImageViews> {
        let views = |image| ImageViews {
            views: vec![self.view(step, 0, image), self.view(step, 1, image)],
            boxes: self.boxes(step, image),
            label: Some((image + step) % CLASSES),
        };
        (0..self.images).map(views).collect()
    }
}
