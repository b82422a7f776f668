//! Line charts with error bars as SVG, made to be read on a phone: few ticks, large letters, the legend below.

use std::fmt::Write as _;

use super::document::escape;

/// Colours that remain distinct for colour-blind readers (Okabe and Ito).
const COLORS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8a6d00", "#333333"];
/// Dashes, so that colour is not the only thing that tells lines apart.
const DASHES: [&str; 4] = ["", "7 4", "2 3", "10 3 2 3"];
/// Pixels of a chart's parts.
struct Layout {
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    font: f64,
    line: f64,
}

const CHART: Layout = Layout {
    width: 520.0,
    height: 330.0,
    left: 62.0,
    right: 28.0,
    top: 38.0,
    bottom: 52.0,
    font: 15.0,
    line: 2.2,
};
/// A chart among many, without a legend or names of the axes.
const PANEL: Layout = Layout {
    width: 190.0,
    height: 165.0,
    left: 30.0,
    right: 8.0,
    top: 24.0,
    bottom: 22.0,
    font: 10.0,
    line: 1.8,
};
/// Height of a row of the legend.
const ROW: f64 = 24.0;
/// Width of a letter of the legend, on average.
const LETTER: f64 = 9.2;
/// Points of a curve, at most; more are averaged.
const MOST_POINTS: usize = 160;

/// A named curve.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Colour, dashes and mark; the same number looks the same in every chart.
    pub style: usize,
    /// Its points, by ascending `x`.
    pub points: Vec<Point>,
}

/// A value with half of its interval, where that is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Horizontal place, in the axis' units.
    pub x: f64,
    /// Vertical place, in the axis' units.
    pub y: f64,
    /// Half of the error bar's length; none for a point without one.
    pub half_width: Option<f64>,
}

impl Point {
    /// A value without an interval.
    pub fn new(x: f64, y: f64) -> Self {
        Self { x, y, half_width: None }
    }
}

/// A chart.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// Heading.
    pub title: String,
    /// Caption of the horizontal axis.
    pub x_label: String,
    /// Caption of the vertical axis.
    pub y_label: String,
    /// Whether equal factors of x are equally far apart.
    pub log_x: bool,
    /// Whether points are marked; for few of them.
    pub marks: bool,
    /// What is drawn, in the order of the legend.
    pub series: Vec<Series>,
    /// Curves in thin grey behind the series, without names.
    pub background: Vec<Vec<Point>>,
    /// The ends of both axes, x first; else those of the points.
    pub ranges: Option<[[f64; 2]; 2]>,
}

/// A range of values on a range of pixels.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
    pixels: [f64; 2],
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        let scale = |v: f64| if self.log { v.max(f64::MIN_POSITIVE).ln() } else { v };
        let share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low));
        self.pixels[0] + share * (self.pixels[1] - self.pixels[0])
    }

    /// Round values inside.
    fn ticks(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough * 0.999);
        let step = step.unwrap_or(10.0 * power);
        let first = (self.low / step - 1e-9).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last).map(|index| index as f64 * step).collect()
    }
}

impl Chart {
    /// The SVG; none where there is no point.
    pub fn svg(&self) -> Option<String> {
        let series: Vec<Series> = self.series.iter().map(thin).filter(|s| !s.points.is_empty()).collect();
        let legend = legend(&series);
        let height = CHART.height + ROW * legend.rows as f64;
        let mut svg = head(CHART.width, height, &self.title, CHART.font);
        self.draw(&mut svg, &CHART, &series)?;
        svg.push_str(&legend.svg);
        svg.push_str("</svg>");
        Some(svg)
    }

    /// Title, axes and curves; none where there is no point.
    fn draw(&self, svg: &mut String, layout: &Layout, series: &[Series]) -> Option<()> {
        let points = || series.iter().flat_map(|s| &s.points).filter(|p| p.x.is_finite() && p.y.is_finite());
        points().next()?;
        let ends = |p: &Point| [p.y - p.half_width.unwrap_or(0.0), p.y + p.half_width.unwrap_or(0.0)];
        let [[x_low, x_high], [y_low, y_high]] = self.ranges.unwrap_or_else(|| {
            let [low, high] = range(points().flat_map(ends));
            let margin = 0.05 * (high - low);
            let bottom = if low >= 0.0 { (low - margin).max(0.0) } else { low - margin };
            [range(points().map(|p| p.x)), [bottom, high + margin]]
        });
        let x = Axis {
            low: if self.log_x { x_low / 1.15 } else { x_low },
            high: if self.log_x { x_high * 1.15 } else { x_high },
            log: self.log_x,
            pixels: [layout.left, layout.width - layout.right],
        };
        let y = Axis {
            low: y_low,
            high: y_high,
            log: false,
            pixels: [layout.height - layout.bottom, layout.top],
        };
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" font-size=\"{}\" font-weight=\"600\">{}</text>",
            layout.left,
            layout.top - 16.0 * layout.font / CHART.font,
            layout.font + 1.0,
            escape(&self.title)
        )
        .expect("writing to a string");
        self.draw_axes(svg, layout, &x, &y, points().map(|p| p.x));
        for points in &self.background {
            let path = path(points, &x, &y);
            writeln!(svg, "<path d=\"{path}\" fill=\"none\" stroke=\"#000\" stroke-opacity=\"0.2\"/>")
                .expect("writing to a string");
        }
        for series in series {
            draw_series(svg, series, &x, &y, layout.line, self.marks);
        }
        Some(())
    }

    fn draw_axes(
        &self,
        svg: &mut String,
        layout: &Layout,
        x: &Axis,
        y: &Axis,
        places: impl Iterator<Item = f64>,
    ) {
        let mut put = |text: String| writeln!(svg, "{text}").expect("writing to a string");
        let Layout { left, top, font, .. } = *layout;
        let (right, bottom) = (layout.width - layout.right, layout.height - layout.bottom);
        let ticks = y.ticks();
        for &value in &ticks {
            let at = y.place(value);
            put(format!("<path d=\"M{left} {at:.1}H{right}\" stroke=\"#e2e2e2\"/>"));
            let label = number(value, &ticks);
            put(format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                left - font / 2.0,
                at + font / 3.0
            ));
        }
        let ticks = if x.log { distinct(places) } else { x.ticks() };
        for &value in &ticks {
            let at = x.place(value);
            put(format!("<path d=\"M{at:.1} {bottom}v5\" stroke=\"#666\"/>"));
            let label = if x.log { format!("{value}") } else { number(value, &ticks) };
            put(format!(
                "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                bottom + font + 5.0
            ));
        }
        put(format!("<path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"#666\"/>"));
        let middle = (left + right) / 2.0;
        put(format!(
            "<text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 42.0,
            escape(&self.x_label)
        ));
        let centre = (top + bottom) / 2.0;
        put(format!(
            "<text x=\"15\" y=\"{centre}\" text-anchor=\"middle\" transform=\"rotate(-90 15 {centre})\">{}</text>",
            escape(&self.y_label)
        ));
    }
}

fn style(index: usize) -> (&'static str, &'static str) {
    (COLORS[index % COLORS.len()], DASHES[index % DASHES.len()])
}

fn head(width: f64, height: f64, title: &str, font: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{}\" font-family=\"system-ui, 'DejaVu Sans', \
         sans-serif\" font-size=\"{font}\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        escape(title)
    )
}

/// Small charts in rows of `columns`, with one legend above them: the names of the series of the first.
pub fn panels(title: &str, charts: &[Chart], columns: usize) -> Option<String> {
    let columns = charts.len().min(columns).max(1);
    let names = legend(&charts.first()?.series);
    // The legend needs the width of three panels.
    let width = (columns as f64 * PANEL.width).max(CHART.width);
    let above = ROW * names.rows as f64 + 6.0;
    let height = charts.len().div_ceil(columns) as f64 * PANEL.height + above;
    let mut svg = head(width, height, title, CHART.font);
    writeln!(svg, "<g transform=\"translate(0 {})\">{}</g>", 6.0 - CHART.height, names.svg)
        .expect("writing to a string");
    for (index, chart) in charts.iter().enumerate() {
        let (column, row) = (index % columns, index / columns);
        let (x, y) = (column as f64 * PANEL.width, row as f64 * PANEL.height + above);
        writeln!(svg, "<g transform=\"translate({x} {y})\" font-size=\"{}\">", PANEL.font)
            .expect("writing to a string");
        let series: Vec<Series> = chart.series.iter().map(thin).collect();
        chart.draw(&mut svg, &PANEL, &series);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>");
    Some(svg)
}

fn path(points: &[Point], x: &Axis, y: &Axis) -> String {
    let mut path = String::new();
    for (number, point) in points.iter().enumerate() {
        let command = if number == 0 { 'M' } else { 'L' };
        write!(path, "{command}{:.1} {:.1}", x.place(point.x), y.place(point.y))
            .expect("writing to a string");
    }
    path
}

fn draw_series(svg: &mut String, series: &Series, x: &Axis, y: &Axis, width: f64, marks: bool) {
    let index = series.style;
    let (color, dash) = style(index);
    let path = path(&series.points, x, y);
    let mut put = |text: String| writeln!(svg, "{text}").expect("writing to a string");
    put(format!(
        "<path class=\"series\" d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"{width}\" \
         stroke-linejoin=\"round\" stroke-dasharray=\"{dash}\"/>"
    ));
    for point in &series.points {
        // Neighbours at one x would hide each other's bars.
        let at = x.place(point.x) + if point.half_width.is_some() { 3.0 * (index as f64 - 1.5) } else { 0.0 };
        if let Some(half) = point.half_width {
            let (low, high) = (y.place(point.y - half), y.place(point.y + half));
            put(format!(
                "<path d=\"M{at:.1} {low:.1}V{high:.1}M{:.1} {low:.1}h8M{:.1} {high:.1}h8\" stroke=\"{color}\" \
                 stroke-width=\"1.6\"/>",
                at - 4.0,
                at - 4.0
            ));
        }
        if marks || series.points.len() == 1 {
            put(mark(index, at, y.place(point.y)));
        }
    }
}

/// A shape for each series, so that colour is not the only thing that tells points apart.
fn mark(index: usize, x: f64, y: f64) -> String {
    let color = style(index).0;
    match index % 4 {
        0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\" fill=\"{color}\"/>"),
        1 => format!(
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"8\" height=\"8\" fill=\"{color}\"/>",
            x - 4.0,
            y - 4.0
        ),
        2 => format!("<path d=\"M{x:.1} {:.1}l5 9h-10z\" fill=\"{color}\"/>", y - 6.0),
        _ => format!("<path d=\"M{x:.1} {:.1}l5.5 5.5l-5.5 5.5l-5.5 -5.5z\" fill=\"{color}\"/>", y - 5.5),
    }
}

struct Legend {
    svg: String,
    rows: usize,
}

fn legend(series: &[Series]) -> Legend {
    let (mut svg, mut rows, mut left) = (String::new(), 1, CHART.left);
    for series in series {
        let index = series.style;
        let width = 46.0 + LETTER * series.name.chars().count() as f64;
        if left > CHART.left && left + width > CHART.width {
            (rows, left) = (rows + 1, CHART.left);
        }
        let (color, dash) = style(index);
        let y = CHART.height + ROW * (rows - 1) as f64 + 8.0;
        writeln!(
            svg,
            "<path d=\"M{left:.1} {y:.1}h28\" stroke=\"{color}\" stroke-width=\"2.2\" stroke-dasharray=\"{dash}\"/>{}\n\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            mark(index, left + 14.0, y),
            left + 34.0,
            y + 5.0,
            escape(&series.name)
        )
        .expect("writing to a string");
        left += width;
    }
    Legend { svg, rows }
}

/// The smallest and the largest value; a little apart if they are one.
fn range(values: impl Iterator<Item = f64>) -> [f64; 2] {
    let [low, high] = values.fold([f64::MAX, f64::MIN], |[low, high], v| [low.min(v), high.max(v)]);
    if high > low {
        [low, high]
    } else {
        [low - 0.5 * low.abs().max(1e-3), high + 0.5 * high.abs().max(1e-3)]
    }
}

fn distinct(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    values
}

/// With as many decimals as tell the ticks apart.
fn number(value: f64, ticks: &[f64]) -> String {
    let step = ticks.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(f64::MAX, f64::min);
    let decimals =
        if step.is_finite() && step < 1.0 { (-step.log10()).ceil().clamp(0.0, 6.0) as usize } else { 0 };
    match value.abs() {
        v if v >= 1e6 => format!("{}M", value / 1e6),
        v if v >= 1e4 => format!("{}k", value / 1e3),
        _ => format!("{value:.decimals$}"),
    }
}

/// At most [`MOST_POINTS`] points, each the mean of as many.
fn thin(series: &Series) -> Series {
    let size = series.points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |chunk: &[Point]| {
        let of = |pick: fn(&Point) -> f64| chunk.iter().map(pick).sum::<f64>() / chunk.len() as f64;
        Point {
            x: of(|p| p.x),
            y: of(|p| p.y),
            half_width: if size == 1 { chunk[0].half_width } else { None },
        }
    };
    Series {
        name: series.name.clone(),
        style: series.style,
        points: series.points.chunks(size).map(mean).collect(),
    }
}

#[cfg(test)]
mod tests;
