//! Names of a ResNet's tensors in the programs that exchange them.

/// How a program names the tensors of a ResNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `conv1.weight`, `layer1.0.bn2.running_mean`, `layer2.0.downsample.1.bias`.
    Torchvision,
    /// `stem.conv1.weight`, `res2.0.conv2.norm.running_mean`, `res3.0.shortcut.norm.bias`.
    Detectron2,
    /// torchvision's children in a `Sequential`, as in the official SCRL code: `0.weight` is `conv1.weight`,
    /// `1` is `bn1`, `4` to `7` are `layer1` to `layer4`.
    Sequential,
}

impl Layout {
    /// Every layout, in the order in which they are tried.
    pub const ALL: [Layout; 3] = [Layout::Torchvision, Layout::Detectron2, Layout::Sequential];

    /// `torchvision`, `detectron2` or `sequential`.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Torchvision => "torchvision",
            Layout::Detectron2 => "detectron2",
            Layout::Sequential => "sequential",
        }
    }

    /// The key that tells a network of this layout.
    pub(super) fn anchor(self) -> &'static str {
        match self {
            Layout::Torchvision => "layer1.0.conv1.weight",
            Layout::Detectron2 => "res2.0.conv1.weight",
            Layout::Sequential => "4.0.conv1.weight",
        }
    }

    /// torchvision's name of a key of this layout; `None` for a key that is not of a ResNet.
    pub fn to_torchvision(self, key: &str) -> Option<String> {
        match self {
            Layout::Torchvision => Some(key.to_string()),
            Layout::Detectron2 => from_detectron2(key),
            Layout::Sequential => {
                let (child, rest) = key.split_once('.')?;
                let name = SEQUENTIAL.iter().find(|(number, _)| *number == child)?.1;
                Some(format!("{name}.{rest}"))
            }
        }
    }

    /// This layout's name of one of torchvision's keys; `None` for a key that is not of a ResNet.
    pub fn key_for(self, key: &str) -> Option<String> {
        match self {
            Layout::Torchvision => Some(key.to_string()),
            Layout::Detectron2 => to_detectron2(key),
            Layout::Sequential => {
                let (child, rest) = key.split_once('.')?;
                let number = SEQUENTIAL.iter().find(|(_, name)| *name == child)?.0;
                Some(format!("{number}.{rest}"))
            }
        }
    }
}

/// Positions of torchvision's children; 2 and 3 are ReLU and the max pool.
const SEQUENTIAL: [(&str, &str); 6] =
    [("0", "conv1"), ("1", "bn1"), ("4", "layer1"), ("5", "layer2"), ("6", "layer3"), ("7", "layer4")];

/// After detectron2's `tools/convert-torchvision-to-d2.py`, read backwards.
fn from_detectron2(key: &str) -> Option<String> {
    let parts: Vec<&str> = key.split('.').collect();
    match parts[..] {
        ["stem", "conv1", "norm", leaf] => Some(format!("bn1.{leaf}")),
        ["stem", "conv1", leaf] => Some(format!("conv1.{leaf}")),
        ["stem", "fc", leaf] | ["linear", leaf] => Some(format!("fc.{leaf}")),
        [stage, block, layer, ref rest @ ..] => {
            let stage: usize = stage.strip_prefix("res")?.parse().ok()?;
            if !(2..=5).contains(&stage) {
                return None;
            }
            let name = match (layer, rest) {
                ("shortcut", ["norm", leaf]) => format!("downsample.1.{leaf}"),
                ("shortcut", [leaf]) => format!("downsample.0.{leaf}"),
                (conv, ["norm", leaf]) => format!("bn{}.{leaf}", conv.strip_prefix("conv")?),
                (conv, [leaf]) if conv.starts_with("conv") => format!("{conv}.{leaf}"),
                _ => return None,
            };
            Some(format!("layer{}.{block}.{name}", stage - 1))
        }
        _ => None,
    }
}

/// After detectron2's `tools/convert-torchvision-to-d2.py`.
fn to_detectron2(key: &str) -> Option<String> {
    let parts: Vec<&str> = key.split('.').collect();
    match parts[..] {
        ["conv1", leaf] => Some(format!("stem.conv1.{leaf}")),
        ["bn1", leaf] => Some(format!("stem.conv1.norm.{leaf}")),
        ["fc", leaf] => Some(format!("stem.fc.{leaf}")),
        [stage, block, ref rest @ ..] => {
            let stage: usize = stage.strip_prefix("layer")?.parse().ok()?;
            let name = match rest {
                ["downsample", "0", leaf] => format!("shortcut.{leaf}"),
                ["downsample", "1", leaf] => format!("shortcut.norm.{leaf}"),
                [norm, leaf] if norm.starts_with("bn") => format!("conv{}.norm.{leaf}", &norm[2..]),
                [conv, leaf] if conv.starts_with("conv") => format!("{conv}.{leaf}"),
                _ => return None,
            };
            Some(format!("res{}.{block}.{name}", stage + 1))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::shapes::expected_shapes;
    use super::*;
    use crate::models::{Arch, ResNetConfig};

    #[test]
    fn detectron2_names_are_those_of_its_resnet() {
        let pairs = [
            ("conv1.weight", "stem.conv1.weight"),
            ("bn1.running_var", "stem.conv1.norm.running_var"),
            ("layer1.0.conv3.weight", "res2.0.conv3.weight"),
            ("layer4.2.bn2.bias", "res5.2.conv2.norm.bias"),
            ("layer2.0.downsample.0.weight", "res3.0.shortcut.weight"),
            ("layer2.0.downsample.1.running_mean", "res3.0.shortcut.norm.running_mean"),
            ("fc.weight", "stem.fc.weight"),
        ];
        for (torchvision, detectron2) in pairs {
            assert_eq!(Layout::Detectron2.key_for(torchvision).as_deref(), Some(detectron2));
            assert_eq!(Layout::Detectron2.to_torchvision(detectron2).as_deref(), Some(torchvision));
        }
        assert_eq!(Layout::Detectron2.to_torchvision("linear.bias").as_deref(), Some("fc.bias"));
    }

    #[test]
    fn sequential_names_are_positions_among_the_children() {
        assert_eq!(Layout::Sequential.to_torchvision("0.weight").as_deref(), Some("conv1.weight"));
        assert_eq!(Layout::Sequential.to_torchvision("7.1.bn2.bias").as_deref(), Some("layer4.1.bn2.bias"));
        assert_eq!(Layout::Sequential.to_torchvision("2.weight"), None);
    }

    #[test]
    fn every_key_of_every_network_survives_the_way_there_and_back() {
        for arch in Arch::ALL {
            for key in expected_shapes(ResNetConfig::new(arch)).keys() {
                for layout in Layout::ALL {
                    let there = layout.key_for(key).unwrap();
                    assert_eq!(layout.to_torchvision(&there).as_ref(), Some(key), "{there}");
                }
            }
        }
    }

    #[test]
    fn keys_of_other_layers_have_no_name() {
        for key in ["roi_heads.box_head.fc1.weight", "res6.0.conv1.weight", "res2.0.pool.weight", "x"] {
            assert_eq!(Layout::Detectron2.to_torchvision(key), None, "{key}");
        }
        for key in ["roi_heads.box_head.fc1.weight", "layer1.0.relu.weight", "x"] {
            assert_eq!(Layout::Detectron2.key_for(key), None, "{key}");
        }
    }
}
