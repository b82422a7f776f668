use super::*;

fn read(text: &str) -> TransferConfig {
    toml::from_str(text).unwrap()
}

#[test]
fn the_protocols_differ_from_themselves_in_nothing() {
    for protocol in [Protocol::Coco1x, Protocol::Coco2x, Protocol::Voc] {
        assert_eq!(protocol.config().differences(), [""; 0]);
        protocol.config().validate().unwrap();
    }
    let voc = Protocol::Voc.config();
    assert_eq!((voc.min_sizes[0], voc.min_sizes.len(), voc.iterations), (480, 11, 18_000));
}

#[test]
fn milestones_are_iterations_or_shares_of_the_run() {
    let config = read("iterations = 300\n[solver]\nmilestones = [0.5, 200]\nwarmup_iterations = 0");
    assert_eq!(config.schedule().milestones, [150, 200]);
    assert!((config.schedule().lr(150) - 0.002).abs() < 1e-12);
    let error = |text| read(text).validate().unwrap_err().to_string();
    assert!(error("[solver]\nmilestones = [1.5]").contains("solver.milestones"));
    assert!(error("[solver]\nmilestones = [20, 10]").contains("ascending"));
    assert!(error("fraction = 0.0").contains("`fraction` is 0"));
    assert!(error("[model]\nanchor_sizes = [1.0]").contains("anchors.sizes"));
}

#[test]
fn every_setting_that_would_fail_later_is_refused_with_its_path() {
    let cases = [
        ("iterations = 0", "iterations"),
        ("flip = nan", "flip"),
        ("mean = [0.0, inf, 0.0]", "mean"),
        ("std = [1.0, 0.0, 1.0]", "std"),
        ("[solver]\nlr = inf", "solver.lr"),
        ("[solver]\ngamma = 0.0", "solver.gamma"),
        ("[solver]\nwarmup_factor = 1.5", "solver.warmup_factor"),
        ("[solver]\nweight_decay = nan", "solver.weight_decay"),
        ("[model.rpn]\nnms = 1.5", "model.rpn.nms"),
        ("[model.rpn]\npost_nms_test = 0", "model.rpn.post_nms_test"),
        ("[model.roi_heads]\npositive_fraction = nan", "model.roi_heads.positive_fraction"),
        ("[model.test]\nscore_threshold = nan", "model.test.score_threshold"),
        ("[model.test]\nnms = -0.5", "model.test.nms"),
        ("[model.test]\ndetections_per_image = 0", "model.test.detections_per_image"),
        ("[model.anchors]\nsizes = [8.0, 16.0]", "model.anchors.sizes"),
        ("[model.anchors]\nratios = []", "model.anchors.ratios"),
        ("[model]\narchitecture = \"retinanet\"\n[model.retinanet]\nprior = 1.0", "model.retinanet.prior"),
    ];
    for (text, key) in cases {
        let error = read(text).validate().expect_err(text);
        assert!(matches!(&error, TransferError::Setting(setting) if setting.key == key), "{text}: {error}");
    }
}

#[test]
fn random_layers_are_never_frozen() {
    read("").check_random_init().unwrap();
    assert!(
        read("[model]\nfreeze_at = 2")
            .check_random_init()
            .unwrap_err()
            .to_string()
            .contains("freeze_at` is 2")
    );
    assert!(read("[model]\nnorm = \"frozen_batch_norm\"").check_random_init().is_err());
}

#[test]
fn a_config_survives_its_own_toml_and_unknown_keys_do_not() {
    let mut config = Protocol::Voc.config();
    config.data.train = Some(DataSource::Voc { root: "kit".into(), split: "trainval".into() });
    assert_eq!(read(&config::to_toml(&config)), config);
    assert!(toml::from_str::<TransferConfig>("iteration = 3").is_err());
}

#[test]
fn the_fingerprint_follows_what_changes_the_weights() {
    let config = TransferConfig::default();
    let same = TransferConfig { threads: 3, log_every: 1, ..config.clone() };
    assert_eq!(config.fingerprint(), same.fingerprint());
    assert_ne!(config.fingerprint(), TransferConfig { seed: 1, ..config.clone() }.fingerprint());
}

#[test]
fn every_recipe_of_the_project_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/transfer");
    let recipes: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(recipes.len() >= 4);
    for path in recipes {
        let config: TransferConfig = config::load(&path, &[]).unwrap();
        config.validate().unwrap();
    }
    let named = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/transfer").join(name);
        config::load::<TransferConfig>(&path, &[]).unwrap().differences()
    };
    assert_eq!(named("coco_1x.toml"), [""; 0]);
    assert_eq!(named("coco_2x.toml"), [""; 0]);
    assert_eq!(named("voc.toml"), [""; 0]);
}

/// See `tests/fixtures/former_run/README.md`.
fn former_run() -> TransferConfig {
    toml::from_str(include_str!("../../tests/fixtures/former_run/config.toml")).unwrap()
}

#[test]
fn a_run_of_before_the_detectors_config_had_parts_can_be_resumed() {
    let recorded = "2ccfda1a0354b326c80e5929fe1c13774f1170cb1290e5747d66f949bf8e255a";
    let former = former_run();
    assert_eq!(former.fingerprint(), recorded);
    let rewritten: TransferConfig = toml::from_str(&toml::to_string(&former).unwrap()).unwrap();
    assert_eq!((rewritten.fingerprint().as_str(), &rewritten), (recorded, &former));
}

#[test]
fn a_detector_file_of_before_the_parts_is_read() {
    let text = include_str!("../../tests/fixtures/former_run/detector.json");
    assert_eq!(serde_json::from_str::<DetectorConfig>(text).unwrap(), former_run().model);
}

#[test]
fn a_setting_given_under_both_of_its_names_is_refused() {
    let error = toml::from_str::<TransferConfig>("[model]\nrpn_batch = 8\n[model.rpn]\nbatch = 16");
    let error = error.unwrap_err().to_string();
    assert!(error.contains("`rpn_batch` is the former name of `rpn.batch`"), "{error}");
}
