//! Signs that training works, without labels: how varied the features are, and whether matched boxes are closer than
//! others.
//!
//! N images, D feature dimensions, R boxes over all images.
//!
//! The networks are looked at as an evaluation sees them (running statistics, no gradients) on a fixed random
//! set of images with fixed augmentations, so that the numbers of two epochs differ only by the network. The images are held-out
//! ones where the user has some, else a subset of the run's own, which is not taken out of the training data: what a run
//! reports must not change its result.
//!
//! Cosines are measured in three spaces: of projections, which the loss compares; of the backbone's pooled features, which
//! are what a detector gets; and of these features less their mean, since behind a ReLU none is negative and all point
//! the same way more or less.

mod spectrum;

use burn::tensor::Device;
use serde_json::{Map, Value, json};

use crate::error::PretrainError;
use crate::image_views::ImageViews;
use crate::inspection::{Inspection, MatchedRows, Rows};
use crate::methods::Method;

pub use spectrum::{rank_me, symmetric_eigenvalues};

/// Below this share of the isotropic standard deviation `1/√D` the features hardly depend on the image.
///
/// Measured on generated scenes with the small recipes (ResNet-18, C4): random networks lie between 0.03 and 0.12, SCRL, BYOL
/// and supervised networks that learn between 0.3 and 0.65. A constant feature vector has 0. The limit is a third of the lowest
/// random network, so that a network at its start is never called collapsed.
const COLLAPSED: f64 = 0.01;

/// Mean cosines between vectors of view 1 and of view 2; `None` where no such pair exists.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cosines {
    /// The same place.
    pub matched: Option<f64>,
    /// Another box of the same image.
    pub other_place: Option<f64>,
    /// A box of another image.
    pub other_image: Option<f64>,
}

impl Cosines {
    /// The kinds of pairs that exist.
    fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let pairs =
            [("matched", self.matched), ("other place", self.other_place), ("other image", self.other_image)];
        pairs.into_iter().filter_map(|(pair, value)| Some((pair, value?)))
    }
}

/// One look at the networks.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// Images that were looked at.
    pub images: usize,
    /// See [`feature_std`]; `1/√D` for features spread evenly over all directions, 0 when all are equal.
    pub feature_std: f64,
    /// Channels of the features.
    pub feature_dims: usize,
    /// See [`rank_me`]; between 1 and `min(images, feature_dims)`.
    pub feature_rank: f64,
    /// Of projections.
    pub cosines: Cosines,
    /// Of the backbone's pooled features.
    pub backbone: Cosines,
    /// Of these features less their mean over all boxes.
    pub backbone_centred: Cosines,
}

impl Health {
    /// Runs the networks over batches of samples.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn measure<E>(
        method: &dyn Method,
        batches: impl Iterator<Item = Result<Vec<ImageViews>, E>>,
        device: &Device,
    ) -> Result<Self, PretrainError>
    where
        PretrainError: From<E>,
    {
        let networks = method.evaluation_networks();
        let device = device.clone().without_autodiff();
        let mut all = Inspection::default();
        for batch in batches {
            all.extend(networks.inspect(&batch?, &device));
        }
        Ok(Self::of(&all))
    }

    /// The numbers of an inspection.
    pub fn of(Inspection { features, projected, backbone }: &Inspection) -> Self {
        Self {
            images: features.len(),
            feature_std: feature_std(features),
            feature_dims: features.dims,
            feature_rank: rank_me(features),
            cosines: cosines(projected),
            backbone: cosines(backbone),
            backbone_centred: cosines(&backbone.centred()),
        }
    }

    /// Whether features hardly depend on the image.
    pub fn is_collapsed(&self) -> bool {
        let share = self.feature_std * (self.feature_dims as f64).sqrt();
        share.is_nan() || share < COLLAPSED
    }

    /// The first figure that is NaN or infinite: the networks have diverged.
    pub fn not_finite(&self) -> Option<&'static str> {
        let spaces =
            [("projections", self.cosines), ("features", self.backbone), ("features", self.backbone_centred)];
        let figures = [("features", self.feature_std), ("features", self.feature_rank)];
        let cosines =
            spaces.iter().flat_map(|(space, cosines)| cosines.named().map(|(_, value)| (*space, value)));
        figures.into_iter().chain(cosines).find(|(_, value)| !value.is_finite()).map(|(space, _)| space)
    }

    /// For an event; cosines that do not exist are left out.
    pub fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("images".into(), json!(self.images));
        fields.insert("feature_std".into(), json!(self.feature_std));
        fields.insert("feature_dims".into(), json!(self.feature_dims));
        fields.insert("feature_rank".into(), json!(self.feature_rank));
        let spaces = [
            ("cosine", self.cosines),
            ("backbone_cosine", self.backbone),
            ("backbone_centred_cosine", self.backbone_centred),
        ];
        for (space, cosines) in spaces {
            for (pair, value) in cosines.named() {
                fields.insert(format!("{space}_{}", pair.replace(' ', "_")), json!(value));
            }
        }
        fields
    }
}

impl std::fmt::Display for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let most = self.images.min(self.feature_dims);
        let isotropic = 1.0 / (self.feature_dims.max(1) as f64).sqrt();
        write!(
            f,
            "features of {} images: rank {:.1} of {most}, std {:.4} (evenly spread: {isotropic:.4})",
            self.images, self.feature_rank, self.feature_std
        )?;
        let spaces = [("projections", self.cosines), ("centred backbone", self.backbone_centred)];
        for (space, cosines) in spaces {
            let shown: Vec<String> =
                cosines.named().map(|(pair, value)| format!("{pair} {value:.3}")).collect();
            if !shown.is_empty() {
                write!(f, "; cosines of {space}: {}", shown.join(", "))?;
            }
        }
        Ok(())
    }
}

/// The standard deviation of L2-normalised rows over the rows (population), averaged over dimensions (SimSiam, Chen and
/// He, arXiv 2011.10566, section 4.1). 0 without rows.
pub fn feature_std(rows: &Rows) -> f64 {
    let count = rows.len() as f64;
    if rows.is_empty() {
        return 0.0;
    }
    let normalised: Vec<Vec<f64>> = rows.iter().map(normalise).collect();
    let deviation = |column: usize| {
        let mean = normalised.iter().map(|row| row[column]).sum::<f64>() / count;
        (normalised.iter().map(|row| (row[column] - mean).powi(2)).sum::<f64>() / count).sqrt()
    };
    (0..rows.dims).map(deviation).sum::<f64>() / rows.dims as f64
}

/// Means over all pairs of a row of `first` and a row of `second`, by the kind of the pair.
///
/// The sum over all pairs is the product of the sums, so no pair is looked at.
///
/// # Panics
/// If the three parts differ in length.
pub fn cosines(rows: &MatchedRows) -> Cosines {
    let count = rows.images.len();
    assert_eq!((rows.first.len(), rows.second.len()), (count, count), "a row of each view for every box");
    let dims = rows.first.dims;
    let zeros = || (0, vec![0.0; dims], vec![0.0; dims]);
    let mut images = std::collections::BTreeMap::new();
    let (_, mut first_sum, mut second_sum) = zeros();
    let mut matched = 0.0;
    for ((first, second), &image) in rows.first.iter().zip(rows.second.iter()).zip(&rows.images) {
        let (first, second) = (normalise(first), normalise(second));
        matched += dot(&first, &second);
        add(&mut first_sum, &first);
        add(&mut second_sum, &second);
        let (boxes, first_of_image, second_of_image) = images.entry(image).or_insert_with(zeros);
        *boxes += 1;
        add(first_of_image, &first);
        add(second_of_image, &second);
    }
    let same_image: f64 = images.values().map(|(_, first, second)| dot(first, second)).sum();
    let same_image_pairs: usize = images.values().map(|(boxes, ..)| boxes * boxes).sum();
    let mean = |sum: f64, pairs: usize| (pairs > 0).then(|| sum / pairs as f64);
    Cosines {
        matched: mean(matched, count),
        other_place: mean(same_image - matched, same_image_pairs - count),
        other_image: mean(dot(&first_sum, &second_sum) - same_image, count * count - same_image_pairs),
    }
}

fn normalise(row: &[f32]) -> Vec<f64> {
    let norm = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt().max(1e-12);
    row.iter().map(|&v| f64::from(v) / norm).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(sum: &mut [f64], row: &[f64]) {
    sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
}

#[cfg(test)]
pub(crate) mod tests;
