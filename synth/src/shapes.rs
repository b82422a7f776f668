//! The eight classes: closed outlines, filled by the even-odd rule.
//!
//! Every curve is a polygon through the vertices of a regular 120-gon, so that no angle is ever passed to a
//! platform's trigonometry and the same seed gives the same pixels everywhere.

use rand::Rng as _;
use serde::{Deserialize, Serialize};

use scrl_core::random::Rng;

/// A point in pixels, or in an outline's own unit frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub x: f32,
    pub y: f32,
}

/// Closed loops; a point inside an odd number of them is inside the outline.
pub(super) type Outline = Vec<Vec<Point>>;

/// What an object is. The class is only its shape: texture, colour, size, rotation and light are drawn without
/// looking at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShapeClass {
    /// A filled circle.
    Disc,
    /// A disc with a round hole.
    Ring,
    /// A filled square.
    Square,
    /// A triangle of about equal sides.
    Triangle,
    /// A star of five points.
    Star,
    /// Two bars at right angles.
    Cross,
    /// A disc with a bite out of its side.
    Crescent,
    /// Two triangles that meet tip to tip.
    Hourglass,
}

impl ShapeClass {
    /// Every class, in the order of its index.
    pub const ALL: [Self; 8] = [
        Self::Disc,
        Self::Ring,
        Self::Square,
        Self::Triangle,
        Self::Star,
        Self::Cross,
        Self::Crescent,
        Self::Hourglass,
    ];

    /// The class's name in annotations and folders.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disc => "disc",
            Self::Ring => "ring",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Star => "star",
            Self::Cross => "cross",
            Self::Crescent => "crescent",
            Self::Hourglass => "hourglass",
        }
    }

    /// Place in [`ShapeClass::ALL`], from 0; the COCO category id is one more.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The outline in a frame where it spans about `[-1, 1]`. `variation` in `[0, 1]` moves the proportions that
    /// may differ within the class: a ring's hole, a star's notches, a cross's arms, a crescent's bite.
    pub(super) fn outline(self, variation: f32) -> Outline {
        let circle = unit_circle();
        let between = |low: f32, high: f32| low + (high - low) * variation;
        match self {
            Self::Disc => vec![circle],
            Self::Ring => {
                let hole = scaled(&circle, between(0.45, 0.68));
                vec![circle, hole]
            }
            Self::Square => vec![circle.into_iter().step_by(SIDES / 4).collect()],
            Self::Triangle => vec![circle.into_iter().step_by(SIDES / 3).collect()],
            Self::Star => vec![star(&circle, between(0.34, 0.46))],
            Self::Cross => vec![cross(between(0.22, 0.36))],
            Self::Crescent => vec![crescent(&circle, between(0.36, 0.5))],
            Self::Hourglass => vec![hourglass(between(0.1, 0.22))],
        }
    }
}

const SIDES: usize = 120;

/// Vertices of the regular 120-gon in the unit circle, counterclockwise from `(1, 0)`.
fn unit_circle() -> Vec<Point> {
    // Cosine and sine of three degrees.
    const COS: f64 = 0.998_629_534_754_573_9;
    const SIN: f64 = 0.052_335_956_242_943_83;
    let next = |&(x, y): &(f64, f64)| Some((x * COS - y * SIN, x * SIN + y * COS));
    std::iter::successors(Some((1.0, 0.0)), next)
        .take(SIDES)
        .map(|(x, y)| Point { x: x as f32, y: y as f32 })
        .collect()
}

fn scaled(points: &[Point], factor: f32) -> Vec<Point> {
    points.iter().map(|p| Point { x: p.x * factor, y: p.y * factor }).collect()
}

/// A star of five points whose notches lie at radius `inner`.
fn star(circle: &[Point], inner: f32) -> Vec<Point> {
    let corner = |k: usize| {
        let radius = if k.is_multiple_of(2) { 1.0 } else { inner };
        let p = circle[k * SIDES / 10];
        Point { x: p.x * radius, y: p.y * radius }
    };
    (0..10).map(corner).collect()
}

/// A plus sign whose arms have half the width `arm`.
fn cross(arm: f32) -> Vec<Point> {
    let corners = [
        (1.0, arm),
        (arm, arm),
        (arm, 1.0),
        (-arm, 1.0),
        (-arm, arm),
        (-1.0, arm),
        (-1.0, -arm),
        (-arm, -arm),
    ]
    .into_iter()
    .chain([(-arm, -1.0), (arm, -1.0), (arm, -arm), (1.0, -arm)]);
    corners.map(|(x, y)| Point { x, y }).collect()
}

/// The unit disc without a disc of radius 0.8 whose centre lies `shift` to the right.
fn crescent(circle: &[Point], shift: f32) -> Vec<Point> {
    const BITE: f32 = 0.8;
    let tip_x = (1.0 + shift * shift - BITE * BITE) / (2.0 * shift);
    let tip_y = (1.0 - tip_x * tip_x).max(0.0).sqrt();
    let outer = circle.iter().copied().filter(|p| p.x < tip_x);
    let bite = circle.iter().map(|p| Point { x: p.x * BITE + shift, y: p.y * BITE });
    let inner: Vec<Point> = bite.filter(|p| p.x < tip_x).collect();
    std::iter::once(Point { x: tip_x, y: tip_y })
        .chain(outer)
        .chain([Point { x: tip_x, y: -tip_y }])
        .chain(inner.into_iter().rev())
        .collect()
}

/// Two triangles that meet in a waist of half the width `waist`.
fn hourglass(waist: f32) -> Vec<Point> {
    [(-0.85, -1.0), (0.85, -1.0), (waist, 0.0), (0.85, 1.0), (-0.85, 1.0), (-waist, 0.0)]
        .into_iter()
        .map(|(x, y)| Point { x, y })
        .collect()
}

/// An irregular closed curve of no class, within the unit circle: the background's clutter.
pub(super) fn blob(rng: &mut Rng) -> Outline {
    let radii = uneven_radii(rng);
    let lobes = radii.len();
    let radius = |k: usize| {
        let at = (k * lobes) as f32 / SIDES as f32;
        let lobe = at as usize;
        let t = at - lobe as f32;
        let t = t * t * (3.0 - 2.0 * t);
        radii[lobe] + (radii[(lobe + 1) % lobes] - radii[lobe]) * t
    };
    let place = |(k, p): (usize, Point)| Point { x: p.x * radius(k), y: p.y * radius(k) };
    vec![unit_circle().into_iter().enumerate().map(place).collect()]
}

/// Seven radii whose neighbours differ enough that no disc comes out.
fn uneven_radii(rng: &mut Rng) -> [f32; 7] {
    const MIN_MEAN_STEP: f32 = 0.27;
    loop {
        let radii: [f32; 7] = std::array::from_fn(|_| rng.random_range(0.3..1.0));
        let steps = (0..7).map(|k| (radii[k] - radii[(k + 1) % 7]).abs());
        if steps.sum::<f32>() >= 7.0 * MIN_MEAN_STEP {
            return radii;
        }
    }
}

/// A uniformly drawn direction. Rejection from the unit disc needs a square root only.
pub(super) fn random_direction(rng: &mut Rng) -> Point {
    loop {
        let (x, y) = (rng.random_range(-1.0_f32..1.0), rng.random_range(-1.0_f32..1.0));
        let norm = x * x + y * y;
        if (0.01..=1.0).contains(&norm) {
            let norm = norm.sqrt();
            return Point { x: x / norm, y: y / norm };
        }
    }
}

/// The outline turned, squeezed along a random axis by up to `squeeze`, and turned again.
pub(super) fn randomly_turned(outline: &Outline, squeeze: f32, rng: &mut Rng) -> Outline {
    let (first, second) = (random_direction(rng), random_direction(rng));
    let factor = 1.0 - rng.random_range(0.0..1.0_f32) * squeeze;
    let turn = |p: Point, by: Point| Point { x: p.x * by.x - p.y * by.y, y: p.x * by.y + p.y * by.x };
    let place = |p: &Point| {
        let p = turn(*p, first);
        turn(Point { x: p.x, y: p.y * factor }, second)
    };
    outline.iter().map(|points| points.iter().map(place).collect()).collect()
}

/// The outline scaled and shifted so that its bounding box is centred at `centre` and its longer side is `side`.
pub(super) fn fitted(outline: &Outline, centre: Point, side: f32) -> Outline {
    let (low, high) = bounds(outline);
    let scale = side / (high.x - low.x).max(high.y - low.y);
    let middle = Point { x: (low.x + high.x) / 2.0, y: (low.y + high.y) / 2.0 };
    let place =
        |p: &Point| Point { x: centre.x + (p.x - middle.x) * scale, y: centre.y + (p.y - middle.y) * scale };
    outline.iter().map(|points| points.iter().map(place).collect()).collect()
}

/// The corners of the bounding box: least and greatest coordinates.
pub(super) fn bounds(outline: &Outline) -> (Point, Point) {
    let start =
        (Point { x: f32::INFINITY, y: f32::INFINITY }, Point { x: f32::NEG_INFINITY, y: f32::NEG_INFINITY });
    outline.iter().flatten().fold(start, |(low, high), p| {
        (Point { x: low.x.min(p.x), y: low.y.min(p.y) }, Point { x: high.x.max(p.x), y: high.y.max(p.y) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_circle_of_chords_closes_and_stays_on_the_unit_circle() {
        let circle = unit_circle();
        assert_eq!(circle.len(), SIDES);
        assert!(circle.iter().all(|p| (p.x * p.x + p.y * p.y - 1.0).abs() < 1e-6));
        let last = circle[SIDES - 1];
        assert!((last.x - 3.0_f32.to_radians().cos()).abs() < 1e-6);
        assert!((last.y + 3.0_f32.to_radians().sin()).abs() < 1e-6);
    }

    #[test]
    fn a_fitted_outline_has_the_asked_side_and_centre() {
        let mut rng = scrl_core::random::stream(3, &[]);
        for class in ShapeClass::ALL {
            let turned = randomly_turned(&class.outline(0.5), 0.2, &mut rng);
            let (low, high) = bounds(&fitted(&turned, Point { x: 40.0, y: 30.0 }, 20.0));
            let (width, height) = (high.x - low.x, high.y - low.y);
            assert!((width.max(height) - 20.0).abs() < 1e-3, "{}: {width} x {height}", class.name());
            assert!((low.x + high.x - 80.0).abs() < 1e-3 && (low.y + high.y - 60.0).abs() < 1e-3);
        }
    }

    #[test]
    fn indices_follow_the_order_of_all() {
        for (index, class) in ShapeClass::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), index);
        }
    }
}
