//! JSON Lines: an object for each row.

use crate::blocks::Kept;
use crate::dialect::Separator;
use crate::encoding::columns::Columns;
use crate::error::DataError;
use crate::table::{BLOCK_TOO_LARGE, Column, Strings, Table};
use crate::unknown::NewData;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Parses the rows in `text`, the first of which is on the line `line`, to a table with the columns of the model.
/// Also returns the values of the columns `keep`, and the names of columns that are neither used nor kept.
pub(crate) fn parse(
    columns: &Columns,
    location: &str,
    text: &str,
    line: u64,
    keep: &[String],
    new: NewData,
) -> Result<(Table, Vec<Kept>, Vec<String>), DataError> {
    let header: Vec<String> = columns.names().map(String::from).collect();
    let mut cells = vec![Strings::default(); header.len()];
    let mut kept: Vec<Kept> = keep.iter().map(|_| Kept { cells: Vec::new(), are_json: true }).collect();
    let (mut lines, mut unknown) = (Vec::new(), Vec::new());
    for (number, text) in (line..).zip(text.lines()).filter(|(_, text)| !text.trim_ascii().is_empty()) {
        let bad = |problem: String| DataError::content(format!("{location}:{number}"), problem);
        // The raw text of each value: a number must be rounded once, to binary32, like a cell of a CSV file.
        let object: BTreeMap<String, &RawValue> = serde_json::from_str(text)
            .map_err(|error| bad(format!("the line is not a JSON object: {error}")))?;
        for (strings, name) in cells.iter_mut().zip(&header) {
            let value = object
                .get(name)
                .ok_or_else(|| bad(format!("column `{name}`, which the training data has, is missing")))?;
            let cell = cell(value.get()).map_err(|problem| bad(format!("column `{name}`: {problem}")))?;
            if !strings.push(&cell) {
                return Err(bad(BLOCK_TOO_LARGE.into()));
            }
        }
        for (kept, name) in kept.iter_mut().zip(keep) {
            let value = object.get(name);
            let value =
                value.ok_or_else(|| bad(format!("column `{name}`, which is to be kept, is missing")))?;
            kept.cells.push(value.get().to_owned());
        }
        for name in object.keys().filter(|name| !columns.knows(name) && !keep.contains(name)) {
            if !new.tolerance().columns && !columns.ignores_others() {
                return Err(bad(format!("column `{name}` does not occur in the training data")));
            }
            if !unknown.contains(name) {
                unknown.push(name.clone());
            }
        }
        lines.push(number);
    }
    let table = Table {
        location: location.into(),
        header,
        columns: cells.into_iter().map(Column::String).collect(),
        syntax: columns.dialect().json_syntax(),
        lines,
        first_line: line,
        separator: Separator::Byte(b','),
        notes: Vec::new(),
    };
    if columns.ignores_others() {
        unknown.clear();
    }
    Ok((table, kept, unknown))
}

/// The text of a cell with this JSON value. `null` is a missing cell.
fn cell(value: &str) -> Result<String, String> {
    match value.bytes().next() {
        Some(b'"') => serde_json::from_str(value).map_err(|error| error.to_string()),
        Some(b'{' | b'[') => Err(format!("expected a number or a string, found `{value}`")),
        _ if value == "null" => Ok(String::new()),
        _ => Ok(value.to_owned()),
    }
}
