use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::*;

fn small() -> SynthConfig {
    SynthConfig {
        width: 96,
        height: 80,
        train: 6,
        val: 3,
        unlabelled: 4,
        class_images: 2,
        ..SynthConfig::default()
    }
}

/// Every file below a folder, by its path relative to it.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files =
        walkdir::WalkDir::new(folder).into_iter().map(Result::unwrap).filter(|e| e.file_type().is_file());
    files
        .map(|e| {
            let name = e.path().strip_prefix(folder).unwrap().to_string_lossy().replace('\\', "/");
            (name, fs::read(e.path()).unwrap())
        })
        .collect()
}

fn scenes(config: &SynthConfig, count: u64) -> Vec<Scene> {
    (0..count).map(|i| render_scene(config, Split::Train, i)).collect()
}

#[test]
fn the_same_seed_writes_the_same_bytes_on_any_number_of_threads_and_another_seed_others() {
    let render = |seed: u64, threads: usize| {
        let folder = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| write(&SynthConfig { seed, ..small() }, folder.path())).unwrap();
        contents(folder.path())
    };
    let first = render(5, 1);
    assert_eq!(first, render(5, 3));
    let other = render(6, 1);
    assert!(first.keys().eq(other.keys()));
    assert!(
        first.iter().filter(|(name, _)| name.ends_with(".jpg")).all(|(name, bytes)| other[name] != *bytes)
    );
}

#[test]
fn a_scene_does_not_depend_on_how_many_are_rendered() {
    let few = SynthConfig { train: 2, unlabelled: 0, ..small() };
    for index in 0..3 {
        assert_eq!(
            render_scene(&few, Split::Train, index).image,
            render_scene(&small(), Split::Train, index).image
        );
    }
}

#[test]
fn splits_share_no_scene() {
    let config = small();
    let splits = [Split::Train, Split::Val, Split::Unlabelled].into_iter();
    let splits = splits.chain(ShapeClass::ALL.map(Split::Class));
    let images: Vec<_> = splits.map(|split| render_scene(&config, split, 0).image.into_raw()).collect();
    for (i, image) in images.iter().enumerate() {
        assert!(images[..i].iter().all(|earlier| earlier != image));
    }
}

#[test]
fn boxes_and_areas_are_those_of_the_pixels_that_each_object_owns() {
    let config = SynthConfig { width: 112, height: 72, ..SynthConfig::default() };
    for scene in scenes(&config, 40) {
        let owner = |x: u32, y: u32| scene.ids[(y * config.width + x) as usize] as usize;
        for (i, object) in scene.objects.iter().enumerate() {
            let column = |x: &u32| (0..config.height).any(|y| owner(*x, y) == i + 1);
            let row = |y: &u32| (0..config.width).any(|x| owner(x, *y) == i + 1);
            let x1 = (0..config.width).find(column).unwrap();
            let x2 = (0..config.width).rev().find(column).unwrap() + 1;
            let y1 = (0..config.height).find(row).unwrap();
            let y2 = (0..config.height).rev().find(row).unwrap() + 1;
            assert_eq!(object.bbox.to_array(), [x1, y1, x2, y2].map(|v| v as f32));
            assert_eq!(object.area as usize, scene.ids.iter().filter(|&&id| id as usize == i + 1).count());
            assert!(object.area as f32 >= MIN_VISIBLE * object.silhouette as f32);
            assert!(object.area <= object.silhouette);
            let mut pixels = Vec::new();
            for (run, &length) in object.runs.iter().enumerate() {
                pixels.extend(std::iter::repeat_n(run % 2 == 1, length as usize));
            }
            let height = config.height as usize;
            let inside = |place: usize| owner((place / height) as u32, (place % height) as u32) == i + 1;
            assert_eq!(pixels.len(), scene.ids.len());
            assert!(pixels.iter().enumerate().all(|(place, &pixel)| pixel == inside(place)));
        }
        assert!(scene.ids.iter().all(|&id| id as usize <= scene.objects.len()));
    }
}

#[test]
fn scenes_hold_the_asked_number_of_objects_in_all_sizes_and_some_hide_others() {
    let config = SynthConfig::default();
    let scenes = scenes(&config, 150);
    let counts: Vec<usize> = scenes.iter().map(|s| s.objects.len()).collect();
    assert!(counts.iter().all(|count| (1..=8).contains(count)), "{counts:?}");
    for count in 2..=8 {
        assert!(counts.contains(&count), "no scene of {count} objects");
    }
    let objects: Vec<&SceneObject> = scenes.iter().flat_map(|s| &s.objects).collect();
    let sides = objects.iter().map(|o| o.side / 128.0);
    let (low, high) = sides.fold((1.0_f32, 0.0_f32), |(l, h), s| (l.min(s), h.max(s)));
    assert!((0.1..0.11).contains(&low) && (0.57..=0.6).contains(&high), "{low}..{high}");

    let within =
        |o: &SceneObject| o.bbox.x1 > 0.0 && o.bbox.y1 > 0.0 && o.bbox.x2 < 128.0 && o.bbox.y2 < 128.0;
    let covered = objects.iter().filter(|o| within(o) && o.area < o.silhouette).count();
    let part = covered as f32 / objects.len() as f32;
    assert!((0.1..0.6).contains(&part), "{part} of the objects lie behind others");
    assert!(objects.iter().any(|o| (o.area as f32) < 0.5 * o.silhouette as f32));
}

#[test]
fn classes_are_balanced() {
    let mut counts = [0; 8];
    for scene in scenes(&small(), 400) {
        scene.objects.iter().for_each(|o| counts[o.class.index()] += 1);
    }
    // A binomial count of some 2000 objects has a standard deviation near 15; the bounds are five of them.
    let expected = counts.iter().sum::<i32>() / 8;
    assert!(counts.iter().all(|c| (c - expected).abs() < 75), "{counts:?}");
}

#[test]
fn colours_do_not_tell_the_classes_apart() {
    // Mean colour of the object's pixels, averaged over many objects of a class.
    let mean = |class: ShapeClass| {
        let (mut sum, mut pixels) = ([0.0; 3], 0.0);
        for index in 0..120 {
            let scene = render_scene(&small(), Split::Class(class), index);
            for (pixel, _) in scene.image.pixels().zip(&scene.ids).filter(|(_, id)| **id == 1) {
                (0..3).for_each(|k| sum[k] += pixel.0[k] as f64 / scene.objects[0].area as f64);
            }
            pixels += 1.0;
        }
        sum.map(|s| s / pixels)
    };
    let means = ShapeClass::ALL.map(mean);
    for k in 0..3 {
        // An object's mean has a standard deviation near 45, the mean of 120 of them one near 4; the spread of
        // eight such means stays below six of these.
        let values = means.map(|m| m[k]);
        let spread =
            values.iter().copied().fold(f64::MIN, f64::max) - values.iter().copied().fold(f64::MAX, f64::min);
        assert!(spread < 26.0, "channel {k}: {values:?}");
    }
}

#[test]
fn a_class_image_holds_one_whole_object_of_its_class() {
    for class in ShapeClass::ALL {
        for index in 0..10 {
            let objects = render_scene(&small(), Split::Class(class), index).objects;
            assert_eq!(objects.len(), 1);
            assert_eq!((objects[0].class, objects[0].area), (class, objects[0].silhouette));
        }
    }
}

#[test]
fn the_files_are_as_many_as_the_configuration_says_and_the_annotations_are_coco() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("scenes");
    let config = small();
    let summary = write(&config, &out).unwrap();
    let count = |prefix: &str| contents(&out).keys().filter(|name| name.starts_with(prefix)).count();
    assert_eq!([count("train/"), count("val/"), count("unlabelled/")], [6, 3, 4]);
    assert!(ShapeClass::ALL.iter().all(|class| count(&format!("classes/{}/", class.name())) == 2));
    assert_eq!(summary.images, 6 + 3 + 4 + 8 * 2);

    let mut objects = 0;
    for (split, name) in [(Split::Train, "train"), (Split::Val, "val")] {
        let text = fs::read(out.join(format!("annotations/instances_{name}.json"))).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let names: Vec<_> =
            json["categories"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(names, ShapeClass::ALL.map(ShapeClass::name));
        for (index, image) in json["images"].as_array().unwrap().iter().enumerate() {
            assert!(out.join(name).join(image["file_name"].as_str().unwrap()).is_file());
            let of_image =
                json["annotations"].as_array().unwrap().iter().filter(|a| a["image_id"] == image["id"]);
            let scene = render_scene(&config, split, index as u64);
            for (annotation, object) in of_image.clone().zip(&scene.objects) {
                let b = object.bbox;
                assert_eq!(annotation["bbox"], serde_json::json!([b.x1, b.y1, b.width(), b.height()]));
                assert_eq!(annotation["area"], object.area);
                assert_eq!(annotation["category_id"], object.class.index() as u64 + 1);
                assert_eq!(annotation["iscrowd"], 0);
            }
            assert_eq!(of_image.count(), scene.objects.len());
            objects += scene.objects.len();
        }
    }
    assert_eq!(summary.objects, objects);
    assert_eq!(summary.classes.iter().map(|c| c.objects).sum::<usize>(), objects);
}

#[test]
fn an_occupied_folder_is_refused_and_only_our_own_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("train")).unwrap();
    fs::write(folder.path().join("train/precious.jpg"), b"x").unwrap();
    let refused = write(&small(), folder.path()).unwrap_err().to_string();
    assert!(refused.contains("not empty") && refused.contains("--overwrite"), "{refused}");
    let refused = overwrite(&small(), folder.path()).unwrap_err().to_string();
    assert!(refused.contains("did not write"), "{refused}");
    assert!(folder.path().join("train/precious.jpg").is_file());

    let folder = tempfile::tempdir().unwrap();
    write(&small(), folder.path()).unwrap();
    let fewer = SynthConfig { train: 2, ..small() };
    overwrite(&fewer, folder.path()).unwrap();
    let fresh = tempfile::tempdir().unwrap();
    write(&fewer, fresh.path()).unwrap();
    assert_eq!(contents(folder.path()), contents(fresh.path()));
}

#[test]
fn an_interrupted_or_changed_data_set_is_not_complete() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    assert!(!is_complete(out, &small()));
    let summary = write(&small(), out).unwrap();
    assert_eq!(read_summary(out, &small()), Some(summary));
    assert!(!is_complete(out, &SynthConfig { seed: 1, ..small() }));

    fs::remove_file(out.join("unlabelled/000003.jpg")).unwrap();
    assert!(!is_complete(out, &small()));

    // A killed run leaves its mark and no manifest, and can be replaced.
    fs::remove_file(out.join("synth.json")).unwrap();
    fs::write(out.join("synth.unfinished"), b"").unwrap();
    assert!(!is_complete(out, &small()));
    overwrite(&small(), out).unwrap();
    assert!(is_complete(out, &small()));
}

#[test]
fn the_written_annotations_load_as_a_detection_data_set() {
    let folder = tempfile::tempdir().unwrap();
    let config = small();
    write(&config, folder.path()).unwrap();
    let annotations = folder.path().join("annotations/instances_train.json");
    let loaded = scrl_transfer::data::coco::load(
        &annotations,
        &folder.path().join("train"),
        scrl_transfer::data::Labels::Masks,
    )
    .unwrap();
    assert_eq!((loaded.images.len(), loaded.dropped), (6, 0));
    assert!(loaded.categories.iter().map(|c| c.name.as_str()).eq(ShapeClass::ALL.map(ShapeClass::name)));
    for (index, image) in loaded.images.iter().enumerate() {
        let scene = render_scene(&config, Split::Train, index as u64);
        assert_eq!((image.width, image.height), scene.image.dimensions());
        let area = |o: &scrl_transfer::data::DetectionObject| {
            o.mask.as_ref().map(|mask| mask.to_rle(image.size()).area() as f32)
        };
        assert!(image.objects.iter().all(|o| area(o) == Some(o.area)), "the mask has the object's pixels");
        let found = image.objects.iter().map(|o| (o.category, o.bbox, o.area, o.crowd));
        let drawn = scene.objects.iter().map(|o| (o.class.index(), o.bbox, o.area as f32, false));
        assert!(found.eq(drawn), "image {index}");
        assert!(image.path.is_file());
    }
    let classes = scrl_core::data::ImageFolder::scan(&[folder.path().join("classes")]).unwrap();
    assert_eq!((classes.classes.len(), classes.samples.len()), (8, 16));
    assert!(classes.samples.iter().all(|sample| sample.label.is_some()));
}

#[test]
fn materials_change_textures_and_neither_places_nor_boxes() {
    let plain = scenes(&small(), 12);
    let of_material = scenes(&SynthConfig { material: 1.0, ..small() }, 12);
    let half = scenes(&SynthConfig { material: 0.5, ..small() }, 12);
    let differing = |a: &[Scene], b: &[Scene]| a.iter().zip(b).filter(|(a, b)| a.image != b.image).count();
    assert_eq!(differing(&plain, &of_material), 12);
    assert!(differing(&half, &of_material) > 0 && differing(&half, &plain) > 0);
    for (plain, other) in plain.iter().zip(&of_material).chain(plain.iter().zip(&half)) {
        assert_eq!(plain.ids, other.ids);
    }
}
