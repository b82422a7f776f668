//! `scrl convert` and `--init`: what is said about every key, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use scrl_core::checkpoint::weights::{read_safetensors, read_tensors, write_safetensors};
use scrl_core::models::parameters::TensorMap;

use crate::support::*;

/// PyTorch files of a ResNet-18 at an eighth of its width.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("core/tests/fixtures/weights").join(name)
}

/// Converts and gives standard output with the folders' names replaced.
fn convert(from: &Path, to: &Path, more: &[&str]) -> String {
    let args = ["convert", "--from", text(from), "--to", text(to), "--layout"];
    named(&succeed(&[&args[..], more].concat()), to.parent().unwrap())
}

/// Converts in vain and gives the exit code and standard error.
fn refusal(from: &Path, to: &Path, more: &[&str]) -> String {
    let folder = to.parent().unwrap();
    let args = ["convert", "--from", text(from), "--to", text(to), "--layout", "torchvision"];
    let message = named(&fail(&[&args[..], more].concat(), folder), folder);
    assert!(!to.exists(), "nothing is written: {message}");
    message
}

fn named(message: &str, folder: &Path) -> String {
    message.replace(text(folder), "TMP").replace(text(&fixture("")), "FIXTURES/")
}

/// The tensors of `plain.pth` without some, with others, at `folder/changed.safetensors`.
fn changed(folder: &Path, lost: &str, added: &[&str]) -> PathBuf {
    let (mut tensors, _) = read_tensors(&fixture("plain.pth")).unwrap();
    tensors.retain(|key, _| !key.ends_with("num_batches_tracked") && !key.starts_with("fc."));
    let vector = tensors["layer4.0.bn1.bias"].clone();
    assert_eq!(vector.shape().to_vec(), [64]);
    tensors.retain(|key, _| lost.is_empty() || !key.starts_with(lost));
    tensors.extend(added.iter().map(|key| (key.to_string(), vector.clone())));
    let path = folder.join("changed.safetensors");
    write_safetensors(&path, &tensors, &Default::default()).unwrap();
    path
}

#[test]
fn every_form_of_a_file_is_read_and_accounted_for() {
    let tmp = temporary();
    let to = tmp.path().join("x.safetensors");
    let mut written = Vec::new();
    for name in ["plain", "legacy", "module", "scrl", "moco"] {
        let from = fixture(name).with_extension("pth");
        let table = convert(&from, &to, &["torchvision", "--overwrite"]);
        insta::assert_snapshot!(format!("convert_{name}"), table);
        written.push(fs::read(&to).unwrap());
    }
    assert!(written.iter().all(|bytes| *bytes == written[0]), "the same tensors in five forms");
}

#[test]
fn the_way_through_detectron2_and_back_keeps_every_byte() {
    let tmp = temporary();
    let path = |name: &str| tmp.path().join(name).with_extension("safetensors");
    convert(&fixture("plain.pth"), &path("first"), &["torchvision"]);
    let table = convert(&path("first"), &path("d2"), &["detectron2", "--arch", "resnet18", "--keys"]);
    assert!(table.contains("layer2.0.downsample.1.bias -> res3.0.shortcut.norm.bias\n"), "{table}");
    convert(&path("d2"), &path("last"), &["torchvision"]);
    assert!(fs::read(path("first")).unwrap() == fs::read(path("last")).unwrap());

    let (source, _) = read_tensors(&fixture("plain.pth")).unwrap();
    let (tensors, metadata) = read_safetensors(&path("d2")).unwrap();
    assert_eq!(tensors["res5.0.shortcut.norm.running_var"], source["layer4.0.downsample.1.running_var"]);
    assert_eq!(tensors["stem.conv1.weight"], source["conv1.weight"]);
    let expected = [
        ("scrl.arch", "resnet18"),
        ("scrl.width", "0.125"),
        ("scrl.layout", "detectron2"),
        ("scrl.color_order", "RGB"),
        ("scrl.version", env!("CARGO_PKG_VERSION")),
        ("detectron2.INPUT.FORMAT", "RGB"),
        ("detectron2.MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]"),
        ("detectron2.MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]"),
        ("detectron2.MODEL.RESNETS.STRIDE_IN_1X1", "False"),
    ];
    for (key, value) in expected {
        assert_eq!(metadata[key], value, "{key}");
    }
}

#[test]
fn arrays_of_numpy_are_written_for_detectron2_and_read_again() {
    let tmp = temporary();
    let path = |name: &str| tmp.path().join(name);
    convert(&fixture("plain.pth"), &path("d2.pkl"), &["detectron2"]);
    let bytes = fs::read(path("d2.pkl")).unwrap();
    assert!(bytes.starts_with(b"\x80\x04") && bytes.ends_with(b"."));
    convert(&path("d2.pkl"), &path("back.safetensors"), &["torchvision"]);
    convert(&fixture("plain.pth"), &path("straight.safetensors"), &["torchvision"]);
    let [back, straight] =
        ["back", "straight"].map(|name| read_tensors(&path(name).with_extension("safetensors")).unwrap());
    assert!(back.0 == straight.0);
    assert_eq!(back.1["scrl.arch"], straight.1["scrl.arch"]);
}

#[test]
fn a_partial_backbone_is_refused_unless_it_is_asked_for() {
    let tmp = temporary();
    let to = tmp.path().join("x.safetensors");
    let from = changed(tmp.path(), "layer4.1.bn2.", &["layer4.1.extra"]);
    insta::assert_snapshot!("convert_partial", refusal(&from, &to, &[]));
    let missing_alone = refusal(&from, &to, &["--allow-unused"]);
    assert!(missing_alone.contains("--allow-missing") && !missing_alone.contains("pass --allow-unused"));
    let table = convert(&from, &to, &["torchvision", "--allow-missing", "--allow-unused"]);
    insta::assert_snapshot!("convert_partial_allowed", table);
    assert_eq!(read_safetensors(&to).unwrap().0.len(), 96);

    let to = tmp.path().join("y.safetensors");
    let from = changed(tmp.path(), "conv1.", &["conv1.weight"]);
    let flags = ["--allow-missing", "--allow-unused"];
    insta::assert_snapshot!("convert_other_shape", refusal(&from, &to, &flags));
}

#[test]
fn another_depth_than_asked_for_is_named() {
    let tmp = temporary();
    let to = tmp.path().join("x.safetensors");
    let ask = ["--arch", "resnet50"];
    insta::assert_snapshot!("convert_other_arch", refusal(&fixture("plain.pth"), &to, &ask));
    let from = changed(tmp.path(), "layer3.1.", &[]);
    insta::assert_snapshot!("convert_unknown_arch", refusal(&from, &to, &[]));
    let asked = refusal(&from, &to, &["--arch", "resnet18"]);
    assert!(asked.contains("10 missing (layer3.1.bn1.bias, "), "{asked}");
}

#[test]
fn files_that_are_no_weights_are_told_what_they_are() {
    let tmp = temporary();
    let to = tmp.path().join("x.safetensors");
    let page = tmp.path().join("resnet50.pth");
    fs::write(&page, "<!DOCTYPE html>\n<html><body>404</body></html>").unwrap();
    insta::assert_snapshot!("convert_web_page", refusal(&page, &to, &[]));
    let cut = tmp.path().join("cut.pth");
    let whole = fs::read(fixture("legacy.pth")).unwrap();
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let message = refusal(&cut, &to, &[]);
    assert!(
        message.starts_with("exit code 1\nerror: cannot understand `TMP/cut.pth`: it is no"),
        "{message}"
    );
    insta::assert_snapshot!("convert_no_tensors", refusal(&fixture("no_tensors.pth"), &to, &[]));
    insta::assert_snapshot!("convert_absent", refusal(&tmp.path().join("absent.pth"), &to, &[]));
    let other = tmp.path().join("other.safetensors");
    let tensors = read_tensors(&fixture("module.pth")).unwrap().0;
    let renamed = tensors.into_iter().filter(|(key, _)| key.contains("fc.")).collect();
    write_safetensors(&other, &renamed, &Default::default()).unwrap();
    insta::assert_snapshot!("convert_no_resnet", refusal(&other, &to, &[]));
}

#[test]
fn wrong_usage_and_existing_files_are_refused() {
    let tmp = temporary();
    let from = fixture("plain.pth");
    let to = tmp.path().join("x.safetensors");
    let wrong = tmp.path().join("x.pth");
    for args in [
        vec!["convert", "--from", text(&from), "--to", text(&wrong), "--layout", "torchvision"],
        vec!["convert", "--from", text(&from), "--to", text(&to), "--layout", "caffe2"],
        vec!["convert", "--from", text(&from), "--to", text(&to), "--layout", "torchvision", "--arch", "vgg"],
        vec!["convert", "--from", text(&from), "--layout", "torchvision"],
    ] {
        scrl(&args).assert().code(2);
    }
    fs::write(&to, "mine").unwrap();
    let args = ["convert", "--from", text(&from), "--to", text(&to), "--layout", "torchvision"];
    insta::assert_snapshot!("convert_existing", fail(&args, tmp.path()));
    assert_eq!(fs::read_to_string(&to).unwrap(), "mine");
}

#[test]
fn pretraining_goes_on_from_given_weights_and_their_metadata_travels() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let photos = data.join("unlabelled");
    let run = |name: &str, method: &str, from: &Path, more: &[&str]| {
        let recipe = tiny_pretrain(tmp.path(), method);
        let out = tmp.path().join(name);
        let args = ["pretrain", "--config", text(&recipe), "--data", text(from), "--out", text(&out)];
        // A learning rate of nothing leaves the weights as they came, but for the running statistics.
        // The file's variances are numbers like all others, and no network can be evaluated with negative ones.
        let sets = ["--set", "schedule.epochs=1", "--set", "schedule.warmup_epochs=0"];
        let sets = [&sets[..], &["--set", "log.health_every=0", "--set"]].concat();
        succeed(&[&args[..], &sets, &["schedule.base_lr=1e-30"], more].concat());
        out
    };
    let supervised = run("supervised", "supervised", &data.join("classes"), &[]);
    let scrl = run("scrl", "scrl", &photos, &["--init", text(&supervised)]);
    let weights = |out: &Path| read_safetensors(&out.join("weights/backbone.safetensors")).unwrap();
    let ((before, _), (after, metadata)) = (weights(&supervised), weights(&scrl));
    for key in ["conv1.weight", "layer4.1.conv2.weight"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    let log = fs::read_to_string(scrl.join("log.txt")).unwrap();
    assert!(log.contains("100 tensors matched, 0 missing, 0 of another shape, 0 left over"), "{log}");
    for (key, value) in [("method", "scrl"), ("epoch", "1"), ("arch", "resnet18"), ("color_order", "RGB")] {
        assert_eq!(metadata[&format!("scrl.{key}")], value);
    }
    assert_eq!(metadata["scrl.config_hash"].len(), 64);

    let from_file = run("file", "byol", &photos, &["--init", text(&fixture("scrl.pth"))]);
    let (plain, _) = read_tensors(&fixture("plain.pth")).unwrap();
    let values = |tensors: &TensorMap| -> Vec<f32> { tensors["layer1.0.conv1.weight"].iter().collect() };
    // Exact zeros move by the learning rate of nothing.
    let pairs = values(&weights(&from_file).0).into_iter().zip(values(&plain)).collect::<Vec<_>>();
    assert!(pairs.len() == 576 && pairs.iter().all(|(found, expected)| (found - expected).abs() < 1e-12));
    let table = convert(&scrl, &tmp.path().join("d2.safetensors"), &["detectron2"]);
    assert!(table.contains("\nmethod scrl, epoch 1, 32 px\n"), "{table}");
}

#[test]
fn weights_that_do_not_fit_stop_a_pretraining_before_it_writes() {
    let tmp = temporary();
    let photos = scenes(tmp.path()).join("unlabelled");
    let recipe = tiny_pretrain(tmp.path(), "scrl");
    let out = tmp.path().join("run");
    let args =
        ["pretrain", "--config", text(&recipe), "--data", text(&photos), "--out", text(&out), "--init"];
    let refused = |init: &Path, more: &[&str]| {
        let message = fail(&[&args[..], &[text(init)], more].concat(), tmp.path());
        assert!(!out.exists(), "nothing is written: {message}");
        named(&message, tmp.path())
    };
    let partial = changed(tmp.path(), "layer4.1.bn2.", &[]);
    insta::assert_snapshot!("init_partial", refused(&partial, &[]));
    insta::assert_snapshot!(
        "init_other_width",
        refused(&fixture("plain.pth"), &["--set", "model.width=0.25"])
    );
    scrl(&[&args[..], &[text(&fixture("plain.pth")), "--resume"]].concat()).assert().code(2);
}

#[test]
fn convert_explains_itself_with_an_example() {
    let help = succeed(&["convert", "--help"]);
    for part in ["Example", "--allow-missing", "--allow-unused", "detectron2", "--quiet"] {
        assert!(help.contains(part), "{part} is not in\n{help}");
    }
}

#[test]
fn a_whole_detector_goes_to_detectron2_and_back() {
    let tmp = temporary();
    let data = scenes(tmp.path());
    let run = tiny_detector(
        tmp.path(),
        &data,
        &["--set", "model.architecture=\"mask_rcnn\"", "--set", "iterations=1"],
    );
    let path = |name: &str| tmp.path().join(name);
    let table = convert(&run, &path("d2.pkl"), &["detectron2", "--detector", "--keys"]);
    for part in [
        "a detector in torchvision's layout",
        "roi_heads.mask_head.0.0.weight -> roi_heads.mask_head.mask_fcn1.weight",
    ] {
        assert!(table.contains(part), "{part} is not in\n{table}");
    }
    let (theirs, metadata) = read_tensors(&path("d2.pkl")).unwrap();
    assert_eq!(metadata["detectron2.INPUT.FORMAT"], "RGB");
    let table = convert(&path("d2.pkl"), &path("back.safetensors"), &["torchvision", "--detector"]);
    assert!(table.contains("a detector in detectron2's layout"), "{table}");

    let (ours, _) = read_tensors(&run.join("weights/detector.safetensors")).unwrap();
    let (back, _) = read_tensors(&path("back.safetensors")).unwrap();
    assert_eq!((theirs.len(), back.len()), (ours.len(), ours.len()));
    // detectron2 has neither a box nor a mask of the background.
    let rows = |key: &str| match key {
        _ if key.starts_with("roi_heads.box_predictor.bbox_pred.") => 4,
        _ if key.starts_with("roi_heads.mask_predictor.mask_fcn_logits.") => 1,
        _ => 0,
    };
    for (key, data) in &ours {
        let [found, expected] = [&back[key], data].map(|data| data.iter::<f32>().collect::<Vec<f32>>());
        let background = rows(key) * expected.len() / data.shape()[0];
        assert!(found[..background].iter().all(|value| *value == 0.0), "{key}");
        assert!(found[background..] == expected[background..], "{key}");
    }

    // With --bgr only the stem changes: red and blue are exchanged.
    convert(&path("d2.pkl"), &path("rgb.safetensors"), &["torchvision", "--detector", "--bgr"]);
    let (mut rgb, _) = read_tensors(&path("rgb.safetensors")).unwrap();
    let stem = "backbone.body.conv1.weight";
    let kernels = |data: &TensorData| -> Vec<f32> { data.iter().collect() };
    let (exchanged, plain) = (kernels(&rgb.remove(stem).unwrap()), kernels(&back[stem]));
    let plane = 7 * 7;
    for (exchanged, plain) in exchanged.chunks(3 * plane).zip(plain.chunks(3 * plane)) {
        for channel in 0..3 {
            assert_eq!(exchanged[channel * plane..][..plane], plain[(2 - channel) * plane..][..plane]);
        }
    }
    assert_eq!(rgb.len(), back.len() - 1);
    assert!(rgb.iter().all(|(key, data)| *data == back[key]));
}

#[test]
fn what_is_no_detector_is_not_converted_as_one() {
    let tmp = temporary();
    let message = refusal(&fixture("plain.pth"), &tmp.path().join("x.safetensors"), &["--detector"]);
    assert!(message.contains("leave out --detector"), "{message}");
}
