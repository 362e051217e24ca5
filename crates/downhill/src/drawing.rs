//! Images in a terminal, two rows of pixels to a line of characters.

use ps_data::Image;

/// Characters in which images are drawn side by side.
const WIDTH: usize = 100;
/// Larger images are thinned out to this many columns.
const MAX_COLUMNS: usize = 32;

/// The images side by side, as many as fit on a line, each under its label. Pixels are row by row.
pub fn sheet(images: &[(Option<u8>, Vec<u8>)], image: Image) -> Vec<String> {
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

/// The character for an upper and a lower pixel: half blocks where they differ much, shades elsewhere.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_character_shows_two_pixels() {
        let image = Image { height: 3, width: 3 };
        let pixels = vec![255, 0, 255, 0, 255, 255, 255, 0, 60];
        assert_eq!(sheet(&[(Some(7), pixels)], image), ["7", "▀▄█", "▀ ░"]);
    }
}
