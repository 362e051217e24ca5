//! Texts that stand for a missing value.

/// CSV cells that count as missing unless the run file lists others, besides empty cells and NaN in any case: the defaults of
/// pandas, and `?`. Sorted by bytes.
pub const USUAL_MARKERS: [&str; 18] = [
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "?",
    "N/A", "NA", "NULL", "NaN", "None", "n/a", "null",
];

/// Which cells of a table are missing.
#[derive(Clone, Debug)]
pub(crate) struct Markers {
    /// Sorted by bytes.
    texts: Vec<String>,
    /// Whether NaN in any case is one.
    has_nan: bool,
    /// Whether one of them is a number, such as -999.
    has_numbers: bool,
}

impl Markers {
    /// The markers that a run file lists, or the usual ones.
    pub(crate) fn new(listed: Option<&[String]>) -> Self {
        let Some(listed) = listed else {
            let texts = USUAL_MARKERS.map(String::from).to_vec();
            return Markers { texts, has_nan: true, has_numbers: false };
        };
        // Cells are trimmed as well.
        let mut texts: Vec<String> = listed.iter().map(|text| text.trim_ascii().to_string()).collect();
        texts.sort();
        let has_numbers = texts.iter().any(|text| text.parse::<f32>().is_ok_and(|number| !number.is_nan()));
        Markers { texts, has_nan: false, has_numbers }
    }

    /// Whether a number may be one of them.
    pub(crate) fn has_numbers(&self) -> bool {
        self.has_numbers
    }

    /// Whether a cell with `text`, free of surrounding blanks, is missing.
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
        for text in ["-", "na", "Null", "none", "0", "missing"] {
            assert!(!markers.contains(text), "{text}");
        }
    }
}
