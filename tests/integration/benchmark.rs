//! `scrl benchmark`: its plan, its cells, its end whatever happens on the way, its report.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::screens::screens_show_the_report;
use crate::support::*;

/// Eight annotated scenes of 48 pixels to train on, four to test on, twelve without labels.
const DATA: &str = "[data.synth]\nwidth = 48\nheight = 48\ntrain = 8\nval = 4\nunlabelled = 12\nclass_images = 2\n\
    min_scale = 0.2\n";

/// Writes a plan beside tiny recipes of every method.
fn plan(folder: &Path, text: &str) -> PathBuf {
    for method in ["scrl", "byol", "supervised"] {
        tiny_pretrain(folder, method);
    }
    tiny_transfer(folder);
    let path = folder.join("plan.toml");
    fs::write(&path, format!("{text}\n{DATA}")).unwrap();
    path
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("no list `{key}`"))
}

fn start(args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_scrl"))
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts")
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// When each finished cell was marked.
fn markers(out: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let done =
        files(&out.join("cells")).into_iter().filter(|path| path.to_string_lossy().ends_with(".done.json"));
    done.map(|path| (path.clone(), fs::metadata(&path).unwrap().modified().unwrap())).collect()
}

/// Events logged and cells finished so far: how far a benchmark is.
fn progress(out: &Path) -> usize {
    let logs = files(out).into_iter().filter(|path| path.ends_with("metrics.jsonl"));
    let lines: usize = logs.map(|path| fs::read_to_string(path).unwrap_or_default().lines().count()).sum();
    lines + markers(out).len()
}

/// Waits until a benchmark is so far, or has ended.
fn wait_for(child: &mut Child, out: &Path, far: usize) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while progress(out) < far && child.try_wait().expect("the process exists").is_none() {
        assert!(Instant::now() < deadline, "the benchmark is not so far after two minutes");
        std::thread::sleep(Duration::from_millis(2));
    }
}

const FOUR_INITS: &str = "inits = [\"random\", \"supervised\", \"byol\", \"scrl\"]\nlabel_fractions = [0.5, 1.0]\n\
    seeds = [0, 1]\npretrain_seeds = 1\ntransfer = \"transfer.toml\"\n[pretrain]\nsupervised = \"supervised.toml\"\n\
    byol = { recipe = \"byol.toml\", set = [\"schedule.epochs=2\"] }\nscrl = \"scrl.toml\"\n";

#[test]
fn a_benchmark_compares_exports_reports_and_skips_what_is_done() {
    let tmp = temporary();
    let plan = plan(tmp.path(), FOUR_INITS);
    let out = tmp.path().join("out");
    let args = ["benchmark", "--config", text(&plan), "--out", text(&out)];
    let table = succeed(&args);
    for init in ["random", "supervised", "byol", "scrl"] {
        assert_eq!(
            table.matches(&format!("| {init} |")).count(),
            2,
            "two label fractions of {init}:\n{table}"
        );
    }
    assert_eq!(table.matches("reproduced by ONNX Runtime").count(), 3, "{table}");

    let results = json(&out.join("results.json"));
    assert_eq!(array(&results, "transfer").len(), 16);
    assert_eq!(array(&results, "pretrain").len(), 3, "one pretraining an init for both seeds");
    let by_epochs = |init: &str| {
        array(&results, "pretrain").iter().find(|r| r["init"] == init).unwrap()["epochs"].as_u64()
    };
    assert_eq!(
        (by_epochs("byol"), by_epochs("scrl")),
        (Some(2), Some(4)),
        "the plan's setting replaces the recipe's"
    );
    for cell in array(&results, "transfer") {
        assert!(cell["AP50"].is_number() && cell["seconds"].is_null(), "{cell}");
    }
    subsets_are_the_same_for_every_init(&out);
    for difference in array(&results, "differences") {
        assert_eq!(
            (&difference["subject"], &difference["count"]),
            (&"scrl".into(), &2.into()),
            "{difference}"
        );
    }
    report_is_whole(&out);

    let before = markers(&out);
    assert_eq!(before.len(), 3 + 3 + 16);
    assert_eq!(succeed(&args), table);
    assert_eq!(markers(&out), before, "a finished cell is not run again");
    screens_show_the_report(&out);
}

/// The runs' own settings say which images they took.
fn subsets_are_the_same_for_every_init(out: &Path) {
    for seed in 0..2 {
        for init in ["random", "scrl"] {
            let run = out.join(format!("transfer/detection-{init}-50pct-seed{seed}"));
            let config = fs::read_to_string(run.join("config.toml")).unwrap();
            assert!(config.contains(&format!("subset_seed = {seed}\n")), "{config}");
            assert!(config.contains("fraction = 0.5\n"), "{config}");
        }
    }
}

fn report_is_whole(out: &Path) {
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    let parts = [
        "not separable",
        "Seeds vary only the fine-tuning",
        "95 % interval",
        "Effective rank",
        "AP of each class",
        "supervised sees 16 images of the class folders, scrl 12 unlabelled ones",
        "differs from the protocol",
        "href=\"onnx/scrl-seed0.onnx\"",
        "images/s",
        "scrl benchmark --config",
    ];
    // With so few steps some difference may be separable by chance, or none; or no detector has learnt anything.
    for part in parts.iter().skip(1) {
        assert!(page.contains(part), "the report lacks `{part}`");
    }
    let verdicts = [parts[0], "better than", "worse than", "no detector has learnt anything"];
    assert!(verdicts.iter().any(|verdict| page.contains(verdict)));
    assert!(page.contains("boxes that ignore the image") && page.contains("Holm"));
    assert!(page.matches("src=\"data:image/jpeg;base64,").count() > 10, "pictures are part of the page");
    let foreign = page.matches("src=\"").count() - page.matches("src=\"data:").count();
    assert_eq!(foreign, 0, "the page needs no other file");
    let markdown = fs::read_to_string(out.join("report.md")).unwrap();
    for link in markdown.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        assert!(out.join(link).is_file(), "report.md links to {link}, which is not there");
    }
    let csv = fs::read_to_string(out.join("results.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 16);
    assert!(csv.starts_with("dataset,init,label_fraction,seed,"), "{csv}");
    assert!(json(&out.join("timings.json"))["pretrain/scrl-seed0"]["seconds"].as_f64().unwrap() > 0.0);
}

const TWO_INITS: &str = "inits = [\"random\", \"scrl\"]\nlabel_fractions = [0.5, 1.0]\nseeds = [0, 1]\n\
    transfer = \"transfer.toml\"\n[pretrain]\nscrl = \"scrl.toml\"\n[report]\nimages = 0\nsimilarity_images = 0\n";

#[test]
fn killed_five_times_a_benchmark_ends_with_the_same_results() {
    let tmp = temporary();
    let plan = plan(tmp.path(), TWO_INITS);
    let (whole, killed) = (tmp.path().join("whole"), tmp.path().join("killed"));
    let base = ["benchmark", "--config", text(&plan), "--jobs", "2", "--out"];
    succeed(&[&base[..], &[text(&whole)]].concat());
    let all = progress(&whole);
    assert!(all > 60, "there is something to interrupt: {all}");

    // Places spread over the whole run, drawn once: about every sixth of it, by a linear congruential generator.
    let mut random = 12_345u64;
    let mut kept = BTreeMap::new();
    for part in 0..5 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let place = (part as f64 + (random >> 40) as f64 / (1 << 24) as f64) / 5.5;
        let mut child = start(&[&base[..], &[text(&killed)]].concat());
        wait_for(&mut child, &killed, (place * all as f64) as usize);
        if part == 3 {
            let printed = succeed(&[&base[..], &[text(&killed), "--report"]].concat());
            assert!(printed.contains("cells have a result"), "{printed}");
            let report = fs::read_to_string(killed.join("report.md")).unwrap();
            assert!(report.contains("This is an interim report: "), "{report}");
        }
        // Somewhere between two events: while files are written, or processes start.
        std::thread::sleep(Duration::from_millis((random >> 20) % 60));
        child.kill().expect("the process can be killed");
        child.wait().expect("the process ends");
        kept.extend(markers(&killed));
    }
    succeed(&[&base[..], &[text(&killed)]].concat());

    let read = |out: &Path, file: &str| fs::read_to_string(out.join(file)).unwrap();
    assert_eq!(read(&whole, "results.json"), read(&killed, "results.json"));
    assert_eq!(read(&whole, "results.csv"), read(&killed, "results.csv"));
    let end = markers(&killed);
    assert!(kept.len() > 2, "cells were finished between the kills");
    for (marker, time) in kept {
        assert_eq!(end[&marker], time, "{} was done again", marker.display());
    }
}

#[cfg(unix)]
#[test]
fn cells_that_a_launcher_starts_are_stopped_and_resumed_and_give_the_same_results() {
    let tmp = temporary();
    let plan = plan(tmp.path(), TWO_INITS);
    let (here, launched) = (tmp.path().join("here"), tmp.path().join("launched"));
    let base = ["benchmark", "--config", text(&plan), "--jobs", "2", "--out"];
    succeed(&[&base[..], &[text(&here)]].concat());
    // `env` runs its arguments as launchers do; without an input, as schedulers leave their processes.
    let launcher = "sh -c 'exec env \"$@\" < /dev/null' launcher";
    let args = [&base[..], &[text(&launched), "--launcher", launcher]].concat();
    let mut child = start(&args);
    wait_for(&mut child, &launched, progress(&here) / 3);
    // SAFETY: it only sends a signal.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(child.wait().expect("the process ends").code(), Some(130));
    let kept = markers(&launched);
    succeed(&args);
    let results = |out: &Path| fs::read_to_string(out.join("results.json")).unwrap();
    assert_eq!(results(&here), results(&launched));
    let end = markers(&launched);
    assert!(kept.iter().all(|(marker, time)| end[marker] == *time), "a finished cell was done again");

    let refused = |launcher: &str| {
        let out = tmp.path().join("refused");
        fail(&[&base[..], &[text(&out), "--launcher", launcher]].concat(), tmp.path())
    };
    let message = refused("no-such-launcher -n 1");
    assert!(message.contains("cannot start `no-such-launcher`, the launcher of cells"), "{message}");
    let message = refused("srun 'open");
    assert!(message.starts_with("exit code 2\n") && message.contains("quotes are closed"), "{message}");
}

#[test]
fn a_failing_cell_takes_its_dependants_with_it_and_no_other() {
    let tmp = temporary();
    let plan = plan(
        tmp.path(),
        "inits = [\"random\", \"byol\"]\nlabel_fractions = [1.0]\nseeds = [0]\ntransfer = \"transfer.toml\"\n\
         [pretrain]\nbyol = { recipe = \"byol.toml\", set = [\"schedule.base_lr=1e300\"] }\n",
    );
    let out = tmp.path().join("out");
    let message = fail(&["benchmark", "--config", text(&plan), "--out", text(&out)], tmp.path());
    assert!(message.starts_with("exit code 1\n"), "{message}");
    assert!(message.contains("3 of 4 cells have no result; the first: pretrain byol, seed 0"), "{message}");
    let results = json(&out.join("results.json"));
    assert_eq!(array(&results, "transfer").len(), 1, "random was fine-tuned all the same");
    let reasons: Vec<&str> =
        array(&results, "unfinished").iter().map(|u| u["reason"].as_str().unwrap()).collect();
    assert!(reasons[0].contains("NaN or infinite") || reasons[0].contains("loss"), "{reasons:?}");
    assert_eq!(reasons[1..], ["it needs pretrain/byol-seed0", "it needs pretrain/byol-seed0"]);
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("Without a result"));
}

#[cfg(unix)]
#[test]
fn an_interrupted_benchmark_leaves_checkpoints_and_no_processes() {
    let tmp = temporary();
    let plan = plan(
        tmp.path(),
        "inits = [\"random\", \"scrl\"]\nlabel_fractions = [1.0]\nseeds = [0]\ntransfer = \"transfer.toml\"\n[pretrain]\n\
         scrl = { recipe = \"scrl.toml\", set = [\"schedule.epochs=4000\", \"log.checkpoint_steps=0\"] }\n",
    );
    let out = tmp.path().join("out");
    let mut child = start(&["benchmark", "--config", text(&plan), "--out", text(&out)]);
    wait_for(&mut child, &out, 8);
    let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill exists");
    assert!(signal.success());
    assert_eq!(child.wait().expect("the process ends").code(), Some(130));
    let run = out.join("pretrain/scrl-seed0");
    assert!(run.join("checkpoints/last").is_dir(), "the cell saved where it was");
    // The lock's holder is gone, so the run can be taken.
    let lock = fs::File::open(run.join(".lock")).unwrap();
    assert!(lock.try_lock().is_ok(), "a cell's process is still at work");
}

#[test]
fn contradictions_of_a_plan_name_the_key_and_the_fix() {
    let tmp = temporary();
    let base = "label_fractions = [1.0]\nseeds = [0]\n";
    let scrl = "transfer = \"transfer.toml\"\n[pretrain]\nscrl = \"scrl.toml\"\n";
    let cases = [
        ("inits = [\"scrl\", \"scrl\"]\n".to_string() + base + scrl, "`inits`", "named twice"),
        ("inits = [\"scrl\", \"moco\"]\n".to_string() + base + scrl, "`inits`", "add pretrain.moco"),
        (
            "inits = [\"scrl\"]\n".to_string()
                + base
                + "transfer = \"transfer.toml\"\n[pretrain]\nscrl = \"byol.toml\"\n",
            "`pretrain.scrl`",
            "rename the init",
        ),
        (
            "inits = [\"random\"]\n".to_string()
                + base
                + "transfer = \"transfer.toml\"\n[transfers.a]\nrecipe = \"transfer.toml\"\n",
            "`transfer`",
            "keep one of the two",
        ),
        (
            "inits = [\"scrl\"]\nbudget_reference = \"scrl\"\n".to_string() + base + scrl,
            "`budget_reference`",
            "add budget",
        ),
        (
            "inits = [\"scrl\"]\npretrain_seeds = 2\n".to_string() + base + scrl,
            "`pretrain_seeds`",
            "between 1 and",
        ),
        (
            "inits = [\"scrl\"]\nbudgets = \"steps\"\n".to_string() + base + scrl,
            "unknown key `budgets`",
            "`budget`",
        ),
        (
            "inits = [\"scrl\"]\n".to_string()
                + base
                + "transfer = \"transfer.toml\"\n[pretrain]\nscrl = { recipe = \"scrl.toml\", set = [\"model.width=0.5\"] }\n",
            "`pretrain.scrl`",
            "set model.arch and model.width alike",
        ),
        (
            "inits = [\"scrl\"]\n".to_string()
                + base
                + "transfer = \"transfer.toml\"\n[pretrain]\nscrl = { recipe = \"scrl.toml\", sets = [] }\n",
            "`pretrain.scrl.sets`",
            "`pretrain.scrl.set`",
        ),
        (
            "inits = [\"scrl\"]\n".to_string() + base + scrl + "[sweep]\nholdout = 0.3\n",
            "`sweep`",
            "give base_lr",
        ),
    ];
    for (toml, key, fix) in cases {
        let plan = plan(tmp.path(), &toml);
        let out = tmp.path().join("out");
        let message = fail(&["benchmark", "--config", text(&plan), "--out", text(&out)], tmp.path());
        assert!(message.starts_with("exit code 2\n"), "{toml}\n{message}");
        assert!(message.contains(key) && message.contains(fix), "{toml}\nlacks {key} or {fix}: {message}");
        assert!(!out.exists(), "nothing is written before the plan is checked");
    }
}

#[test]
fn a_dry_run_prints_the_matrix_with_time_and_space_and_runs_nothing() {
    let tmp = temporary();
    let plan = plan(tmp.path(), FOUR_INITS);
    let out = tmp.path().join("out");
    let binary = Command::new(env!("CARGO_BIN_EXE_scrl"))
        .args(["benchmark", "--config", text(&plan), "--out", text(&out), "--dry-run"])
        .output()
        .expect("the binary starts");
    assert!(binary.status.success());
    let logged = String::from_utf8_lossy(&binary.stderr);
    assert!(!logged.contains("epochs of"), "the timed steps are not the plan: {logged}");
    let printed = String::from_utf8_lossy(&binary.stdout);
    for part in [
        "22 cells",
        "pretrain byol",
        "fine-tune detection",
        "timed steps",
        " on disk",
        "seeds        0, 1 (pretrainings: 0)",
    ] {
        assert!(printed.contains(part), "lacks `{part}`: {printed}");
    }
    assert!(!out.exists(), "a dry run writes nothing");
}

#[test]
fn weights_of_others_and_learning_rates_tried_on_held_out_training_images() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let recipe = tiny_pretrain(tmp.path(), "byol");
    let run = tmp.path().join("run");
    succeed(&["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&run)]);
    let weights = run.join("weights/backbone.safetensors");
    let plan = plan(
        tmp.path(),
        &format!(
            "inits = [\"theirs\", \"scrl\"]\nlabel_fractions = [1.0]\nseeds = [0]\nbudget = \"steps\"\n\
             [pretrain]\nscrl = \"scrl.toml\"\n[weights]\ntheirs = {weights:?}\n\
             [transfers.short]\nrecipe = \"transfer.toml\"\nset = [\"iterations=3\", \"solver.milestones=[2]\"]\n\
             [transfers.long]\nrecipe = \"transfer.toml\"\nlabel_fractions = [0.5]\n\
             set = ['model.architecture=\"mask_rcnn\"']\n\
             [sweep]\nbase_lr = [0.1, 1.0]\ntransfer_lr = [0.02]\nholdout = 0.25\n[export]\ndetectors = true\n"
        ),
    );
    let out = tmp.path().join("out");
    let table = succeed(&["benchmark", "--config", text(&plan), "--out", text(&out)]);
    assert_eq!(table.matches("| theirs |").count(), 2, "{table}");
    let results = json(&out.join("results.json"));
    // One of the two detectors gives masks, and only its table has their figures.
    assert_eq!(table.matches("mask AP50").count(), 1, "{table}");
    for cell in array(&results, "transfer") {
        assert_eq!(cell["segm_AP50"].is_number(), cell["dataset"] == "long", "{cell}");
    }
    // One init tries two rates of pretraining on one data set, two inits try one of fine-tuning on two.
    let trials = array(&results, "sweep");
    assert_eq!(trials.len(), 2 + 4);
    assert_eq!(trials.iter().filter(|t| t["chosen"] == true).count(), 1 + 4);
    let rate = trials.iter().find(|t| t["chosen"] == true && t["key"] == "base_lr").unwrap()["value"]
        .as_f64()
        .unwrap();
    let pretrained = &array(&results, "pretrain")[0];
    assert_eq!(pretrained["cell"], format!("pretrain/scrl-lr{rate}-seed0"));
    let exported: Vec<&str> =
        array(&results, "detectors").iter().map(|d| d["path"].as_str().unwrap()).collect();
    assert_eq!(exported.len(), 2 * 2, "a detector for each init and data set: {exported:?}");
    assert!(exported.iter().all(|path| out.join(path).is_file()));
    let config = fs::read_to_string(out.join("transfer/long-theirs-50pct-seed0/config.toml")).unwrap();
    assert!(config.contains("\nlr = 0.02\n"), "{config}");

    let ids = |path: &Path| -> Vec<u64> {
        array(&json(path), "images").iter().map(|image| image["id"].as_u64().unwrap()).collect()
    };
    let all = ids(&out.join("data/annotations/instances_train.json"));
    let (train, held_out) =
        (ids(&out.join("sweep/short-train.json")), ids(&out.join("sweep/short-holdout.json")));
    assert_eq!((train.len(), held_out.len()), (6, 2));
    assert!(train.iter().chain(&held_out).all(|id| all.contains(id)), "only of the training images");
    assert!(held_out.iter().all(|id| !train.contains(id)), "images that judge are not trained on");
    let kept = json(&out.join("sweep/long-train.json"));
    assert!(array(&kept, "annotations").iter().all(|object| object["segmentation"]["counts"].is_string()));
}
