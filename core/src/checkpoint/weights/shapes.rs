//! Which tensors a ResNet has, and which ResNet has these tensors.

use std::collections::{BTreeMap, BTreeSet};

use crate::models::{Arch, ResNetConfig};

/// Shapes by torchvision's key.
pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

/// Every float tensor of a network, running statistics included.
pub fn expected_shapes(config: ResNetConfig) -> Shapes {
    let mut shapes = Shapes::new();
    for layer in config.layout().convolutions() {
        let [inputs, outputs] = layer.channels;
        shapes.insert(format!("{}.weight", layer.conv), vec![outputs, inputs, layer.kernel, layer.kernel]);
        for leaf in ["weight", "bias", "running_mean", "running_var"] {
            shapes.insert(format!("{}.{leaf}", layer.norm), vec![outputs]);
        }
    }
    shapes
}

/// The depth that the numbers of blocks tell.
pub(super) fn infer_arch(shapes: &Shapes) -> Result<Arch, String> {
    let blocks = [1, 2, 3, 4].map(|stage| {
        let prefix = format!("layer{stage}.");
        let index = |key: &String| key.strip_prefix(&prefix)?.split('.').next()?.parse::<usize>().ok();
        shapes.keys().filter_map(index).collect::<BTreeSet<_>>().len()
    });
    let bottleneck = shapes.contains_key("layer1.0.conv3.weight");
    let known =
        Arch::ALL.into_iter().find(|arch| arch.blocks() == blocks && (arch.expansion() > 1) == bottleneck);
    known.ok_or_else(|| {
        let kind = if bottleneck { "bottleneck" } else { "basic" };
        format!(
            "its {blocks:?} {kind} blocks are none of resnet18, 34, 50 and 101; where keys are missing, name the \
             network with `scrl convert --arch`"
        )
    })
}

/// The width factor that the first block tells.
pub(super) fn infer_width(shapes: &Shapes) -> Result<f64, String> {
    match shapes.get("layer1.0.conv1.weight").map(Vec::as_slice) {
        Some(&[_, inputs, _, _]) => Ok(inputs as f64 / 64.0),
        other => Err(format!("`layer1.0.conv1.weight` has the shape {other:?}, expected four sides")),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::models::parameters;
    use crate::random;

    #[test]
    fn the_expected_shapes_are_those_of_the_network() {
        for arch in Arch::ALL {
            let config = ResNetConfig { arch, width: 0.125 };
            let network = config.init(&mut random::stream(1, &[]), &Device::flex());
            let shapes: Shapes = parameters::collect(&network)
                .into_iter()
                .map(|(key, data)| (key, data.shape().to_vec()))
                .collect();
            assert_eq!(expected_shapes(config), shapes, "{arch}");
        }
    }

    #[test]
    fn depth_and_width_are_told_by_the_shapes() {
        for arch in Arch::ALL {
            for width in [0.125, 0.5, 1.0] {
                let shapes = expected_shapes(ResNetConfig { arch, width });
                assert_eq!((infer_arch(&shapes), infer_width(&shapes)), (Ok(arch), Ok(width)));
            }
        }
    }
}
