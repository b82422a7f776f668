//! The effective rank of features.

use super::dot;
use crate::inspection::Rows;

/// Added to each share of the singular values, as RankMe does.
const EPSILON: f64 = 1e-7;
/// Rounds over all pairs of rows; quadratic convergence needs about eight.
const MAX_SWEEPS: usize = 60;

/// RankMe (Garrido et al. 2023, arXiv 2210.02885, equation 1): the exponential of the entropy of the singular values'
/// shares `σ / Σσ + 1e-7`.
///
/// Between 1 (all rows on one line through the origin) and `min(rows, dims)`; 0 without rows and for rows of zeros. The
/// singular values are the roots of the eigenvalues of the smaller of `Z·Zᵀ` and `Zᵀ·Z`, in 64 bits.
pub fn rank_me(rows: &Rows) -> f64 {
    let n = rows.len().min(rows.dims);
    let singular: Vec<f64> =
        symmetric_eigenvalues(gram(rows), n).into_iter().map(|value| value.max(0.0).sqrt()).collect();
    let sum: f64 = singular.iter().sum();
    if sum <= 0.0 {
        return 0.0;
    }
    let shares = singular.iter().map(|value| value / sum + EPSILON);
    (-shares.map(|share| share * share.ln()).sum::<f64>()).exp()
}

/// `Z·Zᵀ` where there are fewer rows than dimensions, else `Zᵀ·Z`.
fn gram(rows: &Rows) -> Vec<f64> {
    let (count, dims) = (rows.len(), rows.dims);
    let vectors: Vec<Vec<f64>> = if count <= dims {
        rows.iter().map(|row| row.iter().map(|&v| f64::from(v)).collect()).collect()
    } else {
        (0..dims).map(|column| rows.iter().map(|row| f64::from(row[column])).collect()).collect()
    };
    vectors.iter().flat_map(|a| vectors.iter().map(|b| dot(a, b))).collect()
}

/// The eigenvalues of a symmetric `[n, n]` matrix, in no order, by cyclic Jacobi rotations (Golub and Van Loan, Matrix
/// Computations, section 8.5).
///
/// # Panics
/// If the matrix does not hold `n²` values.
pub fn symmetric_eigenvalues(mut matrix: Vec<f64>, n: usize) -> Vec<f64> {
    assert_eq!(matrix.len(), n * n, "a matrix of {n} rows and columns");
    let scale: f64 = matrix.iter().map(|value| value * value).sum();
    for _ in 0..MAX_SWEEPS {
        let off: f64 =
            (0..n).flat_map(|p| (0..p).map(move |q| (p, q))).map(|(p, q)| matrix[p * n + q].powi(2)).sum();
        if off <= scale * f64::EPSILON * f64::EPSILON {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut matrix, n, p, q);
            }
        }
    }
    (0..n).map(|i| matrix[i * n + i]).collect()
}

/// Makes the elements `(p, q)` and `(q, p)` zero by a rotation of rows and columns `p < q`.
fn rotate(matrix: &mut [f64], n: usize, p: usize, q: usize) {
    let off = matrix[p * n + q];
    if off == 0.0 {
        return;
    }
    let (pp, qq) = (matrix[p * n + p], matrix[q * n + q]);
    let tau = (qq - pp) / (2.0 * off);
    let tangent = tau.signum() / (tau.abs() + tau.hypot(1.0));
    let cosine = 1.0 / tangent.hypot(1.0);
    let sine = tangent * cosine;
    let (head, tail) = matrix.split_at_mut(q * n);
    let (row_p, row_q) = (&mut head[p * n..(p + 1) * n], &mut tail[..n]);
    for (a, b) in row_p.iter_mut().zip(row_q.iter_mut()) {
        (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
    }
    // The rows are right but for their crossing with the columns; symmetry gives the columns.
    (row_p[p], row_q[q], row_p[q], row_q[p]) = (pp - tangent * off, qq + tangent * off, 0.0, 0.0);
    for i in (0..n).filter(|&i| i != p && i != q) {
        (matrix[i * n + p], matrix[i * n + q]) = (matrix[p * n + i], matrix[q * n + i]);
    }
}
