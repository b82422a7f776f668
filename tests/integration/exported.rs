//! Exported detectors in use: `predict` and `evaluate` by ONNX Runtime, and the examples that use nothing of `scrl`. Without
//! ONNX Runtime the tests say so and pass, unless `SCRL_REQUIRE_ONNXRUNTIME` is set.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::{Rgb, RgbImage};
use scrl_core::structures::Size;
use scrl_export::runtime::runtime;
use scrl_transfer::mask::Rle;
use serde_json::{Value, json};

use crate::support::*;

/// A detector with masks that learnt something in seconds, with the red and blue squares that it learnt from.
struct Trained {
    run: PathBuf,
    data: PathBuf,
}

impl Trained {
    fn new(folder: &Path) -> Self {
        let (data, run) = (folder.join("data"), folder.join("run"));
        write_squares(&data);
        let recipe = tiny_transfer(folder);
        let args =
            ["--config", text(&recipe), "--data", text(&data), "--init", "random", "--out", text(&run)];
        let mut args = [&["transfer"], &args[..]].concat();
        // Long enough that it learns whatever the rounding: one that has learnt nothing scores noise all the same, in ties.
        let sets = [
            "iterations=400",
            "batch_size=4",
            "log_every=50",
            "checkpoint_every=1000",
            "max_size=128",
            "test_max_size=128",
            "solver.lr=0.02",
            "solver.warmup_iterations=10",
            "solver.milestones=[340]",
            "model.architecture=\"mask_rcnn\"",
        ];
        sets.iter().for_each(|set| args.extend(["--set", set]));
        succeed(&args);
        Self { run, data }
    }

    /// Exports it to `NAME.onnx`.
    fn export(&self, name: &str, options: &[&str]) -> PathBuf {
        let out = self.run.join(name).with_extension("onnx");
        let args = ["export", "detector", "--run", text(&self.run), "--out", text(&out)];
        succeed(&[&args[..], options].concat());
        out
    }

    /// The validation images.
    fn images(&self) -> PathBuf {
        self.data.join("val")
    }
}

/// Images of 64 pixels with a red or a blue square each, as a COCO folder.
fn write_squares(folder: &Path) {
    fs::create_dir_all(folder.join("annotations")).unwrap();
    for (split, numbers) in [("train", 0..12_u32), ("val", 100..106)] {
        fs::create_dir_all(folder.join(split)).unwrap();
        let (mut images, mut annotations) = (Vec::new(), Vec::new());
        for n in numbers {
            let (name, side, class) = (format!("{n}.png"), 20 + 7 * n % 21, n % 2);
            let (left, top) = (13 * n % (64 - side), 29 * n % (64 - side));
            let inside = |x: u32, y: u32| (left..left + side).contains(&x) && (top..top + side).contains(&y);
            let color = [[230, 40, 40], [40, 60, 230]][class as usize];
            let pixel = |x, y| Rgb(if inside(x, y) { color } else { [60; 3] });
            RgbImage::from_fn(64, 64, pixel).save(folder.join(split).join(&name)).unwrap();
            images.push(json!({ "id": n + 1, "file_name": name, "width": 64, "height": 64 }));
            annotations.push(json!({
                "id": n + 1, "image_id": n + 1, "category_id": class + 1, "bbox": [left, top, side, side],
                "area": side * side, "iscrowd": 0,
                "segmentation": [[left, top, left + side, top, left + side, top + side, left, top + side]]
            }));
        }
        let categories = json!([{ "id": 1, "name": "red" }, { "id": 2, "name": "blue" }]);
        let file =
            json!({ "images": images, "annotations": annotations, "categories": categories }).to_string();
        fs::write(folder.join(format!("annotations/instances_{split}.json")), file).unwrap();
    }
}

/// A detection, whoever found it: x1, y1, x2, y2 in pixels of the image.
#[derive(Clone, Debug)]
struct Found {
    image: String,
    class: String,
    score: f64,
    bbox: [f64; 4],
    /// Pixels of its mask.
    pixels: u64,
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).expect("the file exists")).expect("JSON")
}

/// The rows of `predictions.json`.
fn predict(detector: &[&str], images: &Path, out: &Path) -> Vec<Found> {
    let args = [&["predict"], detector, &[text(images), "--out", text(out), "--overwrite"]].concat();
    succeed(&args);
    let rows = read(&out.join("predictions.json"));
    let row = |row: &Value| {
        let [x, y, w, h] = [0, 1, 2, 3].map(|i| row["bbox"][i].as_f64().unwrap());
        let text = |key: &str| row[key].as_str().unwrap().to_string();
        let score = row["score"].as_f64().unwrap();
        let number = |key: &str| row[key].as_u64().unwrap() as u32;
        let size = Size { width: number("width"), height: number("height") };
        let counts = row["segmentation"]["counts"].as_str().expect("a mask");
        let pixels = Rle::from_compressed(counts, size).expect("run lengths").area();
        let bbox = [x, y, x + w, y + h];
        Found { image: text("file_name"), class: text("category_name"), score, bbox, pixels }
    };
    rows.as_array().unwrap().iter().map(row).collect()
}

fn is_same(a: &Found, b: &Found, pixels: f64, score: f64) -> bool {
    let near = a.bbox.iter().zip(b.bbox).all(|(a, b)| (a - b).abs() <= pixels);
    // A pixel whose probability is one half may fall on either side; where boxes move, so do edges.
    let edge = 4 + (pixels * 200.0) as u64;
    let same = a.image == b.image && a.class == b.class && a.pixels.abs_diff(b.pixels) <= edge;
    same && near && (a.score - b.score).abs() <= score
}

/// Every detection has its own partner within the tolerances.
fn assert_same(found: &[Found], expected: &[Found], pixels: f64, score: f64) {
    let mut left = found.to_vec();
    for wanted in expected {
        let place = left.iter().position(|found| is_same(found, wanted, pixels, score));
        left.remove(place.unwrap_or_else(|| panic!("{wanted:?} was not found among\n{left:#?}")));
    }
    assert!(left.is_empty(), "nobody expected {left:#?}");
}

#[test]
fn an_exported_detector_predicts_and_evaluates_as_its_run_does() {
    if !has_runtime() {
        return;
    }
    let tmp = temporary();
    let trained = Trained::new(tmp.path());
    let images = trained.images();
    let by_run = ["--run", text(&trained.run)];
    let expected = predict(&by_run, &images, &tmp.path().join("by-run"));
    assert!(expected.len() > 20, "{}", expected.len());
    let drawn = tmp.path().join("drawn");
    let score = ["--score", "0.3", "--masks", "--json"];
    let lines =
        succeed(&[&["predict"], &by_run[..], &[text(&images), "--out", text(&drawn)], &score].concat());
    for line in lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let picture = drawn.join(format!("{}.masks.png", line["file_name"].as_str().unwrap()));
        let picture = image::open(picture).expect("a picture of the masks").into_luma8();
        let shown = line["detections"].as_array().unwrap();
        assert_eq!(u64::from(picture.width()), line["width"].as_u64().unwrap());
        assert!(picture.pixels().all(|pixel| usize::from(pixel.0[0]) <= shown.len()));
        if let Some(best) = shown.first() {
            let counts = best["segmentation"]["counts"].as_str().unwrap();
            let size = Size { width: picture.width(), height: picture.height() };
            let pixels = picture.pixels().filter(|pixel| pixel.0[0] == 1).count() as u64;
            assert_eq!(pixels, Rle::from_compressed(counts, size).unwrap().area(), "the best lies on top");
        }
    }
    let evaluate = |detector: &[&str], name: &str| -> (Value, usize) {
        let (metrics, results) = (tmp.path().join("m.json"), tmp.path().join(name));
        let files = ["--out", text(&metrics), "--detections-out", text(&results)];
        succeed(&[&["evaluate"], detector, &["--data", text(&trained.data)], &files].concat());
        (read(&metrics), read(&results).as_array().unwrap().len())
    };
    let (by_burn, count) = evaluate(&by_run, "burn.json");
    for key in ["AP50", "segm_AP50"] {
        assert!(by_burn[key].as_f64().unwrap() > 0.02, "it learnt something: {by_burn}");
    }

    let exports = [
        ("normal", &["--input", "normalized"][..], "1"),
        ("raw", &[][..], "3"),
        ("alone", &["--no-image-sizes"], "4"),
    ];
    for (name, options, batch) in exports {
        let model = trained.export(name, options);
        let by_model = ["--model", text(&model), "--batch", batch];
        let found = predict(&by_model, &images, &tmp.path().join(name));
        assert_same(&found, &expected, 0.01, 1e-4);
        let (metrics, found) = evaluate(&by_model, &format!("{name}.json"));
        assert_eq!(found, count, "{name}");
        for key in ["AP", "AP50", "AP75", "VOC_mAP", "segm_AP", "segm_AP50"] {
            let [a, b] = [&metrics, &by_burn].map(|metrics| metrics[key].as_f64().expect("a figure"));
            assert!((a - b).abs() <= 1e-3, "{name}: {key} is {a}, by Burn {b}");
        }
    }
    let weights = trained.run.join("weights/detector.safetensors");
    assert_eq!(evaluate(&["--weights", text(&weights)], "weights.json").0["AP"], by_burn["AP"]);
}

#[test]
fn files_that_are_no_exported_detectors_and_missing_runtimes_are_named() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let (broken, out) = (tmp.path().join("broken.onnx"), tmp.path().join("out"));
    fs::write(&broken, "text").unwrap();
    let images = data.join("unlabelled");
    let predict = |model: &Path| {
        fail(&["predict", "--model", text(model), text(&images), "--out", text(&out)], tmp.path())
    };
    let error = predict(&tmp.path().join("none.onnx"));
    assert!(error.starts_with("exit code 1\nerror: cannot read `TMP/none.onnx`"), "{error}");
    let evaluate = ["evaluate", "--model", text(&broken), "--data", text(&data)];
    let error = fail(&[&evaluate[..], &["--device", "cuda:0"]].concat(), tmp.path());
    assert!(error.contains("--device is cuda:0, but an exported model runs on"), "{error}");
    let mut command = scrl(&evaluate);
    let output = command.env("ORT_DYLIB_PATH", tmp.path().join("no.so")).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("no.so` that ORT_DYLIB_PATH names: there is no such file"), "{error}");

    if !has_runtime() {
        return;
    }
    let error = predict(&broken);
    assert!(error.starts_with("exit code 1\nerror: ONNX Runtime cannot open `TMP/broken.onnx`"), "{error}");
    let (recipe, run) = (tiny_pretrain(tmp.path(), "scrl"), tmp.path().join("run"));
    let pretrain = ["pretrain", "--config", text(&recipe), "--data", text(&images), "--out", text(&run)];
    succeed(&[&pretrain[..], &["--set", "schedule.epochs=1"]].concat());
    let backbone = tmp.path().join("backbone.onnx");
    succeed(&["export", "backbone", "--weights", text(&run), "--out", text(&backbone)]);
    let error = predict(&backbone);
    assert!(error.contains("`TMP/backbone.onnx` is not an exported detector: it is a backbone"), "{error}");
    assert!(error.contains("write one with `scrl export detector`") && !out.exists(), "{error}");
}

#[test]
fn exactly_one_detector_is_asked_for() {
    let tmp = temporary();
    let refused = |args: &[&str], part: &str| {
        let error = fail(args, tmp.path());
        assert!(error.starts_with("exit code 2") && error.contains(part), "{args:?}: {error}");
    };
    let one = "<--run <RUN>|--weights <WEIGHTS>|--model <MODEL>>";
    refused(&["predict", "x.jpg", "--out", "out"], one);
    for pair in [["--run", "--model"], ["--weights", "--model"], ["--run", "--weights"]] {
        let two = [pair[0], "a", pair[1], "b"];
        refused(&[&["predict", "x.jpg", "--out", "out"], &two[..]].concat(), "cannot be used with");
        refused(&[&["evaluate", "--data", "data"], &two[..]].concat(), "cannot be used with");
    }
    let files = ["--ground-truth", "a.json", "--detections", "b.json"];
    refused(&[&["evaluate", "--model", "x.onnx"], &files[..]].concat(), "cannot be used with");
    refused(&["evaluate", "--model", "x.onnx"], "--data <DATA>");
    refused(&["evaluate", "--weights", "x.safetensors"], "--data <DATA>");
    refused(&["evaluate"], "--model <MODEL>");
}

/// Pictures of one size each, as PNG so that all programs see the same pixels: one that is taken as it is, one that is
/// resized and one that is padded.
fn pictures(trained: &Trained, folder: &Path) -> Vec<PathBuf> {
    let scene = fs::read_dir(trained.images()).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let scene = image::open(scene).expect("a scene").into_rgb8();
    let wide = RgbImage::from_fn(100, 64, |x, y| if x < 64 { *scene.get_pixel(x, y) } else { Rgb([70; 3]) });
    let large = image::imageops::resize(&scene, 150, 110, image::imageops::FilterType::CatmullRom);
    fs::create_dir_all(folder).unwrap();
    let save = |(name, image): (&str, &RgbImage)| {
        let path = folder.join(name);
        image.save(&path).unwrap();
        path
    };
    [("scene.png", &scene), ("wide.png", &wide), ("large.png", &large)].map(save).to_vec()
}

/// What an example finds: lines of score, corners and class.
fn example(program: &mut Command, model: &Path, image: &Path) -> Vec<Found> {
    // It writes its drawing where it is started.
    let program =
        program.args([model, image]).arg("0.05").current_dir(image.parent().unwrap().parent().unwrap());
    let output = program.output().expect("the example starts");
    let (lines, errors) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}");
    let found = |line: &str| {
        let line = line.strip_suffix(" pixels").expect("a mask");
        let (line, pixels) = line.rsplit_once(' ').unwrap();
        let pixels = pixels.parse().unwrap();
        let words: Vec<&str> = line.splitn(6, ' ').collect();
        let number = |place: usize| words[place].parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        let image = image.file_name().unwrap().to_str().unwrap().to_string();
        let bbox = [1, 2, 3, 4].map(number);
        Found { image, class: words[5].to_string(), score: number(0), bbox, pixels }
    };
    lines.lines().map(found).collect()
}

/// Compares an example with `scrl predict --model`, for inputs of both kinds. Resizing may differ by `pixels` and `score`.
fn compare(program: impl Fn() -> Command, pixels: f64, score: f64) {
    let tmp = temporary();
    let trained = Trained::new(tmp.path());
    let pictures = pictures(&trained, &tmp.path().join("pictures"));
    for (name, options) in [("normal", &["--input", "normalized"][..]), ("raw", &[][..])] {
        let model = trained.export(name, options);
        let rows = predict(&["--model", text(&model)], &tmp.path().join("pictures"), &tmp.path().join("out"));
        let mut by_image: BTreeMap<String, Vec<Found>> = BTreeMap::new();
        rows.into_iter().for_each(|row| by_image.entry(row.image.clone()).or_default().push(row));
        assert_eq!(by_image.len(), pictures.len(), "something is found in every picture");
        for picture in &pictures {
            let found = example(&mut program(), &model, picture);
            let resized = picture.ends_with("large.png");
            let (pixels, score) = if resized { (pixels, score) } else { (0.01, 1e-4) };
            let drawn = image::open(tmp.path().join("masks.png")).expect("the masks are drawn");
            assert_eq!(drawn.width(), image::open(picture).unwrap().width());
            assert_same(&found, &by_image[picture.file_name().unwrap().to_str().unwrap()], pixels, score);
        }
    }
}

/// The interpreter that `SCRL_PYTHON` names, else python3, where it has the packages of the example.
#[test]
fn the_python_example_finds_what_predict_finds() {
    let named = std::env::var("SCRL_PYTHON").ok();
    let python = named.clone().unwrap_or("python3".to_string());
    let output = Command::new(&python).args(["-c", "import onnxruntime, numpy, PIL"]).output();
    if !output.is_ok_and(|output| output.status.success()) {
        assert!(named.is_none(), "`{python}`, which SCRL_PYTHON names, lacks onnxruntime, numpy or pillow");
        eprintln!(
            "skipped: `{python}` lacks onnxruntime, numpy or pillow; set SCRL_PYTHON to one that has them"
        );
        return;
    }
    if has_runtime() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/detect.py");
        let program = || {
            let mut command = Command::new(&python);
            command.arg(&script);
            command
        };
        compare(program, 0.01, 1e-4);
    }
}

/// The example that `cargo test` builds with the tests.
#[test]
fn the_rust_example_finds_what_predict_finds() {
    let folder = Path::new(env!("CARGO_BIN_EXE_scrl")).parent().unwrap().join("examples");
    let path = folder.join("detect").with_extension(std::env::consts::EXE_EXTENSION);
    if !path.is_file() && std::env::var_os("SCRL_REQUIRE_ONNXRUNTIME").is_none() {
        eprintln!("skipped: no {}; run `cargo test --workspace`, which builds it", path.display());
        return;
    }
    if has_runtime() {
        let library = runtime().unwrap().library.clone();
        let program = || {
            let mut command = Command::new(&path);
            command.envs(library.iter().map(|library| ("ORT_DYLIB_PATH", library)));
            command
        };
        // Its resizing differs from Pillow's, which `scrl` follows, by a grey level here and there.
        compare(program, 0.5, 0.02);
    }
}
