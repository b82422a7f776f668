//! Which values make a resampled one, and by which weights: Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`.

/// Weights are integers in units of 2 to the minus this.
pub(super) const BITS: u32 = 22;

/// Half a level, so that sums are rounded to the nearest one.
pub(super) const HALF: i32 = 1 << (BITS - 1);

/// The weight of a value at a distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// A triangle of half-width 1.
    Bilinear,
    /// Keys's cubic with a = −0.5, of half-width 2.
    Bicubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    fn weight(self, distance: f64) -> f64 {
        const A: f64 = -0.5;
        let x = distance.abs();
        match self {
            Filter::Bilinear if x < 1.0 => 1.0 - x,
            Filter::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// For every value of a resampled row or column: where its window in the source starts, and the weights in it.
pub(super) struct Windows {
    windows: Vec<Window>,
    weights: Vec<i32>,
}

struct Window {
    start: usize,
    first_weight: usize,
    len: usize,
}

impl Windows {
    /// # Panics
    /// If a length is 0.
    pub(super) fn new(source: u32, target: u32, filter: Filter) -> Self {
        assert!(source > 0 && target > 0);
        let scale = f64::from(source) / f64::from(target);
        let shrinking = scale.max(1.0);
        let support = filter.support() * shrinking;
        let mut windows = Self {
            windows: Vec::with_capacity(target as usize),
            weights: Vec::with_capacity(target as usize * (2.0 * support + 2.0) as usize),
        };
        let mut exact = Vec::new();
        for i in 0..target {
            let center = (f64::from(i) + 0.5) * scale;
            // Casts cut towards zero, as Pillow's do.
            let start = (center - support + 0.5).max(0.0) as u32;
            let end = ((center + support + 0.5) as u32).min(source);
            exact.clear();
            let inverse = 1.0 / shrinking;
            exact.extend((start..end).map(|x| filter.weight((f64::from(x) - center + 0.5) * inverse)));
            windows.push(start as usize, &exact);
        }
        windows
    }

    /// The window of the value at an index.
    pub(super) fn get(&self, index: usize) -> (usize, &[i32]) {
        let window = &self.windows[index];
        (window.start, &self.weights[window.first_weight..][..window.len])
    }

    pub(super) fn len(&self) -> usize {
        self.windows.len()
    }

    /// Adds a window, its weights divided by their sum and rounded; those that are 0 at both ends are left out.
    fn push(&mut self, start: usize, exact: &[f64]) {
        let sum: f64 = exact.iter().sum();
        let first_weight = self.weights.len();
        self.weights.extend(exact.iter().map(|w| rounded(w / sum)));
        let new = &self.weights[first_weight..];
        let before = new.iter().take_while(|&&w| w == 0).count();
        let len = new.iter().rposition(|&w| w != 0).map_or(0, |last| last + 1 - before);
        self.windows.push(Window { start: start + before, first_weight: first_weight + before, len });
    }
}

fn rounded(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << BITS);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_the_filters_formulas() {
        let halves = Windows::new(4, 2, Filter::Bilinear);
        let unit = |share: f64| (share * f64::from(1 << BITS)).round() as i32;
        // Centres lie at 1 and 3; distances are in units of 2 source values.
        assert_eq!(halves.get(0), (0, [3.0, 3.0, 1.0].map(|w| unit(w / 7.0)).as_slice()));
        assert_eq!(halves.get(1), (1, [1.0, 3.0, 3.0].map(|w| unit(w / 7.0)).as_slice()));
        let doubled = Windows::new(8, 16, Filter::Bicubic);
        // At a quarter between two values: (-0.0234375, 0.2265625, 0.8671875, -0.0703125).
        let expected = [-0.0234375, 0.2265625, 0.8671875, -0.0703125].map(unit);
        assert_eq!(doubled.get(8), (2, expected.as_slice()));
    }

    #[test]
    fn equal_lengths_keep_every_value() {
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            let same = Windows::new(9, 9, filter);
            assert!((0..9).all(|i| same.get(i) == (i, [1 << BITS].as_slice())));
        }
    }

    #[test]
    fn windows_lie_inside_the_source_and_use_all_of_it() {
        for (source, target) in [(1, 1), (1, 50), (50, 1), (7, 500), (500, 7), (123, 124), (640, 224)] {
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                let windows = Windows::new(source, target, filter);
                assert_eq!(windows.len(), target as usize);
                let of = |i| windows.get(i);
                assert!((0..windows.len()).all(|i| of(i).0 + of(i).1.len() <= source as usize));
                if source > target {
                    let (start, weights) = of(windows.len() - 1);
                    assert_eq!(
                        (of(0).0, start + weights.len()),
                        (0, source as usize),
                        "{source} to {target}"
                    );
                }
            }
        }
    }
}
