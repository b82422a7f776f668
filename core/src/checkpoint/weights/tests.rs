use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};

use super::*;
use crate::models::{Arch, Level};

const SMALL: ResNetConfig = ResNetConfig { arch: Arch::ResNet18, width: 0.25 };

fn metadata() -> BackboneMetadata {
    BackboneMetadata {
        method: "scrl".to_string(),
        epoch: 12.5,
        image_size: 96,
        mean: [0.1, 0.2, 0.3],
        config_hash: "abc".to_string(),
        ..BackboneMetadata::unknown(SMALL)
    }
}

fn images(device: &Device) -> Tensor<4> {
    let values: Vec<f32> = (0..2 * 3 * 32 * 32).map(|i| (i as f32 * 0.37).sin()).collect();
    Tensor::from_data(TensorData::new(values, [2, 3, 32, 32]), device)
}

/// The tensors of a fresh network with torchvision's extra keys.
fn torchvision_tensors(config: ResNetConfig) -> TensorMap {
    let mut tensors = parameters::collect(&config.init(&mut random::stream(1, &[]), &Device::flex()));
    tensors.insert("fc.weight".to_string(), TensorData::new(vec![0.0f32; 4], [2, 2]));
    tensors.insert("bn1.num_batches_tracked".to_string(), TensorData::new(vec![3i64], [1]));
    tensors
}

fn write(
    name: &str,
    tensors: &TensorMap,
    metadata: &BTreeMap<String, String>,
) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    write_safetensors(&path, tensors, metadata).unwrap();
    (dir, path)
}

fn message(path: &Path) -> String {
    load_backbone(path, &Device::flex()).expect_err("this file is refused").to_string()
}

#[test]
fn a_saved_and_loaded_backbone_gives_equal_features_to_the_bit() {
    let training = Device::flex().autodiff();
    let backbone = SMALL.init(&mut random::stream(1, &[]), &training);
    // A training step moves the running statistics, which the file must carry.
    backbone.forward(images(&training)).at(Level::C5).mean().backward();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/weights/backbone.safetensors");
    save_backbone(&path, &backbone, &metadata()).unwrap();
    let expected = backbone.valid().forward(images(&Device::flex())).at(Level::C5).into_data();
    for source in [path.clone(), dir.path().join("run")] {
        let (loaded, config, read) = load_backbone(&source, &Device::flex()).unwrap();
        assert_eq!((config, read), (SMALL, metadata()));
        assert_eq!(loaded.forward(images(&Device::flex())).at(Level::C5).into_data(), expected);
    }
}

#[test]
fn a_loaded_backbone_trains_on_an_autodiff_device() {
    let (_dir, path) = write("w.safetensors", &torchvision_tensors(SMALL), &BTreeMap::new());
    let device = Device::flex().autodiff();
    let backbone = load_backbone(&path, &device).unwrap().0;
    let gradients = backbone.forward(images(&device)).at(Level::C5).mean().backward();
    assert!(backbone.conv1.weight.val().grad(&gradients).is_some());
}

#[test]
fn torchvision_keys_load_without_metadata_and_below_a_prefix() {
    let tensors = torchvision_tensors(SMALL);
    let wrapped = tensors.iter().map(|(key, data)| (format!("module.{key}"), data.clone())).collect();
    for tensors in [&tensors, &wrapped] {
        let (_dir, path) = write("w.safetensors", tensors, &BTreeMap::new());
        let (_, config, read) = load_backbone(&path, &Device::flex()).unwrap();
        assert_eq!((config, read), (SMALL, BackboneMetadata::unknown(SMALL)));
    }
}

#[test]
fn keys_that_do_not_fit_are_named() {
    let mut tensors = torchvision_tensors(SMALL);
    tensors.retain(|key, _| !key.starts_with("layer4.1.bn"));
    tensors.insert("layer9.weight".to_string(), TensorData::new(vec![0.0f32], [1]));
    tensors.insert("bn1.bias".to_string(), TensorData::new(vec![0.0f32; 3], [3]));
    let (_dir, path) = write("w.safetensors", &tensors, &BTreeMap::new());
    let error = message(&path);
    assert!(
        error.contains("does not fit a resnet18 of width 0.25: 8 missing (layer4.1.bn1.bias, "),
        "{error}"
    );
    assert!(error.contains(", …); 1 left over (layer9.weight); 1 of another shape (bn1.bias [3]"), "{error}");
}

#[test]
fn networks_of_another_kind_are_refused_with_what_was_found() {
    let mut tensors = torchvision_tensors(SMALL);
    tensors.retain(|key, _| !key.starts_with("layer3.1."));
    let (_dir, path) = write("w.safetensors", &tensors, &BTreeMap::new());
    assert!(
        message(&path).contains("its [2, 2, 1, 2] basic blocks are none of resnet18"),
        "{}",
        message(&path)
    );
    let (_dir, path) = write("w.safetensors", &TensorMap::new(), &BTreeMap::new());
    assert!(message(&path).contains("no keys like torchvision's"), "{}", message(&path));
}

#[test]
fn broken_metadata_is_named() {
    let mut map = metadata().to_map();
    map.insert("scrl.width".to_string(), "wide".to_string());
    let (_dir, path) = write("w.safetensors", &TensorMap::new(), &map);
    assert!(message(&path).contains("metadata `scrl.width` is `wide`, expected a number"));
    map.remove("scrl.width");
    let (_dir, path) = write("w.safetensors", &TensorMap::new(), &map);
    assert!(message(&path).contains("metadata `scrl.width` is missing"));
}

#[test]
fn paths_without_weights_are_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(message(dir.path()).contains("has no weights/backbone.safetensors"));
    assert!(message(&dir.path().join("absent.pth")).starts_with("cannot read `"));
    let other = dir.path().join("model.bin");
    std::fs::write(&other, "x").unwrap();
    assert!(message(&other).contains("unsupported weight format"));
    let broken = dir.path().join("broken.pth");
    std::fs::write(&broken, "x").unwrap();
    assert!(message(&broken).contains("is not a PyTorch state dict"), "{}", message(&broken));
}

/// The tensors of `fixtures/weights`: number n, in sorted order of torchvision's keys, starts at element 7 n of one
/// storage.
fn fixture_tensors() -> TensorMap {
    let mut names: Vec<(String, Vec<usize>)> = shapes::expected_shapes(FIXTURE).into_iter().collect();
    let norms: Vec<String> =
        names.iter().filter_map(|(key, _)| key.strip_suffix("running_var").map(String::from)).collect();
    names.extend(norms.into_iter().map(|norm| (format!("{norm}num_batches_tracked"), vec![])));
    names.extend([("fc.bias".to_string(), vec![4]), ("fc.weight".to_string(), vec![4, 64])]);
    names.sort();
    let value = |index: usize| (((37 * index) % 251) as f32 - 125.0) / 64.0;
    let tensor = |number: usize, shape: Vec<usize>| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i| value(7 * number + i)).collect();
        TensorData::new(values, shape)
    };
    let all = names.into_iter().enumerate().map(|(number, (key, shape))| (key, tensor(number, shape)));
    all.filter(|(key, _)| !key.starts_with("fc.") && !key.ends_with("tracked")).collect()
}

const FIXTURE: ResNetConfig = ResNetConfig { arch: Arch::ResNet18, width: 0.125 };

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/weights").join(name)
}

#[test]
fn pytorch_files_of_every_form_give_the_same_tensors() {
    let expected = fixture_tensors();
    let forms = [
        ("plain.pth", Layout::Torchvision, "", (2, 20, 0)),
        ("legacy.pth", Layout::Torchvision, "", (2, 20, 0)),
        ("module.pth", Layout::Torchvision, "state_dict.module.", (2, 20, 0)),
        ("scrl.pth", Layout::Sequential, "online_network_state_dict.encoder.", (0, 20, 122)),
        ("moco.pth", Layout::Torchvision, "state_dict.module.encoder_q.", (2, 20, 123)),
    ];
    for (name, layout, prefix, left_out) in forms {
        let import = import(&fixture(name), &ImportOptions::default()).unwrap().complete().unwrap();
        assert_eq!(
            (import.config, import.layout, import.prefix.as_str()),
            (FIXTURE, layout, prefix),
            "{name}"
        );
        let report = &import.report;
        let counts = (report.classifier.len(), report.counters.len(), report.outside.len());
        assert_eq!(counts, left_out, "{name}: {:?}", report.outside);
        assert_eq!(import.tensors.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{name}");
        for (key, data) in &expected {
            assert_eq!(import.tensors[key], *data, "{name}: {key}");
        }
    }
}

#[test]
fn a_prefix_chooses_among_several_networks() {
    let tensors = torchvision_tensors(SMALL);
    let below =
        |prefix: &str| tensors.iter().map(|(k, d)| (format!("{prefix}.{k}"), d.clone())).collect::<Vec<_>>();
    let both: TensorMap = below("left").into_iter().chain(below("right")).collect();
    let (_dir, path) = write("w.safetensors", &both, &BTreeMap::new());
    assert!(
        message(&path).contains("holds several networks, below `left.` and `right.`"),
        "{}",
        message(&path)
    );
    for prefix in ["right", "right."] {
        let options = ImportOptions { prefix: Some(prefix.to_string()), ..Default::default() };
        assert_eq!(import(&path, &options).unwrap().complete().unwrap().prefix, "right.");
    }
    let options = ImportOptions { prefix: Some("middle".to_string()), ..Default::default() };
    let error = import(&path, &options).unwrap_err().to_string();
    assert!(error.contains("no ResNet below the prefix `middle`"), "{error}");
}

#[test]
fn a_moving_average_is_taken_only_where_it_is_alone() {
    let tensors = torchvision_tensors(SMALL);
    for prefix in ["target_network.encoder.", "module.encoder_k.", "teacher.", "ema.model."] {
        let (_dir, path) = {
            let only: TensorMap = tensors.iter().map(|(k, d)| (format!("{prefix}{k}"), d.clone())).collect();
            write("w.safetensors", &only, &BTreeMap::new())
        };
        assert_eq!(import(&path, &ImportOptions::default()).unwrap().prefix, prefix);
    }
}

#[test]
fn the_way_through_detectron2_and_back_keeps_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let paths =
        ["first", "detectron2", "last"].map(|name| dir.path().join(name).with_extension("safetensors"));
    for arch in Arch::ALL {
        let config = ResNetConfig { arch, width: 0.125 };
        let backbone = config.init(&mut random::stream(3, &[]), &Device::flex());
        let metadata = BackboneMetadata { arch, width: 0.125, ..metadata() };
        save_backbone(&paths[0], &backbone, &metadata).unwrap();
        for (from, to, layout) in [(0, 1, Layout::Detectron2), (1, 2, Layout::Torchvision)] {
            let import = import(&paths[from], &ImportOptions::default()).unwrap().complete().unwrap();
            write_backbone(&paths[to], &import.tensors, &import.metadata, layout).unwrap();
        }
        let (tensors, map) = read_safetensors(&paths[1]).unwrap();
        assert!(tensors.contains_key("res5.0.shortcut.norm.running_var"));
        assert_eq!(map["detectron2.INPUT.FORMAT"], "RGB");
        assert_eq!(map["detectron2.MODEL.PIXEL_MEAN"], "[25.5, 51.0, 76.5]");
        assert_eq!((map["scrl.color_order"].as_str(), map["scrl.epoch"].as_str()), ("RGB", "12.5"));
        assert!(std::fs::read(&paths[0]).unwrap() == std::fs::read(&paths[2]).unwrap(), "{arch}");
    }
}

#[test]
fn weights_for_bgr_images_become_weights_for_rgb_images() {
    let (_dir, path) = write("w.safetensors", &torchvision_tensors(SMALL), &BTreeMap::new());
    let read = |bgr| import(&path, &ImportOptions { bgr, ..Default::default() }).unwrap().tensors;
    let (rgb, bgr) = (read(false), read(true));
    let stem = |tensors: &TensorMap| -> Vec<f32> { tensors["conv1.weight"].iter().collect() };
    let (rgb_stem, bgr_stem) = (stem(&rgb), stem(&bgr));
    for output in 0..16 {
        for channel in 0..3 {
            let at = |channel: usize| (output * 3 + channel) * 49..(output * 3 + channel + 1) * 49;
            assert_eq!(rgb_stem[at(channel)], bgr_stem[at(2 - channel)]);
        }
    }
    assert!(rgb.iter().all(|(key, data)| key == "conv1.weight" || bgr[key] == *data));
}

#[test]
fn a_network_of_another_depth_than_promised_or_asked_for_is_named() {
    let map = BackboneMetadata { arch: Arch::ResNet50, ..metadata() }.to_map();
    let (_dir, path) = write("w.safetensors", &torchvision_tensors(SMALL), &map);
    let error = message(&path);
    assert!(
        error.starts_with("its metadata promises a resnet50 of width 0.25, but the tensors of `"),
        "{error}"
    );
    assert!(error.contains("` are a resnet18 of width 0.25; "), "{error}");
    let (_dir, path) = write("w.safetensors", &torchvision_tensors(SMALL), &BTreeMap::new());
    let options = ImportOptions { arch: Some(Arch::ResNet34), ..Default::default() };
    let error = import(&path, &options).unwrap_err().to_string();
    assert!(error.starts_with("--arch asks for a resnet34, but"), "{error}");
}

#[test]
fn colours_of_another_order_are_refused() {
    let mut map = metadata().to_map();
    map.insert("scrl.color_order".to_string(), "BGR".to_string());
    let (_dir, path) = write("w.safetensors", &torchvision_tensors(SMALL), &map);
    assert!(message(&path).contains("metadata `scrl.color_order` is `BGR`, only `RGB` is supported"));
}

#[test]
fn a_detectors_backbone_is_read_with_its_normalisation() {
    let tensors = torchvision_tensors(SMALL);
    let mut detector: TensorMap =
        tensors.iter().map(|(key, data)| (format!("backbone.body.{key}"), data.clone())).collect();
    detector.insert("rpn.head.bias".to_string(), TensorData::new(vec![0.0f32], [1]));
    let preprocessing = r#"{"min_size":64,"mean":[0.1,0.2,0.3],"std":[0.4,0.5,0.6]}"#;
    let map = BTreeMap::from([("scrl.preprocessing".to_string(), preprocessing.to_string())]);
    let (_dir, path) = write("run/weights/detector.safetensors", &detector, &map);
    let run = path.ancestors().nth(2).unwrap();
    let import = import(run, &ImportOptions::default()).unwrap().complete().unwrap();
    assert_eq!((import.metadata.mean, import.metadata.std), ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]));
    assert_eq!((import.metadata.method.as_str(), import.report.outside.len()), ("detector", 1));
}

#[test]
fn files_that_are_no_weights_are_told_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let legacy = std::fs::read(fixture("legacy.pth")).unwrap();
    let plain = std::fs::read(fixture("plain.pth")).unwrap();
    let (_keep, whole) = write("w.safetensors", &torchvision_tensors(SMALL), &BTreeMap::new());
    let whole = std::fs::read(whole).unwrap();
    let cases: [(&str, &[u8], &str); 8] = [
        ("a.pth", b"\n<!DOCTYPE html><html>", "it is a web page, not weights; download the file itself"),
        (
            "b.safetensors",
            b"version https://git-lfs.github.com/spec/v1\n",
            "fetch the file with `git lfs pull`",
        ),
        ("c.pth", b"", "it is empty"),
        ("d.pth", &[0x1f, 0x8b, 8, 0], "compressed by gzip"),
        ("e.pth", &legacy[..legacy.len() / 2], "it is not a PyTorch state dict ("),
        ("f.pth", &plain[..plain.len() / 2], "if it was copied or downloaded, do so again"),
        ("g.safetensors", &whole[..whole.len() / 2], "it may be cut off, copy or download it again"),
        ("h.safetensors", &whole[..20], "it is not a safetensors file"),
    ];
    for (name, bytes, expected) in cases {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = message(&path);
        assert!(error.starts_with(&format!("cannot understand `{}`: ", path.display())), "{error}");
        assert!(error.contains(expected), "{error}");
    }
    assert!(message(&fixture("no_tensors.pth")).contains("it holds no tensor; save `model.state_dict()`"));
    // A pickled module's keys are those of its state dict.
    let whole = message(&fixture("whole_model.pth"));
    assert!(whole.ends_with("its 2 keys start with `bias`, `weight`"), "{whole}");
}

#[test]
fn weights_that_are_not_finite_are_neither_read_nor_written() {
    let mut tensors = torchvision_tensors(SMALL);
    let key = "layer2.0.conv1.weight";
    let data = tensors[key].clone();
    let mut values: Vec<f32> = data.iter::<f32>().collect();
    (values[3], values[4]) = (f32::NAN, f32::INFINITY);
    let total = values.len();
    tensors.insert(key.into(), TensorData::new(values, data.shape().to_vec()));
    let expected = format!("tensor `{key}` has 2 values of {total} that are NaN or infinite");
    let (dir, path) = write("w.safetensors", &tensors, &BTreeMap::new());
    assert!(message(&path).contains(&expected), "{}", message(&path));
    let out = dir.path().join("out.safetensors");
    let error = write_backbone(&out, &tensors, &BackboneMetadata::unknown(SMALL), Layout::Torchvision);
    assert!(error.unwrap_err().to_string().contains(&expected));
    assert!(!out.exists());
}
