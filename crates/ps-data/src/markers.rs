//! Strings that mark a missing value.

use std::collections::BTreeSet;

/// The strings that mark a CSV cell as missing by default, in addition to the empty string and NaN in any
/// case: the defaults of pandas, and `?`. Sorted in byte order.
pub const USUAL_MARKERS: [&str; 18] = [
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "?",
    "N/A", "NA", "NULL", "NaN", "None", "n/a", "null",
];

/// Decides which cells of a table are missing.
#[derive(Clone, Debug)]
pub(crate) struct Markers {
    /// The markers, sorted in byte order.
    texts: Vec<String>,
    /// Whether NaN, in any case, is a marker.
    has_nan: bool,
}

impl Markers {
    /// Creates the markers that a run file lists, or the default ones.
    pub(crate) fn new(listed: Option<&[String]>) -> Self {
        let Some(listed) = listed else {
            let texts = USUAL_MARKERS.map(String::from).to_vec();
            return Markers { texts, has_nan: true };
        };
        // Markers are trimmed because cells are.
        let mut texts: Vec<String> = listed.iter().map(|text| text.trim_ascii().to_string()).collect();
        texts.sort();
        Markers { texts, has_nan: false }
    }

    /// The strings that are markers, besides NaN.
    pub(crate) fn listed(&self) -> &[String] {
        &self.texts
    }

    /// All strings that mark a missing cell: the empty one, the listed ones, and NaN in every case if that is a
    /// marker.
    pub(crate) fn all(&self) -> BTreeSet<String> {
        let nans = (0..8_u8).filter(|_| self.has_nan).map(|upper| {
            let letter = |(at, letter): (usize, char)| match upper >> at & 1 {
                1 => letter.to_ascii_uppercase(),
                _ => letter,
            };
            "nan".chars().enumerate().map(letter).collect()
        });
        self.texts.iter().cloned().chain([String::new()]).chain(nans).collect()
    }

    /// Whether a cell with the trimmed string `text` is missing.
    pub(crate) fn contains(&self, text: &str) -> bool {
        text.is_empty()
            || self.has_nan && text.eq_ignore_ascii_case("nan")
            || self.texts.binary_search_by(|marker| marker.as_str().cmp(text)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_markers_are_found() {
        assert!(USUAL_MARKERS.is_sorted());
        let markers = Markers::new(None);
        for text in USUAL_MARKERS.into_iter().chain(["", "nan", "NAN"]) {
            assert!(markers.contains(text), "{text}");
        }
        let all = markers.all();
        assert!(all.iter().all(|text| markers.contains(text)), "{all:?}");
        // The usual ones, the empty string, and seven more ways to write NaN.
        assert_eq!(all.len(), USUAL_MARKERS.len() + 1 + 7, "{all:?}");
        for text in ["-", "na", "Null", "none", "0", "missing"] {
            assert!(!markers.contains(text), "{text}");
        }
    }
}
