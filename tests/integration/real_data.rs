//! Real photographs, where they are at hand.

use std::fs;

use serde_json::Value;

use crate::support::*;

#[test]
fn scrl_pretrains_on_real_photographs_of_every_kind() {
    let Some(photos) = real_data("coco549/val2017") else { return };
    let tmp = temporary();
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let run = tmp.path().join("run");
    let args = ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&run)];
    let short = ["--set", "schedule.epochs=1", "--set", "schedule.batch_size=16"];
    succeed(&[&args[..], &short].concat());
    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(last["step"], 12, "206 photographs are 12 batches of 16");
}

/// Trains a tiny detector for four iterations and evaluates it on every validation image.
fn transfer(data: &std::path::Path, extra: &[&str]) -> Value {
    let tmp = temporary();
    json(&tiny_detector(tmp.path(), data, extra).join("metrics.json"))
}

#[test]
fn a_detector_trains_and_is_evaluated_on_real_coco_annotations() {
    let Some(data) = real_data("coco549") else { return };
    let metrics = transfer(&data, &[]);
    // Three of the 343 training photographs have no object and are left out.
    assert_eq!((&metrics["train_images"], &metrics["val_images"]), (&340.into(), &206.into()));
    assert!(metrics["AP"].is_number() && metrics["ARl"].is_number(), "{metrics}");
}

#[test]
fn a_detector_trains_and_is_evaluated_on_real_voc_annotations() {
    let Some(data) = real_data("voc100/VOC2012") else { return };
    let lists = data.join("ImageSets/Main");
    let split = fs::read_dir(lists).unwrap().next().unwrap().unwrap().path();
    let split = split.file_stem().unwrap().to_str().unwrap().to_string();
    let sets = ["train", "val"]
        .map(|part| [format!("data.{part}.format=voc"), format!("data.{part}.split={split}")]);
    let mut extra = Vec::new();
    sets.iter().flatten().for_each(|set| extra.extend(["--set", set]));
    let metrics = transfer(&data, &extra);
    assert_eq!(metrics["val_images"], 100);
    assert!(metrics["VOC07_mAP"].is_number() && metrics["VOC_mAP"].is_number(), "{metrics}");
}
