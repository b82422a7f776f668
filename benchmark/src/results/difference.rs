//! The subject against another init.

use serde::Serialize;

use super::shown;
use crate::graph::percent;
use crate::statistics::Summary;

/// The subject's metric less a baseline's, seed by seed.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Name of the fine-tuning in the plan.
    pub dataset: String,
    /// The init that is compared.
    pub subject: String,
    /// The init that it is compared with.
    pub baseline: String,
    /// Share of the labelled images, in `(0, 1]`.
    pub label_fraction: f64,
    /// Name of the metric.
    pub metric: String,
    /// Subject minus baseline over seeds.
    #[serde(flatten)]
    pub over_seeds: Summary,
    /// Of a paired t-test; null with one seed.
    pub p: Option<f64>,
    /// The same corrected for all comparisons of this metric in the benchmark (Holm).
    pub p_holm: Option<f64>,
    /// Half of the interval of the mean that holds for all comparisons of this metric together with 95 % (Bonferroni); null
    /// with one seed.
    pub corrected_half_width: Option<f64>,
    /// Whether `p_holm` is below 5 %; null with one seed, and where no detector has learnt anything.
    pub separable: Option<bool>,
}

impl Difference {
    /// What the difference says, in plain words; figures in percentage points.
    pub fn sentence(&self) -> String {
        let Self { subject, baseline, over_seeds, .. } = self;
        let metric = shown(&self.metric);
        // Adding zero turns a rounded -0 into 0.
        let points = (1000.0 * over_seeds.mean).round() / 10.0 + 0.0;
        let labels = percent(self.label_fraction);
        let seeds = over_seeds.count;
        match over_seeds.half_width.map(|half| 100.0 * half) {
            None => format!(
                "{subject} is {:.1} {metric} {} {baseline} at {labels} % labels with one seed, which cannot tell a \
                 difference from chance.",
                points.abs(),
                if points < 0.0 { "below" } else { "above" }
            ),
            Some(half) if self.separable == Some(true) => format!(
                "{subject} is {} than {baseline} by {:.1} ± {half:.1} {metric} at {labels} % labels ({seeds} seeds, {}).",
                if points < 0.0 { "worse" } else { "better" },
                points.abs(),
                self.p_sentence()
            ),
            Some(half) => format!(
                "{subject} is not separable from {baseline} at {labels} % labels: {points:+.1} ± {half:.1} {metric} \
                 ({seeds} seeds, {}).",
                self.p_sentence()
            ),
        }
    }

    /// `p = 0.013, corrected 0.07; Bonferroni interval -0.2 to +3.1`.
    fn p_sentence(&self) -> String {
        let text = |p: Option<f64>| match p {
            Some(p) if p < 0.001 => "< 0.001".to_string(),
            Some(p) => format!("{p:.3}"),
            None => "unknown".to_string(),
        };
        let p = text(self.p);
        let equals = if p.starts_with('<') { "" } else { "= " };
        let interval = self.corrected_half_width.map(|half| {
            let [low, high] = [-half, half].map(|side| signed_points(self.over_seeds.mean + side));
            format!("; Bonferroni interval {low} to {high}")
        });
        format!("p {equals}{p}, corrected {}{}", text(self.p_holm), interval.unwrap_or_default())
    }
}

/// A share in percentage points with its sign.
pub(crate) fn signed_points(value: f64) -> String {
    // Adding zero turns a rounded -0 into 0.
    format!("{:+.1}", (1000.0 * value).round() / 10.0 + 0.0)
}
