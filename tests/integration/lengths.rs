//! `[lengths]` of a benchmark: AP against the number of epochs of a pretraining.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::*;

const PLAN: &str = "inits = [\"random\", \"scrl\"]\nlabel_fractions = [0.5, 1.0]\nseeds = [0, 1, 2]\npretrain_seeds = 2\n\
    transfer = \"transfer.toml\"\n[pretrain]\nscrl = { recipe = \"scrl.toml\", set = [\"schedule.warmup_epochs=1.0\"] }\n\
    [export]\nenabled = false\n[report]\nimages = 0\nsimilarity_images = 0\n\
    [data.synth]\nwidth = 48\nheight = 48\ntrain = 8\nval = 4\nunlabelled = 12\nclass_images = 2\nmin_scale = 0.2\n";

/// The plan with a table of lengths, beside its recipes.
fn plan(folder: &Path, lengths: &str) -> PathBuf {
    tiny_pretrain(folder, "scrl");
    tiny_transfer(folder);
    let path = folder.join("plan.toml");
    fs::write(&path, format!("{PLAN}[lengths]\n{lengths}")).unwrap();
    path
}

#[test]
fn shorter_pretrainings_make_a_curve_and_take_no_part_in_the_comparison() {
    let tmp = temporary();
    // Four epochs are the recipe's own length.
    let plan = plan(tmp.path(), "inits = [\"scrl\"]\nepochs = [2, 4]\nlabel_fraction = 0.5\n");
    let out = tmp.path().join("out");
    let args = ["benchmark", "--config", text(&plan), "--out", text(&out)];
    let table = succeed(&args);
    assert!(!table.contains("scrl-2ep"), "{table}");

    let results = json(&out.join("results.json"));
    let list = |key: &str| results[key].as_array().unwrap().clone();
    let epochs: Vec<_> = list("pretrain").iter().map(|r| (r["init"].clone(), r["epochs"].as_u64())).collect();
    let (own, shorter) = (("scrl".into(), Some(4)), ("scrl-2ep".into(), Some(2)));
    assert_eq!(epochs, [own.clone(), own, shorter.clone(), shorter]);
    let fractions = |init: &str| -> Vec<f64> {
        let of_init = list("transfer").into_iter().filter(|r| r["init"] == init);
        of_init.map(|r| r["label_fraction"].as_f64().unwrap()).collect()
    };
    assert_eq!(fractions("scrl"), [0.5, 1.0, 0.5, 1.0, 0.5, 1.0]);
    assert_eq!(fractions("scrl-2ep"), [0.5; 3]);
    assert!(list("differences").iter().all(|d| d["baseline"] == "random"), "{:?}", list("differences"));
    let curve: Vec<_> = list("lengths").into_iter().filter(|row| row["metric"] == "AP").collect();
    let points: Vec<_> = curve.iter().map(|row| (row["epochs"].as_u64(), row["count"].as_u64())).collect();
    assert_eq!(points, [(Some(2), Some(3)), (Some(4), Some(3))]);
    let mean = |init: &str| {
        let of_init =
            list("transfer").into_iter().filter(|r| r["init"] == init && r["label_fraction"] == 0.5);
        let aps: Vec<f64> = of_init.map(|r| r["AP"].as_f64().unwrap()).collect();
        aps.iter().sum::<f64>() / aps.len() as f64
    };
    for (row, init) in curve.iter().zip(["scrl-2ep", "scrl"]) {
        assert!((row["mean"].as_f64().unwrap() - mean(init)).abs() < 1e-12, "{row}");
    }

    let config = fs::read_to_string(out.join("pretrain/scrl-2ep-seed0/config.toml")).unwrap();
    assert!(config.contains("epochs = 2\n") && config.contains("warmup_epochs = 0.5\n"), "{config}");
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("AP by length of the pretraining") && page.contains("epochs of pretraining"));
    assert!(out.join("figures/lengths-detection.svg").is_file());
    let report = fs::read_to_string(out.join("report.md")).unwrap();
    assert!(report.contains("| init | labels | pretraining 0 | pretraining 1 |"), "{report}");
}

#[test]
fn contradictions_name_the_key_and_the_fix() {
    let tmp = temporary();
    let cases = [
        ("inits = []\nepochs = [2]\nlabel_fraction = 0.5\n", "`lengths`", "at least one of `inits`"),
        ("inits = [\"scrl\"]\nepochs = [0]\nlabel_fraction = 0.5\n", "`lengths`", "epochs above zero"),
        ("inits = [\"scrl\"]\nepochs = [2, 2]\nlabel_fraction = 0.5\n", "`lengths.epochs`", "named twice"),
        ("inits = [\"random\"]\nepochs = [2]\nlabel_fraction = 0.5\n", "`lengths.inits`", "name one that is"),
        (
            "inits = [\"scrl\"]\nepochs = [2]\nlabel_fraction = 0.1\n",
            "`lengths.label_fraction`",
            "[0.5, 1.0]",
        ),
        (
            "inits = [\"scrl\"]\nepochs = [2]\nlabel_fraction = 0.5\ntransfer = \"voc\"\n",
            "`lengths.transfer`",
            "one of `detection`",
        ),
        ("inits = [\"scrl\"]\nepoch = [2]\n", "unknown key `lengths.epoch`", "`lengths.epochs`"),
    ];
    for (lengths, key, fix) in cases {
        let plan = plan(tmp.path(), lengths);
        let out = tmp.path().join("out");
        let message = fail(&["benchmark", "--config", text(&plan), "--out", text(&out)], tmp.path());
        assert!(message.starts_with("exit code 2\n"), "{lengths}\n{message}");
        assert!(message.contains(key) && message.contains(fix), "{lengths}\nlacks {key} or {fix}: {message}");
        assert!(!out.exists(), "nothing is written before the plan is checked");
    }
}
