//! Draws series of points to an SVG with two panels and logarithmic axes, in colors that are legible on light
//! and dark backgrounds.

use std::fmt::Write;

/// A point of a series.
pub(crate) struct Point {
    /// Position on the axis: the batch size or the model's parameters.
    pub at: f64,
    /// Number of floating-point operations of a step.
    pub operations: f64,
    /// Number of bytes that a step moves.
    pub bytes: f64,
    /// Measured seconds of a step.
    pub measured: f64,
    /// Predicted seconds of a step.
    pub predicted: f64,
}

/// Points that differ in a single size.
pub(crate) struct Series {
    /// Name of the model or of the series, for the legend.
    pub name: String,
    /// Number of threads: 1 or 2.
    pub threads: usize,
    /// The points in ascending order of size.
    pub points: Vec<Point>,
}

impl Series {
    /// Returns the largest factor by which the time grows faster than the work between any two points. The
    /// work grows like the operations or the bytes, whichever grow more.
    pub(crate) fn excess(&self) -> f64 {
        let pairs =
            self.points.iter().enumerate().flat_map(|(i, a)| self.points[..i].iter().map(move |b| (b, a)));
        let excess = |(small, large): (&Point, &Point)| {
            let work = (large.operations / small.operations).max(large.bytes / small.bytes);
            large.measured / small.measured / work
        };
        pairs.map(excess).fold(0.0, f64::max)
    }
}

/// Series over a common axis.
pub(crate) struct Panel {
    pub title: String,
    pub x: String,
    pub series: Vec<Series>,
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 520.0;
/// Edges of the plotting areas: left edges, width, top and bottom.
const LEFT: [f64; 2] = [70.0, 550.0];
const SPAN: f64 = 390.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 390.0;
/// Mid-tones with a contrast of at least 3 to white and to near-black.
const INK: &str = "#7a828c";
const COLOURS: [&str; 4] = ["#2f81f7", "#d1700f", "#2f9e4f", "#a05fe0"];

/// Draws both panels.
pub(crate) fn svg(panels: &[Panel; 2]) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"{INK}\" stroke-width=\"1.5\">\n\
         <title>Time of a training step by batch and by model, measured and predicted</title>\n"
    );
    // Both panels have the same time axis, so that they can be compared.
    let seconds = |panel: &Panel| -> Vec<f64> {
        panel.series.iter().flat_map(|s| &s.points).flat_map(|p| [p.measured, p.predicted]).collect()
    };
    let all: Vec<f64> = panels.iter().flat_map(seconds).collect();
    let min = all.iter().copied().fold(f64::INFINITY, f64::min).log10().floor();
    let max = all.iter().copied().fold(0.0, f64::max).log10().ceil();
    let y = |seconds: f64| BOTTOM - (seconds.log10() - min) / (max - min) * (BOTTOM - TOP);
    let mut colour = 0;
    for (panel, left) in panels.iter().zip(LEFT) {
        let sizes: Vec<f64> = panel.series[0].points.iter().map(|point| point.at).collect();
        let (first, last) = (sizes[0].log2(), sizes[sizes.len() - 1].log2());
        let x = |at: f64| left + 14.0 + (at.log2() - first) / (last - first) * (SPAN - 28.0);
        axes(&mut out, panel, left, &sizes, &x, (min as i32, max as i32), &y);
        let mut names: Vec<&str> = Vec::new();
        for series in &panel.series {
            let known = names.iter().position(|name| *name == series.name);
            let place = known.unwrap_or_else(|| {
                names.push(&series.name);
                names.len() - 1
            });
            draw(&mut out, series, COLOURS[(colour + place) % COLOURS.len()], &x, &y);
        }
        for (place, name) in names.iter().enumerate() {
            let (ink, at) = (COLOURS[(colour + place) % COLOURS.len()], left + 14.0 + 128.0 * place as f64);
            text(&mut out, at, BOTTOM + 62.0, "start", &format!("font-weight=\"bold\" fill=\"{ink}\""), name);
        }
        colour += names.len();
    }
    legend(&mut out);
    out + "</svg>\n"
}

fn axes(
    out: &mut String,
    panel: &Panel,
    left: f64,
    sizes: &[f64],
    x: &impl Fn(f64) -> f64,
    (min, max): (i32, i32),
    y: &impl Fn(f64) -> f64,
) {
    let right = left + SPAN;
    text(out, left, TOP - 18.0, "start", "font-size=\"15\" font-weight=\"bold\"", &panel.title);
    for power in min..=max {
        let at = y(10_f64.powi(power));
        line(out, [left, at, right, at], "stroke-opacity=\"0.35\"");
        let label = match power {
            ..-3 => format!("{} µs", 10_f64.powi(power + 6)),
            -3..0 => format!("{} ms", 10_f64.powi(power + 3)),
            _ => format!("{} s", 10_f64.powi(power)),
        };
        text(out, left - 8.0, at + 4.5, "end", "", &label);
    }
    for &size in sizes {
        line(out, [x(size), BOTTOM, x(size), BOTTOM + 5.0], "");
        text(out, x(size), BOTTOM + 20.0, "middle", "", &size.to_string());
    }
    line(out, [left, BOTTOM, right, BOTTOM], "");
    line(out, [left, TOP, left, BOTTOM], "");
    text(out, (left + right) / 2.0, BOTTOM + 40.0, "middle", "", &panel.x);
    text(out, left + 8.0, TOP + 16.0, "start", "", "time of a step");
}

fn draw(out: &mut String, series: &Series, ink: &str, x: &impl Fn(f64) -> f64, y: &impl Fn(f64) -> f64) {
    let path: Vec<String> =
        series.points.iter().map(|point| format!("{:.1},{:.1}", x(point.at), y(point.predicted))).collect();
    let dashes = if series.threads == 1 { "" } else { " stroke-dasharray=\"5 4\"" };
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{ink}\" stroke-opacity=\"0.8\"{dashes}/>",
        path.join(" ")
    );
    for point in &series.points {
        mark(out, x(point.at), y(point.measured), series.threads, ink);
    }
}

/// Draws a disc for one thread, or a ring for two.
fn mark(out: &mut String, x: f64, y: f64, threads: usize, ink: &str) {
    let fill = if threads == 1 { ink } else { "none" };
    let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{fill}\" stroke=\"{ink}\"/>");
}

/// Explains discs, rings and lines.
fn legend(out: &mut String) {
    let y = HEIGHT - 40.0;
    for (place, threads) in [1, 2].into_iter().enumerate() {
        let x = LEFT[0] + 14.0 + 300.0 * place as f64;
        let plural = if threads == 1 { "" } else { "s" };
        mark(out, x, y - 4.5, threads, INK);
        text(out, x + 12.0, y, "start", "", &format!("measured, {threads} thread{plural}"));
        let dashes = if threads == 1 { "" } else { "stroke-dasharray=\"5 4\"" };
        line(out, [x + 155.0, y - 4.5, x + 185.0, y - 4.5], dashes);
        text(out, x + 193.0, y, "start", "", "predicted");
    }
    let what = "predicted: operations at the best rate that the series reaches, and bytes at the bandwidth of memory";
    text(out, LEFT[0] + 8.0, y + 24.0, "start", "", what);
}

fn line(out: &mut String, [x1, y1, x2, y2]: [f64; 4], more: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{INK}\" {more}/>"
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, more: &str, words: &str) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {more}>{words}</text>");
}
