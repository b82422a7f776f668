//! Means over seeds and how sure they are.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

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
        let summary = Self { count, mean, std, half_width: None };
        Some(Self { half_width: summary.half_width_at(0.05), ..summary })
    }

    /// Half of the interval of the mean that misses it with this probability (Student's t); none of a single value.
    pub fn half_width_at(&self, level: f64) -> Option<f64> {
        let std = self.std?;
        Some(t_quantile(self.count - 1, level) * std / (self.count as f64).sqrt())
    }

    /// The probability of a mean at least as far from zero if the true one is zero (two-sided t-test); none of a single
    /// value.
    pub fn p_value(&self) -> Option<f64> {
        let std = self.std?;
        if std == 0.0 {
            return Some(if self.mean == 0.0 { 1.0 } else { 0.0 });
        }
        let t = self.mean.abs() / (std / (self.count as f64).sqrt());
        Some(2.0 * student(self.count - 1).sf(t))
    }
}

/// The quantile of Student's t that is exceeded on either side with this probability.
fn t_quantile(degrees: usize, level: f64) -> f64 {
    student(degrees).inverse_cdf(1.0 - level / 2.0)
}

fn student(degrees: usize) -> StudentsT {
    StudentsT::new(0.0, 1.0, degrees as f64).expect("there is a degree of freedom")
}

/// Corrects the p-values of one family of comparisons for their number (Holm 1979): the chance that any true zero of the
/// family is called a difference stays below the level. In the order given.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut corrected = vec![0.0; p_values.len()];
    let mut largest: f64 = 0.0;
    for (rank, &index) in order.iter().enumerate() {
        largest = largest.max((p_values.len() - rank) as f64 * p_values[index]).min(1.0);
        corrected[index] = largest;
    }
    corrected
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
    fn one_value_has_no_spread_and_no_p_value() {
        let summary = Summary::of([0.4]).unwrap();
        assert_eq!((summary.std, summary.half_width, summary.p_value()), (None, None, None));
    }

    /// `scipy.stats.ttest_1samp(values, 0).pvalue`, SciPy 1.17.
    #[test]
    fn p_values_are_scipys() {
        let cases: [(&[f64], f64); 4] = [
            (&[0.03, 0.04, 0.05], 0.020_204_102_886_728_77),
            (&[-0.02, 0.04, 0.01], 0.622_035_526_990_772_8),
            (&[1.0, 2.0, 3.0, 4.0, 5.0], 0.013_235_599_563_682_69),
            (&[0.1, -0.1], 1.0),
        ];
        for (values, expected) in cases {
            let found = Summary::of(values.iter().copied()).unwrap().p_value().unwrap();
            assert!((found - expected).abs() < 1e-9, "{values:?}: {found}");
        }
        assert_eq!(Summary::of([0.5, 0.5]).unwrap().p_value(), Some(0.0));
        assert_eq!(Summary::of([0.0, 0.0]).unwrap().p_value(), Some(1.0));
    }

    /// `statsmodels.stats.multitest.multipletests(p, method="holm")`: its documentation's rule, by hand.
    #[test]
    fn holms_correction_grows_with_the_number_of_comparisons_and_keeps_their_order() {
        let found = holm(&[0.04, 0.01, 0.03, 0.005]);
        for (found, expected) in found.iter().zip([0.06, 0.03, 0.06, 0.02]) {
            assert!((found - expected).abs() < 1e-12, "{found}");
        }
        assert_eq!(holm(&[0.6, 0.9]), [1.0, 1.0]);
        assert_eq!(holm(&[0.03]), [0.03]);
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (degrees, expected) in [(1, 12.7062), (2, 4.3027), (30, 2.0423), (60, 2.0003), (120, 1.9799)] {
            let found = t_quantile(degrees, 0.05);
            assert!((found - expected).abs() < 1e-4, "{degrees}: {found}");
        }
        // scipy.stats.t.ppf(1 - 0.05 / 36, 5): 18 comparisons over six seeds.
        assert!((t_quantile(5, 0.05 / 18.0) - 5.471_450_541_786).abs() < 1e-6);
    }
}
