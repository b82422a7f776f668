//! A split's objects as COCO's JSON.

use serde::Serialize;

use super::SynthConfig;
use super::scene::SceneObject;
use super::shapes::ShapeClass;

#[derive(Serialize)]
struct Instances {
    info: Info,
    licenses: [License; 1],
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Serialize)]
struct Info {
    description: String,
    version: &'static str,
}

#[derive(Serialize)]
struct License {
    id: u64,
    name: &'static str,
    url: &'static str,
}

#[derive(Serialize)]
struct Image {
    id: u64,
    file_name: String,
    width: u32,
    height: u32,
    license: u64,
}

#[derive(Serialize)]
struct Annotation {
    id: u64,
    image_id: u64,
    category_id: u64,
    /// `[x, y, width, height]`, in pixels.
    bbox: [f32; 4],
    area: u32,
    iscrowd: u8,
    segmentation: RunLengths,
}

/// A mask as COCO's uncompressed run lengths.
#[derive(Serialize)]
struct RunLengths {
    /// Height and width.
    size: [u32; 2],
    counts: Vec<u32>,
}

#[derive(Serialize)]
struct Category {
    id: u64,
    name: &'static str,
    supercategory: &'static str,
}

/// The file of scene `index`, in its split's folder.
pub(super) fn file_name(index: usize) -> String {
    format!("{index:06}.jpg")
}

/// The annotation file of one split: `scenes[i]` holds the objects of scene `i`. Ids count from 1.
pub(super) fn to_json(config: &SynthConfig, split: &str, scenes: &[Vec<SceneObject>]) -> Vec<u8> {
    let category =
        |class: ShapeClass| Category { id: category_id(class), name: class.name(), supercategory: "shape" };
    let instances = Instances {
        info: Info {
            description: format!("procedural scenes, split {split}, seed {}", config.seed),
            version: "1.0",
        },
        licenses: [License { id: 1, name: "generated pictures, no rights reserved", url: "" }],
        images: (0..scenes.len()).map(|index| image(config, index)).collect(),
        annotations: annotations(config, scenes),
        categories: ShapeClass::ALL.map(category).into(),
    };
    serde_json::to_vec(&instances).expect("numbers and strings always serialise")
}

fn category_id(class: ShapeClass) -> u64 {
    class.index() as u64 + 1
}

fn image(config: &SynthConfig, index: usize) -> Image {
    let (width, height) = (config.width, config.height);
    Image { id: index as u64 + 1, file_name: file_name(index), width, height, license: 1 }
}

fn annotations(config: &SynthConfig, scenes: &[Vec<SceneObject>]) -> Vec<Annotation> {
    let objects =
        scenes.iter().zip(1..).flat_map(|(objects, image_id)| objects.iter().map(move |o| (image_id, o)));
    let annotation = |(id, (image_id, object)): (u64, (u64, &SceneObject))| Annotation {
        id,
        image_id,
        category_id: category_id(object.class),
        bbox: [object.bbox.x1, object.bbox.y1, object.bbox.width(), object.bbox.height()],
        area: object.area,
        iscrowd: 0,
        segmentation: RunLengths { size: [config.height, config.width], counts: object.runs.clone() },
    };
    (1..).zip(objects).map(annotation).collect()
}
