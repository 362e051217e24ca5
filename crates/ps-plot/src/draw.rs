//! Draws panels with the plotters library.

use crate::Figure;
use crate::axis::{Axis, Scale, number};
use crate::clip::clip;
use crate::panel::{Amounts, Bars, Field, Image, Lines, Panel, Series, Style};
use crate::smooth::smooth;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{RGBColor, register_font};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::Range;
use std::sync::Once;

/// Colors that people with color vision deficiencies can distinguish (Okabe and Ito 2008).
const PALETTE: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(228, 228, 228);
const FONT: &str = "downhill";
/// Scale of bitmaps relative to the figure's size, for high-resolution screens.
const PIXELS: u32 = 2;
const TITLE: u32 = 34;
/// Number of bands of equal value in a field.
const BANDS: f64 = 24.0;
const FINE: usize = 8;
/// A noisy curve with at most this many points is drawn without smoothing, since every point is visible.
const FEW: usize = 150;
/// Maximum length of the name next to a bar, in characters.
const NAME: usize = 34;

type Chart<'a, DB> = ChartContext<'a, DB, Cartesian2d<Scale, Scale>>;

impl Ranged for Scale {
    type ValueType = f64;
    type FormatOption = NoDefaultFormatting;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.low) / (self.high - self.low);
        // The clamp keeps the result within the range of an integer.
        (f64::from(from) + f64::from(to - from) * share.clamp(-10.0, 10.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Light points are those between ticks, which have no grid lines.
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Scale {
    fn format(tick: &f64) -> String {
        number(*tick)
    }

    fn format_ext(&self, tick: &f64) -> String {
        self.text(*tick)
    }
}

/// Encodes a figure as PNG.
pub(crate) fn png(figure: &Figure) -> Result<Vec<u8>, String> {
    let (width, height) = size(figure, PIXELS);
    let mut pixels = vec![0; (width * height * 3) as usize];
    let backend = BitMapBackend::with_buffer(&mut pixels, (width, height));
    draw(figure, &backend.into_drawing_area(), PIXELS)?;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().map_err(text)?;
    writer.write_image_data(&pixels).map_err(text)?;
    writer.finish().map_err(text)?;
    Ok(bytes)
}

/// Formats a figure as SVG.
pub(crate) fn svg(figure: &Figure) -> Result<String, String> {
    let mut drawn = String::new();
    let backend = SVGBackend::with_string(&mut drawn, size(figure, 1));
    draw(figure, &backend.into_drawing_area(), 1)?;
    // An SVG file does not embed the font, so it names common ones instead.
    Ok(drawn.replace(&format!("font-family=\"{FONT}\""), "font-family=\"DejaVu Sans, Verdana, sans-serif\""))
}

fn size(figure: &Figure, unit: u32) -> (u32, u32) {
    let columns = figure.columns.max(1);
    let rows = figure.panels.len().div_ceil(columns).max(1);
    let (width, height) = figure.panel;
    (unit * width * columns as u32, unit * (height * rows as u32 + above(figure)))
}

/// Returns the height of the title, in pixels; 0 without one.
fn above(figure: &Figure) -> u32 {
    if figure.title.is_empty() { 0 } else { TITLE }
}

/// The sizes of lines, text and points.
#[derive(Clone, Copy)]
struct Brush {
    unit: u32,
    /// Whether lines are drawn segment by segment. In a bitmap, the joint of a line that turns back sharply
    /// would be a long spike.
    by_pieces: bool,
}

fn draw<DB: DrawingBackend>(figure: &Figure, root: &DrawingArea<DB, Shift>, unit: u32) -> Result<(), String> {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        // Registration fails only for data that is not a font, and this font is built in.
        let _ = register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
    });
    let brush = Brush { unit, by_pieces: unit > 1 };
    root.fill(&WHITE).map_err(text)?;
    let middle = (root.dim_in_pixel().0 as i32 / 2, brush.px(10));
    let title =
        Text::new(figure.title.clone(), middle, brush.font(16).pos(Pos::new(HPos::Center, VPos::Top)));
    root.draw(&title).map_err(text)?;
    let columns = figure.columns.max(1);
    let (_, below) = root.split_vertically(brush.px(above(figure) as i32) as u32);
    let areas = below.split_evenly((figure.panels.len().div_ceil(columns).max(1), columns));
    for (panel, area) in figure.panels.iter().zip(&areas) {
        match panel {
            Panel::Lines(lines) => brush.lines(lines, area)?,
            Panel::Field(field) => brush.field(field, area)?,
            Panel::Image(image) => brush.image(image, area)?,
            Panel::Bars(bars) => brush.bars(bars, area)?,
            Panel::Amounts(amounts) => brush.amounts(amounts, area)?,
        }
    }
    root.present().map_err(text)
}

impl Brush {
    fn px(self, length: i32) -> i32 {
        length * self.unit as i32
    }

    fn font(self, size: i32) -> TextStyle<'static> {
        (FONT, self.px(size)).into_text_style(&(1, 1)).color(&INK)
    }

    /// Draws a chart's grid, tick labels and axis labels.
    fn chart<'a, DB: DrawingBackend + 'a>(
        self,
        area: &'a DrawingArea<DB, Shift>,
        title: &str,
        (x_label, x): (&str, &Scale),
        (y_label, y): (&str, &Scale),
        grid: bool,
    ) -> Result<Chart<'a, DB>, String> {
        let mut builder = ChartBuilder::on(area);
        if !title.is_empty() {
            builder.caption(title, self.font(13));
        }
        let mut chart = builder
            .margin(self.px(8))
            .margin_right(self.px(18))
            .x_label_area_size(self.px(36))
            .y_label_area_size(self.px(58))
            .build_cartesian_2d(x.clone(), y.clone())
            .map_err(text)?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(x_label)
            .y_desc(y_label)
            .label_style(self.font(11))
            .axis_desc_style(self.font(12))
            .axis_style(INK.stroke_width(self.unit))
            .light_line_style(TRANSPARENT)
            .bold_line_style(
                if grid { GRID.to_rgba() } else { TRANSPARENT.to_rgba() }.stroke_width(self.unit),
            )
            .x_labels(12)
            .y_labels(12);
        mesh.draw().map_err(text)?;
        Ok(chart)
    }

    fn lines<DB: DrawingBackend>(self, lines: &Lines, area: &DrawingArea<DB, Shift>) -> Result<(), String> {
        let points = || lines.series.iter().flat_map(|series| &series.points);
        let marks = lines.marks.iter().map(|mark| mark.at);
        let x = lines.x.scale(points().map(|(x, _)| *x).chain(marks));
        let y = lines.y.scale(points().map(|(_, y)| *y));
        let mut chart = self.chart(area, &lines.title, (&lines.x.label, &x), (&lines.y.label, &y), true)?;
        for (index, mark) in lines.marks.iter().enumerate() {
            let Some(at) = lines.x.drawn(mark.at) else { continue };
            let color = color(mark.color);
            let line = [(at, y.low), (at, y.high)];
            chart
                .draw_series(DashedLineSeries::new(
                    line,
                    self.px(4) as u32,
                    self.px(3) as u32,
                    color.stroke_width(self.unit),
                ))
                .map_err(text)?;
            // Labels at the same height would overlap, so they are staggered.
            let high = y.high - (y.high - y.low) * (0.02 + 0.055 * (index % 6) as f64);
            let is_left = at < (x.low + x.high) / 2.0;
            let anchor = Pos::new(if is_left { HPos::Left } else { HPos::Right }, VPos::Top);
            let room = (x.high - x.low) * if is_left { 0.008 } else { -0.008 };
            let style = self.font(11).color(&color).pos(anchor);
            chart.draw_series([Text::new(mark.label.clone(), (at + room, high), style)]).map_err(text)?;
        }
        let drawn: Vec<Drawn> =
            lines.series.iter().flat_map(|series| drawn(series, &lines.x, &lines.y)).collect();
        let (behind, before): (Vec<&Drawn>, Vec<&Drawn>) =
            drawn.iter().partition(|curve| curve.style == Style::Faint);
        for curve in behind.into_iter().chain(before) {
            self.curve(&mut chart, &x, &y, curve)?;
        }
        if lines.series.iter().any(|series| !series.name.is_empty()) {
            chart
                .configure_series_labels()
                .position(emptiest_corner(lines, &x, &y))
                .legend_area_size(self.px(26))
                .margin(self.px(6))
                .background_style(WHITE.mix(0.85))
                .border_style(GRID)
                .label_font(self.font(11))
                .draw()
                .map_err(text)?;
        }
        Ok(())
    }

    fn curve<'a, DB: DrawingBackend + 'a>(
        self,
        chart: &mut Chart<'a, DB>,
        x: &Scale,
        y: &Scale,
        curve: &Drawn,
    ) -> Result<(), String> {
        let is_faint = curve.style == Style::Faint;
        // Opaque colors: where segments of a transparent line overlap, it would be darker.
        let color = if is_faint { lighten(color(curve.color)) } else { color(curve.color) };
        let stroke = color.stroke_width(if is_faint { self.unit } else { 2 * self.unit });
        let (across, up) = (x.low..=x.high, y.low..=y.high);
        let known =
            curve.points.split(Option::is_none).map(|piece| piece.iter().flatten().copied().collect());
        let pieces = known.flat_map(|piece: Vec<(f64, f64)>| match curve.style {
            Style::Dots => {
                let is_inside = |at: &(f64, f64)| across.contains(&at.0) && up.contains(&at.1);
                vec![piece.into_iter().filter(is_inside).collect()]
            }
            _ => clip(&piece, &across, &up),
        });
        let mut first = true;
        for piece in pieces.filter(|piece| !piece.is_empty()) {
            let piece = piece.into_iter();
            let (unit, name) = (self.px(1), curve.name);
            let drawn = match curve.style {
                Style::Dots => chart.draw_series(piece.map(|at| Circle::new(at, self.px(2), color.filled()))),
                Style::Dashed => {
                    let (dash, gap) = (self.px(6) as u32, self.px(4) as u32);
                    chart.draw_series(DashedLineSeries::new(piece, dash, gap, stroke))
                }
                _ if self.by_pieces => {
                    let points: Vec<(f64, f64)> = piece.collect();
                    if !is_faint {
                        let joints = points.iter().map(|at| Circle::new(*at, unit, color.filled()));
                        chart.draw_series(joints).map_err(text)?;
                    }
                    chart.draw_series(points.windows(2).map(|pair| PathElement::new(pair.to_vec(), stroke)))
                }
                _ => chart.draw_series(LineSeries::new(piece, stroke)),
            };
            let legend = drawn.map_err(text)?;
            if name.is_empty() || !first {
                continue;
            }
            first = false;
            let legend = legend.label(name);
            match curve.style {
                Style::Dots => {
                    legend.legend(move |(x, y)| Circle::new((x + 10 * unit, y), 2 * unit, color.filled()))
                }
                Style::Dashed => legend.legend(move |at| {
                    let dash =
                        |from: i32| PathElement::new([(from * unit, 0), ((from + 8) * unit, 0)], stroke);
                    EmptyElement::at(at) + dash(0) + dash(12)
                }),
                _ => legend.legend(move |(x, y)| PathElement::new([(x, y), (x + 20 * unit, y)], stroke)),
            };
        }
        Ok(())
    }

    fn field<DB: DrawingBackend>(self, field: &Field, area: &DrawingArea<DB, Shift>) -> Result<(), String> {
        let rows = field.values.len() / field.columns.max(1);
        if field.columns < 2 || rows < 2 {
            return Err("a field needs at least two rows and two columns".into());
        }
        let scale = |label: &str, [low, high]: [f64; 2]| Axis::linear(label).between(low, high, 0.0);
        let (x, y) = (scale(&field.x.0, field.x.1), scale(&field.y.0, field.y.1));
        let least =
            field.values.iter().copied().filter(|value| value.is_finite()).fold(f64::INFINITY, f64::min);
        // The square root makes small differences near the minimum as visible as large ones far from it.
        let height = |value: f64| (value - least).max(0.0).sqrt();
        let top =
            field.values.iter().copied().filter(|value| value.is_finite()).map(height).fold(0.0, f64::max);
        let at = |row: usize, column: usize| field.values[row * field.columns + column];
        let title = format!(
            "{}: loss {} (dark) to {} (bright)",
            field.title,
            number(least),
            number(least + top * top)
        );
        let mut chart = self.chart(area, &title, (&field.x.0, &x), (&field.y.0, &y), false)?;
        let (fine_columns, fine_rows) = ((field.columns - 1) * FINE, (rows - 1) * FINE);
        let cell = |index: usize, fine: usize, scale: &Scale| {
            scale.low + (scale.high - scale.low) * index as f64 / fine as f64
        };
        let mut cells = Vec::new();
        for row in 0..fine_rows {
            // Adjacent cells in the same band are drawn as one rectangle.
            let (mut begin, mut last) = (0, None);
            for column in 0..fine_columns {
                let place =
                    |index: usize| ((index / FINE), (index % FINE) as f64 / FINE as f64 + 0.5 / FINE as f64);
                let ((r, up), (c, right)) = (place(row), place(column));
                let low = at(r, c) * (1.0 - right) + at(r, c + 1) * right;
                let high = at(r + 1, c) * (1.0 - right) + at(r + 1, c + 1) * right;
                let share = height(low * (1.0 - up) + high * up) / top.max(f64::MIN_POSITIVE);
                let share = if share.is_finite() { (share * BANDS).floor() / BANDS } else { 1.0 };
                if let Some(before) = last.filter(|before| *before != share) {
                    cells.push((row, begin..column, before));
                    begin = column;
                }
                last = Some(share);
            }
            cells.extend(last.map(|share| (row, begin..fine_columns, share)));
        }
        let cells = cells.into_iter().map(|(row, columns, share)| {
            let corners = [
                (cell(columns.start, fine_columns, &x), cell(row, fine_rows, &y)),
                (cell(columns.end, fine_columns, &x), cell(row + 1, fine_rows, &y)),
            ];
            Rectangle::new(corners, valley(share).filled())
        });
        chart.draw_series(cells).map_err(text)?;
        let path: Vec<(f64, f64)> = field.path.iter().map(|(x, y, _)| (*x, *y)).collect();
        let stroke = WHITE.stroke_width(2 * self.unit);
        chart.draw_series(LineSeries::new(path.clone(), stroke)).map_err(text)?;
        let dots = path.iter().map(|at| Circle::new(*at, self.px(3), WHITE.filled()));
        chart.draw_series(dots).map_err(text)?;
        for (at_x, at_y, label) in field.path.iter().filter(|(_, _, label)| !label.is_empty()) {
            let is_left = *at_x < (x.low + x.high) / 2.0;
            let is_low = *at_y < (y.low + y.high) / 2.0;
            let vertical = if is_low { VPos::Bottom } else { VPos::Top };
            let anchor = Pos::new(if is_left { HPos::Left } else { HPos::Right }, vertical);
            let room = (x.high - x.low) * if is_left { 0.012 } else { -0.012 };
            let style = self.font(12).color(&WHITE).pos(anchor);
            let raised = at_y + (y.high - y.low) * if is_low { 0.015 } else { -0.015 };
            chart.draw_series([Text::new(label.clone(), (at_x + room, raised), style)]).map_err(text)?;
        }
        Ok(())
    }

    fn image<DB: DrawingBackend>(self, image: &Image, area: &DrawingArea<DB, Shift>) -> Result<(), String> {
        let rows = image.values.len() / image.width.max(1);
        let (wide, high) = area.dim_in_pixel();
        let middle = (wide as i32 / 2, self.px(8));
        let style = self.font(13).pos(Pos::new(HPos::Center, VPos::Top));
        area.draw(&Text::new(image.title.clone(), middle, style)).map_err(text)?;
        if rows == 0 {
            return Ok(());
        }
        let room = (wide as i32 - self.px(24), high as i32 - self.px(44));
        let side = (room.0 / image.width as i32).min(room.1 / rows as i32).max(1);
        let left = (wide as i32 - side * image.width as i32) / 2;
        let top = self.px(32);
        let most = image
            .values
            .iter()
            .map(|value| value.abs())
            .filter(|value| value.is_finite())
            .fold(0.0, f64::max);
        for (index, value) in image.values.iter().enumerate().take(rows * image.width) {
            let share = if most > 0.0 { value / most } else { 0.0 };
            let color = if image.is_signed { signed(share) } else { gray(share) };
            let (column, row) = ((index % image.width) as i32, (index / image.width) as i32);
            let corner = (left + column * side, top + row * side);
            let opposite = (corner.0 + side, corner.1 + side);
            area.draw(&Rectangle::new([corner, opposite], color.filled())).map_err(text)?;
        }
        let frame = [(left - 1, top - 1), (left + side * image.width as i32, top + side * rows as i32)];
        area.draw(&Rectangle::new(frame, INK.stroke_width(self.unit))).map_err(text)
    }

    fn bars<DB: DrawingBackend>(self, bars: &Bars, area: &DrawingArea<DB, Shift>) -> Result<(), String> {
        let heights = || bars.groups.iter().flat_map(|(_, _, heights)| heights).copied();
        // The legend is above the bars.
        let top = heights().fold(0.0, f64::max) * 1.15;
        let y = Axis::linear("").scale(heights().chain([0.0, top]));
        let names = bars.names.len() as f64;
        // With one or two groups, margins keep the bars from filling the whole panel.
        let beside = (3.0 - names).max(0.0) / 2.0;
        let mut x = Axis::linear("").between(-0.5 - beside, names - 0.5 + beside, 0.0);
        x.ticks.clear();
        let mut chart = self.chart(area, &bars.title, ("", &x), ("", &y), true)?;
        let width = 0.8 / bars.groups.len().max(1) as f64;
        for (place, (name, which, heights)) in bars.groups.iter().enumerate() {
            let color = color(*which);
            let left = |index: usize| index as f64 - 0.4 + width * place as f64;
            let drawn = heights.iter().enumerate().map(|(index, height)| {
                Rectangle::new([(left(index), 0.0), (left(index) + width * 0.92, *height)], color.filled())
            });
            let unit = self.px(1);
            let legend = chart.draw_series(drawn).map_err(text)?;
            legend.label(name.clone()).legend(move |(x, y)| {
                Rectangle::new([(x, y - 4 * unit), (x + 20 * unit, y + 4 * unit)], color.filled())
            });
        }
        let style = self.font(11).pos(Pos::new(HPos::Center, VPos::Top));
        let origin = y.low + (y.high - y.low) * 0.0;
        let words = bars.names.iter().enumerate().map(|(index, name)| {
            EmptyElement::at((index as f64, origin)) + Text::new(name.clone(), (0, self.px(8)), style.clone())
        });
        chart.draw_series(words).map_err(text)?;
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .legend_area_size(self.px(26))
            .background_style(WHITE.mix(0.85))
            .border_style(GRID)
            .label_font(self.font(11))
            .draw()
            .map_err(text)
    }

    fn amounts<DB: DrawingBackend>(
        self,
        amounts: &Amounts,
        area: &DrawingArea<DB, Shift>,
    ) -> Result<(), String> {
        let (wide, high) = area.dim_in_pixel();
        let names: Vec<String> = amounts.rows.iter().map(|(name, _)| cut(name)).collect();
        let style = self.font(11);
        let widths = names.iter().map(|name| area.estimate_text_size(name, &style).map(|size| size.0));
        let widest = widths.collect::<Result<Vec<u32>, _>>().map_err(text)?.into_iter().max().unwrap_or(0);
        let (left, right) = (widest as i32 + self.px(20), wide as i32 - self.px(18));
        let (top, bottom) = (self.px(32), high as i32 - self.px(30));
        let middle = ((left + right) / 2, self.px(8));
        let above = self.font(13).pos(Pos::new(HPos::Center, VPos::Top));
        area.draw(&Text::new(amounts.title.clone(), middle, above)).map_err(text)?;

        let values = amounts.rows.iter().map(|(_, amount)| *amount);
        let scale = Axis::linear("").scale(values.chain([0.0]));
        // The number next to a bar needs room on the side to which the bar points.
        let room = (scale.high - scale.low) * 0.16;
        let low =
            if amounts.rows.iter().any(|(_, amount)| *amount < 0.0) { scale.low - room } else { scale.low };
        let high =
            if amounts.rows.iter().any(|(_, amount)| *amount > 0.0) { scale.high + room } else { scale.high };
        let across =
            |value: f64| left + ((value - low) / (high - low) * f64::from(right - left)).round() as i32;
        for tick in scale.ticks.iter().filter(|tick| (low..=high).contains(*tick)) {
            let (at, is_zero) = (across(*tick), *tick == 0.0);
            let stroke = if is_zero { INK } else { GRID }.stroke_width(self.unit);
            area.draw(&PathElement::new([(at, top), (at, bottom)], stroke)).map_err(text)?;
            let below = self.font(11).pos(Pos::new(HPos::Center, VPos::Top));
            area.draw(&Text::new(scale.text(*tick), (at, bottom + self.px(6)), below)).map_err(text)?;
        }
        let pitch = f64::from(bottom - top) / names.len().max(1) as f64;
        let thick = (pitch * 0.35).clamp(1.0, f64::from(self.px(9)));
        for (row, (name, (_, amount))) in names.iter().zip(&amounts.rows).enumerate() {
            let center = f64::from(top) + pitch * (row as f64 + 0.5);
            let level = |offset: f64| (center + offset).round() as i32;
            let anchor = |side| self.font(11).pos(Pos::new(side, VPos::Center));
            let beside = (left - self.px(8), level(0.0));
            area.draw(&Text::new(name.as_str(), beside, anchor(HPos::Right))).map_err(text)?;
            if !amount.is_finite() {
                continue;
            }
            let color = color(usize::from(*amount < 0.0));
            let corners = [(across(0.0), level(-thick)), (across(*amount), level(thick))];
            area.draw(&Rectangle::new(corners, color.filled())).map_err(text)?;
            let (side, gap) =
                if *amount < 0.0 { (HPos::Right, -self.px(5)) } else { (HPos::Left, self.px(5)) };
            let number = Text::new(number(*amount), (across(*amount) + gap, level(0.0)), anchor(side));
            area.draw(&number).map_err(text)?;
        }
        Ok(())
    }
}

/// A curve in drawing units.
struct Drawn<'a> {
    name: &'a str,
    color: usize,
    style: Style,
    points: Vec<Option<(f64, f64)>>,
}

/// Returns the curves that are drawn for a series.
fn drawn<'a>(series: &'a Series, x: &Axis, y: &Axis) -> Vec<Drawn<'a>> {
    let Series { name, color, style, points } = series;
    let points = points.iter().map(|(across, up)| Some((x.drawn(*across)?, y.drawn(*up)?))).collect();
    let curve = |name: &'a str, style, points| Drawn { name, color: *color, style, points };
    match style {
        Style::Noisy if series.points.len() <= FEW => vec![curve(name, Style::Solid, points)],
        Style::Noisy => {
            let trend = smooth(&points);
            vec![curve("", Style::Faint, points), curve(name, Style::Solid, trend)]
        }
        _ => vec![curve(name, *style, points)],
    }
}

/// Truncates a name to [`NAME`] characters.
fn cut(name: &str) -> String {
    match name.char_indices().nth(NAME) {
        None => name.into(),
        Some(_) => name.chars().take(NAME - 1).chain(['…']).collect(),
    }
}

/// Size of the grid that measures how much of the curves a legend would hide, in cells.
const CELLS: (f64, f64) = (60.0, 40.0);
/// Size of a mark's label, as a share of the plot's width and height.
const LABEL: (f64, f64) = (0.15, 0.08);

/// Returns the position at which the legend hides the shortest length of curves. Counting points would be
/// misleading, because there are few of them where a loss falls quickly.
fn emptiest_corner(lines: &Lines, x: &Scale, y: &Scale) -> SeriesLabelPosition {
    let cell = |across: f64, up: f64| ((across * CELLS.0) as i32, (up * CELLS.1) as i32);
    let share = |at: f64, scale: &Scale| (at - scale.low) / (scale.high - scale.low);
    let mut cells = BTreeSet::new();
    for series in &lines.series {
        let place = |&(across, up): &(f64, f64)| {
            let at = (share(lines.x.drawn(across)?, x), share(lines.y.drawn(up)?, y));
            Some(at).filter(|at| (-0.1..1.1).contains(&at.0) && (-0.1..1.1).contains(&at.1))
        };
        let mut before = None;
        for at in series.points.iter().map(place) {
            let Some(at) = at else {
                before = None;
                continue;
            };
            let from = before.filter(|_| series.style != Style::Dots).unwrap_or(at);
            let (right, up) = (at.0 - from.0, at.1 - from.1);
            let pieces = (right.abs() * CELLS.0).max(up.abs() * CELLS.1).ceil().max(1.0);
            cells.extend((0..=pieces as u32).map(|piece| {
                let part = f64::from(piece) / pieces;
                cell(from.0 + part * right, from.1 + part * up)
            }));
            before = Some(at);
        }
    }
    for mark in lines.marks.iter().filter(|mark| !mark.label.is_empty()) {
        let Some(at) = lines.x.drawn(mark.at).map(|at| share(at, x)) else { continue };
        let begin = if at < 0.5 { at } else { at - LABEL.0 };
        let (left, bottom) = cell(begin, 1.0 - LABEL.1);
        let (right, top) = cell(begin + LABEL.0, 1.0);
        cells.extend((left..right).flat_map(|across| (bottom..top).map(move |up| (across, up))));
    }
    use SeriesLabelPosition::*;
    // In a tie, corners are preferred to edges, and edges to the middle.
    let at = [
        (UpperRight, 2, 2),
        (LowerRight, 2, 0),
        (UpperLeft, 0, 2),
        (LowerLeft, 0, 0),
        (MiddleRight, 2, 1),
        (MiddleLeft, 0, 1),
        (UpperMiddle, 1, 2),
        (LowerMiddle, 1, 0),
        (MiddleMiddle, 1, 1),
    ];
    let third = |share: f64, third: usize, size: f64| match third {
        0 => share < size,
        1 => (share - 0.5).abs() < size / 2.0,
        _ => share > 1.0 - size,
    };
    let hidden = |column: usize, row: usize| {
        let within = |&&(across, up): &&(i32, i32)| {
            let [across, up] =
                [(across, CELLS.0), (up, CELLS.1)].map(|(cell, of)| (f64::from(cell) + 0.5) / of);
            third(across, column, 0.4) && third(up, row, 0.3)
        };
        cells.iter().filter(within).count()
    };
    let counted = at.into_iter().map(|(position, column, row)| (position, hidden(column, row)));
    counted.min_by_key(|(_, hidden)| *hidden).map_or(UpperRight, |(position, _)| position)
}

fn lighten(RGBColor(red, green, blue): RGBColor) -> RGBColor {
    let [red, green, blue] = [red, green, blue].map(|channel| 255 - (255 - channel) / 3);
    RGBColor(red, green, blue)
}

fn color(index: usize) -> RGBColor {
    PALETTE[index % PALETTE.len()]
}

/// A color map from dark blue via purple and orange to pale yellow, similar to matplotlib's inferno.
fn valley(share: f64) -> RGBColor {
    const STOPS: [[f64; 3]; 6] = [
        [8.0, 8.0, 48.0],
        [66.0, 18.0, 104.0],
        [140.0, 41.0, 99.0],
        [207.0, 68.0, 70.0],
        [246.0, 132.0, 30.0],
        [252.0, 222.0, 150.0],
    ];
    blend(&STOPS, share)
}

/// A color map with red below 0, white at 0, and blue above.
fn signed(share: f64) -> RGBColor {
    blend(&[[178.0, 24.0, 43.0], [255.0, 255.0, 255.0], [33.0, 102.0, 172.0]], (share + 1.0) / 2.0)
}

fn gray(share: f64) -> RGBColor {
    blend(&[[255.0; 3], [0.0; 3]], share)
}

fn blend(stops: &[[f64; 3]], share: f64) -> RGBColor {
    let place = share.clamp(0.0, 1.0) * (stops.len() - 1) as f64;
    let index = (place as usize).min(stops.len() - 2);
    let part = place - index as f64;
    let mix =
        |channel: usize| (stops[index][channel] * (1.0 - part) + stops[index + 1][channel] * part) as u8;
    RGBColor(mix(0), mix(1), mix(2))
}

fn text(error: impl Display) -> String {
    error.to_string()
}
