//! What a ResNet costs, counted from its shape.

use super::ResNetConfig;

impl ResNetConfig {
    /// Multiplications of the convolutions in one forward pass of a square image of `side` pixels, a multiple of 32: of the
    /// stem and of the stages that end in C2, C3, C4 and C5.
    pub fn multiplications(&self, side: u64) -> [u64; 5] {
        let expansion = self.arch.expansion() as u64;
        let stem = self.stem_channels() as u64;
        let cells = |stride: u64| (side / stride).pow(2);
        let mut counts = [cells(2) * stem * 3 * 7 * 7, 0, 0, 0, 0];
        let (mut inputs, mut before) = (stem, cells(4));
        for (stage, &blocks) in self.arch.blocks().iter().enumerate() {
            let (inner, after) = (stem << stage, cells(4 << stage));
            let outputs = inner * expansion;
            for _ in 0..blocks {
                let body = match expansion {
                    1 => after * 9 * (inputs * inner + inner * outputs),
                    // The stride is in the 3×3.
                    _ => before * inputs * inner + after * (9 * inner * inner + inner * outputs),
                };
                let projected = inputs != outputs || before != after;
                counts[stage + 1] += body + if projected { after * inputs * outputs } else { 0 };
                (inputs, before) = (outputs, after);
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use crate::models::{Arch, ResNetConfig};

    #[test]
    fn counts_are_those_of_torchvisions_networks() {
        // Summed over the Conv2d of torchvision 0.29's models by forward hooks: output cells × output channels × kernel.
        let cases = [
            (Arch::ResNet18, [118_013_952, 462_422_016, 411_041_792, 411_041_792, 411_041_792]),
            (Arch::ResNet34, [118_013_952, 693_633_024, 873_463_808, 1_335_885_824, 642_252_800]),
            (Arch::ResNet50, [118_013_952, 667_942_912, 1_027_604_480, 1_464_336_384, 809_238_528]),
            (Arch::ResNet101, [118_013_952, 667_942_912, 1_027_604_480, 5_176_557_568, 809_238_528]),
        ];
        for (arch, expected) in cases {
            assert_eq!(ResNetConfig::new(arch).multiplications(224), expected, "{arch}");
        }
        let half = ResNetConfig { width: 0.5, ..ResNetConfig::new(Arch::ResNet50) }.multiplications(224);
        assert_eq!(half, [59_006_976, 166_985_728, 256_901_120, 366_084_096, 202_309_632]);
    }
}
