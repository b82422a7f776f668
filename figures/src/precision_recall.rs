//! Precision against recall: the mean over classes, and a panel for each class.

use std::path::{Path, PathBuf};

use scrl_core::engine::atomic;
use scrl_transfer::evaluation::{ClassCurves, PrecisionRecall};

use crate::FigureError;
use crate::chart::{Chart, Point, Series, panels};

/// Panels in a row.
const COLUMNS: usize = 6;
/// The two curves of a class by their legend.
const IOUS: [&str; 2] = ["IoU 0.50", "mean over IoU 0.50 to 0.95"];
/// Of recall and of precision.
const RANGES: [[f64; 2]; 2] = [[0.0, 1.0], [0.0, 1.02]];

/// Draws a run's curves into `out`; nothing where the run has no such file, or no object to find.
///
/// # Errors
/// When the file is damaged or a picture cannot be written.
pub fn write(data: &Path, out: &Path) -> Result<Vec<PathBuf>, FigureError> {
    let Ok(text) = std::fs::read(data) else { return Ok(Vec::new()) };
    let curves: PrecisionRecall = serde_json::from_slice(&text)
        .map_err(|source| FigureError::Damaged { path: data.to_path_buf(), source })?;
    let classes: Vec<&ClassCurves> = curves.classes.iter().filter(|class| !class.iou50.is_empty()).collect();
    let pictures = [
        ("precision-recall.svg", mean(&curves, &classes).svg()),
        (
            "precision-recall-classes.svg",
            panels("Precision and recall of each class", &each(&curves.recall, &classes), COLUMNS),
        ),
    ];
    let mut files = Vec::new();
    for (name, svg) in pictures {
        let Some(svg) = svg else { continue };
        let path = out.join(name);
        atomic::write(&path, svg.as_bytes()).map_err(FigureError::write(&path))?;
        files.push(path);
    }
    Ok(files)
}

/// Both means, and the classes at IoU 0.5 behind them.
fn mean(curves: &PrecisionRecall, classes: &[&ClassCurves]) -> Chart {
    let averages = curves.mean.average_precisions();
    let means = [&curves.mean.iou50, &curves.mean.coco].into_iter().zip(averages).enumerate();
    let series = means.map(|(style, (values, ap))| Series {
        name: format!("{}: {} {:.1} %", IOUS[style], ["AP50", "AP"][style], 100.0 * ap.unwrap_or(0.0)),
        style,
        points: points(&curves.recall, values),
    });
    Chart {
        title: "Precision and recall, all classes".into(),
        x_label: "recall (grey: single classes, IoU 0.50)".into(),
        y_label: "precision".into(),
        series: if classes.is_empty() { Vec::new() } else { series.collect() },
        background: classes.iter().map(|class| points(&curves.recall, &class.iou50)).collect(),
        ranges: Some(RANGES),
        ..Chart::default()
    }
}

/// A small chart for each class, in the order of the classes.
fn each(recall: &[f64], classes: &[&ClassCurves]) -> Vec<Chart> {
    let chart = |class: &&ClassCurves| {
        let [ap50, ap] = class.average_precisions().map(|value| 100.0 * value.unwrap_or(0.0));
        let series = [&class.iou50, &class.coco].into_iter().enumerate();
        let series = series.map(|(style, values)| Series {
            name: IOUS[style].into(),
            style,
            points: points(recall, values),
        });
        Chart {
            title: format!("{} {ap50:.0} / {ap:.0} %", class.name),
            series: series.collect(),
            ranges: Some(RANGES),
            ..Chart::default()
        }
    };
    classes.iter().map(chart).collect()
}

fn points(recall: &[f64], precision: &[f64]) -> Vec<Point> {
    recall.iter().zip(precision).map(|(&x, &y)| Point::new(x, y)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_panel_and_the_mean_has_two_curves() {
        let class = |name: &str| ClassCurves {
            name: name.into(),
            iou50: vec![1.0, 0.5, 0.0],
            coco: vec![0.5, 0.25, 0.0],
        };
        let curves = PrecisionRecall {
            recall: vec![0.0, 0.5, 1.0],
            mean: class("mean"),
            classes: vec![class("a<b"), class("c")],
        };
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("precision_recall.json");
        std::fs::write(&data, serde_json::to_vec(&curves).unwrap()).unwrap();
        let files = write(&data, folder.path()).unwrap();
        let [mean, each] = [0, 1].map(|index| std::fs::read_to_string(&files[index]).unwrap());
        assert_eq!(
            (mean.matches("class=\"series\"").count(), mean.matches("stroke-opacity").count()),
            (2, 2)
        );
        assert_eq!(each.matches("class=\"series\"").count(), 4);
        assert!(each.contains("a&lt;b 50 / 25 %"), "{each}");
        std::fs::write(&data, "{").unwrap();
        assert!(write(&data, folder.path()).unwrap_err().to_string().contains("is damaged"));
        assert!(write(Path::new("no/such.json"), folder.path()).unwrap().is_empty());
    }
}
