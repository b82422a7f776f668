//! The pictures of a finished run: its training curves and its precision–recall curves.

use std::path::{Path, PathBuf};

use scrl_core::engine::atomic;
use scrl_transfer::train::PRECISION_RECALL_FILE;
use serde_json::Value;

use crate::chart::{Chart, Point, Series};
use crate::{FigureError, precision_recall};

/// Curves of at most so many points show them as marks.
const MARKS: usize = 60;

/// A named curve.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Shown in the legend.
    pub name: String,
    /// x and y.
    pub points: Vec<(f64, f64)>,
}

/// Writes curves over a common x axis as an SVG file.
///
/// # Errors
/// When the file cannot be written.
pub fn draw(
    path: &Path,
    title: &str,
    x_label: &str,
    y_label: &str,
    curves: &[Curve],
) -> Result<(), FigureError> {
    let series = curves.iter().enumerate().map(|(style, curve)| Series {
        name: curve.name.clone(),
        style,
        points: curve.points.iter().map(|&(x, y)| Point::new(x, y)).collect(),
    });
    let chart = Chart {
        title: title.into(),
        x_label: x_label.into(),
        y_label: y_label.into(),
        marks: curves.iter().all(|curve| curve.points.len() <= MARKS),
        series: series.collect(),
        ..Chart::default()
    };
    let svg = chart.svg().unwrap_or_default();
    atomic::write(path, svg.as_bytes()).map_err(FigureError::write(path))
}

/// Points of a training curve; longer ones are averaged over equal parts.
const POINTS: usize = 300;

/// A picture of several fields of one kind of event.
struct Picture {
    file: &'static str,
    title: &'static str,
    kind: &'static str,
    y_label: &'static str,
    fields: &'static [&'static str],
}

const PICTURES: [Picture; 4] = [
    Picture {
        file: "losses.svg",
        title: "Training losses",
        kind: "train",
        y_label: "loss",
        // The total, and what else a detector calls a loss.
        fields: &["loss*"],
    },
    Picture {
        file: "lr.svg",
        title: "Learning rate",
        kind: "train",
        y_label: "learning rate",
        fields: &["lr"],
    },
    Picture {
        file: "ap.svg",
        title: "Average precision on the evaluation data",
        kind: "eval",
        y_label: "AP",
        fields: &["AP", "AP50", "AP75"],
    },
    Picture {
        file: "mask_ap.svg",
        title: "Average precision of masks on the evaluation data",
        kind: "eval",
        y_label: "AP",
        fields: &["segm_AP", "segm_AP50", "segm_AP75"],
    },
];

/// Draws what a transfer run has logged and measured into `out`, and gives the files.
///
/// Curves of fewer than two points are left out.
///
/// # Errors
/// When the run's files cannot be read, or a picture not be written.
pub fn write(run: &Path, out: &Path) -> Result<Vec<PathBuf>, FigureError> {
    std::fs::create_dir_all(out).map_err(FigureError::write(out))?;
    let events = read_events(&run.join("metrics.jsonl"))?;
    let mut files = Vec::new();
    for picture in &PICTURES {
        let fields = picture.fields.iter().flat_map(|field| expand(&events, picture.kind, field));
        let curves: Vec<Curve> = fields.filter_map(|field| curve(&events, picture.kind, &field)).collect();
        if !curves.is_empty() {
            let file = out.join(picture.file);
            draw(&file, picture.title, "iteration", picture.y_label, &curves)?;
            files.push(file);
        }
    }
    files.extend(precision_recall::write(&run.join(PRECISION_RECALL_FILE), out)?);
    Ok(files)
}

fn read_events(path: &Path) -> Result<Vec<Value>, FigureError> {
    let text = std::fs::read_to_string(path).map_err(FigureError::read(path))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// The field itself or, with an asterisk at its end, the fields of the first such event that begin so, in its order.
fn expand(events: &[Value], kind: &str, field: &str) -> Vec<String> {
    let Some(start) = field.strip_suffix('*') else { return vec![field.to_owned()] };
    let first = events.iter().find(|event| event["kind"] == kind).and_then(Value::as_object);
    first.into_iter().flat_map(|event| event.keys()).filter(|key| key.starts_with(start)).cloned().collect()
}

fn curve(events: &[Value], kind: &str, field: &str) -> Option<Curve> {
    let of_kind = events.iter().filter(|event| event["kind"] == kind);
    let points: Vec<(f64, f64)> =
        of_kind.filter_map(|event| Some((event["step"].as_f64()?, event[field].as_f64()?))).collect();
    (points.len() > 1).then(|| Curve { name: field.to_string(), points: averaged(&points) })
}

/// At most [`POINTS`] points, each the mean of as many.
fn averaged(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |part: &[(f64, f64)]| {
        let sum = part.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / part.len() as f64, sum.1 / part.len() as f64)
    };
    points.chunks(points.len().div_ceil(POINTS)).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asterisk_stands_for_every_field_that_begins_so() {
        let event = serde_json::json!({"kind": "train", "loss": 1, "loss_box": 2, "lr": 3});
        let mut found = expand(&[event], "train", "loss*");
        found.sort();
        assert_eq!(found, ["loss", "loss_box"]);
        assert_eq!(expand(&[], "train", "lr"), ["lr"]);
        assert!(expand(&[], "train", "loss*").is_empty());
    }

    #[test]
    fn long_curves_are_averaged_and_short_ones_kept() {
        let line = |count: u32| (0..count).map(|i| (f64::from(i), 2.0 * f64::from(i))).collect::<Vec<_>>();
        assert_eq!(averaged(&line(40)), line(40));
        let long = averaged(&line(900));
        assert_eq!((long.len(), long[0], long[299]), (300, (1.0, 2.0), (898.0, 1796.0)));
    }
}
