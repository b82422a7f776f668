//! Networks shared by pretraining and transfer, with torchvision's field names, so that module paths equal
//! the keys of its state dicts.

pub mod layers;
mod multiplications;
pub mod parameters;
mod resnet;
mod statistics;

pub use layers::{BatchNorm, Conv2d, Linear};
pub use resnet::{Arch, Block, Features, ResNet, ResNetConfig};
pub use statistics::BatchStatistics;
