//! Numbers in text files, and texts that are meant to be others.

/// A finite number in binary32, correctly rounded from its decimal text.
pub(crate) fn finite(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(value) if value.is_nan() => Err(format!("`{text}` is not a finite number")),
        Ok(_) => Err(format!("`{text}` is infinite or too large for a 32-bit float")),
        Err(_) => Err(format!("`{text}` where a number was expected")),
    }
}

/// A CSV cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell {
    /// Empty, `?`, `NA` or `NaN`.
    Missing,
    Number(f32),
    /// A number that is infinite or beyond binary32.
    Infinite,
    Text,
}

impl Cell {
    /// What `text`, free of surrounding blanks, is.
    pub fn of(text: &str) -> Self {
        if matches!(text, "" | "?" | "NA") || text.eq_ignore_ascii_case("nan") {
            return Cell::Missing;
        }
        match text.parse::<f32>() {
            Ok(value) if value.is_finite() => Cell::Number(value),
            Ok(value) if value.is_infinite() => Cell::Infinite,
            _ => Cell::Text,
        }
    }
}

/// "; did you mean …", where some known text is near.
pub(crate) fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let distance = |known: &str| strsim::damerau_levenshtein(text, known);
    match known.into_iter().min_by_key(|known| distance(known)) {
        Some(known) => format!("; the nearest known is `{known}`"),
        None => String::new(),
    }
}
