//! Networks shared by pretraining and transfer, with torchvision's field names, so that module paths equal
//! the keys of its state dicts.

mod features;
pub mod layers;
pub mod parameters;
mod precision;
mod resnet;

pub use features::{Features, Level};
pub use layers::{BatchNorm, Conv2d, ConvTranspose2d, Linear};
pub use precision::{Precision, in_f32};
pub use resnet::{Arch, Block, BlockLayout, ConvLayout, NamedLayer, ResNet, ResNetConfig, ResNetLayout};

/// The network that methods pretrain and detectors stand on.
///
/// They use its `forward_to`, `compute_in`, `freeze_at`, `freeze_batch_norm` and `batch_norms_mut`, and its config's `init`, `channels`,
/// `layout` and `multiplications`. A second family of networks makes this an enum with the same methods.
pub type Backbone = ResNet;
