//! Plots of runs, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Colours that remain distinct for colour-blind readers (Okabe and Ito).
pub const COLORS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];

/// Curves of at most so many points show them as dots.
const DOTS: usize = 60;

/// A named curve.
pub struct Curve {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Curves over a common x axis as an SVG file; both axes start at zero or below.
pub fn draw(
    path: &Path,
    title: &str,
    x_label: &str,
    y_label: &str,
    legend: SeriesLabelPosition,
    curves: &[Curve],
) -> Result<()> {
    let points = || curves.iter().flat_map(|curve| curve.points.iter());
    let range = |pick: fn(&(f64, f64)) -> f64| {
        let (low, high) = points().map(pick).fold((0.0f64, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        if high > low { low..high * 1.05 } else { low..low + 1.0 }
    };
    let (x_range, y_range) = (range(|p| p.0), range(|p| p.1));
    let failed = |error| anyhow!("cannot draw `{}`: {error}", path.display());
    let root = SVGBackend::new(path, (720, 420)).into_drawing_area();
    root.fill(&WHITE).map_err(|e| failed(e.to_string()))?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(72)
        .build_cartesian_2d(x_range, y_range)
        .map_err(|e| failed(e.to_string()))?;
    chart
        .configure_mesh()
        .x_desc(x_label)
        .y_desc(y_label)
        .light_line_style(WHITE)
        .draw()
        .map_err(|e| failed(e.to_string()))?;
    for (curve, color) in curves.iter().zip(COLORS.iter().cycle()) {
        let dot = if curve.points.len() > DOTS { 0 } else { 3 };
        let line = LineSeries::new(curve.points.iter().copied(), color.stroke_width(2)).point_size(dot);
        chart
            .draw_series(line)
            .map_err(|e| failed(e.to_string()))?
            .label(&curve.name)
            .legend(|(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(legend)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(|e| failed(e.to_string()))?;
    root.present().map_err(|e| failed(e.to_string()))
}
