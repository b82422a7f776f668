//! Random streams, each identified by a seed and its purpose, so that the order of requests does not matter.

use rand::SeedableRng;
pub use rand::{Rng as RngExt, RngCore};

/// The generator of every random choice in `scrl`.
pub type Rng = rand_chacha::ChaCha8Rng;

/// The random stream of one purpose: a run's seed and a path such as `[AUGMENT, epoch, index]`.
///
/// The path is mixed into the seed with SplitMix64's finaliser (Steele, Lea and Flood 2014), so that
/// neighbouring paths give unrelated streams.
pub fn stream(seed: u64, path: &[u64]) -> Rng {
    let mut state = mix(seed ^ 0x9e37_79b9_7f4a_7c15);
    for &part in path {
        state = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ mix(part.wrapping_add(1)));
    }
    Rng::seed_from_u64(state)
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A sample of the standard normal distribution, by Box and Muller's transform.
pub fn standard_normal(rng: &mut Rng) -> f32 {
    let u: f64 = 1.0 - rng.random::<f64>();
    let v: f64 = rng.random();
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_path_gives_the_same_stream_and_another_path_another() {
        let draw = |path: &[u64]| stream(7, path).random::<u64>();
        assert_eq!(draw(&[1, 2]), draw(&[1, 2]));
        assert_ne!(draw(&[1, 2]), draw(&[2, 1]));
        assert_ne!(draw(&[1]), draw(&[1, 0]));
    }

    #[test]
    fn normal_samples_have_mean_zero_and_variance_one() {
        let mut rng = stream(0, &[]);
        let n = 100_000;
        let samples: Vec<f64> = (0..n).map(|_| standard_normal(&mut rng) as f64).collect();
        let mean = samples.iter().sum::<f64>() / n as f64;
        let variance = samples.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / n as f64;
        // Standard errors are 0.003 and 0.0045; the bounds are six of them.
        assert!(mean.abs() < 0.02, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.03, "variance {variance}");
    }
}
