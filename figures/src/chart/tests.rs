use super::*;

fn chart(log_x: bool, points: Vec<Point>) -> Chart {
    Chart {
        title: "AP < 1 & more".into(),
        x_label: "labels, %".into(),
        y_label: "AP".into(),
        log_x,
        marks: true,
        series: vec![Series { name: "scrl".into(), style: 0, points }],
        ..Chart::default()
    }
}

fn point(x: f64, y: f64) -> Point {
    Point { x, y, half_width: Some(1.0) }
}

#[test]
fn every_point_has_a_mark_and_an_error_bar_inside_the_frame() {
    let svg = chart(true, vec![point(1.0, 2.0), point(10.0, 12.0), point(100.0, 30.0)]).svg().unwrap();
    // One circle more stands in the legend.
    assert_eq!(svg.matches("<circle").count(), 4);
    assert_eq!(svg.matches("stroke-width=\"1.6\"").count(), 3);
    for label in [">1<", ">10<", ">100<", "AP &lt; 1 &amp; more"] {
        assert!(svg.contains(label), "{label}: {svg}");
    }
}

#[test]
fn a_logarithmic_axis_places_equal_factors_equally_far_apart() {
    let axis = Axis { low: 1.0, high: 100.0, log: true, pixels: [0.0, 200.0] };
    assert!((axis.place(10.0) - 100.0).abs() < 1e-9);
    assert_eq!(Axis { log: false, ..axis }.ticks(), [20.0, 40.0, 60.0, 80.0, 100.0]);
}

#[test]
fn a_chart_without_points_is_none_and_one_point_is_enough() {
    assert!(chart(false, Vec::new()).svg().is_none());
    let svg = chart(false, vec![point(0.0, 0.0)]).svg().unwrap();
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

#[test]
fn long_curves_are_thinned_to_their_means() {
    let points: Vec<Point> =
        (0..1000).map(|i| Point { x: i as f64, y: (i % 2) as f64, half_width: None }).collect();
    let thinned = thin(&Series { name: String::new(), style: 0, points });
    assert!(thinned.points.len() <= MOST_POINTS);
    assert!(thinned.points.iter().all(|p| (0.3..0.7).contains(&p.y)));
}
