use scrl_core::random::{standard_normal, stream};

use super::*;

fn rows(values: Vec<f32>, dims: usize) -> Rows {
    Rows { values, dims }
}

fn random(count: usize, dims: usize, seed: u64) -> Rows {
    let mut rng = stream(seed, &[]);
    rows((0..count * dims).map(|_| standard_normal(&mut rng)).collect(), dims)
}

#[test]
fn equal_features_have_rank_one_and_no_deviation() {
    let constant = rows([0.3, 1.5, 0.0, 2.0].repeat(20), 4);
    assert!((rank_me(&constant) - 1.0).abs() < 1e-4, "{}", rank_me(&constant));
    assert!(feature_std(&constant) < 1e-9);
    assert!(Health::of(&Inspection { features: constant, ..Default::default() }).is_collapsed());
}

#[test]
fn random_features_have_a_high_rank_and_the_isotropic_deviation() {
    let features = random(200, 32, 1);
    let health = Health::of(&Inspection { features, ..Default::default() });
    assert!(health.feature_rank > 30.0 && health.feature_rank < 32.01, "{}", health.feature_rank);
    let isotropic = 1.0 / 32f64.sqrt();
    assert!((health.feature_std - isotropic).abs() < 0.02 * isotropic, "{}", health.feature_std);
    assert!(!health.is_collapsed());
    assert_eq!((health.cosines, health.backbone), (Cosines::default(), Cosines::default()));
    assert_eq!(health.fields().keys().filter(|key| key.contains("cosine")).count(), 0);
}

#[test]
fn the_rank_is_the_same_from_either_gram_matrix() {
    // Ten rows in twenty dimensions, and the same matrix on its side.
    let wide = random(10, 20, 3);
    let tall =
        rows((0..20).flat_map(|c| wide.iter().map(move |row| row[c]).collect::<Vec<_>>()).collect(), 10);
    assert!((rank_me(&wide) - rank_me(&tall)).abs() < 1e-9);
}

#[test]
fn nothing_has_rank_zero() {
    assert_eq!(rank_me(&Rows::default()), 0.0);
    assert_eq!(rank_me(&rows(vec![0.0; 12], 3)), 0.0);
    assert_eq!(feature_std(&Rows::default()), 0.0);
}

#[test]
fn eigenvalues_of_a_known_matrix_are_exact() {
    // [[2, 1], [1, 2]] beside 5: eigenvalues 1, 3 and 5.
    let mut found = symmetric_eigenvalues(vec![2.0, 1.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 5.0], 3);
    found.sort_by(f64::total_cmp);
    for (found, expected) in found.iter().zip([1.0, 3.0, 5.0]) {
        assert!((found - expected).abs() < 1e-12);
    }
}

#[test]
fn cosines_by_sums_equal_those_of_every_pair() {
    let (first, second) = (random(9, 5, 5), random(9, 5, 6));
    let images = vec![0, 0, 0, 1, 3, 3, 3, 3, 7];
    let found =
        cosines(&MatchedRows { first: first.clone(), second: second.clone(), images: images.clone() });
    let mut sums = [(0.0, 0); 3];
    for (r, a) in first.iter().enumerate() {
        for (q, b) in second.iter().enumerate() {
            let kind = if r == q { 0 } else { 1 + usize::from(images[r] != images[q]) };
            sums[kind].0 += dot(&normalise(a), &normalise(b));
            sums[kind].1 += 1;
        }
    }
    for (found, (sum, pairs)) in [found.matched, found.other_place, found.other_image].into_iter().zip(sums) {
        assert!((found.unwrap() - sum / f64::from(pairs)).abs() < 1e-12);
    }
}

#[test]
fn networks_that_have_diverged_are_told_from_their_features() {
    let sound = Health::of(&Inspection { features: random(20, 8, 1), ..Default::default() });
    assert_eq!(sound.not_finite(), None);
    for value in [f32::NAN, f32::INFINITY] {
        let mut features = random(20, 8, 1);
        features.values[13] = value;
        let health = Health::of(&Inspection { features, ..Default::default() });
        assert_eq!(health.not_finite(), Some("features"), "{health:?}");
        assert!(health.is_collapsed(), "NaN is no sign of health: {health:?}");
        let mut first = random(4, 8, 2);
        first.values[3] = value;
        let projected = MatchedRows { first, second: random(4, 8, 3), images: vec![0, 0, 1, 1] };
        let health = Health::of(&Inspection { features: random(20, 8, 1), projected, ..Default::default() });
        assert_eq!(health.not_finite(), Some("projections"), "{health:?}");
    }
}

#[test]
fn a_single_box_has_no_other_place_and_no_other_image() {
    let one = random(1, 4, 8);
    let found = cosines(&MatchedRows { first: one.clone(), second: one, images: vec![0] });
    assert!((found.matched.unwrap() - 1.0).abs() < 1e-12);
    assert_eq!((found.other_place, found.other_image), (None, None));
}

#[test]
fn centring_takes_away_what_all_boxes_share_and_nothing_else() {
    // Four boxes of two images along the axes, far from the origin as features behind a ReLU are.
    let shifted = |values: [f32; 8]| rows(values.iter().map(|value| value + 10.0).collect(), 2);
    let axes = [1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0, -1.0];
    let matched = MatchedRows { first: shifted(axes), second: shifted(axes), images: vec![0, 0, 1, 1] };
    let health = Health::of(&Inspection { backbone: matched, ..Default::default() });
    let raw = health.backbone;
    assert!(raw.matched.unwrap() > 0.99 && raw.other_image.unwrap() > 0.97, "all look alike: {raw:?}");
    let centred = health.backbone_centred;
    assert!((centred.matched.unwrap() - 1.0).abs() < 1e-6, "{centred:?}");
    assert!(centred.other_place.unwrap().abs() < 1e-6, "the axes of an image: {centred:?}");
    // Of the eight pairs of other images four are opposite and four at right angles.
    assert!((centred.other_image.unwrap() + 0.5).abs() < 1e-6, "{centred:?}");
    let fields = health.fields();
    for name in ["backbone_cosine_matched", "backbone_centred_cosine_other_place"] {
        assert!(fields[name].is_number(), "{name}");
    }
    assert!(!fields.contains_key("cosine_matched"), "there are no projections");
}

/// What NumPy says; see `generate.py` beside it.
pub(crate) const FIXTURE: &str = include_str!("../../tests/fixtures/health/health.json");

pub(crate) fn fixture_rows(value: &Value) -> Rows {
    let table: Vec<Vec<f32>> = serde_json::from_value(value.clone()).unwrap();
    rows(table.concat(), table[0].len())
}

#[test]
fn rank_deviation_and_cosines_equal_numpys() {
    let fixture: Value = serde_json::from_str(FIXTURE).unwrap();
    let matched = MatchedRows {
        first: fixture_rows(&fixture["first"]),
        second: fixture_rows(&fixture["second"]),
        images: serde_json::from_value(fixture["images"].clone()).unwrap(),
    };
    let features = fixture_rows(&fixture["features"]);
    let health = Health::of(&Inspection { features, projected: matched, ..Default::default() });
    let wide = rank_me(&fixture_rows(&fixture["wide"]));
    let pairs = [
        ("features_rank", health.feature_rank),
        ("features_std", health.feature_std),
        ("wide_rank", wide),
        ("matched", health.cosines.matched.unwrap()),
        ("other_place", health.cosines.other_place.unwrap()),
        ("other_image", health.cosines.other_image.unwrap()),
    ];
    for (name, found) in pairs {
        // Both in 64 bits; singular values as roots of eigenvalues lose half the digits of the smallest.
        let expected = fixture[name].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-6, "{name}: {found} is not {expected}");
    }
}
