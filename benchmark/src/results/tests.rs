use super::*;

fn result(init: &str, seed: u64, ap: f64) -> TransferResult {
    TransferResult {
        cell: format!("transfer/d-{init}-{seed}"),
        dataset: "d".into(),
        init: init.into(),
        label_fraction: 0.1,
        seed,
        train_images: 20,
        val_images: 5,
        iterations: 10,
        metrics: [("AP".to_string(), Some(ap)), ("AP75".to_string(), None)].into(),
        per_class: Vec::new(),
        settings: String::new(),
    }
}

/// AP of each init, seed by seed.
fn results(aps: &[(&str, &[f64])]) -> Results {
    let of_init = |(init, aps): &(&str, &[f64])| -> Vec<TransferResult> {
        aps.iter().enumerate().map(|(seed, ap)| result(init, seed as u64, *ap)).collect()
    };
    Results {
        plan: String::new(),
        pretrain: Vec::new(),
        transfer: aps.iter().flat_map(of_init).collect(),
        export: Vec::new(),
        detectors: Vec::new(),
        summary: Vec::new(),
        differences: Vec::new(),
        lengths: Vec::new(),
        chance: Chance::new(),
        sweep: Vec::new(),
        unfinished: Vec::new(),
        inits: aps.iter().map(|(init, _)| init.to_string()).collect(),
    }
}

fn sentence(ours: &[f64], theirs: &[f64]) -> String {
    let results = results(&[("byol", theirs), ("scrl", ours)]);
    results.all_differences("scrl")[0].sentence()
}

#[test]
fn differences_are_told_in_plain_words() {
    assert_eq!(
        sentence(&[0.30, 0.32, 0.31], &[0.26, 0.27, 0.27]),
        "scrl is better than byol by 4.3 ± 1.4 AP at 10 % labels (3 seeds, p = 0.006, corrected 0.006; \
         Bonferroni interval +2.9 to +5.8)."
    );
    assert_eq!(
        sentence(&[0.20, 0.21], &[0.30, 0.31]),
        "scrl is worse than byol by 10.0 ± 0.0 AP at 10 % labels (2 seeds, p < 0.001, corrected < 0.001; \
         Bonferroni interval -10.0 to -10.0)."
    );
    assert_eq!(
        sentence(&[0.20, 0.21, 0.22], &[0.20, 0.23, 0.20]),
        "scrl is not separable from byol at 10 % labels: +0.0 ± 5.0 AP (3 seeds, p = 1.000, corrected 1.000; \
         Bonferroni interval -5.0 to +5.0)."
    );
    assert_eq!(
        sentence(&[0.21], &[0.20]),
        "scrl is 1.0 AP above byol at 10 % labels with one seed, which cannot tell a difference from chance."
    );
}

#[test]
fn comparisons_are_corrected_for_their_number() {
    let better = [0.30, 0.32, 0.31];
    let (far, near) = ([0.26, 0.27, 0.27], [0.285, 0.300, 0.300]);
    let alone = results(&[("far", &far), ("scrl", &better)]).all_differences("scrl");
    assert_eq!((alone.len(), alone[0].p, alone[0].separable), (1, alone[0].p_holm, Some(true)));
    // Two p-values of 0.006 and 0.030: doubled, the smaller one stays below 5 %, and the larger is not doubled.
    let two = results(&[("far", &far), ("near", &near), ("scrl", &better)]).all_differences("scrl");
    let p = |index: usize| (two[index].p.unwrap(), two[index].p_holm.unwrap());
    assert!((p(0).1 - 2.0 * p(0).0).abs() < 1e-12 && (p(1).1 - p(1).0).abs() < 1e-12, "{two:?}");
    // Intervals at 2.5 %: scipy.stats.t.ppf(1 - 0.0125, 2) = 6.205347 standard errors.
    let errors = two[1].corrected_half_width.unwrap() / (two[1].over_seeds.std.unwrap() / 3f64.sqrt());
    assert!((errors - 6.205_347).abs() < 1e-5, "{errors}");
    // With many of them none is left.
    let many: Vec<(String, [f64; 3])> = (0..9).map(|index| (format!("far{index}"), far)).collect();
    let mut all: Vec<(&str, &[f64])> = many.iter().map(|(name, aps)| (name.as_str(), &aps[..])).collect();
    all.push(("scrl", &better));
    let nine = results(&all).all_differences("scrl");
    assert!(nine.len() == 9 && nine.iter().all(|difference| difference.separable == Some(false)), "{nine:?}");
}

#[test]
fn where_no_detector_beats_boxes_that_ignore_the_image_none_is_ranked() {
    let mut found = results(&[("byol", &[0.001, 0.002, 0.001]), ("scrl", &[0.011, 0.012, 0.011])]);
    assert_eq!(found.all_differences("scrl")[0].separable, Some(true));
    found.chance = [("d".to_string(), [("AP".to_string(), 0.02)].into())].into();
    assert_eq!(found.all_differences("scrl")[0].separable, None);
    assert!(!found.has_learnt("d", 0.1, "AP") && found.has_learnt("d", 0.1, "AP50"));
    found.chance = [("d".to_string(), [("AP".to_string(), 0.005)].into())].into();
    assert_eq!(found.all_differences("scrl")[0].separable, Some(true));
}

#[test]
fn only_seeds_that_both_inits_have_are_compared() {
    let results = results(&[("byol", &[0.1]), ("scrl", &[0.3, 0.9])]);
    let difference = results.difference("d", "scrl", "byol", 0.1, "AP").unwrap();
    assert_eq!((difference.over_seeds.count, difference.separable), (1, None));
    assert!((difference.over_seeds.mean - 0.2).abs() < 1e-12);
    assert!(results.difference("d", "scrl", "byol", 0.1, "AP75").is_none(), "nothing to measure");
}

#[test]
fn a_spreadsheet_has_a_line_a_run_and_blanks_where_nothing_was_measured() {
    assert!(results(&[("a,\"b", &[0.5])]).csv().contains("\nd,\"a,\"\"b\",0.1,"), "names are quoted");
    let csv = results(&[("scrl", &[0.25])]).csv();
    assert_eq!(
        csv,
        "dataset,init,label_fraction,seed,train_images,val_images,iterations,AP,AP75\nd,scrl,0.1,0,20,5,10,0.25,\n"
    );
}
