//! Weighted nearest neighbours (Wu et al. 2018, arXiv 1805.01978, section 3.4).

use burn::tensor::{Device, Tensor, TensorData};
use serde::Serialize;

use super::Accuracy;
use crate::inspection::Rows;

/// Queries compared at a time.
const CHUNK: usize = 256;

/// Settings of the vote; the defaults are DINO's (arXiv 2104.14294, section 4.1).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KnnConfig {
    /// Neighbours that vote.
    pub k: usize,
    /// A neighbour of cosine `c` has weight `exp(c / temperature)`.
    pub temperature: f64,
}

impl Default for KnnConfig {
    fn default() -> Self {
        Self { k: 20, temperature: 0.07 }
    }
}

/// Accuracy of [`knn_scores`]; pairs of rows and their classes.
pub fn knn_accuracy(
    train: (&Rows, &[usize]),
    queries: (&Rows, &[usize]),
    classes: usize,
    config: &KnnConfig,
    device: &Device,
) -> Accuracy {
    Accuracy::of(&knn_scores(train, queries.0, classes, config, device), queries.1, classes)
}

/// Sums of the weights of the `k` neighbours of largest cosine, `[queries, classes]`; of equal cosines the earlier row
/// counts. Fewer rows than `k` all vote.
///
/// # Panics
/// If there is no training row, or rows and classes differ in number.
pub fn knn_scores(
    train: (&Rows, &[usize]),
    queries: &Rows,
    classes: usize,
    config: &KnnConfig,
    device: &Device,
) -> Vec<f64> {
    let (rows, labels) = train;
    assert!(!rows.is_empty() && rows.len() == labels.len(), "{} rows, {} classes", rows.len(), labels.len());
    let transposed = unit_tensor(&rows.values, rows.dims, device).transpose();
    let chunks = queries.values.chunks(CHUNK * rows.dims);
    let cosines = chunks.map(|chunk| {
        let product = unit_tensor(chunk, rows.dims, device).matmul(transposed.clone());
        product.into_data().iter::<f32>().collect::<Vec<_>>()
    });
    let votes = |cosines: Vec<f32>| -> Vec<f64> {
        cosines.chunks_exact(rows.len()).flat_map(|row| vote(row, labels, classes, config)).collect()
    };
    cosines.flat_map(votes).collect()
}

fn vote(cosines: &[f32], labels: &[usize], classes: usize, config: &KnnConfig) -> Vec<f64> {
    let mut order: Vec<usize> = (0..cosines.len()).collect();
    let nearer = |a: &usize, b: &usize| cosines[*b].total_cmp(&cosines[*a]).then(a.cmp(b));
    if config.k < order.len() {
        order.select_nth_unstable_by(config.k - 1, nearer);
        order.truncate(config.k);
    }
    let mut scores = vec![0.0; classes];
    for row in order {
        scores[labels[row]] += (f64::from(cosines[row]) / config.temperature).exp();
    }
    scores
}

/// Rows of length one, `[rows, dims]`.
fn unit_tensor(values: &[f32], dims: usize, device: &Device) -> Tensor<2> {
    let unit = |row: &[f32]| {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
        row.iter().map(|v| v / norm).collect::<Vec<_>>()
    };
    let values: Vec<f32> = values.chunks_exact(dims).flat_map(unit).collect();
    let count = values.len() / dims;
    Tensor::from_data(TensorData::new(values, [count, dims]), device)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::health::tests::{FIXTURE, fixture_rows};

    #[test]
    fn votes_and_accuracies_equal_numpys() {
        let fixture: Value = serde_json::from_str(FIXTURE).unwrap();
        let labels = |name: &str| -> Vec<usize> { serde_json::from_value(fixture[name].clone()).unwrap() };
        let classes = fixture["classes"].as_u64().unwrap() as usize;
        let config = KnnConfig {
            k: fixture["k"].as_u64().unwrap() as usize,
            temperature: fixture["temperature"].as_f64().unwrap(),
        };
        let (train, query) = (fixture_rows(&fixture["train"]), fixture_rows(&fixture["query"]));
        let (train_labels, query_labels) = (labels("train_labels"), labels("query_labels"));
        let device = Device::flex();
        let scores = knn_scores((&train, &train_labels), &query, classes, &config, &device);
        let expected = fixture_rows(&fixture["scores"]);
        assert_eq!(scores.len(), expected.values.len());
        for (found, &expected) in scores.iter().zip(&expected.values) {
            // An error of 1e-6 in a 32-bit cosine is 1.4e-5 of its weight.
            assert!((found - f64::from(expected)).abs() <= 1e-4 * f64::from(expected), "{found}, {expected}");
        }
        let accuracy =
            knn_accuracy((&train, &train_labels), (&query, &query_labels), classes, &config, &device);
        assert_eq!(Some(accuracy.top1), fixture["top1"].as_f64());
        assert_eq!(Some(accuracy.top5), fixture["top5"].as_f64());
    }

    #[test]
    fn fewer_rows_than_neighbours_all_vote() {
        let train = Rows { values: vec![1.0, 0.0, 0.0, 1.0], dims: 2 };
        let query = Rows { values: vec![3.0, 0.0], dims: 2 };
        let scores = knn_scores((&train, &[1, 0]), &query, 2, &KnnConfig::default(), &Device::flex());
        assert!((scores[0] - 1.0).abs() < 1e-6 && (scores[1] / (1.0f64 / 0.07).exp() - 1.0).abs() < 1e-5);
    }
}
