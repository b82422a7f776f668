//! `scrl inspect dataset` on data with every kind of fault, and on real data.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::*;

/// Examines a folder and gives the report and what was printed.
fn inspect(data: &Path, out: &Path, extra: &[&str]) -> (Value, String) {
    let args = ["inspect", "dataset", "--data", text(data), "--out", text(out)];
    let printed = succeed(&[&args[..], extra].concat());
    (serde_json::from_str(&fs::read_to_string(out.join("report.json")).unwrap()).unwrap(), printed)
}

fn is_png(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x89PNG"))
}

#[test]
fn generated_scenes_have_nothing_to_complain_about() {
    let tmp = temporary();
    let (data, out) = (scenes(tmp.path()), tmp.path().join("doctor"));
    let (report, printed) = inspect(&data, &out, &["--images", "13"]);
    assert_eq!((&report["format"], &report["findings"]), (&json!("coco"), &json!(0)), "{printed}");
    let splits = report["splits"].as_array().unwrap();
    let counts: Vec<_> =
        splits.iter().map(|s| (s["name"].as_str().unwrap(), s["images"].as_u64().unwrap())).collect();
    assert_eq!(counts, [("train", 8), ("val", 4)]);
    let train = &splits[0];
    assert_eq!((&train["readable"], &train["sizes"]["common"]), (&json!(8), &json!([["48×48", 8]])));
    let boxes = &train["boxes"];
    let sum = |names: &[&str]| names.iter().map(|name| boxes[*name].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum(&["small", "medium", "large"]), sum(&["boxes"]));
    assert!(sum(&["boxes"]) > 0);
    let objects: u64 =
        train["classes"].as_array().unwrap().iter().map(|c| c["objects"].as_u64().unwrap()).sum();
    assert_eq!(objects, sum(&["boxes"]));
    assert!(is_png(&out.join("train_1.png")) && is_png(&out.join("val_1.png")));
    assert!(printed.contains("nothing to complain about") && printed.contains("train_1.png"), "{printed}");

    let first = fs::read(out.join("val_1.png")).unwrap();
    let (report, _) = inspect(&data, &out, &["--split", "val", "--images", "2", "--seed", "1"]);
    assert_eq!(report["splits"].as_array().unwrap().len(), 1);
    assert!(first != fs::read(out.join("val_1.png")).unwrap(), "fewer images are drawn");
}

#[test]
fn every_fault_of_a_coco_set_is_counted_and_named() {
    let tmp = temporary();
    let (data, out) = (scenes(tmp.path()), tmp.path().join("doctor"));
    let path = data.join("annotations/instances_train.json");
    let mut truth: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let files: Vec<String> = truth["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["file_name"].as_str().unwrap().to_string())
        .collect();
    let file = |index: usize| data.join("train").join(&files[index]);
    fs::remove_file(file(0)).unwrap();
    let bytes = fs::read(file(1)).unwrap();
    fs::write(file(1), &bytes[..bytes.len() / 2]).unwrap();
    fs::copy(file(3), file(2)).unwrap();
    let val = fs::read_dir(data.join("val")).unwrap().next().unwrap().unwrap().path();
    fs::copy(file(4), &val).unwrap();
    truth["images"][5]["width"] = 47.into();
    let (image, category) = (truth["images"][6]["id"].clone(), truth["categories"][0]["id"].clone());
    let resized = truth["images"][5]["id"].clone();
    let annotations = truth["annotations"].as_array_mut().unwrap();
    let of_resized = annotations.iter().filter(|object| object["image_id"] == resized).count();
    let elsewhere = annotations.iter_mut().rfind(|object| object["image_id"] != resized).unwrap();
    elsewhere["segmentation"] = json!([[1, 1, 9, 1, 9, 9, 1, 9]]);
    let before = annotations.len();
    annotations.push(json!({"id": 9001, "image_id": image, "category_id": category, "bbox": [5, 5, 0, 9]}));
    annotations.push(
        json!({"id": 9002, "image_id": image, "category_id": category, "bbox": [1, 1, 9, 9], "iscrowd": 1}),
    );
    fs::write(&path, truth.to_string()).unwrap();

    let (report, printed) = inspect(&data, &out, &[]);
    let train = &report["splits"][0];
    assert_eq!(train["missing"], json!([format!("train/{}", files[0])]));
    assert!(train["broken"][0]["file"].as_str().unwrap().ends_with(&files[1]), "{printed}");
    assert_eq!((train["broken"].as_array().unwrap().len(), &train["readable"]), (1, &json!(6)));
    let wrong = train["wrong_size"][0].as_str().unwrap();
    assert!(wrong.contains(&files[5]) && wrong.contains("48×48") && wrong.contains("47×48"), "{wrong}");
    let boxes = &train["boxes"];
    assert_eq!((&boxes["degenerate"], &boxes["crowd"]), (&json!(1), &json!(1)));
    assert_eq!(boxes["boxes"].as_u64().unwrap() as usize, before + 1);
    assert!(train["degenerate_boxes"][0].as_str().unwrap().contains(&files[6]), "{printed}");
    let duplicates = report["duplicates"].as_array().unwrap();
    assert_eq!(duplicates.len(), 2, "{printed}");
    assert_eq!(
        (&duplicates[0]["across_splits"], &duplicates[1]["across_splits"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(duplicates[1]["images"].as_array().unwrap().len(), 2);
    // The masks of the image whose size is wrong do not fit it either.
    let masks = train["unusable_masks"].as_array().unwrap();
    assert_eq!(masks.len(), of_resized, "{printed}");
    assert!(
        masks[0].as_str().unwrap().contains("its mask is of 48×48 pixels, the image has 47×48"),
        "{printed}"
    );
    assert!(train["doubtful_masks"][0].as_str().unwrap().contains("has a mask in [1, 1, 9, 9]"), "{printed}");
    assert_eq!(report["findings"].as_u64().unwrap() as usize, 7 + of_resized, "{printed}");
    assert!(printed.contains("1 across splits") && printed.contains("files missing: 1"), "{printed}");
    assert!(is_png(&out.join("train_1.png")), "what can be read is drawn");
}

#[test]
fn a_voc_folder_and_a_folder_of_images_can_be_examined() {
    let tmp = temporary();
    let (data, out) = (scenes(tmp.path()), tmp.path().join("doctor"));
    let root = tmp.path().join("voc");
    for folder in ["Annotations", "JPEGImages", "ImageSets/Main"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let object = |difficult: u8, x2: u32| {
        format!(
            "<object><name>cat</name><difficult>{difficult}</difficult><bndbox><xmin>3</xmin><ymin>3</ymin>\
             <xmax>{x2}</xmax><ymax>20</ymax></bndbox></object>"
        )
    };
    let picture = fs::read_dir(data.join("val")).unwrap().next().unwrap().unwrap().path();
    let ending = picture.extension().unwrap().to_str().unwrap();
    fs::copy(&picture, root.join("JPEGImages/a").with_extension(ending)).unwrap();
    let xml = format!("<annotation>{}{}{}</annotation>", object(0, 20), object(1, 9), object(0, 3));
    fs::write(root.join("Annotations/a.xml"), xml).unwrap();
    fs::write(root.join("ImageSets/Main/train.txt"), "a\nlost\n").unwrap();
    let (report, printed) = inspect(&root, &out, &[]);
    let split = &report["splits"][0];
    assert_eq!((&report["format"], &split["images"]), (&json!("voc"), &json!(1)));
    assert_eq!(
        (&split["boxes"]["boxes"], &split["boxes"]["difficult"], &split["boxes"]["degenerate"]),
        (&json!(2), &json!(1), &json!(1))
    );
    assert!(split["unreadable_annotations"][0].as_str().unwrap().contains("lost.xml"), "{printed}");
    assert!(is_png(&out.join("train_1.png")));

    let (report, printed) = inspect(&data.join("classes"), &out, &[]);
    let split = &report["splits"][0];
    assert_eq!((&report["format"], &split["name"]), (&json!("folder"), &json!("all")), "{printed}");
    let classes = split["classes"].as_array().unwrap();
    assert!(classes.len() > 1 && classes.iter().all(|class| class["images"] == 2), "{printed}");
    assert!(split["boxes"].is_null() && is_png(&out.join("all_1.png")));
}

#[test]
fn everything_that_is_wrong_is_listed_and_the_rest_is_examined() {
    let tmp = temporary();
    let (data, out) = (scenes(tmp.path()), tmp.path().join("doctor"));
    let path = data.join("annotations/instances_train.json");
    let mut truth = json(&path);
    truth["annotations"][0]["image_id"] = json!(777);
    truth["annotations"][1]["category_id"] = json!("none");
    truth["categories"].as_array_mut().unwrap().push(json!({"id": 90, "name": "animals"}));
    fs::write(&path, truth.to_string()).unwrap();
    fs::copy(
        data.join("train").join(truth["images"][0]["file_name"].as_str().unwrap()),
        data.join("train/new.png"),
    )
    .unwrap();
    fs::write(data.join("annotations/instances_broken.json"), "{\"images\": [").unwrap();
    let (report, printed) = inspect(&data, &out, &[]);
    let split = |name: &str| {
        report["splits"].as_array().unwrap().iter().find(|split| split["name"] == name).unwrap().clone()
    };
    let problems = split("train")["unreadable_annotations"].to_string();
    assert!(problems.contains("image 777") && problems.contains("`category_id`: "), "{problems}");
    assert!(split("broken")["unreadable_annotations"][0].as_str().unwrap().contains("EOF"), "{printed}");
    assert_eq!(split("train")["left_out"][0], "1 images that no annotation lists, as `train/new.png`");
    assert_eq!(report["classes_without_objects"], json!(["animals"]), "{printed}");
    assert_eq!(report["class_differences"], json!(["val lacks animals"]), "{printed}");
    assert!(split("val")["images"].as_u64().unwrap() > 0 && is_png(&out.join("val_1.png")), "{printed}");
}

#[test]
fn folders_that_are_no_split_and_files_that_are_not_read_are_findings() {
    let tmp = temporary();
    let (data, out) = (scenes(tmp.path()), tmp.path().join("doctor"));
    let (photos, source) = (tmp.path().join("photos"), data.join("unlabelled"));
    let mut files: Vec<PathBuf> = fs::read_dir(source).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for (folder, file) in ["train", "valid", "extra", "."].into_iter().zip(&files) {
        fs::create_dir_all(photos.join(folder)).unwrap();
        fs::copy(file, photos.join(folder).join("a.png")).unwrap();
    }
    fs::write(photos.join("train/b.gif"), "GIF89a").unwrap();
    fs::write(photos.join("valid/c.jpg"), "version https://git-lfs.github.com/spec/v1\n").unwrap();
    let (report, printed) = inspect(&photos, &out, &[]);
    let names: Vec<_> =
        report["splits"].as_array().unwrap().iter().map(|split| split["name"].clone()).collect();
    assert_eq!(names, ["train", "valid"], "{printed}");
    let left_out = report["splits"][0]["left_out"].to_string();
    for part in ["1 .gif", "`extra/` holds images", "1 images lie beside"] {
        assert!(left_out.contains(part), "{left_out}");
    }
    let broken = report["splits"][1]["broken"][0]["reason"].as_str().unwrap();
    assert!(broken.contains("pointer of Git LFS"), "{broken}");
}

#[test]
fn names_that_cannot_be_drawn_have_numbers_and_a_legend() {
    let tmp = temporary();
    let (data, out) = (scenes(tmp.path()), tmp.path().join("doctor"));
    let path = data.join("annotations/instances_train.json");
    let mut truth = json(&path);
    truth["categories"][1]["name"] = json!("猫");
    fs::write(&path, truth.to_string()).unwrap();
    inspect(&data, &out, &["--split", "train"]);
    assert_eq!(fs::read_to_string(out.join("legend.txt")).unwrap(), "train:\n#2 猫\n");
}

#[test]
fn a_data_set_that_cannot_be_read_at_all_is_an_error() {
    let tmp = temporary();
    let (empty, broken) = (tmp.path().join("empty"), tmp.path().join("broken"));
    fs::create_dir_all(broken.join("annotations")).unwrap();
    fs::create_dir(&empty).unwrap();
    fs::write(broken.join("annotations/instances_val.json"), "{").unwrap();
    let refusal = |data: &Path, extra: &[&str]| {
        let out = tmp.path().join("doctor");
        let args = ["inspect", "dataset", "--data", text(data), "--out", text(&out)];
        fail(&[&args[..], extra].concat(), tmp.path())
    };
    insta::assert_snapshot!("dataset_empty", refusal(&empty, &[]));
    insta::assert_snapshot!("dataset_broken_json", refusal(&broken, &[]));
    insta::assert_snapshot!("dataset_unknown_split", refusal(&broken, &["--split", "train"]));
    insta::assert_snapshot!("dataset_missing", refusal(&tmp.path().join("nowhere"), &[]));
    assert!(!tmp.path().join("doctor").exists());
}

#[test]
fn the_known_faults_of_real_data_are_found() {
    let Some(cells) = real_data("bccd") else { return };
    let tmp = temporary();
    let (report, printed) = inspect(&cells, tmp.path(), &["--images", "1"]);
    let splits = report["splits"].as_array().unwrap();
    let sum = |name: &str| splits.iter().map(|split| split["boxes"][name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("boxes"), sum("degenerate")), (4886, 2), "{printed}");
    let readable: u64 = splits.iter().map(|split| split["readable"].as_u64().unwrap()).sum();
    assert_eq!(readable, 364);
}
