//! What the recipe means, or what SCRL's official code (kakaobrain/scrl at 62730fb) computes.

use serde::{Deserialize, Serialize};

/// Which numbers to reproduce where the official code differs from the recipe's intent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compat {
    /// What is meant.
    #[default]
    Fixed,
    /// What the official code computes.
    Official,
}

impl Compat {
    /// Whether this is the default.
    pub fn is_fixed(&self) -> bool {
        *self == Compat::Fixed
    }
}

/// Whether `optim/getters.py::get_optimizer_and_scheduler` excludes the parameter at a path from LARS and weight decay.
///
/// It looks for "bias" and "bn" in names. There, the norms of stem, downsamples and heads are numbered members of
/// sequences, so it finds only the norms of the blocks.
pub(super) fn official_code_spares(path: &str) -> bool {
    path.ends_with("bias") || (path.contains("layer") && path.contains(".bn"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_official_filter_misses_the_scales_of_stem_downsample_and_head_norms() {
        let spared = ["encoder.layer1.0.bn1.weight", "encoder.layer4.1.bn2.bias", "encoder.bn1.bias"];
        assert!(spared.into_iter().all(official_code_spares));
        let missed = [
            "encoder.bn1.weight",
            "encoder.layer2.0.downsample.1.weight",
            "projector.norm.weight",
            "encoder.layer1.0.conv1.weight",
        ];
        assert!(!missed.into_iter().any(official_code_spares));
    }
}
