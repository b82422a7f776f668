//! Evaluation while training and at its end.

use super::*;

fn precisions(run: &Path) -> Vec<(u64, f64)> {
    let step_and_ap = |line: &Value| (line["step"].as_u64().unwrap(), line["AP"].as_f64().unwrap());
    events(run, "eval").iter().map(step_and_ap).collect()
}

/// A run that evaluates after every second of its eight iterations, on the images that it learns.
fn evaluating(data: &Path) -> TransferConfig {
    let mut config = TransferConfig { iterations: 8, eval_every: 2, ..tiny(data) };
    config.data.val = match config.data.train.clone() {
        Some(DataSource::Voc { root, .. }) => Some(DataSource::Voc { root, split: "train".into() }),
        other => other,
    };
    config.solver.lr = 0.04;
    config
}

#[test]
fn the_best_detector_and_the_last_are_kept_each_with_its_metrics() {
    let folder = folder();
    let config = evaluating(&folder.path().join("data"));
    let run = folder.path().join("run");
    let report = finish(&config, &InitWeights::Random, &run);
    let evaluations = precisions(&run);
    assert_eq!(evaluations.iter().map(|e| e.0).collect::<Vec<_>>(), [2, 4, 6, 8]);
    assert_eq!(evaluations[3].1, report.metrics.coco.ap.unwrap(), "metrics.json is of the last");
    // The first of the highest.
    let highest = evaluations.iter().map(|e| e.1).fold(0.0, f64::max);
    let first = evaluations.iter().find(|e| e.1 == highest).unwrap();
    let best = report.best.clone().unwrap();
    assert_eq!((best.iteration, best.metrics.coco.ap.unwrap()), *first);
    let stored: Best =
        serde_json::from_slice(&std::fs::read(run.join("weights/best.json")).unwrap()).unwrap();
    assert_eq!(stored, best);
    // Each file gives the metrics that are recorded for it.
    let val = Arc::new(config.data.val.as_ref().unwrap().load(Labels::Boxes).unwrap());
    for (file, metrics) in [(BEST_FILE, best.metrics), (DETECTOR_FILE, report.metrics)] {
        let (path, options) = (run.join("weights").join(file), EvaluateOptions::default());
        let again = evaluate_weights(&path, &val, options, &Device::flex(), &mut Monitor::silent());
        assert_eq!(again.unwrap().unwrap().metrics, metrics, "{file}");
    }

    let other = folder.path().join("other");
    let report = finish(&TransferConfig { keep_best: false, ..config }, &InitWeights::Random, &other);
    assert_eq!(report.best, None);
    assert!(!other.join("weights/best.safetensors").exists());
    assert_eq!(tensors(&run), tensors(&other), "evaluating and keeping change nothing");
}

#[test]
fn a_run_stopped_in_an_evaluation_makes_it_when_resumed() {
    let folder = folder();
    let config = evaluating(&folder.path().join("data"));
    let [straight, halved] = ["straight", "halved"].map(|name| folder.path().join(name));
    let expected = finish(&config, &InitWeights::Random, &straight);
    // The request comes while the step before the second evaluation ends.
    let outcome =
        transfer(&config, &InitWeights::Random, &halved, false, &mut stop_at_evaluation(2)).unwrap();
    assert_eq!(outcome, TransferOutcome::Interrupted { iteration: 4 });
    assert_eq!(precisions(&halved).len(), 1);
    let outcome = transfer(&config, &InitWeights::Random, &halved, true, &mut Monitor::silent()).unwrap();
    let TransferOutcome::Finished(report) = outcome else { panic!("{outcome:?}") };
    assert_eq!(precisions(&halved), precisions(&straight));
    assert_eq!(report.best, expected.best);
    for file in [BEST_FILE, DETECTOR_FILE] {
        let bytes = |run: &Path| std::fs::read(run.join("weights").join(file)).unwrap();
        assert!(bytes(&straight) == bytes(&halved), "{file}");
    }
}

#[test]
fn a_run_writes_the_curves_whose_means_are_its_metrics() {
    let folder = folder();
    let config = TransferConfig { iterations: 2, ..tiny(&folder.path().join("data")) };
    let run = folder.path().join("run");
    let report = finish(&config, &InitWeights::Random, &run);
    let text = std::fs::read(run.join(PRECISION_RECALL_FILE)).unwrap();
    let curves: PrecisionRecall = serde_json::from_slice(&text).unwrap();
    let [ap50, ap] = curves.mean.average_precisions().map(Option::unwrap);
    assert_eq!((curves.recall.len(), curves.classes.len()), (101, 2));
    assert!((ap - report.metrics.coco.ap.unwrap()).abs() < 1e-9);
    assert!((ap50 - report.metrics.coco.ap50.unwrap()).abs() < 1e-9);
}

#[test]
fn precise_statistics_are_those_of_the_stored_detector_and_leave_training_alone() {
    let folder = folder();
    let config = evaluating(&folder.path().join("data"));
    let [plain, precise] = ["plain", "precise"].map(|name| folder.path().join(name));
    finish(&config, &InitWeights::Random, &plain);
    let mut asked = config;
    asked.solver.precise_bn_batches = 3;
    let report = finish(&asked, &InitWeights::Random, &precise);

    let checkpoint =
        |run: &Path| read_safetensors(&run.join("checkpoints/last/model.safetensors")).unwrap().0;
    assert_eq!(checkpoint(&plain), checkpoint(&precise), "training goes on with its own running averages");
    let (before, after) = (tensors(&plain), tensors(&precise));
    let differing: Vec<&String> = before.keys().filter(|key| before[*key] != after[*key]).collect();
    let statistic = |key: &String| key.ends_with(".running_mean") || key.ends_with(".running_var");
    assert!(differing.len() > 40 && differing.into_iter().all(statistic));
    // What is stored is what was evaluated.
    let val = Arc::new(asked.data.val.as_ref().unwrap().load(Labels::Boxes).unwrap());
    let options = EvaluateOptions::default();
    let again = evaluate_weights(&precise, &val, options, &Device::flex(), &mut Monitor::silent());
    assert_eq!(again.unwrap().unwrap().metrics, report.metrics);
}
