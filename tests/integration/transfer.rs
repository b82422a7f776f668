//! `scrl transfer` through the binary: recipes, what is printed, inits, kill and resume, pictures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::*;

/// The arguments of a run of the tiny recipe.
fn arguments<'a>(recipe: &'a Path, data: &'a Path, init: &'a str, out: &'a Path) -> Vec<&'a str> {
    let [recipe, data, out] = [recipe, data, out].map(text);
    vec!["transfer", "--config", recipe, "--data", data, "--init", init, "--out", out]
}

fn transfer(recipe: &Path, data: &Path, init: &str, out: &Path, extra: &[&str]) -> String {
    succeed(&[&arguments(recipe, data, init, out)[..], extra].concat())
}

/// The run's events without the speed.
fn events(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let mut events: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    events.iter_mut().filter_map(Value::as_object_mut).for_each(|event| {
        event.remove("images_per_second");
    });
    events
}

#[test]
fn every_transfer_recipe_tells_its_purpose_command_time_and_result() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/transfer");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .expect("the folder of recipes")
        .map(|entry| entry.expect("the folder is readable").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    for needed in ["coco_1x.toml", "coco_2x.toml", "voc.toml", "small.toml", "bccd.toml"] {
        assert!(names.iter().any(|name| name == needed), "{needed} is missing");
    }
    for name in names {
        let toml = fs::read_to_string(folder.join(&name)).expect("a recipe");
        let header = toml.split("\n\n").next().expect("a header");
        let command = format!("# command   scrl transfer --config configs/transfer/{name} --init ");
        for part in [command.as_str(), "# time      ", "# result    "] {
            assert!(header.contains(part), "{name} has no `{part}`:\n{header}");
        }
    }
}

#[test]
fn the_settings_in_effect_and_each_difference_from_the_protocol_are_told_once() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let (recipe, run) = (tiny_transfer(tmp.path()), tmp.path().join("run"));
    let extra = ["--set", "solver.scale_lr=true", "--set", "solver.lr=0.08", "--set", "eval_every=2"];
    let printed = transfer(&recipe, &data, "random", &run, &extra);
    let log = fs::read_to_string(run.join("log.txt")).unwrap();
    let once = |part: &str| assert_eq!(log.matches(part).count(), 1, "`{part}` in:\n{log}");
    once(
        "in effect: lr 0.01 (0.08 x 2/16), batch 2, 8 images an epoch, 4 iterations = 8 images = 1.00 epochs, warm-up 1",
    );
    once("milestones [3] (x 0.1)");
    once("solver.lr = 0.01 (protocol: 0.02)");
    once("batch_size = 2 (protocol: 16)");
    once("model.backbone.arch = \"resnet18\" (protocol: \"resnet50\")");
    once("8 images in all (protocol: 1440000, which are 720000 iterations here)");
    once("weights/best.safetensors will be the detector with the highest AP on `");
    assert!(printed.contains("chosen on the evaluation data and so optimistic"), "{printed}");
    let best = json(&run.join("weights/best.json"));
    assert!(best["iteration"] == 2 || best["iteration"] == 4, "{best}");
    assert!(best["chosen_on"].as_str().unwrap().contains("val"), "{best}");
}

/// The COCO folder `from` with only its first two classes.
fn two_classes(from: &Path, to: &Path) -> PathBuf {
    fs::create_dir_all(to.join("annotations")).unwrap();
    for entry in fs::read_dir(from.join("annotations")).unwrap() {
        let path = entry.unwrap().path();
        let mut set = json(&path);
        let categories = set["categories"].as_array_mut().unwrap();
        categories.truncate(2);
        let kept: Vec<Value> = categories.iter().map(|category| category["id"].clone()).collect();
        set["annotations"].as_array_mut().unwrap().retain(|object| kept.contains(&object["category_id"]));
        fs::write(to.join("annotations").join(path.file_name().unwrap()), set.to_string()).unwrap();
    }
    for split in ["train", "val"] {
        let name = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path());
        let images = name.filter(|path| path.is_dir() && text(path).contains(split)).collect::<Vec<_>>();
        for folder in images {
            let target = to.join(folder.file_name().unwrap());
            fs::create_dir_all(&target).unwrap();
            for file in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
                fs::copy(&file, target.join(file.file_name().unwrap())).unwrap();
            }
        }
    }
    to.to_path_buf()
}

#[test]
fn a_run_starts_from_nothing_a_pretraining_a_file_and_a_detector_of_other_classes() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let recipe = tiny_transfer(tmp.path());
    let pretrained = tmp.path().join("pretrained");
    let method = tiny_pretrain(tmp.path(), "scrl");
    let photos = data.join("unlabelled");
    let pretrain =
        ["pretrain", "--config", text(&method), "--data", text(&photos), "--out", text(&pretrained)];
    succeed(&[&pretrain[..], &["--set", "schedule.epochs=1"]].concat());

    let run = |name: &str, init: &str, data: &Path| {
        let out = tmp.path().join(name);
        transfer(&recipe, data, init, &out, &["--set", "iterations=1", "--set", "solver.milestones=[]"]);
        assert_eq!(json(&out.join("metrics.json"))["init"], init);
        out
    };
    let random = run("random", "random", &data);
    run("backbone-run", text(&pretrained), &data);
    run("backbone-file", text(&pretrained.join("weights/backbone.safetensors")), &data);
    run("detector-run", text(&random), &data);
    let fewer = two_classes(&data, &tmp.path().join("two"));
    let other = run("other-classes", text(&random.join("weights/detector.safetensors")), &fewer);
    let log = fs::read_to_string(other.join("log.txt")).unwrap();
    assert!(log.contains("its box predictor starts from random weights"), "{log}");
    assert_eq!(json(&other.join("metrics.json"))["per_class"].as_array().unwrap().len(), 2);

    // Random layers are never frozen.
    for (set, named) in [
        ("model.backbone.freeze_at=2", "`model.backbone.freeze_at` is 2"),
        ("model.norm=\"frozen_batch_norm\"", "`model.backbone.norm` is"),
    ] {
        let out = tmp.path().join("frozen");
        let args = arguments(&recipe, &data, "random", &out);
        let refusal = fail(&[&args[..], &["--overwrite", "--set", set]].concat(), tmp.path());
        assert!(refusal.contains(named) && refusal.contains("random layers must not be frozen"), "{refusal}");
    }
}

#[test]
fn a_killed_transfer_resumes_to_the_same_bits() {
    assert_resumes(tiny_transfer);
}

#[test]
fn a_killed_transfer_of_retinanet_resumes_to_the_same_bits() {
    assert_resumes(tiny_retinanet);
}

fn assert_resumes(recipe: fn(&Path) -> PathBuf) {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let recipe = recipe(tmp.path());
    let (whole, killed) = (tmp.path().join("whole"), tmp.path().join("killed"));
    let extra = ["--set", "iterations=8", "--set", "eval_every=2", "--set", "solver.precise_bn_batches=2"];
    transfer(&recipe, &data, "random", &whole, &extra);

    let mut resume: &[&str] = &[];
    for logged in [2, 5, 9] {
        let args = [&arguments(&recipe, &data, "random", &killed)[..], &extra, resume].concat();
        let mut command = Command::new(env!("CARGO_BIN_EXE_scrl"));
        let mut child = command
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let deadline = Instant::now() + Duration::from_secs(120);
        while events(&killed).len() < logged && child.try_wait().expect("the process exists").is_none() {
            assert!(Instant::now() < deadline, "no {logged} events after two minutes");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().expect("the process can be killed");
        child.wait().expect("the process ends");
        resume = &["--resume"];
    }
    transfer(&recipe, &data, "random", &killed, &[&extra[..], &["--resume"]].concat());

    for file in
        ["weights/detector.safetensors", "weights/best.safetensors", "checkpoints/last/model.safetensors"]
    {
        let bytes = |run: &Path| fs::read(run.join(file)).expect("the file exists");
        assert!(bytes(&whole) == bytes(&killed), "{file} differs after killing and resuming");
    }
    assert_eq!(json(&whole.join("weights/best.json")), json(&killed.join("weights/best.json")));
    assert_eq!(json(&whole.join("results.json")), json(&killed.join("results.json")));
    let last =
        |run: &Path| events(run).iter().filter(|event| event["kind"] == "train").cloned().collect::<Vec<_>>();
    assert_eq!(last(&whole), last(&killed), "every step is logged once");
}

#[test]
fn a_finished_run_has_its_pictures_and_inspect_draws_them_again() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let (recipe, run) = (tiny_transfer(tmp.path()), tmp.path().join("run"));
    transfer(&recipe, &data, "random", &run, &["--set", "eval_every=2"]);
    let pictures = ["losses.svg", "lr.svg", "ap.svg", "precision-recall.svg", "precision-recall-classes.svg"];
    let out = tmp.path().join("curves");
    let printed = succeed(&["inspect", "run", text(&run), "--out", text(&out)]);
    for picture in pictures {
        let own = fs::read_to_string(run.join("plots").join(picture)).unwrap();
        assert!(own.contains("class=\"series\""), "{picture}");
        assert_eq!(own, fs::read_to_string(out.join("run").join(picture)).unwrap(), "{picture}");
        assert!(printed.contains(picture), "{printed}");
    }
    let losses = fs::read_to_string(run.join("plots/losses.svg")).unwrap();
    for loss in ["loss_rpn_objectness", "loss_rpn_box", "loss_classifier", "loss_box_regression"] {
        assert!(losses.contains(loss), "{loss}");
    }
    let classes = fs::read_to_string(run.join("plots/precision-recall-classes.svg")).unwrap();
    let metrics = json(&run.join("metrics.json"));
    for class in metrics["per_class"].as_array().unwrap().iter().filter(|class| class["AP"].is_number()) {
        assert!(classes.contains(class["name"].as_str().unwrap()), "{class}");
    }
}
