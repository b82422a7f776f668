//! Precision against recall: the mean over classes, and a panel a class.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use scrl_transfer::evaluation::{ClassCurves, PrecisionRecall};

use crate::benchmark::plots::COLORS;

/// Width and height of a class's panel, in pixels.
const PANEL: (u32, u32) = (190, 165);

/// Panels in a row.
const COLUMNS: usize = 6;

/// The two curves of a class by their legend.
const IOUS: [&str; 2] = ["IoU 0.50", "mean over IoU 0.50 to 0.95"];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws a run's curves into `out`; nothing where the run has no such file, or no object to find.
pub fn write(data: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    let Ok(text) = std::fs::read(data) else { return Ok(Vec::new()) };
    let curves: PrecisionRecall =
        serde_json::from_slice(&text).with_context(|| format!("`{}` is damaged", data.display()))?;
    let classes: Vec<&ClassCurves> = curves.classes.iter().filter(|class| !class.iou50.is_empty()).collect();
    if classes.is_empty() {
        return Ok(Vec::new());
    }
    let [mean, each] = ["precision-recall.svg", "precision-recall-classes.svg"].map(|name| out.join(name));
    let failed = |path: &Path, error: String| anyhow!("cannot draw `{}`: {error}", path.display());
    draw_mean(&mean, &curves, &classes).map_err(|error| failed(&mean, error.to_string()))?;
    draw_classes(&each, &curves.recall, &classes).map_err(|error| failed(&each, error.to_string()))?;
    Ok(vec![mean, each])
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// Both means, and the classes at IoU 0.5 as thin lines.
fn draw_mean(path: &Path, curves: &PrecisionRecall, classes: &[&ClassCurves]) -> Drawn {
    let root = SVGBackend::new(path, (720, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Precision and recall", ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..1.0, 0.0..1.02)?;
    chart.configure_mesh().x_desc("recall").y_desc("precision").light_line_style(WHITE).draw()?;
    for class in classes {
        chart.draw_series(LineSeries::new(
            points(&curves.recall, &class.iou50),
            BLACK.mix(0.18).stroke_width(1),
        ))?;
    }
    let thin = chart.draw_series(std::iter::empty::<PathElement<(f64, f64)>>())?;
    let of = if classes.len() == 1 { "the class" } else { "each class" };
    thin.label(format!("{of}, {}", IOUS[0]))
        .legend(|(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], BLACK.mix(0.3)));
    let averages = curves.mean.average_precisions();
    for (index, (values, ap)) in [&curves.mean.iou50, &curves.mean.coco].into_iter().zip(averages).enumerate()
    {
        let color = COLORS[index];
        let name = ["AP50", "AP"][index];
        chart
            .draw_series(LineSeries::new(points(&curves.recall, values), color.stroke_width(3)))?
            .label(format!("all classes, {}: {name} {:.1} %", IOUS[index], 100.0 * ap.unwrap_or(0.0)))
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(3)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}

/// A small panel for each class, in the order of the classes.
fn draw_classes(path: &Path, recall: &[f64], classes: &[&ClassCurves]) -> Drawn {
    let columns = classes.len().min(COLUMNS);
    let rows = classes.len().div_ceil(columns);
    let legend = 26;
    // The legend needs the width of three panels.
    let size = (columns.max(3) as u32 * PANEL.0, rows as u32 * PANEL.1 + legend);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(legend);
    let mut x = 12;
    for (index, name) in IOUS.iter().enumerate() {
        head.draw(&PathElement::new(vec![(x, 15), (x + 18, 15)], COLORS[index].stroke_width(2)))?;
        head.draw(&Text::new(*name, (x + 24, 8), ("sans-serif", 14)))?;
        x += 40 + 8 * name.len() as i32;
    }
    for (panel, class) in body.split_evenly((rows, columns)).iter().zip(classes) {
        draw_panel(panel, recall, class)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel(panel: &Area, recall: &[f64], class: &ClassCurves) -> Drawn {
    let [ap50, ap] = class.average_precisions().map(|value| 100.0 * value.unwrap_or(0.0));
    let mut chart = ChartBuilder::on(panel)
        .caption(format!("{} {ap50:.0} / {ap:.0} %", class.name), ("sans-serif", 13))
        .margin(6)
        .x_label_area_size(16)
        .y_label_area_size(24)
        .build_cartesian_2d(0.0..1.0, 0.0..1.02)?;
    chart
        .configure_mesh()
        .x_labels(3)
        .y_labels(3)
        .label_style(("sans-serif", 10))
        .light_line_style(WHITE)
        .draw()?;
    for (index, values) in [&class.iou50, &class.coco].into_iter().enumerate() {
        chart.draw_series(LineSeries::new(points(recall, values), COLORS[index].stroke_width(2)))?;
    }
    Ok(())
}

fn points(recall: &[f64], precision: &[f64]) -> Vec<(f64, f64)> {
    recall.iter().copied().zip(precision.iter().copied()).collect()
}
