//! Fits text into a limited number of columns.

use console::measure_text_width;

/// Joins fields to a line, separated by two spaces, in at most `width` columns if possible.
///
/// Each field is a list of forms, longest first; an empty form omits the field. While the line is too long,
/// the next field in `order` takes its next form. A field that occurs twice in `order` can thus be
/// abbreviated early and omitted late.
pub fn fit(width: usize, fields: &[Vec<String>], order: &[usize]) -> String {
    let mut forms = vec![0; fields.len()];
    let line = |forms: &[usize]| {
        let chosen = fields.iter().zip(forms).filter_map(|(field, &form)| field.get(form));
        chosen.filter(|text| !text.is_empty()).map(String::as_str).collect::<Vec<_>>().join("  ")
    };
    for &field in order {
        if measure_text_width(&line(&forms)) <= width {
            break;
        }
        if forms[field] + 1 < fields[field].len() {
            forms[field] += 1;
        }
    }
    line(&forms)
}

/// Returns the end of `text` in at most `width` columns, after an ellipsis if it is truncated. The end of a
/// path or of a worker's name is more specific than its beginning.
pub fn clip_start(text: &str, width: usize) -> String {
    if measure_text_width(text) <= width {
        return text.into();
    }
    let starts = text.char_indices().map(|(start, _)| start);
    let fits = |&start: &usize| measure_text_width(&text[start..]) < width;
    starts.skip(1).find(fits).map_or_else(String::new, |start| format!("…{}", &text[start..]))
}

/// Breaks `text` into lines of at most `width` columns, between words. All lines but the first are indented.
/// A word that is too long for any line does not cause a break. Without a width, there is one line.
pub fn wrap(text: &str, width: Option<usize>, indent: usize) -> Vec<String> {
    let Some(width) = width.filter(|&width| measure_text_width(text) > width) else {
        return vec![text.into()];
    };
    let mut lines = vec![String::new()];
    let (mut used, mut is_empty) = (0, true);
    // Runs of spaces are part of the layout, so they are kept except where a line is broken.
    for word in text.split(' ') {
        let columns = measure_text_width(word);
        let line = lines.last_mut().expect("there is always a line");
        if is_empty || used + 1 + columns <= width || indent + columns > width {
            if !is_empty {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += columns;
        } else if !word.is_empty() {
            line.truncate(line.trim_end().len());
            lines.push(format!("{:indent$}{word}", ""));
            used = indent + columns;
        }
        is_empty = false;
    }
    lines
}

/// Wraps each of `lines`, with a hanging indent of `indent` columns.
pub fn hang(lines: &[String], width: Option<usize>, indent: usize) -> Vec<String> {
    lines.iter().flat_map(|line| wrap(line, width, indent)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_take_shorter_forms_in_the_order_given() {
        let field = |forms: &[&str]| forms.iter().map(|form| (*form).to_owned()).collect::<Vec<_>>();
        let fields =
            [field(&["loss 0.25"]), field(&["accuracy 97 %", "97 %", ""]), field(&["12 samples/s", ""])];
        let order = [2, 1, 1];
        for (width, wanted) in [
            (80, "loss 0.25  accuracy 97 %  12 samples/s"),
            (38, "loss 0.25  accuracy 97 %  12 samples/s"),
            (37, "loss 0.25  accuracy 97 %"),
            (23, "loss 0.25  97 %"),
            (14, "loss 0.25"),
            (5, "loss 0.25"),
        ] {
            assert_eq!(fit(width, &fields, &order), wanted, "{width}");
        }
    }

    #[test]
    fn clipped_texts_show_where_something_is_missing() {
        assert_eq!(clip_start("runs/digits-1", 13), "runs/digits-1");
        assert_eq!(clip_start("runs/digits-1", 9), "…digits-1");
    }

    #[test]
    fn words_stay_whole_and_layout_is_kept() {
        let text = "step size    rate fits: the loss fell by half";
        assert_eq!(wrap(text, None, 13), [text]);
        assert_eq!(wrap(text, Some(45), 13), [text]);
        assert_eq!(
            wrap(text, Some(30), 13),
            ["step size    rate fits: the", "             loss fell by half"]
        );
        assert_eq!(wrap("a abcdefghijkl b", Some(6), 2), ["a abcdefghijkl", "  b"]);
    }
}
