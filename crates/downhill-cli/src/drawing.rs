//! Draws images and curves with characters: a line contains two rows of pixels, or four of dots.

use ps_data::Image;
use ps_plot::number;

/// Maximum total width of images drawn side by side, in characters.
const WIDTH: usize = 100;
/// Maximum number of columns of an image; larger ones are thinned out.
const MAX_COLUMNS: usize = 32;

/// Draws images side by side, as many as fit on a line, each below its label. Pixels are row by row.
pub(crate) fn side_by_side(images: &[(Option<u8>, Vec<u8>)], image: Image) -> Vec<String> {
    let thin = image.width.div_ceil(MAX_COLUMNS).max(1);
    let (columns, rows) = (image.width / thin, image.height / thin);
    if columns == 0 || rows == 0 {
        return Vec::new();
    }
    let per_line = (WIDTH / (columns + 2)).max(1);
    let mut lines = Vec::new();
    for group in images.chunks(per_line) {
        let label = |label: Option<u8>| label.map_or_else(String::new, |label| label.to_string());
        let labels = group.iter().map(|(name, _)| format!("{:<columns$}", label(*name)));
        lines.push(labels.collect::<Vec<_>>().join("  ").trim_end().to_string());
        for row in (0..rows).step_by(2) {
            let parts = group.iter().map(|(_, pixels)| {
                let at = |row: usize, column: usize| {
                    let index = row * thin * image.width + column * thin;
                    if row < rows { pixels.get(index).copied().unwrap_or(0) } else { 0 }
                };
                (0..columns).map(|column| block(at(row, column), at(row + 1, column))).collect::<String>()
            });
            lines.push(parts.collect::<Vec<_>>().join("  ").trim_end().to_string());
        }
    }
    lines
}

/// Returns the character for an upper and a lower pixel: half blocks if they differ much, shades otherwise.
fn block(upper: u8, lower: u8) -> char {
    let (upper_set, lower_set) = (upper >= 128, lower >= 128);
    match (upper_set, lower_set) {
        (true, true) => '█',
        (true, false) => '▀',
        (false, true) => '▄',
        (false, false) => match upper.max(lower) {
            0..40 => ' ',
            40..85 => '░',
            _ => '▒',
        },
    }
}

/// Height of a curve, in characters.
const CURVE_ROWS: usize = 12;
/// Width of the margin with the values of a curve, in characters.
pub(crate) const CURVE_MARGIN: usize = 10;
/// Number of dots of a character, horizontally and vertically.
const DOTS: (usize, usize) = (2, 4);

/// Draws a curve through `points`, `width` characters wide without the margin, with its minimum and maximum
/// in the margin. `mark` is a position on the x axis and the label below it.
pub(crate) fn curve(points: &[(f64, f64)], mark: Option<(f64, String)>, width: usize) -> Vec<String> {
    let range = |value: fn(&(f64, f64)) -> f64| {
        let values = points.iter().map(value);
        let low = values.clone().fold(f64::INFINITY, f64::min);
        (low, (values.fold(f64::NEG_INFINITY, f64::max) - low).max(f64::MIN_POSITIVE))
    };
    let ((left, wide), (low, high)) = (range(|point| point.0), range(|point| point.1));
    let (columns, rows) = (width * DOTS.0, CURVE_ROWS * DOTS.1);
    let across = |x: f64| (x - left) / wide * (columns - 1) as f64;
    let down = |y: f64| (1.0 - (y - low) / high) * (rows - 1) as f64;
    let mut cells = vec![vec![0_u8; width]; CURVE_ROWS];
    for pair in points.windows(2) {
        let [from, to] = [pair[0], pair[1]].map(|(x, y)| (across(x), down(y)));
        let dots = (to.0 - from.0).abs().max((to.1 - from.1).abs()).ceil().max(1.0);
        for dot in 0..=dots as usize {
            let part = dot as f64 / dots;
            let at = |from: f64, to: f64| (from + (to - from) * part).round() as usize;
            let (column, row) = (at(from.0, to.0), at(from.1, to.1));
            // Dots 1, 2, 3 and 7 of a braille character are its left column; 4, 5, 6 and 8 are the right one.
            let bit = [[0, 1, 2, 6], [3, 4, 5, 7]][column % DOTS.0][row % DOTS.1];
            cells[row / DOTS.1][column / DOTS.0] |= 1 << bit;
        }
    }
    let mark = mark.map(|(x, text)| ((across(x).clamp(0.0, columns as f64 - 1.0)) as usize / DOTS.0, text));
    let mut lines: Vec<String> = (0..CURVE_ROWS)
        .map(|row| {
            let value = match row {
                0 => number(low + high),
                _ if row + 1 == CURVE_ROWS => number(low),
                _ => String::new(),
            };
            let cell = |(column, cell): (usize, &u8)| match cell {
                0 if mark.as_ref().is_some_and(|(marked, _)| *marked == column) => '│',
                0 => ' ',
                dots => char::from_u32(0x2800 + u32::from(*dots)).unwrap_or(' '),
            };
            let drawn: String = cells[row].iter().enumerate().map(cell).collect();
            format!("{value:>8} ┤{drawn}").trim_end().to_string()
        })
        .collect();
    if let Some((column, text)) = mark {
        let columns = text.chars().count();
        let before = (CURVE_MARGIN + column)
            .saturating_sub(columns / 2)
            .min(CURVE_MARGIN + width - columns.min(width));
        lines.push(format!("{:before$}{text}", ""));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_character_shows_two_pixels() {
        let image = Image { height: 3, width: 3 };
        let pixels = vec![255, 0, 255, 0, 255, 255, 255, 0, 60];
        assert_eq!(side_by_side(&[(Some(7), pixels)], image), ["7", "▀▄█", "▀ ░"]);
    }

    #[test]
    fn a_curve_goes_from_the_upper_left_to_the_lower_right_past_its_mark() {
        let points: Vec<(f64, f64)> = (0..=100).map(|x| (f64::from(x), 1.0 - f64::from(x) / 100.0)).collect();
        let lines = curve(&points, Some((75.0, "here".into())), 64);
        assert_eq!(lines.len(), CURVE_ROWS + 1);
        assert!(lines[0].starts_with("       1 ┤⠉") && lines[11].starts_with("       0 ┤"), "{lines:#?}");
        assert!(lines[0].ends_with('│') && lines[12].trim() == "here", "{lines:#?}");
        assert_eq!(lines[11].chars().count(), CURVE_MARGIN + 64);
    }
}
