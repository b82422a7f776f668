//! What evaluation reads from the networks: vectors on the host.
//!
//! N images, D feature dimensions, R regions over all images: matched boxes, or whole views.

use burn::tensor::Tensor;
use scrl_core::models::in_f32;

/// Vectors of one length, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// `[rows, dims]`
    pub values: Vec<f32>,
    /// Length of a row.
    pub dims: usize,
}

impl Rows {
    /// The host copy of a `[rows, dims]` tensor.
    pub fn from_tensor(tensor: Tensor<2>) -> Self {
        let [_, dims] = tensor.dims();
        Self { values: in_f32(tensor).into_data().iter::<f32>().collect(), dims }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.dims.max(1)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Row by row.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.dims.max(1))
    }

    /// Appends rows of the same length.
    ///
    /// # Panics
    /// If the lengths of the rows differ.
    pub fn extend(&mut self, other: Self) {
        if other.is_empty() {
            return;
        }
        assert!(self.is_empty() || self.dims == other.dims, "rows of {} and {}", self.dims, other.dims);
        self.dims = other.dims;
        self.values.extend(other.values);
    }
}

/// Vectors of the regions of both views: row `r` of `first` and of `second` shows the same place of image `images[r]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MatchedRows {
    /// `[R, dims]`, view 1.
    pub first: Rows,
    /// `[R, dims]`, view 2.
    pub second: Rows,
    /// `[R]`
    pub images: Vec<usize>,
}

impl MatchedRows {
    /// Appends regions whose images are counted from `first_image` on.
    pub fn extend(&mut self, other: Self, first_image: usize) {
        self.first.extend(other.first);
        self.second.extend(other.second);
        self.images.extend(other.images.iter().map(|image| image + first_image));
    }

    /// The vectors minus their mean over the regions of both views.
    pub fn centred(&self) -> Self {
        let count = (self.first.len() + self.second.len()).max(1) as f64;
        let mut mean = vec![0.0; self.first.dims];
        for row in self.first.iter().chain(self.second.iter()) {
            mean.iter_mut().zip(row).for_each(|(mean, &value)| *mean += f64::from(value) / count);
        }
        let centre = |rows: &Rows| Rows {
            values: rows.iter().flat_map(|row| less(row, &mean)).collect(),
            dims: rows.dims,
        };
        Self { first: centre(&self.first), second: centre(&self.second), images: self.images.clone() }
    }
}

/// A row minus `mean`.
fn less(row: &[f32], mean: &[f64]) -> Vec<f32> {
    row.iter().zip(mean).map(|(&value, mean)| (f64::from(value) - mean) as f32).collect()
}

/// What the networks compute from a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inspection {
    /// The global average of view 1's feature map at the method's level, `[N, D]`.
    pub features: Rows,
    /// Projections of the regions; empty for a method without a projector and for images without boxes.
    pub projected: MatchedRows,
    /// The backbone's features of the regions: the projector's input.
    pub backbone: MatchedRows,
}

impl Inspection {
    /// Appends the images of another batch.
    pub fn extend(&mut self, other: Self) {
        let images = self.features.len();
        self.features.extend(other.features);
        self.projected.extend(other.projected, images);
        self.backbone.extend(other.backbone, images);
    }
}
