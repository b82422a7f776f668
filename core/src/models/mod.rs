//! Networks shared by pretraining and transfer, with torchvision's field names, so that module paths equal
//! the keys of its state dicts.

mod features;
pub mod layers;
mod multiplications;
pub mod parameters;
mod resnet;

pub use features::{Features, Level};
pub use layers::{BatchNorm, Conv2d, Linear};
pub use resnet::{Arch, Block, ResNet, ResNetConfig};
