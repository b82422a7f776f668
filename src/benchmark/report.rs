//! The table, `report.md` and `report.html`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use scrl_export::validate::Tolerance;
use serde::{Deserialize, Serialize};

use super::plan::Init;

/// Everything a benchmark measured; `results.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    pub pretrain: Vec<PretrainResult>,
    pub transfer: Vec<TransferResult>,
    pub export: Vec<ExportResult>,
}

/// One pretraining.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PretrainResult {
    pub init: Init,
    pub seed: u64,
    pub images: usize,
    pub steps: u64,
    pub first_loss: Option<f64>,
    pub final_loss: Option<f64>,
    pub seconds: f64,
}

/// One fine-tuning with its evaluation; metrics in percent of their name's scale 0..1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TransferResult {
    pub init: Init,
    pub label_fraction: f64,
    pub seed: u64,
    pub train_images: usize,
    #[serde(rename = "AP")]
    pub ap: Option<f64>,
    #[serde(rename = "AP50")]
    pub ap50: Option<f64>,
    #[serde(rename = "AP75")]
    pub ap75: Option<f64>,
    #[serde(rename = "VOC07_mAP")]
    pub voc07: Option<f64>,
    pub seconds: f64,
}

/// One exported backbone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExportResult {
    pub init: Init,
    pub seed: u64,
    pub path: String,
    pub cases: usize,
    pub max_abs_error: f64,
    pub tolerance: Tolerance,
}

/// Mean and standard deviation (n − 1) of the values that exist.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub mean: f64,
    pub std: Option<f64>,
    pub count: usize,
}

impl Summary {
    pub fn of(values: impl Iterator<Item = Option<f64>>) -> Option<Self> {
        let values: Vec<f64> = values.flatten().collect();
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        Some(Self { mean, std: (count > 1).then(|| (squares / (count - 1) as f64).sqrt()), count })
    }

    /// In percent with one decimal place, for example `31.4 ± 0.6`.
    fn percent(self) -> String {
        match self.std {
            Some(std) => format!("{:.1} ± {:.1}", 100.0 * self.mean, 100.0 * std),
            None => format!("{:.1}", 100.0 * self.mean),
        }
    }
}

type Metric = fn(&TransferResult) -> Option<f64>;

/// The metrics of the table, each by its name.
const METRICS: [(&str, Metric); 4] =
    [("AP", |r| r.ap), ("AP50", |r| r.ap50), ("AP75", |r| r.ap75), ("VOC07 mAP", |r| r.voc07)];

impl Results {
    /// The inits in the order of their first result.
    pub fn inits(&self) -> Vec<Init> {
        let mut inits = Vec::new();
        for result in &self.transfer {
            if !inits.contains(&result.init) {
                inits.push(result.init);
            }
        }
        inits
    }

    /// The label fractions in ascending order.
    pub fn fractions(&self) -> Vec<f64> {
        let mut fractions: Vec<f64> = self.transfer.iter().map(|r| r.label_fraction).collect();
        fractions.sort_by(f64::total_cmp);
        fractions.dedup();
        fractions
    }

    /// Mean and spread over seeds of one cell.
    pub fn summary(&self, init: Init, fraction: f64, metric: Metric) -> Option<Summary> {
        let cell = self.transfer.iter().filter(|r| r.init == init && r.label_fraction == fraction);
        Summary::of(cell.map(metric))
    }

    /// AP of one cell over seeds.
    pub fn ap(&self, init: Init, fraction: f64) -> Option<Summary> {
        self.summary(init, fraction, |r| r.ap)
    }

    /// The detection table in Markdown.
    pub fn table(&self) -> String {
        let mut text = String::from("| init | labels | images | seeds |");
        METRICS.iter().for_each(|(name, _)| write!(text, " {name} |").expect("writing to a string"));
        text.push_str("\n|---|---|---|---|");
        text.push_str(&"---|".repeat(METRICS.len()));
        for fraction in self.fractions() {
            for init in self.inits() {
                text.push_str(&self.row(init, fraction));
            }
        }
        text.push('\n');
        text
    }

    fn row(&self, init: Init, fraction: f64) -> String {
        let cell: Vec<_> =
            self.transfer.iter().filter(|r| r.init == init && r.label_fraction == fraction).collect();
        let Some(first) = cell.first() else { return String::new() };
        let mut row = format!(
            "\n| {} | {:.0} % | {} | {} |",
            init.name(),
            100.0 * fraction,
            first.train_images,
            cell.len()
        );
        for (_, metric) in METRICS {
            let value = Summary::of(cell.iter().map(|r| metric(r))).map_or("–".into(), Summary::percent);
            row.push_str(&format!(" {value} |"));
        }
        row
    }

    fn pretrain_table(&self) -> String {
        let mut text = String::from(
            "| init | seed | images | steps | first loss | final loss | seconds |\n|---|---|---|---|---|---|---|\n",
        );
        for r in &self.pretrain {
            let loss = |value: Option<f64>| value.map_or("–".into(), |v| format!("{v:.3}"));
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {:.0} |",
                r.init.name(),
                r.seed,
                r.images,
                r.steps,
                loss(r.first_loss),
                loss(r.final_loss),
                r.seconds
            )
            .expect("writing to a string");
        }
        text
    }

    fn export_table(&self) -> String {
        let mut text = String::from(
            "| init | seed | file | cases | max abs error | tolerance |\n|---|---|---|---|---|---|\n",
        );
        for r in &self.export {
            writeln!(
                text,
                "| {} | {} | `{}` | {} | {:.2e} | {:.0e} + {:.0e} · max abs |",
                r.init.name(),
                r.seed,
                r.path,
                r.cases,
                r.max_abs_error,
                r.tolerance.absolute,
                r.tolerance.relative
            )
            .expect("writing to a string");
        }
        text
    }

    /// The whole report in Markdown; `plots` are file names beside it.
    pub fn markdown(&self, plots: &[String]) -> String {
        let mut text = String::from("# Benchmark\n\n## Detection\n\n");
        text.push_str(
            "AP, AP50 and AP75 are COCO's (percent); VOC07 mAP is the 11-point AP at IoU 0.5 (percent). \
             Mean ± standard deviation over seeds.\n\n",
        );
        text.push_str(&self.table());
        text.push_str("\n## Pretraining\n\n");
        text.push_str(&self.pretrain_table());
        text.push_str("\n## ONNX\n\nEach file was run by ONNX Runtime on random and on real inputs and compared with the trained network.\n\n");
        text.push_str(&self.export_table());
        text.push_str("\n## Plots\n\n");
        plots.iter().for_each(|plot| writeln!(text, "![{plot}]({plot})").expect("writing to a string"));
        text
    }

    /// Writes `report.md` and `report.html`.
    pub fn write(&self, out: &Path, plots: &[String]) -> Result<()> {
        let markdown = self.markdown(plots);
        let write = |name: &str, text: &str| {
            let path = out.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))
        };
        write("report.md", &markdown)?;
        write("report.html", &html(&markdown, out))
    }
}

/// Turns the report's Markdown (headings, tables, paragraphs, images) into a page of its own, plots inlined.
fn html(markdown: &str, out: &Path) -> String {
    let mut body = String::new();
    let mut in_table = false;
    for line in markdown.lines() {
        let is_row = line.starts_with('|');
        if in_table && !is_row {
            body.push_str("</table>\n");
            in_table = false;
        }
        if is_row {
            let header = !in_table;
            if header {
                body.push_str("<table>\n");
                in_table = true;
            }
            if !line.starts_with("|---") {
                body.push_str(&html_row(line, header));
            }
        } else if let Some(title) = line.strip_prefix("## ") {
            writeln!(body, "<h2>{title}</h2>").expect("writing to a string");
        } else if let Some(title) = line.strip_prefix("# ") {
            writeln!(body, "<h1>{title}</h1>").expect("writing to a string");
        } else if let Some(image) = line.strip_prefix("![") {
            let name = image.split(']').next().unwrap_or_default();
            body.push_str(&fs::read_to_string(out.join(name)).unwrap_or_default());
        } else if !line.is_empty() {
            writeln!(body, "<p>{line}</p>").expect("writing to a string");
        }
    }
    if in_table {
        body.push_str("</table>\n");
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>scrl benchmark</title>\n<style>\
         body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}\
         table{{border-collapse:collapse}}td,th{{border:1px solid #bbb;padding:.2rem .6rem;text-align:right}}\
         td:first-child,th:first-child{{text-align:left}}svg{{max-width:100%;height:auto}}</style>\n{body}</html>\n"
    )
}

fn html_row(line: &str, header: bool) -> String {
    let tag = if header { "th" } else { "td" };
    let cells = line.trim_matches('|').split('|');
    let cells: String =
        cells.map(|cell| format!("<{tag}>{}</{tag}>", cell.trim().trim_matches('`'))).collect();
    format!("<tr>{cells}</tr>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(init: Init, seed: u64, ap: f64) -> TransferResult {
        TransferResult {
            init,
            label_fraction: 0.5,
            seed,
            train_images: 20,
            ap: Some(ap),
            ap50: Some(0.5),
            ap75: None,
            voc07: Some(0.4),
            seconds: 1.0,
        }
    }

    #[test]
    fn a_cell_is_mean_and_standard_deviation_over_seeds() {
        let transfer =
            vec![result(Init::Scrl, 0, 0.2), result(Init::Scrl, 1, 0.3), result(Init::Random, 0, 0.1)];
        let results = Results { transfer, ..Results::default() };
        insta::assert_snapshot!(results.table(), @r"
        | init | labels | images | seeds | AP | AP50 | AP75 | VOC07 mAP |
        |---|---|---|---|---|---|---|---|
        | scrl | 50 % | 20 | 2 | 25.0 ± 7.1 | 50.0 ± 0.0 | – | 40.0 ± 0.0 |
        | random | 50 % | 20 | 1 | 10.0 | 50.0 | – | 40.0 |
        ");
    }
}
