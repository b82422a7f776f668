//! Which objects a scene holds, where they lie and which pixels each one owns.

use rand::Rng as _;

use super::SynthConfig;
use super::raster::Coverage;
use super::shapes::{Outline, Point, ShapeClass, fitted, randomly_turned};
use super::split::Split;
use scrl_core::random::{Rng, stream};

/// The least part of its silhouette that an object may show, where the silhouette includes what the image's edge
/// cuts off.
pub const MIN_VISIBLE: f32 = 0.25;

/// The part of its bounding box that a scene's object may have beyond the image's edge, along each axis.
const MAX_OUTSIDE: f32 = 0.25;
/// How much of an object's longer side squeezing may take away.
const MAX_SQUEEZE: f32 = 0.22;
/// Draws of place, size and rotation before an object that fits nowhere is left out.
const ATTEMPTS: usize = 40;
/// The size range of the one object of a class image, as parts of the image's shorter side.
const CLASS_IMAGE_SCALE: (f32, f32) = (0.35, 0.8);

/// Names the random stream that says whether an object is of its class's material.
const MATERIAL: u64 = 1;

/// An object in its place.
pub(super) struct PlacedObject {
    pub class: ShapeClass,
    /// Whether the object is of its class's material.
    pub own_material: bool,
    pub centre: Point,
    /// Longer side of the silhouette's bounding box, in pixels.
    pub side: f32,
    pub coverage: Coverage,
    /// Pixels of the silhouette, hidden or not.
    pub silhouette: u32,
}

/// Objects from the back to the front and who owns each pixel.
pub(super) struct Layout {
    pub objects: Vec<PlacedObject>,
    /// Row-major; 0 for the background, `i + 1` for `objects[i]`.
    pub ids: Vec<u8>,
}

/// Draws the objects of one scene, each in front of those before it. An object that would leave another (or
/// itself) with less than [`MIN_VISIBLE`] is drawn anew, and left out after [`ATTEMPTS`] draws; the first is always
/// placed.
pub(super) fn arrange(config: &SynthConfig, split: Split, rng: &mut Rng) -> Layout {
    let mut ground = Ground::new(config);
    let count = match split {
        Split::Class(_) => 1,
        _ => rng.random_range(config.objects[0] as u32..=config.objects[1] as u32),
    };
    for _ in 0..count {
        let class = match split {
            Split::Class(class) => class,
            _ => ShapeClass::ALL[rng.random_range(0..ShapeClass::ALL.len() as u32) as usize],
        };
        let variation: f32 = rng.random();
        let outline = class.outline(variation);
        // From a stream of its own, so that places do not depend on materials.
        let own_material = stream(variation.to_bits().into(), &[MATERIAL]).random_bool(config.material);
        for _ in 0..ATTEMPTS {
            let object = PlacedObject { own_material, ..draw_object(config, split, class, &outline, rng) };
            if ground.try_place(object) {
                break;
            }
        }
    }
    Layout { objects: ground.objects, ids: ground.ids }
}

/// An object of a random size, rotation and place.
fn draw_object(
    config: &SynthConfig,
    split: Split,
    class: ShapeClass,
    outline: &Outline,
    rng: &mut Rng,
) -> PlacedObject {
    let (width, height) = (config.width as f32, config.height as f32);
    let (low, high) = match split {
        Split::Class(_) => CLASS_IMAGE_SCALE,
        _ => (config.min_scale as f32, config.max_scale as f32),
    };
    let side = width.min(height) * random_scale(low, high, rng);
    let within = |length: f32, rng: &mut Rng| match split {
        // Near the middle, and wholly inside.
        Split::Class(_) => length / 2.0 + rng.random_range(-0.5..0.5) * (length - side) * 0.5,
        _ => {
            let margin = side * (0.5 - MAX_OUTSIDE);
            rng.random_range(margin..length - margin)
        }
    };
    let centre = Point { x: within(width, rng), y: within(height, rng) };
    let coverage = Coverage::fill(&fitted(&randomly_turned(outline, MAX_SQUEEZE, rng), centre, side));
    PlacedObject { class, own_material: false, centre, side, silhouette: coverage.area(), coverage }
}

/// A scale between `low` and `high`: the mean of a uniform one and of one whose inverse is uniform, so that small
/// objects are frequent and large ones not rare.
fn random_scale(low: f32, high: f32, rng: &mut Rng) -> f32 {
    let t: f32 = rng.random();
    let inverse = 1.0 / (1.0 / low + (1.0 / high - 1.0 / low) * t);
    let uniform = low + (high - low) * t;
    (inverse + uniform) / 2.0
}

/// The objects placed so far and what is left of them.
struct Ground {
    width: u32,
    height: u32,
    objects: Vec<PlacedObject>,
    visible: Vec<u32>,
    ids: Vec<u8>,
}

impl Ground {
    fn new(config: &SynthConfig) -> Self {
        let (width, height) = (config.width, config.height);
        let ids = vec![0; width as usize * height as usize];
        Self { width, height, objects: Vec::new(), visible: Vec::new(), ids }
    }

    /// Places the object in front of all others if every object stays visible enough.
    fn try_place(&mut self, object: PlacedObject) -> bool {
        let owned: Vec<usize> = object
            .coverage
            .pixels(self.width, self.height)
            .filter(|&(_, _, alpha)| alpha >= 0.5)
            .map(|(x, y, _)| y * self.width as usize + x)
            .collect();
        let mut left = self.visible.clone();
        owned.iter().filter(|&&i| self.ids[i] > 0).for_each(|&i| left[self.ids[i] as usize - 1] -= 1);
        left.push(owned.len() as u32);
        let silhouettes = self.objects.iter().chain([&object]).map(|o| o.silhouette);
        if left.iter().zip(silhouettes).any(|(&seen, all)| (seen as f32) < MIN_VISIBLE * all as f32) {
            return false;
        }
        self.objects.push(object);
        self.visible = left;
        let id = self.objects.len() as u8;
        owned.into_iter().for_each(|i| self.ids[i] = id);
        true
    }
}
