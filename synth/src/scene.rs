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
    /// The visible pixels as COCO's run lengths, down the columns: outside, inside, outside, …
    pub runs: Vec<u32>,
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
        runs: Vec::new(),
    };
    let mut objects: Vec<SceneObject> = layout.objects.iter().map(empty).collect();
    for (i, &id) in layout.ids.iter().enumerate().filter(|&(_, &id)| id > 0) {
        let (x, y) = ((i as u32 % width) as f32, (i as u32 / width) as f32);
        let object = &mut objects[id as usize - 1];
        let b = object.bbox;
        object.bbox = BoxXyxy::new(b.x1.min(x), b.y1.min(y), b.x2.max(x + 1.0), b.y2.max(y + 1.0));
        object.area += 1;
    }
    for (object, runs) in objects.iter_mut().zip(runs(&layout.ids, width as usize, layout.objects.len())) {
        object.runs = runs;
    }
    objects
}

/// The run lengths of each of `count` objects, in one pass down the columns.
fn runs(ids: &[u8], width: usize, count: usize) -> Vec<Vec<u32>> {
    let height = ids.len() / width.max(1);
    // Where each object's pixels begin and end; 0 is the background.
    let mut changes = vec![Vec::new(); count + 1];
    let mut before = 0;
    for place in 0..ids.len() {
        let id = ids[place % height * width + place / height];
        if id != before {
            changes[before as usize].push(place as u32);
            changes[id as usize].push(place as u32);
            before = id;
        }
    }
    let lengths = |mut changes: Vec<u32>| {
        changes.push(ids.len() as u32);
        let starts = std::iter::once(0).chain(changes.iter().copied());
        starts.zip(&changes).map(|(start, end)| end - start).collect()
    };
    changes.into_iter().skip(1).map(lengths).collect()
}
