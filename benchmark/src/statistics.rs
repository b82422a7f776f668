//! Means over seeds and how sure they are.

use serde::Serialize;

/// Mean of the values that exist, with their spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Number of values.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Standard deviation (n − 1); none of a single value.
    pub std: Option<f64>,
    /// Half of the 95 % confidence interval of the mean (Student's t); none of a single value.
    pub half_width: Option<f64>,
}

impl Summary {
    /// None where there is no value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        let std = (count > 1).then(|| (squares / (count - 1) as f64).sqrt());
        let half_width = std.map(|std| t_quantile(count - 1) * std / (count as f64).sqrt());
        Some(Self { count, mean, std, half_width })
    }

    /// Whether the 95 % interval excludes zero; none where a single value cannot tell.
    pub fn separable(&self) -> Option<bool> {
        // Equal differences have an interval of no width, which says nothing about zero itself.
        self.half_width.map(|half| self.mean.abs() > half)
    }
}

/// The 97.5 % quantile of Student's t with 1 to 30 degrees of freedom.
const T: [f64; 30] = [
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604,
    2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555,
    2.0518, 2.0484, 2.0452, 2.0423,
];

/// The 97.5 % quantile of Student's t; beyond 30 degrees of freedom by the first terms of Cornish and Fisher.
fn t_quantile(degrees: usize) -> f64 {
    if let Some(value) = degrees.checked_sub(1).and_then(|index| T.get(index)) {
        return *value;
    }
    let (z, n) = (1.959_963_985_f64, degrees as f64);
    z + (z.powi(3) + z) / (4.0 * n) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_deviation_and_interval_are_those_of_the_textbook() {
        let summary = Summary::of([1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert_eq!((summary.count, summary.mean), (5, 3.0));
        assert!((summary.std.unwrap() - 2.5f64.sqrt()).abs() < 1e-12);
        // t(0.975, 4) = 2.776445 times 0.707107.
        assert!((summary.half_width.unwrap() - 1.963_243).abs() < 1e-4);
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn one_value_has_no_spread_and_separates_nothing() {
        let summary = Summary::of([0.4]).unwrap();
        assert_eq!((summary.std, summary.half_width, summary.separable()), (None, None, None));
    }

    #[test]
    fn a_difference_is_separable_when_its_interval_excludes_zero() {
        assert_eq!(Summary::of([0.03, 0.04, 0.05]).unwrap().separable(), Some(true));
        assert_eq!(Summary::of([-0.02, 0.04, 0.01]).unwrap().separable(), Some(false));
        assert_eq!(Summary::of([-0.05, -0.04, -0.03]).unwrap().separable(), Some(true));
    }

    #[test]
    fn quantiles_go_on_smoothly_beyond_the_table() {
        // Tables give 2.0395 for 31, 2.0003 for 60 and 1.9799 for 120.
        for (degrees, expected) in [(31, 2.0395), (60, 2.0003), (120, 1.9799)] {
            assert!((t_quantile(degrees) - expected).abs() < 2e-4, "{degrees}: {}", t_quantile(degrees));
        }
        assert!((1..200).all(|n| t_quantile(n) > t_quantile(n + 1)));
    }
}
