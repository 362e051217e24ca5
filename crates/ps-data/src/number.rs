//! Parsing of numbers, and recognition of strings that are meant as numbers or as other known strings.

/// Parses a finite number, correctly rounded to binary32.
pub(crate) fn finite(text: &str) -> Result<f32, String> {
    check_finite(text, text.parse().ok())
}

/// Returns `value`, which was parsed from `text`, if it is a finite number.
pub(crate) fn check_finite(text: &str, value: Option<f32>) -> Result<f32, String> {
    match value {
        Some(value) if value.is_finite() => Ok(value),
        Some(value) if value.is_nan() => Err(format!("`{text}` is not a finite number")),
        Some(_) => Err(format!("`{text}` is infinite or too large for a 32-bit float")),
        None => Err(format!("expected a number, found `{text}`")),
    }
}

/// Separators between groups of digits.
const SEPARATORS: [char; 8] = [',', '.', ' ', '\'', '_', '\u{2019}', '\u{a0}', '\u{202f}'];

/// Whether `text` would be a number without its thousands separators, decimal comma or `%`.
pub(crate) fn resembles_number(text: &str) -> bool {
    let without_percent = text.strip_suffix('%').map(str::trim_end);
    let text = without_percent.unwrap_or(text);
    let is_number = |text: &str| text.parse::<f32>().is_ok_and(|number| !number.is_nan());
    without_percent.is_some_and(is_number)
        || is_number(&text.replacen(',', ".", 1))
        || has_grouped_digits(text)
}

/// Whether all strings are numbers with decimal commas or without a fraction, and at least one of the commas
/// cannot separate thousands.
pub(crate) fn have_decimal_commas<'a>(texts: impl IntoIterator<Item = &'a str> + Clone) -> bool {
    let is_number = |text: &str| {
        !text.contains('.') && text.replacen(',', ".", 1).parse::<f32>().is_ok_and(f32::is_finite)
    };
    let is_decimal = |text: &str| text.contains(',') && !has_grouped_digits(text);
    texts.clone().into_iter().all(is_number) && texts.into_iter().any(is_decimal)
}

/// Whether `text` has the form of `-1,234,567.8`, `1.234,5`, `1 234` or `1,00,000`.
fn has_grouped_digits(text: &str) -> bool {
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_grouped = |whole: &str, separator: char| {
        let whole = whole.strip_prefix(['+', '-']).unwrap_or(whole);
        let groups: Vec<&str> = whole.split(separator).collect();
        let [first, between @ .., last] = &groups[..] else { return false };
        (1..=3).contains(&first.len())
            && between.iter().all(|group| matches!(group.len(), 2 | 3))
            && last.len() == 3
            && groups.iter().all(|group| is_digits(group))
    };
    SEPARATORS.iter().any(|&separator| {
        is_grouped(text, separator)
            || ['.', ',']
                .iter()
                .filter(|&&point| point != separator)
                .filter_map(|&point| text.split_once(point))
                .any(|(whole, fraction)| is_digits(fraction) && is_grouped(whole, separator))
    })
}

/// Returns "; did you mean …" if some known string is similar.
pub(crate) fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let distance = |known: &str| strsim::damerau_levenshtein(text, known);
    match known.into_iter().min_by_key(|known| distance(known)) {
        Some(known) => format!("; did you mean `{known}`?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::resembles_number;

    #[test]
    fn formatted_numbers_are_recognised() {
        for text in [
            "1,200",
            "1,234,567",
            "-1,234.5",
            "12%",
            "12.5 %",
            "1,5%",
            "3,5",
            ",5",
            "-0,25",
            "1.234,5",
            "1.200.000",
            "1 200",
            "1'200",
            "1_000_000",
            "1\u{a0}200,75",
            "1,00,000",
            "2,5e3",
        ] {
            assert!(resembles_number(text), "{text}");
        }
        for text in [
            "",
            "%",
            ",",
            "-",
            "a",
            "1,2,3",
            "1,20,3000",
            "12:30",
            "2024-01-02",
            "10.0.0.1",
            "5 kg",
            "$1,200",
            "1,200a",
            "nan%",
            "3+",
            "1,,200",
            "é,5",
        ] {
            assert!(!resembles_number(text), "{text}");
        }
    }
}
