//! Which part of a data set a scene belongs to.

use super::shapes::ShapeClass;

/// Which images a scene belongs to. Splits share no random stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Annotated, for training.
    Train,
    /// Annotated, for evaluation.
    Val,
    /// Without annotations, for pretraining.
    Unlabelled,
    /// One object of the class near the middle of the image.
    Class(ShapeClass),
}

impl Split {
    /// The part of a random stream's path that keeps the splits apart.
    pub(super) fn path(self) -> [u64; 2] {
        match self {
            Self::Train => [0, 0],
            Self::Val => [1, 0],
            Self::Unlabelled => [2, 0],
            Self::Class(class) => [3, class.index() as u64],
        }
    }
}
