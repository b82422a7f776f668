//! Inputs as people have them: what exporters of annotations write, photographs as cameras store them, files that are not what
//! their names say. Each kind was reported by users of one program or another; here it must work or say what is wrong.

use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::{Value, json};

use crate::support::*;

/// Names of the fixture whose metrics pycocotools has computed.
fn fixture(name: &str) -> Value {
    json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("transfer/tests/fixtures/coco_metrics").join(name))
}

/// Judges detections by a ground truth, both written as they are given.
fn judge(folder: &Path, truth: &[u8], found: &Value) -> Value {
    let [truth_path, found_path, out] =
        ["truth.json", "found.json", "metrics.json"].map(|name| folder.join(name));
    fs::write(&truth_path, truth).unwrap();
    fs::write(&found_path, found.to_string()).unwrap();
    let [truth, found, metrics] = [&truth_path, &found_path, &out].map(|path| text(path));
    succeed(&["evaluate", "--ground-truth", truth, "--detections", found, "--out", metrics]);
    json(&out)
}

fn annotations(truth: &mut Value) -> &mut Vec<Value> {
    truth["annotations"].as_array_mut().unwrap()
}

/// Applies a change to each element of the lists of a data set.
fn each(truth: &mut Value, lists: &[&str], change: impl Fn(&mut Value)) {
    for list in lists {
        truth[*list].as_array_mut().unwrap().iter_mut().for_each(&change);
    }
}

/// Replaces numbers by what an exporter writes for them.
fn rewrite(element: &mut Value, keys: &[&str], as_written: impl Fn(u64) -> Value) {
    for key in keys {
        if let Some(number) = element.get(*key).and_then(Value::as_u64) {
            element[*key] = as_written(number);
        }
    }
}

#[test]
fn fields_that_boxes_do_not_need_and_ids_in_any_form_change_no_figure() {
    const IDS: [&str; 4] = ["id", "image_id", "category_id", "iscrowd"];
    let lists = ["images", "annotations", "categories"];
    let tmp = temporary();
    let (truth, found) = (fixture("ground_truth.json"), fixture("detections.json"));
    let expected = judge(tmp.path(), truth.to_string().as_bytes(), &found);
    let ap = fixture("expected.json")["metrics"]["AP"].as_f64().unwrap();
    assert!((expected["AP"].as_f64().unwrap() - ap).abs() < 1e-6, "pycocotools has {ap}");

    type Change = fn(&mut Value, &[&str]);
    let changes: [(&str, Change); 11] = [
        ("digits in quotes", |truth, lists| {
            each(truth, lists, |e| rewrite(e, &["id", "image_id", "category_id"], |n| json!(n.to_string())));
        }),
        ("floats", |truth, lists| each(truth, lists, |e| rewrite(e, &IDS, |n| json!(n as f64)))),
        ("no ids of annotations", |truth, _| {
            each(truth, &["annotations"], |e| drop(e.as_object_mut().unwrap().remove("id")));
        }),
        ("one id for all annotations", |truth, _| each(truth, &["annotations"], |e| e["id"] = json!(0))),
        ("info and licences that are none", |truth, _| {
            truth["info"] = json!({"year": "", "date_created": 0});
            truth["licenses"] = json!("none");
            each(truth, &["images"], |e| {
                (e["license"], e["date_captured"], e["coco_url"]) = (json!(null), json!(0), json!([]));
            });
        }),
        ("no info at all", |truth, _| {
            truth
                .as_object_mut()
                .unwrap()
                .retain(|key, _| ["images", "annotations", "categories"].contains(&&**key));
        }),
        ("run-length segmentations", |truth, _| {
            each(truth, &["annotations"], |e| e["segmentation"] = json!({"counts": [3, 5], "size": [2, 4]}));
        }),
        ("compressed segmentations", |truth, _| {
            each(truth, &["annotations"], |e| e["segmentation"] = json!({"counts": "PQ3", "size": [2, 4]}));
        }),
        ("empty segmentations", |truth, _| {
            let forms = [json!([]), json!([[]]), json!(null), json!({}), json!([1, 2, 3])];
            let list = annotations(truth).iter_mut().enumerate();
            list.for_each(|(index, e)| e["segmentation"] = forms[index % forms.len()].clone());
        }),
        ("masks without boxes beside the others", |truth, _| {
            let mut more = annotations(truth)[0].clone();
            for bbox in [json!(null), json!([]), json!([1, 2])] {
                more["bbox"] = bbox;
                annotations(truth).push(more.clone());
            }
            more.as_object_mut().unwrap().remove("bbox");
            annotations(truth).push(more);
        }),
        ("names with blanks", |truth, _| {
            each(truth, &["categories"], |e| {
                e["name"] = json!(format!(" {}\t", e["name"].as_str().unwrap()))
            });
        }),
    ];
    for (name, change) in changes {
        let mut changed = truth.clone();
        change(&mut changed, &lists);
        assert_eq!(judge(tmp.path(), changed.to_string().as_bytes(), &found), expected, "{name}");
        let marked = [b"\xef\xbb\xbf", changed.to_string().as_bytes()].concat();
        assert_eq!(judge(tmp.path(), &marked, &found), expected, "{name}, with a byte order mark");
    }
}

#[test]
fn results_with_names_are_judged_by_them_whatever_numbers_they_carry() {
    let tmp = temporary();
    let (mut truth, mut found) = (fixture("ground_truth.json"), fixture("detections.json"));
    each(&mut truth, &["images"], |image| image["file_name"] = json!(format!("photos/{}.jpg", image["id"])));
    let expected = judge(tmp.path(), truth.to_string().as_bytes(), &found);
    for row in found.as_array_mut().unwrap() {
        row["file_name"] = json!(format!("{}.jpg", row["image_id"]));
        row["image_id"] = json!(row["image_id"].as_u64().unwrap() + 7);
    }
    assert_eq!(judge(tmp.path(), truth.to_string().as_bytes(), &found), expected);
}

#[test]
fn two_categories_of_one_name_stay_two() {
    let tmp = temporary();
    let (mut truth, found) = (fixture("ground_truth.json"), fixture("detections.json"));
    let before = judge(tmp.path(), truth.to_string().as_bytes(), &found);
    each(&mut truth, &["categories"], |category| category["name"] = json!("same"));
    let after = judge(tmp.path(), truth.to_string().as_bytes(), &found);
    let classes = |metrics: &Value| metrics["per_class"].as_object().unwrap().len();
    assert_eq!((classes(&after), &after["AP"]), (classes(&before), &before["AP"]), "{after}");
    assert!(after["per_class"].as_object().unwrap().keys().all(|name| name.starts_with("same (")), "{after}");
}

#[test]
fn a_score_that_is_no_number_is_named_with_its_place() {
    let tmp = temporary();
    let (truth, found) = (tmp.path().join("truth.json"), tmp.path().join("found.json"));
    fs::write(&truth, fixture("ground_truth.json").to_string()).unwrap();
    let row = |score: &str| {
        format!("{{\"image_id\": 1, \"category_id\": 1, \"bbox\": [0, 0, 5, 5], \"score\": {score}}}")
    };
    fs::write(&found, format!("[{}, {}]", row("0.5"), row("NaN"))).unwrap();
    let args = ["evaluate", "--ground-truth", text(&truth), "--detections", text(&found)];
    let error = fail(&args, tmp.path());
    assert!(
        error.starts_with("exit code 1\n") && error.contains("result number 2 of image 1: `score`"),
        "{error}"
    );
}

/// The tiny detector, trained and evaluated; its log.
fn train(folder: &Path, data: &Path) -> String {
    let run = folder.join("detector");
    if run.exists() {
        fs::remove_dir_all(&run).unwrap();
    }
    fs::read_to_string(tiny_detector(folder, data, &[]).join("log.txt")).unwrap()
}

fn refused(folder: &Path, data: &Path) -> String {
    let (recipe, run) = (tiny_transfer(folder), folder.join("refused"));
    let args = ["transfer", "--config", text(&recipe), "--data", text(data), "--init", "random"];
    fail(&[&args[..], &["--out", text(&run), "--overwrite"]].concat(), folder)
}

/// Changes the instances of a split.
fn change(data: &Path, split: &str, change: impl FnOnce(&mut Value)) {
    let path = data.join(format!("annotations/instances_{split}.json"));
    let mut truth = json(&path);
    change(&mut truth);
    fs::write(path, truth.to_string()).unwrap();
}

#[test]
fn a_class_that_one_split_lacks_is_matched_by_name() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    change(&data, "val", |truth| {
        let gone = truth["categories"].as_array_mut().unwrap().remove(0)["id"].clone();
        annotations(truth).retain(|annotation| annotation["category_id"] != gone);
    });
    let log = train(tmp.path(), &data);
    assert!(log.contains("the data lack 1 classes of the detector (disc)"), "{log}");
    let metrics = json(&tmp.path().join("detector/metrics.json"));
    assert!(metrics["per_class"][0]["AP"].is_null() && metrics["AP"].is_number(), "{metrics}");
    // A class that only the other split has is one that nobody trains.
    change(&data, "train", |truth| {
        let gone: Vec<Value> =
            truth["categories"].as_array_mut().unwrap().drain(..2).map(|c| c["id"].clone()).collect();
        annotations(truth).retain(|annotation| !gone.contains(&annotation["category_id"]));
    });
    let log = train(tmp.path(), &data);
    assert!(log.contains("1 of 7 classes have no object in the training images (ring)"), "{log}");
    change(&data, "train", |truth| truth["categories"][0]["name"] = json!("elephant"));
    let error = refused(tmp.path(), &data);
    assert!(error.contains("has the classes") && error.contains("Classes are matched by name"), "{error}");
}

#[test]
fn annotations_of_unknown_images_are_refused_with_their_number() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    change(&data, "train", |truth| {
        annotations(truth)[0]["image_id"] = json!(777);
        annotations(truth)[1]["image_id"] = json!(777);
    });
    let error = refused(tmp.path(), &data);
    assert!(error.contains("2 annotations belong to image 777, which `images` does not list"), "{error}");
}

#[test]
fn windows_paths_and_folders_of_splits_are_found() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let roboflow = tmp.path().join("roboflow");
    for (split, name) in [("train", "train"), ("val", "valid")] {
        change(&data, split, |truth| {
            each(truth, &["images"], |image| {
                image["file_name"] = json!(format!(".\\{}", image["file_name"].as_str().unwrap()));
            });
        });
        fs::create_dir_all(&roboflow).unwrap();
        fs::rename(data.join(split), roboflow.join(name)).unwrap();
        let instances = data.join(format!("annotations/instances_{split}.json"));
        fs::rename(instances, roboflow.join(name).join("_annotations.coco.json")).unwrap();
    }
    train(tmp.path(), &roboflow);
}

/// A JPEG whose EXIF block says that it is to be turned by a quarter.
fn turned_jpeg(path: &Path, width: u32, height: u32) {
    let mut bytes = Vec::new();
    let image = RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8 * 3, y as u8 * 4, 90]));
    image.write_with_encoder(image::codecs::jpeg::JpegEncoder::new(&mut bytes)).unwrap();
    // Tag 0x0112, a short, one value: 6.
    let tiff = [&b"II*\0\x08\0\0\0"[..], &[1, 0, 0x12, 1, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]].concat();
    let exif = [b"Exif\0\0", &tiff[..]].concat();
    let segment = [&[0xff, 0xe1][..], &(exif.len() as u16 + 2).to_be_bytes(), &exif].concat();
    fs::write(path, [&bytes[..2], &segment, &bytes[2..]].concat()).unwrap();
}

#[test]
fn a_size_that_exif_turned_is_named_before_the_first_step() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let mut name = String::new();
    change(&data, "train", |truth| {
        let image = &mut truth["images"][2];
        name = image["file_name"].as_str().unwrap().to_string();
        (image["width"], image["height"]) = (json!(60), json!(40));
    });
    turned_jpeg(&data.join("train").join(&name), 60, 40);
    let error = refused(tmp.path(), &data);
    assert!(error.starts_with("exit code 1\n") && error.contains(&name), "{error}");
    assert!(error.contains("40×60") && error.contains("60×40") && error.contains("EXIF"), "{error}");
    assert!(!tmp.path().join("refused/metrics.jsonl").exists(), "nothing was trained");
    let out = tmp.path().join("doctor");
    succeed(&["inspect", "dataset", "--data", text(&data), "--out", text(&out)]);
    let report = json(&out.join("report.json"));
    assert!(report["splits"][0]["wrong_size"][0].as_str().unwrap().contains("EXIF"), "{report}");
}

/// A VOC folder of the scenes' images, each with one object of a class.
fn voc(folder: &Path, class: &str, name: impl Fn(usize) -> String) -> PathBuf {
    let (data, root) = (scenes(folder), folder.join("voc"));
    for part in ["Annotations", "JPEGImages", "ImageSets/Main"] {
        fs::create_dir_all(root.join(part)).unwrap();
    }
    let mut files: Vec<PathBuf> =
        fs::read_dir(data.join("train")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut names = Vec::new();
    for (index, file) in files.iter().enumerate().take(6) {
        let name = name(index);
        let image = image::open(file).unwrap().to_rgb8();
        image.save(root.join("JPEGImages").join(format!("{name}.jpg"))).unwrap();
        let xml = format!(
            "<annotation><size><width>{}.0</width><height> {} </height></size><object><name>\n {class} </name><bndbox>\
             <xmin>4.70000076</xmin><ymin> 5\n</ymin><xmax>30</xmax><ymax>32.5</ymax></bndbox></object></annotation>",
            image.width(),
            image.height()
        );
        fs::write(root.join("Annotations").join(format!("{name}.xml")), xml).unwrap();
        names.push(name);
    }
    for (list, part) in [("trainval", &names[..4]), ("test", &names[4..])] {
        fs::write(root.join(format!("ImageSets/Main/{list}.txt")), part.join("\n") + "\n").unwrap();
    }
    root
}

#[test]
fn voc_files_with_fractions_blanks_and_names_of_several_words_lose_no_box() {
    let tmp = temporary();
    let root = voc(tmp.path(), "traffic light", |index| format!("photo {index} (copy)"));
    let log = train(tmp.path(), &root);
    assert!(log.contains("train=4") && log.contains("val=2") && !log.contains("left out"), "{log}");
}

#[test]
fn class_names_that_are_paths_stay_in_their_folder_and_are_read_back() {
    let tmp = temporary();
    let root = voc(tmp.path(), "../../car/van", |index| format!("p{index}"));
    train(tmp.path(), &root);
    let [run, found, out] = ["detector", "deep/er/found", "metrics.json"].map(|name| tmp.path().join(name));
    succeed(&["evaluate", "--run", text(&run), "--detections-out", text(&found)]);
    assert_eq!(fs::read_dir(&found).unwrap().count(), 1);
    assert!(!tmp.path().join("deep/car").exists() && !tmp.path().join("car").exists());
    let args = ["evaluate", "--ground-truth", text(&root), "--split", "test", "--detections", text(&found)];
    succeed(&[&args[..], &["--out", text(&out)]].concat());
    assert!(json(&out)["VOC_AP"]["../../car/van"].is_number());
}

/// Unlabelled photographs.
fn photos(folder: &Path) -> PathBuf {
    scenes(folder).join("unlabelled")
}

fn pretrain(folder: &Path, photos: &Path) -> (Option<i32>, String) {
    let (recipe, run) = (tiny_pretrain(folder, "byol"), folder.join("pretrained"));
    let args =
        ["pretrain", "--config", text(&recipe), "--data", text(photos), "--out", text(&run), "--overwrite"];
    let output = scrl(&[&args[..], &["--set", "schedule.epochs=2"]].concat()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn images_of_other_formats_are_read_or_counted() {
    let tmp = temporary();
    let photos = photos(tmp.path());
    let first = fs::read_dir(&photos).unwrap().next().unwrap().unwrap().path();
    let image = image::open(first).unwrap();
    for ending in ["webp", "bmp", "tif"] {
        image.save(photos.join("more").with_extension(ending)).unwrap();
    }
    image.save(photos.join("Capital.PNG")).unwrap();
    fs::write(photos.join("a.gif"), "GIF89a").unwrap();
    fs::write(photos.join("b.HEIC"), "x").unwrap();
    let (code, error) = pretrain(tmp.path(), &photos);
    assert!(code == Some(0) && error.contains("1 .gif, 1 .heic"), "{error}");
    let log = fs::read_to_string(tmp.path().join("pretrained/log.txt")).unwrap();
    assert!(log.contains("on 16 images"), "{log}");
}

#[test]
fn a_small_file_that_claims_a_huge_image_is_refused() {
    let tmp = temporary();
    let photos = photos(tmp.path());
    let mut bytes = Vec::new();
    RgbImage::new(16, 16).write_with_encoder(image::codecs::jpeg::JpegEncoder::new(&mut bytes)).unwrap();
    let frame = bytes.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    bytes[frame + 5..frame + 9].copy_from_slice(&[0xea, 0x60, 0xea, 0x60]);
    fs::write(photos.join("0.jpg"), &bytes).unwrap();
    let (code, error) = pretrain(tmp.path(), &photos);
    assert!(code == Some(1) && error.contains("0.jpg") && error.contains("60000 x 60000"), "{error}");
    let out = tmp.path().join("doctor");
    succeed(&["inspect", "dataset", "--data", text(&photos), "--out", text(&out)]);
    assert_eq!(json(&out.join("report.json"))["splits"][0]["broken"].as_array().unwrap().len(), 1);
}

#[cfg(unix)]
#[test]
fn links_pointers_empty_files_and_folders_with_names_of_images_are_told_apart() {
    let tmp = temporary();
    let photos = photos(tmp.path());
    let odd = photos.join("0.jpg");
    fs::create_dir(&odd).unwrap();
    assert_eq!(pretrain(tmp.path(), &photos).0, Some(0), "a folder is no image");
    fs::remove_dir(&odd).unwrap();
    for (content, reason) in
        [("", "is empty"), ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull")]
    {
        fs::write(&odd, content).unwrap();
        let (code, error) = pretrain(tmp.path(), &photos);
        assert!(code == Some(1) && error.contains("0.jpg") && error.contains(reason), "{error}");
    }
    fs::remove_file(&odd).unwrap();
    std::os::unix::fs::symlink("../annex/x", &odd).unwrap();
    let (code, error) = pretrain(tmp.path(), &photos);
    assert!(code == Some(1) && error.contains("a link to `../annex/x`, which is not there"), "{error}");
    let out = tmp.path().join("doctor");
    succeed(&["inspect", "dataset", "--data", text(&photos), "--out", text(&out)]);
    let report = json(&out.join("report.json"));
    assert_eq!((&report["splits"][0]["images"], &report["findings"]), (&json!(12), &json!(1)), "{report}");
}

#[test]
fn a_run_that_diverges_ends_with_an_error_and_keeps_what_was_good() {
    let tmp = temporary();
    let photos = photos(tmp.path());
    let (recipe, run) = (tiny_pretrain(tmp.path(), "scrl"), tmp.path().join("run"));
    let args = ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&run)];
    let error = fail(&[&args[..], &["--set", "schedule.base_lr=1e12"]].concat(), tmp.path());
    assert!(error.starts_with("exit code 1\n"), "{error}");
    assert!(error.contains("NaN or infinite") || error.contains("the loss became"), "{error}");
    let last = run.join("checkpoints/last");
    if last.exists() {
        let (tensors, _) = scrl_core::checkpoint::state::load::<Value>(&last).unwrap();
        let all = tensors.values().flatten().flat_map(|(_, data)| data.iter::<f32>());
        assert!(all.into_iter().all(f32::is_finite), "a checkpoint of numbers that are none");
    }
    let data = tmp.path().join("data");
    let (recipe, out) = (tiny_transfer(tmp.path()), tmp.path().join("diverged"));
    let args = [
        "transfer",
        "--config",
        text(&recipe),
        "--data",
        text(&data),
        "--init",
        "random",
        "--out",
        text(&out),
    ];
    let error = fail(&[&args[..], &["--set", "solver.lr=1e9"]].concat(), tmp.path());
    assert!(error.starts_with("exit code 1\n") && error.contains("not finite at iteration"), "{error}");
}

#[cfg(unix)]
#[test]
fn two_signals_at_once_are_one_request_and_lose_no_checkpoint() {
    let tmp = temporary();
    let photos = photos(tmp.path());
    let recipe = tiny_pretrain(tmp.path(), "byol");
    for (number, signals) in ["-TERM", "-INT", "-USR1"].into_iter().enumerate() {
        let run = tmp.path().join(format!("run{number}"));
        let args = ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&run)];
        let more = ["--set", "schedule.epochs=4000", "--set", "log.checkpoint_steps=0"];
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_scrl"))
            .args([&args[..], &more].concat())
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let started = std::time::Instant::now();
        while !fs::read_to_string(run.join("metrics.jsonl")).is_ok_and(|log| log.contains("\"train\"")) {
            assert!(started.elapsed().as_secs() < 120, "it does not start");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let pid = child.id().to_string();
        // One process sends both, microseconds apart.
        let both = format!("kill {signals} {pid}; kill {signals} {pid}");
        assert!(std::process::Command::new("sh").args(["-c", &both]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(130), "{error}");
        let step = json(&run.join("checkpoints/last/state.json"))["step"].as_u64().unwrap();
        assert!(error.contains(&format!("interrupted after step {step}")), "{error}");
        assert!(fs::read_to_string(run.join("log.txt")).unwrap().contains("stopping after this step"));
    }
}
