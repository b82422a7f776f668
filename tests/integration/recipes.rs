//! Every recipe and plan in `configs` runs: some steps of each, in small.

use std::fs;
use std::path::{Path, PathBuf};

use scrl_benchmark::ResolvedPlan;

use crate::support::*;

/// The files of a folder of `configs`, by name.
fn recipes(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(kind);
    let entries = fs::read_dir(&folder).expect("the folder of recipes");
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.expect("the folder is readable").path()).collect();
    paths.sort();
    assert!(paths.len() > 5, "{paths:?}");
    paths
}

/// `--set` before each.
fn sets<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    settings.iter().flat_map(|setting| ["--set", setting]).collect()
}

/// The events of a kind.
fn events(run: &Path, kind: &str) -> usize {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("the run's events");
    text.lines().filter(|line| line.contains(&format!("\"kind\":\"{kind}\""))).count()
}

/// Method, network, optimiser, schedule's form and everything that is not named here are the recipe's.
#[test]
fn every_pretraining_recipe_makes_steps() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let small = sets(&[
        "model.width=0.125",
        "augment.view_size=64",
        "boxes.min_size=16",
        "heads.hidden=16",
        "heads.output=8",
        "schedule.epochs=1",
        "schedule.warmup_epochs=0.5",
        "schedule.batch_size=4",
        "log.interval=1",
    ]);
    for recipe in recipes("pretrain") {
        let name = recipe.file_stem().unwrap().to_str().unwrap();
        let (folder, steps) = if name.starts_with("supervised") { ("classes", 4) } else { ("unlabelled", 3) };
        let (images, run) = (data.join(folder), tmp.path().join(name));
        let args = ["pretrain", "--config", text(&recipe), "--data", text(&images), "--out", text(&run)];
        succeed(&[&args[..], &small].concat());
        assert_eq!(events(&run, "train"), steps, "{name}");
        assert!(run.join("weights/backbone.safetensors").is_file(), "{name}");
    }
}

/// Detector, losses, matching and everything that is not named here are the recipe's.
#[test]
fn every_fine_tuning_recipe_makes_steps_and_evaluates() {
    let tmp = temporary();
    let (coco, voc) = (scenes(tmp.path()), voc(tmp.path()));
    let small = sets(&[
        "model.backbone.width=0.125",
        "model.fpn.channels=8",
        "iterations=2",
        "batch_size=2",
        "min_sizes=[64]",
        "max_size=96",
        "test_min_size=64",
        "test_max_size=96",
        "solver.warmup_iterations=1",
        "solver.milestones=[1]",
        "checkpoint_every=1",
        "log_every=1",
    ]);
    for recipe in recipes("transfer") {
        let name = recipe.file_stem().unwrap().to_str().unwrap();
        let data =
            if fs::read_to_string(&recipe).unwrap().contains("format = \"voc\"") { &voc } else { &coco };
        let run = tmp.path().join(name);
        let args = ["--config", text(&recipe), "--data", text(data), "--init", "random", "--out", text(&run)];
        succeed(&[&["transfer"], &args[..], &small].concat());
        assert_eq!((events(&run, "train"), events(&run, "eval")), (2, 1), "{name}");
        let metrics = json(&run.join("metrics.json")).to_string();
        let masks = ["animals", "coco_mask_1x"].contains(&name);
        assert!(metrics.contains("\"AP\"") && metrics.contains("segm_AP") == masks, "{name}: {metrics}");
    }
}

/// Reading a plan reads every recipe that it names and checks that they fit together.
#[test]
fn every_plan_and_its_recipes_are_understood() {
    for path in recipes("benchmark") {
        let plan =
            ResolvedPlan::load(&path, &[]).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(plan.arms.len() > 2 && !plan.transfers.is_empty(), "{}", path.display());
        let header = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let command = format!("# command   scrl benchmark --config configs/benchmark/{name} --out ");
        for part in [command.as_str(), "# time      ", "# result    "] {
            assert!(header.contains(part), "{name} has no `{part}`");
        }
    }
}

/// A devkit of four drawn scenes, all in `trainval` and in `test`.
fn voc(folder: &Path) -> PathBuf {
    let devkit = folder.join("VOCdevkit/VOC2007");
    for part in ["Annotations", "JPEGImages", "ImageSets/Main"] {
        fs::create_dir_all(devkit.join(part)).unwrap();
    }
    let mut names = String::new();
    for index in 0..4u8 {
        let name = format!("00000{index}");
        let picture = image::RgbImage::from_fn(48, 40, |x, y| {
            let inside = (10..30).contains(&x) && (8..32).contains(&y);
            image::Rgb(if inside { [200, 40 * index, 30] } else { [40, 90, 120] })
        });
        picture.save(devkit.join(format!("JPEGImages/{name}.jpg"))).unwrap();
        let xml = format!(
            "<annotation><filename>{name}.jpg</filename><size><width>48</width><height>40</height></size>\
             <object><name>dog</name><difficult>0</difficult><bndbox><xmin>11</xmin><ymin>9</ymin><xmax>30</xmax>\
             <ymax>32</ymax></bndbox></object></annotation>"
        );
        fs::write(devkit.join(format!("Annotations/{name}.xml")), xml).unwrap();
        names += &format!("{name}\n");
    }
    for split in ["trainval", "test"] {
        fs::write(devkit.join(format!("ImageSets/Main/{split}.txt")), &names).unwrap();
    }
    devkit
}
