//! `scrl inspect`: the sheet of views, its figures, what is refused; and every recipe that it may be given.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::*;

/// Draws a sheet into `folder/NAME` and gives what was printed.
fn views(recipe: &Path, photos: &Path, out: &Path, extra: &[&str]) -> String {
    let args = ["inspect", "views", "--config", text(recipe), "--data", text(photos), "--out", text(out)];
    succeed(&[&args[..], extra].concat())
}

/// Width and height of a PNG file.
fn png_size(path: &Path) -> (u32, u32) {
    let bytes = fs::read(path).expect("a picture");
    assert_eq!(&bytes[1..4], b"PNG");
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    (number(16), number(20))
}

#[test]
fn inspect_commands_explain_themselves_with_an_example() {
    for command in [&["inspect"][..], &["inspect", "dataset"], &["inspect", "views"], &["inspect", "run"]] {
        let help = succeed(&[command, &["--help"]].concat());
        assert!(help.contains("Example") && help.contains("--quiet"), "{help}");
    }
}

#[test]
fn the_same_seed_draws_the_same_sheet_and_another_seed_another() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let sheet = |name: &str, extra: &[&str]| {
        let out = tmp.path().join(name);
        let printed = views(&recipe, &photos, &out, &[&["--images", "3"], extra].concat());
        assert_eq!(printed.lines().count(), 4, "a line an image and one for the sheet:\n{printed}");
        // A view of 32 pixels is enlarged tenfold; 8 pixels lie around each.
        assert_eq!(png_size(&out), (2 * 328 + 8, 3 * 328 + 8));
        fs::read(out).expect("a picture")
    };
    let first = sheet("a.png", &[]);
    assert!(first == sheet("b.png", &["--seed", "0"]), "the recipe's seed is 0");
    assert!(first != sheet("c.png", &["--seed", "1"]));
    assert!(first != sheet("d.png", &["--set", "augment.blur=[0.0, 0.0]"]), "settings can be tried out");
}

#[test]
fn weights_add_a_similarity_map_and_the_cosines_of_boxes() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let (run, out) = (tmp.path().join("run"), tmp.path().join("map.png"));
    let short = ["--set", "schedule.epochs=1"];
    let pretrain = ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&run)];
    succeed(&[&pretrain[..], &short].concat());

    let bigger = ["--set", "augment.view_size=96", "--images", "4", "--weights", text(&run)];
    let printed = views(&recipe, &photos, &out, &[&bigger[..], &["--box", "2"]].concat());
    assert_eq!(png_size(&out), (3 * (96 * 4 + 8) + 8, 4 * (96 * 4 + 8) + 8));
    assert_eq!(printed.matches(": box 2, cosines ").count(), 4, "{printed}");
    let figure = |name: &str| -> f64 {
        let line = printed.lines().find(|line| line.contains(name)).expect("a line");
        line.rsplit(' ').next().expect("a word").parse().expect("a number")
    };
    let (matched, others) = (figure("of matched boxes"), figure("of boxes of other images"));
    assert!((0.0..=1.0).contains(&matched) && (0.0..=1.0).contains(&others), "{printed}");
    assert!(matched > others, "even a barely trained network knows an image again:\n{printed}");
    assert!(printed.contains("of 4 images"), "{printed}");

    let file = run.join("weights/backbone.safetensors");
    let again = tmp.path().join("again.png");
    views(&recipe, &photos, &again, &[&bigger[..4], &["--weights", text(&file), "--box", "2"]].concat());
    assert!(fs::read(&out).unwrap() == fs::read(&again).unwrap(), "a run and its weights file are the same");
}

#[test]
fn byol_shows_two_views_and_supervised_pretraining_one() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("classes");
    let out = tmp.path().join("sheet.png");
    for (method, columns) in [("byol", 2), ("supervised", 1)] {
        let recipe = tiny_pretrain(tmp.path(), method);
        views(&recipe, &photos, &out, &["--images", "2"]);
        assert_eq!(png_size(&out), (columns * 328 + 8, 2 * 328 + 8), "{method}");
    }
}

#[test]
fn what_cannot_be_shown_is_named() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let (scrl, supervised) = (tiny_pretrain(tmp.path(), "scrl"), tiny_pretrain(tmp.path(), "supervised"));
    let (out, empty) = (tmp.path().join("sheet.png"), tmp.path().join("empty"));
    fs::create_dir(&empty).unwrap();
    let refusal = |recipe: &Path, photos: &Path, out: &Path, extra: &[&str]| {
        let args = ["inspect", "views", "--config", text(recipe), "--data", text(photos), "--out", text(out)];
        fail(&[&args[..], extra].concat(), tmp.path())
    };
    insta::assert_snapshot!("inspect_empty_folder", refusal(&scrl, &empty, &out, &[]));
    insta::assert_snapshot!(
        "inspect_bad_config",
        refusal(&scrl, &photos, &out, &["--set", "augment.viewsize=64"])
    );
    insta::assert_snapshot!(
        "inspect_boxes_too_large",
        refusal(&scrl, &photos, &out, &["--set", "boxes.min_size=64"])
    );
    let nowhere = tmp.path().join("nowhere/sheet.png");
    insta::assert_snapshot!("inspect_unwritable", refusal(&scrl, &photos, &nowhere, &[]));
    insta::assert_snapshot!(
        "inspect_unknown_ending",
        refusal(&scrl, &photos, &tmp.path().join("sheet.gif"), &[])
    );
    let weights = tmp.path().join("none.safetensors");
    let weights = ["--weights", text(&weights)];
    insta::assert_snapshot!("inspect_no_weights", refusal(&scrl, &photos, &out, &weights));
    insta::assert_snapshot!(
        "inspect_no_such_box",
        refusal(&scrl, &photos, &out, &[&weights[..], &["--box", "3"]].concat())
    );
    insta::assert_snapshot!("inspect_supervised", refusal(&supervised, &photos, &out, &weights));
    insta::assert_snapshot!("inspect_no_images", refusal(&scrl, &photos, &out, &["--images", "0"]));
    assert!(!out.exists());
}

#[test]
fn the_curves_of_runs_are_drawn_and_a_folder_without_a_log_is_named() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let mut args = vec!["inspect".to_string(), "run".to_string()];
    for method in ["scrl", "byol"] {
        let (recipe, run) = (tiny_pretrain(tmp.path(), method), tmp.path().join("runs").join(method));
        let pretrain = ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&run)];
        succeed(&[&pretrain[..], &["--set", "schedule.epochs=2"]].concat());
        args.push(text(&run).to_string());
    }
    let out = tmp.path().join("curves");
    args.extend(["--out".to_string(), text(&out).to_string()]);
    let printed = succeed(&args.iter().map(String::as_str).collect::<Vec<_>>());
    for run in ["scrl", "byol"] {
        assert!(printed.contains(&format!("train: loss of {run}: ")), "{printed}");
    }
    assert!(printed.contains("train: lr of scrl: 0.0000 at step 1 to "), "warm-up starts at 0: {printed}");
    let health = "health-backbone_centred_cosine_matched.svg";
    for file in ["train-loss.svg", "train-lr.svg", "train-boxes.svg", health] {
        let svg = fs::read_to_string(out.join(file)).unwrap();
        assert!(svg.matches("class=\"series\"").count() >= 2, "{file} has a curve a run");
        assert!(svg.contains("scrl") && svg.contains("byol"), "{file} names the runs");
    }
    assert!(!out.join("train-step.svg").exists());
    let refused = ["inspect", "run", text(&photos), "--out", text(&out)];
    insta::assert_snapshot!("inspect_no_run", fail(&refused, tmp.path()));
}

/// Every recipe of `configs/pretrain`, in the order of their names.
fn recipes() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/pretrain");
    let mut recipes: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder of recipes")
        .map(|entry| entry.expect("the folder is readable").path())
        .collect();
    recipes.sort();
    assert!(recipes.len() >= 12, "{recipes:?}");
    recipes
}

#[test]
fn every_recipe_tells_its_purpose_command_time_and_result() {
    for recipe in recipes() {
        let toml = fs::read_to_string(&recipe).unwrap();
        let header = toml.split("\n\n").next().unwrap();
        assert!(header.lines().count() >= 4, "{}: {header}", recipe.display());
        let name = recipe.file_name().unwrap().to_str().unwrap();
        let command = format!("# command   scrl pretrain --config configs/pretrain/{name} --data ");
        for part in [command.as_str(), "# time      ", "# result    "] {
            assert!(header.contains(part), "{name} has no `{part}`");
        }
    }
}

#[test]
fn every_recipe_starts_when_it_is_shrunk() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("classes");
    let shrunk = [
        "model.width=0.125",
        "augment.view_size=32",
        "boxes.min_size=8",
        "boxes.count=2",
        "heads.hidden=16",
        "heads.output=8",
        "schedule.epochs=1",
        "schedule.warmup_epochs=0",
        "schedule.batch_size=8",
        "data.threads=1",
    ];
    for recipe in recipes() {
        let run = tmp.path().join(recipe.file_stem().unwrap());
        let mut args =
            vec!["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&run)];
        shrunk.iter().for_each(|set| args.extend(["--set", set]));
        succeed(&args);
        let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        assert!(log.contains("\"step\":2"), "{}: sixteen images are two steps: {log}", recipe.display());
        assert!(run.join("weights/backbone.safetensors").is_file());
        fs::remove_dir_all(run).unwrap();
    }
}
