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
