//! Procedural textures: a pattern of the plane and a palette. Arithmetic and square roots only.

use rand::Rng as _;

use super::shapes::{Point, ShapeClass, random_direction};
use scrl_core::random::Rng;

/// Red, green and blue in `[0, 1]`.
pub(super) type Color = [f32; 3];

/// What varies over the plane.
#[derive(Clone, Copy, Debug)]
enum Pattern {
    Gradient,
    Stripes,
    Checks,
    Dots,
    Clouds,
    Marble,
    Veins,
}

const PATTERNS: [Pattern; 7] = [
    Pattern::Gradient,
    Pattern::Stripes,
    Pattern::Checks,
    Pattern::Dots,
    Pattern::Clouds,
    Pattern::Marble,
    Pattern::Veins,
];

/// A pattern at a place, an angle and a period, coloured by three colours.
#[derive(Clone, Debug)]
pub(super) struct Texture {
    pattern: Pattern,
    direction: Point,
    offset: Point,
    /// Pixels a period.
    period: f32,
    /// Steepness of the pattern's edges, from 1 (a wave) upwards.
    sharpness: f32,
    /// Radius of the dots, in periods.
    radius: f32,
    /// Strength of the slow change of brightness.
    mottle: f32,
    seed: u32,
    palette: [Color; 3],
}

impl Texture {
    /// A random texture whose period is drawn between `periods` pixels and whose colours differ by about
    /// `contrast`.
    pub fn random(periods: (f32, f32), contrast: (f32, f32), rng: &mut Rng) -> Self {
        let pattern = PATTERNS[rng.random_range(0..PATTERNS.len() as u32) as usize];
        // Squaring favours short periods, which carry more of a texture than long ones.
        let t: f32 = rng.random();
        Self {
            pattern,
            direction: random_direction(rng),
            offset: Point { x: rng.random_range(0.0..64.0), y: rng.random_range(0.0..64.0) },
            period: periods.0 + (periods.1 - periods.0) * t * t,
            sharpness: rng.random_range(1.0..5.0),
            radius: rng.random_range(0.2..0.42),
            mottle: rng.random_range(0.05..0.3),
            seed: rng.random(),
            palette: random_palette(contrast, rng),
        }
    }

    /// The same colours, place and angle in the pattern of a class, whose period is a part of the image's shorter side.
    pub fn of_material(self, class: ShapeClass, short: f32) -> Self {
        let (pattern, period, sharpness) = match class {
            ShapeClass::Disc => (Pattern::Dots, 0.09, 4.0),
            ShapeClass::Ring => (Pattern::Stripes, 0.06, 4.0),
            ShapeClass::Square => (Pattern::Checks, 0.1, 4.0),
            ShapeClass::Triangle => (Pattern::Marble, 0.12, 2.0),
            ShapeClass::Star => (Pattern::Veins, 0.1, 2.0),
            ShapeClass::Cross => (Pattern::Stripes, 0.16, 1.0),
            ShapeClass::Crescent => (Pattern::Clouds, 0.08, 3.0),
            ShapeClass::Hourglass => (Pattern::Gradient, 0.1, 1.0),
        };
        Self { pattern, period: f32::max(period * short, 3.0), sharpness, radius: 0.3, ..self }
    }

    /// The mean of the palette.
    pub fn mean_color(&self) -> Color {
        let [a, b, c] = self.palette;
        std::array::from_fn(|k| (a[k] + 2.0 * b[k] + c[k]) / 4.0)
    }

    /// The same pattern in other random colours.
    pub fn recolored(&self, contrast: (f32, f32), rng: &mut Rng) -> Self {
        Self { palette: random_palette(contrast, rng), ..self.clone() }
    }

    /// The colour at a point in pixels.
    pub fn color(&self, x: f32, y: f32) -> Color {
        let u = (x * self.direction.x + y * self.direction.y) / self.period + self.offset.x;
        let v = (y * self.direction.x - x * self.direction.y) / self.period + self.offset.y;
        let t = self.level(u, v);
        let brightness = 1.0 + self.mottle * (value_noise(u * 0.7, v * 0.7, self.seed ^ 0x5bd1) - 0.5) * 2.0;
        let [low, middle, high] = self.palette;
        let (from, to, t) = if t < 0.5 { (low, middle, t * 2.0) } else { (middle, high, t * 2.0 - 1.0) };
        std::array::from_fn(|k| (from[k] + (to[k] - from[k]) * t) * brightness)
    }

    /// The pattern at a point in periods, in `[0, 1]`.
    fn level(&self, u: f32, v: f32) -> f32 {
        match self.pattern {
            Pattern::Gradient => wave(u * 0.2),
            Pattern::Stripes => self.sharpened(wave(u)),
            Pattern::Checks => {
                let (a, b) = (self.sharpened(wave(u)), self.sharpened(wave(v)));
                a + b - 2.0 * a * b
            }
            Pattern::Dots => {
                let row = v.floor();
                let shift = if (row * 0.5).fract() == 0.0 { 0.0 } else { 0.5 };
                let (a, b) = ((u + shift).rem_euclid(1.0) - 0.5, v - row - 0.5);
                ((self.radius - (a * a + b * b).sqrt()) * 2.0 * self.sharpness + 0.5).clamp(0.0, 1.0)
            }
            Pattern::Clouds => self.sharpened(fractal_noise(u, v, self.seed)),
            Pattern::Marble => {
                self.sharpened(wave(u * 0.6 + 2.5 * fractal_noise(u * 0.5, v * 0.5, self.seed)))
            }
            Pattern::Veins => {
                let ridge = 2.0 * fractal_noise(u, v, self.seed) - 1.0;
                (1.0 - ridge.abs() * (1.0 + self.sharpness)).clamp(0.0, 1.0)
            }
        }
    }

    fn sharpened(&self, t: f32) -> f32 {
        ((t - 0.5) * self.sharpness + 0.5).clamp(0.0, 1.0)
    }
}

/// Three colours around a random one, each away from it by a random step of `contrast`.
fn random_palette(contrast: (f32, f32), rng: &mut Rng) -> [Color; 3] {
    let raw: Color = std::array::from_fn(|_| rng.random_range(0.08..0.92));
    let grey = (raw[0] + raw[1] + raw[2]) / 3.0;
    let saturation = rng.random_range(0.25..1.0);
    let base = raw.map(|c| grey + (c - grey) * saturation);
    let contrast = rng.random_range(contrast.0..contrast.1);
    let (light, tint): (f32, Color) =
        (rng.random_range(-1.0..1.0), std::array::from_fn(|_| rng.random_range(-1.0..1.0)));
    let moved = |by: f32| -> Color {
        std::array::from_fn(|k| (base[k] + by * contrast * (light + tint[k] * 0.7)).clamp(0.02, 0.98))
    };
    [moved(-0.5), base, moved(0.5)]
}

/// A smooth wave of period 1 between 0 and 1.
fn wave(u: f32) -> f32 {
    let fold = (u.rem_euclid(1.0) * 2.0 - 1.0).abs();
    fold * fold * (3.0 - 2.0 * fold)
}

/// Four octaves of value noise, stretched about its middle, in `[0, 1]`.
pub(super) fn fractal_noise(u: f32, v: f32, seed: u32) -> f32 {
    let octave = |k: u32| {
        let scale = (1 << k) as f32;
        (value_noise(u * scale, v * scale, seed.wrapping_add(k.wrapping_mul(0x9e37_79b9))) - 0.5) / scale
    };
    (0.5 + (0..4).map(octave).sum::<f32>() * 1.1).clamp(0.0, 1.0)
}

/// Random values at whole coordinates, smoothly interpolated, in `[0, 1]`.
fn value_noise(u: f32, v: f32, seed: u32) -> f32 {
    let (cell_u, cell_v) = (u.floor(), v.floor());
    let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
    let (s, t) = (smooth(u - cell_u), smooth(v - cell_v));
    let (i, j) = (cell_u as i32, cell_v as i32);
    let row = |j: i32| {
        let (a, b) = (lattice(i, j, seed), lattice(i.wrapping_add(1), j, seed));
        a + (b - a) * s
    };
    let (upper, lower) = (row(j), row(j.wrapping_add(1)));
    upper + (lower - upper) * t
}

/// A value in `[0, 1)` that depends on a lattice point and a seed.
fn lattice(i: i32, j: i32, seed: u32) -> f32 {
    let mut h = seed ^ (i as u32).wrapping_mul(0x8da6_b343) ^ (j as u32).wrapping_mul(0xd816_3841);
    h = (h ^ (h >> 15)).wrapping_mul(0x2c1b_3c6d);
    h = (h ^ (h >> 12)).wrapping_mul(0x297a_2d39);
    (h >> 8) as f32 / (1 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_stays_in_range_and_uses_most_of_it() {
        let values: Vec<f32> =
            (0..10_000).map(|k| fractal_noise(k as f32 * 0.37, (k / 97) as f32 * 0.71, 5)).collect();
        let (low, high) = values.iter().fold((1.0_f32, 0.0_f32), |(l, h), &v| (l.min(v), h.max(v)));
        assert!((0.0..0.2).contains(&low) && (0.8..=1.0).contains(&high), "{low}..{high}");
    }

    #[test]
    fn noise_is_continuous_across_lattice_lines() {
        for line in [-2.0_f32, 0.0, 3.0] {
            let (before, after) = (value_noise(line - 1e-3, 0.4, 9), value_noise(line + 1e-3, 0.4, 9));
            assert!((before - after).abs() < 1e-3);
        }
    }

    #[test]
    fn every_pattern_varies_over_the_plane() {
        let mut rng = scrl_core::random::stream(1, &[]);
        let texture = Texture::random((6.0, 12.0), (0.3, 0.5), &mut rng);
        for pattern in PATTERNS {
            let texture = Texture { pattern, ..texture.clone() };
            let levels: Vec<f32> =
                (0..4096).map(|k| texture.level((k % 64) as f32 / 9.0, (k / 64) as f32 / 9.0)).collect();
            let (low, high) = levels.iter().fold((1.0_f32, 0.0_f32), |(l, h), &v| (l.min(v), h.max(v)));
            assert!((0.0..0.3).contains(&low) && (0.6..=1.0).contains(&high), "{pattern:?}: {low}..{high}");
        }
    }
}
