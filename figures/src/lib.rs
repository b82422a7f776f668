//! Pictures of runs: line charts, precision–recall curves, contact sheets of views, similarity maps, and documents that hold
//! them.
//!
//! ```
//! use scrl_figures::chart::{Chart, Point, Series};
//!
//! let points = (1..=3).map(|x| Point::new(f64::from(x), f64::from(x * x))).collect();
//! let chart = Chart {
//!     title: "squares".into(),
//!     x_label: "x".into(),
//!     y_label: "x²".into(),
//!     series: vec![Series { name: "x²".into(), style: 0, points }],
//!     ..Chart::default()
//! };
//! assert!(chart.svg().is_some_and(|svg| svg.starts_with("<svg")));
//! ```

pub mod chart;
pub mod document;
mod error;
pub mod precision_recall;
pub mod run;
pub mod sheet;
pub mod similarity;

pub use error::FigureError;
