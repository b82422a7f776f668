//! Boxes relative to a reference box.

use scrl_core::structures::BoxXyxy;

/// Limit of the decoded `dw` and `dh`, `ln(1000 / 16)`, against overflow of the exponential.
const MAX_LOG_SCALE: f32 = 4.135_166_6;

/// Encodes a box relative to another, its reference: an anchor or a proposal (Girshick et al., arXiv 1311.2524).
///
/// Deltas are `dx, dy` (shift of the centre in units of the reference's width and height) and `dw, dh` (logarithm of
/// the ratio of the sizes), each times a weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxCoder {
    /// Weights of `dx, dy, dw, dh`.
    pub weights: [f32; 4],
}

impl BoxCoder {
    /// The region proposal network's: all weights 1.
    pub const UNIT: BoxCoder = BoxCoder { weights: [1.0; 4] };

    /// The deltas that turn `reference` into `target`; both must have a positive area.
    pub fn encode(&self, reference: &BoxXyxy, target: &BoxXyxy) -> [f32; 4] {
        let [wx, wy, ww, wh] = self.weights;
        let (from, to) = (CentreSize::of(reference), CentreSize::of(target));
        [
            wx * (to.x - from.x) / from.width,
            wy * (to.y - from.y) / from.height,
            ww * (to.width / from.width).ln(),
            wh * (to.height / from.height).ln(),
        ]
    }

    /// The box that `deltas` make of `reference`.
    pub fn decode(&self, reference: &BoxXyxy, deltas: [f32; 4]) -> BoxXyxy {
        let [wx, wy, ww, wh] = self.weights;
        let from = CentreSize::of(reference);
        let x = deltas[0] / wx * from.width + from.x;
        let y = deltas[1] / wy * from.height + from.y;
        let half_width = 0.5 * (deltas[2] / ww).min(MAX_LOG_SCALE).exp() * from.width;
        let half_height = 0.5 * (deltas[3] / wh).min(MAX_LOG_SCALE).exp() * from.height;
        BoxXyxy::new(x - half_width, y - half_height, x + half_width, y + half_height)
    }
}

struct CentreSize {
    x: f32,
    y: f32,
    width: f32,
    height: f32,
}

impl CentreSize {
    fn of(b: &BoxXyxy) -> Self {
        let (width, height) = (b.width(), b.height());
        Self { x: b.x1 + 0.5 * width, y: b.y1 + 0.5 * height, width, height }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_the_encoding_gives_the_target_back() {
        let coder = BoxCoder { weights: [10.0, 10.0, 5.0, 5.0] };
        let (reference, target) = (BoxXyxy::new(4.0, 6.0, 20.0, 40.0), BoxXyxy::new(1.0, 9.0, 31.0, 25.0));
        let back = coder.decode(&reference, coder.encode(&reference, &target));
        for (a, b) in back.to_array().iter().zip(target.to_array()) {
            assert!((a - b).abs() < 1e-4, "{back:?}");
        }
    }

    #[test]
    fn a_huge_size_delta_is_limited() {
        let unit = BoxXyxy::new(0.0, 0.0, 16.0, 16.0);
        let decoded = BoxCoder::UNIT.decode(&unit, [0.0, 0.0, 100.0, 0.0]);
        assert!((decoded.width() - 1000.0).abs() < 0.01);
        assert!((decoded.height() - 16.0).abs() < 1e-4);
    }
}
