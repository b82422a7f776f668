//! `scrl predict`: pictures and results for files and folders, odd images, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use image::{DynamicImage, GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use serde_json::Value;

use crate::support::*;

/// A run of the tiny detector that gives every detection it has, however unsure.
fn detector(folder: &Path, data: &Path) -> PathBuf {
    tiny_detector(folder, data, &["--set", "model.test.score_threshold=0.0"])
}

fn rows(out: &Path) -> Vec<Value> {
    json(&out.join("predictions.json")).as_array().expect("a list, as COCO results are").clone()
}

/// The run's validation images and their annotations.
fn validation(run: &Path) -> (PathBuf, Value) {
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    let section = config.split("[data.val]").nth(1).expect("validation data");
    let value = |key: &str| {
        let line = section.lines().find(|line| line.starts_with(key)).expect("the key is there");
        PathBuf::from(line.split('"').nth(1).expect("a string"))
    };
    (value("images"), json(&value("annotations")))
}

#[test]
fn the_predictions_are_the_detections_of_the_runs_own_evaluation_with_names_and_sizes() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let run = detector(tmp.path(), &data);
    let (images, truth) = validation(&run);
    let out = tmp.path().join("out");
    let printed = succeed(&["predict", "--run", text(&run), text(&images), "--out", text(&out)]);

    let ids: Vec<(&str, &Value)> = truth["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| (i["file_name"].as_str().unwrap(), &i["id"]))
        .collect();
    assert_eq!(printed.lines().count(), ids.len(), "a line an image:\n{printed}");
    let rows = rows(&out);
    let expected = json(&run.join("results.json"));
    let expected = expected.as_array().unwrap();
    assert_eq!(rows.len(), expected.len());
    assert!(rows.len() > 10);
    for (name, id) in &ids {
        let of_image = |row: &&Value| row["file_name"] == *name;
        let evaluated = expected.iter().filter(|row| row["image_id"] == **id);
        for (row, evaluated) in rows.iter().filter(of_image).zip(evaluated) {
            for key in ["category_id", "bbox", "score"] {
                assert_eq!(row[key], evaluated[key], "{key} in {name}");
            }
            assert_eq!((&row["width"], &row["height"]), (&48.into(), &48.into()));
            let category =
                &truth["categories"].as_array().unwrap().iter().find(|c| c["id"] == row["category_id"]);
            assert_eq!(row["category_name"], category.expect("a class of the data")["name"]);
        }
        let picture = image::open(out.join(name)).expect("a picture of the same name");
        assert_eq!((picture.width(), picture.height()), (48, 48));
    }
}

#[test]
fn boxes_and_names_are_drawn_from_the_score_on_that_is_asked_for() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let run = detector(tmp.path(), &data);
    let photo = tmp.path().join("plain.png");
    RgbImage::from_pixel(160, 120, Rgb([90; 3])).save(&photo).unwrap();
    let weights = run.join("weights/detector.safetensors");
    let drawn = |score: &str, name: &str| {
        let out = tmp.path().join(name);
        let args =
            ["predict", "--weights", text(&weights), text(&photo), "--out", text(&out), "--score", score];
        let line = succeed(&[&args[..], &["--json"]].concat());
        let line: Value = serde_json::from_str(&line).expect("one line of JSON");
        assert_eq!((&line["file_name"], &line["width"]), (&"plain.png".into(), &160.into()));
        let picture = image::open(out.join("plain.png")).unwrap().into_rgb8();
        let changed = picture.pixels().filter(|pixel| pixel.0 != [90; 3]).count();
        (line["detections"].as_array().unwrap().len(), changed, rows(&out).len())
    };
    let (all, none) = (drawn("0", "all"), drawn("1", "none"));
    assert!(all.0 > 0 && all.1 > 100 && all.2 == all.0, "{all:?}");
    assert_eq!((none.0, none.1, none.2), (0, 0, all.2), "predictions.json always has all");
}

/// A JPEG whose EXIF says that it must be turned by 90 degrees.
fn write_turned(path: &Path, width: u32, height: u32) {
    let mut jpeg = std::io::Cursor::new(Vec::new());
    let image = RgbImage::from_fn(width, height, |x, _| Rgb([(4 * x) as u8, 80, 120]));
    image.write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".to_vec();
    let mut bytes = vec![0xff, 0xd8, 0xff, 0xe1];
    bytes.extend((exif.len() as u16 + 2).to_be_bytes());
    bytes.append(&mut exif);
    bytes.extend(&jpeg.into_inner()[2..]);
    fs::write(path, bytes).unwrap();
}

#[test]
fn odd_images_work_and_unreadable_ones_are_named_and_left_out() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let run = detector(tmp.path(), &data);
    let photos = tmp.path().join("photos");
    fs::create_dir_all(photos.join("deep/er")).unwrap();
    DynamicImage::from(GrayImage::from_pixel(70, 50, Luma([120]))).save(photos.join("grey.png")).unwrap();
    GrayImage::from_pixel(64, 64, Luma([90])).save(photos.join("grey.JPG")).unwrap();
    RgbaImage::from_pixel(60, 80, Rgba([200, 30, 30, 40])).save(photos.join("deep/alpha.png")).unwrap();
    RgbImage::from_pixel(3, 90, Rgb([9; 3])).save(photos.join("deep/er/thin.jpeg")).unwrap();
    write_turned(&photos.join("turned.jpg"), 64, 40);
    fs::write(photos.join("broken.jpg"), b"\xff\xd8\xff\xe0 no image").unwrap();
    fs::write(photos.join("deep/empty.png"), b"").unwrap();

    for batch in ["1", "3"] {
        let out = tmp.path().join(format!("out{batch}"));
        let args = [
            "predict",
            "--run",
            text(&run),
            text(&photos),
            "--out",
            text(&out),
            "--batch",
            batch,
            "--score",
            "0",
        ];
        let output = scrl(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains("2 of 7 images could not be read: broken.jpg, deep/empty.png"), "{errors}");
        assert!(errors.contains("skipped: image `") && errors.contains("is empty (0 bytes)"), "{errors}");
        let size = |name: &str| {
            let picture = image::open(out.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            (picture.width(), picture.height())
        };
        let sizes = [
            ("grey.png", (70, 50)),
            ("grey.JPG", (64, 64)),
            ("deep/alpha.png", (60, 80)),
            ("deep/er/thin.jpeg", (3, 90)),
            ("turned.jpg", (40, 64)),
        ];
        for (name, expected) in sizes {
            assert_eq!(size(name), expected, "{name}");
        }
        let rows = rows(&out);
        for row in &rows {
            let known = sizes.iter().find(|(name, _)| row["file_name"] == *name).expect("a readable image");
            let [x, y, w, h] = [0, 1, 2, 3].map(|i| row["bbox"][i].as_f64().unwrap());
            let (width, height) = (f64::from(known.1.0), f64::from(known.1.1));
            assert!(x >= 0.0 && y >= 0.0 && x + w <= width + 1e-3 && y + h <= height + 1e-3, "{row}");
            assert_eq!((row["width"].as_f64(), row["height"].as_f64()), (Some(width), Some(height)));
        }
        assert!(rows.iter().any(|row| row["file_name"] == "turned.jpg"));
        assert!(!out.join("broken.jpg").exists());
    }
}

#[test]
fn what_would_replace_or_mix_up_files_is_refused() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let run = detector(tmp.path(), &data);
    let [a, b] = ["a", "b"].map(|name| tmp.path().join(name));
    for folder in [&a, &b] {
        fs::create_dir_all(folder).unwrap();
        RgbImage::from_pixel(40, 40, Rgb([90; 3])).save(folder.join("x.png")).unwrap();
    }
    let [xa, xb] = [&a, &b].map(|folder| folder.join("x.png"));
    let out = tmp.path().join("out");
    let base = ["predict", "--run", text(&run), "--out"];
    let refusal = |out: &Path, images: &[&str]| fail(&[&base[..], &[text(out)], images].concat(), tmp.path());
    let masks = refusal(&tmp.path().join("masks"), &[text(&a), "--masks"]);
    assert!(masks.contains("this detector gives no masks"), "{masks}");
    let same_name = refusal(&out, &[text(&xa), text(&xb)]);
    assert!(same_name.contains("`TMP/a/x.png` and `TMP/b/x.png` would have the same name"), "{same_name}");
    assert!(!out.exists(), "nothing is written before the arguments are checked");
    assert!(refusal(&out, &["no/such.png"]).contains("cannot read `no/such.png`"));

    succeed(&[&base[..], &[text(&out), text(&a)]].concat());
    let again = refusal(&out, &[text(&xb)]);
    assert!(again.contains("`TMP/out/x.png` exists") && again.contains("--overwrite"), "{again}");
    succeed(&[&base[..], &[text(&out), text(&xb), "--overwrite"]].concat());
    let onto_itself = refusal(&a, &[text(&a), "--overwrite"]);
    assert!(onto_itself.contains("is one of the images"), "{onto_itself}");
    let score = refusal(&tmp.path().join("other"), &[text(&a), "--score", "2"]);
    assert!(score.contains("`--score` is 2, but must be between 0 and 1"), "{score}");
    let weights = tmp.path().join("weights.safetensors");
    fs::write(&weights, b"no tensors").unwrap();
    let nowhere = tmp.path().join("nowhere");
    let args = ["predict", "--weights", text(&weights), text(&a), "--out", text(&nowhere)];
    assert!(fail(&args, tmp.path()).contains("TMP/weights.safetensors"));
}
