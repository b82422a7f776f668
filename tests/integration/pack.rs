//! `scrl pack`, and what is done with packed folders.

use std::fs;
use std::path::Path;

use crate::support::*;

fn weights(run: &Path) -> Vec<u8> {
    fs::read(run.join("weights/backbone.safetensors")).expect("the run has weights")
}

#[test]
fn a_packed_folder_trains_to_the_same_bits_also_where_a_run_goes_from_one_to_the_other() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    for (method, images) in [("scrl", "unlabelled"), ("supervised", "classes")] {
        let (recipe, folder) = (tiny_pretrain(tmp.path(), method), data.join(images));
        let packed = tmp.path().join(format!("packed-{method}"));
        let said = succeed(&["pack", "--data", text(&folder), "--out", text(&packed), "--archive-mib", "1"]);
        assert!(said.contains("images,"), "{said}");
        assert!(fs::read_dir(&packed).unwrap().count() < 4, "a few files");
        let run = |name: &str| tmp.path().join(format!("{name}-{method}"));
        let (plain, from_packed, mixed) = (run("plain"), run("packed-run"), run("mixed"));
        let args = |data: &Path, out: &Path| {
            ["pretrain", "--config", text(&recipe), "--data", text(data), "--out", text(out)]
                .map(String::from)
        };
        let pretrain = |data: &Path, out: &Path, more: &[&str]| {
            let args = args(data, out);
            succeed(&[&args.each_ref().map(String::as_str)[..], more].concat());
        };
        pretrain(&folder, &plain, &[]);
        pretrain(&packed, &from_packed, &[]);
        assert!(weights(&plain) == weights(&from_packed), "{method}: the weights differ");
        let list = |run: &Path| fs::read_to_string(run.join("data.tsv")).unwrap();
        assert_eq!(list(&plain), list(&from_packed));
        pretrain(&folder, &mixed, &["--set", "schedule.epochs=2"]);
        pretrain(&packed, &mixed, &["--resume", "--prolong"]);
        pretrain(&packed, &from_packed, &["--resume"]);
        assert!(weights(&plain) == weights(&from_packed), "{method}: nothing was left to do");
    }
    // Images that a finished backbone is judged by lie in a packed folder, too.
    let (run, classes) = (tmp.path().join("plain-supervised"), tmp.path().join("packed-supervised"));
    let probe =
        |data: &Path| succeed(&["probe", text(&run), "--data", text(data), "--knn", "--val-fraction", "0.5"]);
    assert_eq!(probe(&classes), probe(&data.join("classes")));
}

#[test]
fn what_cannot_be_packed_is_named() {
    let tmp = temporary();
    let data = scenes(tmp.path()).join("unlabelled");
    let out = tmp.path().join("out");
    let refused =
        |data: &Path, out: &Path| fail(&["pack", "--data", text(data), "--out", text(out)], tmp.path());
    assert!(refused(&tmp.path().join("gone"), &out).contains("cannot read `TMP/gone`"));
    succeed(&["pack", "--data", text(&data), "--out", text(&out)]);
    assert!(refused(&data, &out).contains("is not empty"));
    assert!(refused(&out, &tmp.path().join("again")).contains("is packed already"));
    // An archive that is cut short is found before anything is trained on it.
    let archive = out.join("unlabelled-000000.tar");
    let length = fs::metadata(&archive).unwrap().len();
    fs::File::options().write(true).open(&archive).unwrap().set_len(length / 2).unwrap();
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let run = tmp.path().join("run");
    let args = ["pretrain", "--config", text(&recipe), "--data", text(&out), "--out", text(&run)];
    let message = fail(&args, tmp.path());
    assert!(
        message.contains("unlabelled-000000.tar") && message.contains("shorter than its index"),
        "{message}"
    );
    assert!(!run.exists());
}
