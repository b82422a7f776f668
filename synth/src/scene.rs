//! One scene: its pixels and its exact labels.

use image::RgbImage;

use super::SynthConfig;
use super::layout::{Layout, arrange};
use super::paint::paint;
use super::shapes::ShapeClass;
use super::split::Split;
use scrl_core::random::stream;
use scrl_core::structures::BoxXyxy;

/// An object as it is seen.
#[derive(Clone, Debug, PartialEq)]
pub struct SceneObject {
    /// What it is.
    pub class: ShapeClass,
    /// The tight box around the visible pixels.
    pub bbox: BoxXyxy,
    /// Visible pixels.
    pub area: u32,
    /// Pixels of the whole silhouette: visible, hidden by other objects, and beyond the image's edge.
    pub silhouette: u32,
    /// Longer side of the silhouette's bounding box, in pixels.
    pub side: f32,
}

/// An image and its objects, from the back to the front.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The picture.
    pub image: RgbImage,
    /// What can be seen in it.
    pub objects: Vec<SceneObject>,
    /// Who owns each pixel, row-major: 0 for the background, `i + 1` for `objects[i]`. An object owns a pixel when
    /// it covers half of it or more and no object in front does.
    pub ids: Vec<u8>,
}

/// Separates these streams from every other use of a run's seed.
const SYNTH: u64 = u64::from_be_bytes(*b"synth___");

/// Renders scene `index` of a split. The scene depends on the configuration's seed, size, object count and scale
/// range, on the split and on the index, and on nothing else.
///
/// # Panics
/// When the configuration does not pass [`SynthConfig::validate`].
pub fn render_scene(config: &SynthConfig, split: Split, index: u64) -> Scene {
    let [kind, class] = split.path();
    let rng = |purpose: u64| stream(config.seed, &[SYNTH, kind, class, index, purpose]);
    let layout = arrange(config, split, &mut rng(0));
    let image = paint(&layout, config.width, config.height, &mut rng(1));
    Scene { image, objects: seen_objects(&layout, config.width), ids: layout.ids }
}

/// The visible extent of every object, in one pass over the pixels.
fn seen_objects(layout: &Layout, width: u32) -> Vec<SceneObject> {
    let empty = |object: &super::layout::PlacedObject| SceneObject {
        class: object.class,
        bbox: BoxXyxy::new(f32::INFINITY, f32::INFINITY, 0.0, 0.0),
        area: 0,
        silhouette: object.silhouette,
        side: object.side,
    };
    let mut objects: Vec<SceneObject> = layout.objects.iter().map(empty).collect();
    for (i, &id) in layout.ids.iter().enumerate().filter(|&(_, &id)| id > 0) {
        let (x, y) = ((i as u32 % width) as f32, (i as u32 / width) as f32);
        let object = &mut objects[id as usize - 1];
        let b = object.bbox;
        object.bbox = BoxXyxy::new(b.x1.min(x), b.y1.min(y), b.x2.max(x + 1.0), b.y2.max(y + 1.0));
        object.area += 1;
    }
    objects
}
