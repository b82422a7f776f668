//! The feature maps of a backbone.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// A feature map: C*k* has a stride of 2^*k* pixels of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Stride 4.
    C2,
    /// Stride 8.
    C3,
    /// Stride 16.
    C4,
    /// Stride 32.
    C5,
}

impl Level {
    /// Every level, the finest first.
    pub const ALL: [Level; 4] = [Level::C2, Level::C3, Level::C4, Level::C5];

    /// Place among [`Level::ALL`], from 0.
    pub fn index(self) -> usize {
        self as usize
    }

    /// Pixels of the image from one place of the map to the next.
    pub fn stride(self) -> usize {
        4 << self.index()
    }

    /// Its usual name, for example `C4`.
    pub fn name(self) -> &'static str {
        ["C2", "C3", "C4", "C5"][self.index()]
    }
}

/// Feature maps from C2 up to the level at which the forward pass stopped.
#[derive(Clone, Debug)]
pub struct Features {
    maps: Vec<Tensor<4>>,
}

impl Features {
    /// Takes the maps from C2 on.
    ///
    /// # Panics
    /// When there are more than four.
    pub fn new(maps: Vec<Tensor<4>>) -> Self {
        assert!(maps.len() <= Level::ALL.len(), "there are four levels");
        Self { maps }
    }

    /// The map of a level, `[N, channels, H, W]`.
    ///
    /// # Panics
    /// When the forward pass stopped before this level.
    pub fn at(&self, level: Level) -> Tensor<4> {
        let map = self.maps.get(level.index());
        map.unwrap_or_else(|| panic!("the forward pass stopped before {}", level.name())).clone()
    }

    /// The maps with their levels, C2 first.
    pub fn iter(&self) -> impl Iterator<Item = (Level, &Tensor<4>)> {
        Level::ALL.into_iter().zip(&self.maps)
    }
}
