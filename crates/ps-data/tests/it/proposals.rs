//! What an inspection proposes for the columns of a table, and what it warns of.

use crate::common::Folder;
use ps_data::{ColumnConfig, ColumnKind, DataConfig, Fill, Inspection, Separator, inspect};

/// Inspects a table with columns `x` and `y` whose cells are functions of the row.
fn inspected(rows: usize, x: impl Fn(usize) -> String, y: impl Fn(usize) -> String) -> Inspection {
    let folder = Folder::new();
    let rows = (0..rows).map(|row| format!("{};{}\n", x(row), y(row)));
    folder.write("file", format!("x;y\n{}", rows.collect::<String>()));
    let config =
        DataConfig { header: Some(true), separator: Some(Separator::Byte(b';')), ..DataConfig::new("") };
    inspect("csv:file", &config, folder.path()).unwrap()
}

/// What is proposed for a column with these cells, and the warnings.
fn proposed(rows: usize, x: impl Fn(usize) -> String) -> (ColumnConfig, Vec<String>) {
    let column = inspected(rows, x, |row| (row * row % 17).to_string()).columns.remove(0);
    (column.proposed, column.warnings)
}

#[test]
fn kinds_follow_from_the_cells() {
    let kind = |kind, fill| ColumnConfig { kind: Some(kind), fill, ..ColumnConfig::default() };
    let gap = |row: usize, text: String| if row == 3 { String::new() } else { text };
    assert_eq!(proposed(30, |row| format!("{}.5", row % 9)), (kind(ColumnKind::Number, None), vec![]));
    assert_eq!(
        proposed(30, |row| gap(row, (row % 9).to_string())).0,
        kind(ColumnKind::Number, Some(Fill::Median))
    );
    assert_eq!(
        proposed(30, |row| gap(row, format!("c{}", row % 9))).0,
        kind(ColumnKind::Category, Some(Fill::None))
    );
    let many = proposed(1000, |row| if row % 2 == 0 { "often".into() } else { format!("c{}", row % 400) }).0;
    assert_eq!((many.kind, many.min_count), (Some(ColumnKind::Category), Some(10)));
    assert_eq!(
        proposed(30, |_| String::new()),
        (kind(ColumnKind::Ignore, None), vec!["no cell has a value".into()])
    );
}

#[test]
fn dates_are_recognized_unless_they_can_be_read_in_two_ways() {
    let format = |day: usize, month: usize| format!("{day}/{month}/2024 7:05");
    let (column, _) = proposed(30, |row| format(row % 28 + 1, row % 12 + 1));
    assert_eq!((column.kind, column.format.as_deref()), (Some(ColumnKind::Date), Some("%d/%m/%Y %H:%M")));
    let (column, warnings) = proposed(30, |row| format(row % 12 + 1, row % 11 + 1));
    assert_eq!(column.kind, Some(ColumnKind::Ignore));
    assert_eq!(warnings, ["dates that can be read as `%d/%m/%Y %H:%M` or `%m/%d/%Y %H:%M`; set `format`"]);
}

#[test]
fn identifiers_and_markers_are_warned_of() {
    for (x, warning) in [
        (&(|row: usize| (1000 + row).to_string()) as &dyn Fn(usize) -> String, "numbers the rows"),
        (&|row| format!("person {row}"), "30 distinct strings in 30 cells"),
    ] {
        let (column, warnings) = proposed(30, x);
        assert_eq!(column.kind, Some(ColumnKind::Ignore));
        assert!(warnings.len() == 1 && warnings[0].contains(warning), "{warnings:?}");
    }
    let seen =
        inspected(40, |row| if row == 7 { "-".into() } else { row.to_string() }, |row| row.to_string());
    assert_eq!(seen.proposed.missing_values, ["-"]);
    let seen = inspected(40, |row| format!("{row},5"), |row| (row % 2).to_string());
    assert!(seen.proposed.has_decimal_commas);
    assert_eq!(seen.columns[0].proposed, ColumnKind::Number.into());
}

#[test]
fn columns_that_alone_predict_the_label_are_warned_of() {
    let warnings = |x: &dyn Fn(usize) -> String, y: &dyn Fn(usize) -> String| {
        let found = inspected(90, x, y).columns.remove(0).warnings;
        found.into_iter().find(|warning| warning.contains("predicts the label"))
    };
    let class = |row: usize| ["a", "b", "c"][row % 3].to_string();
    assert!(warnings(&|row| format!("code {}", row % 3), &class).is_some());
    // One number in ninety contradicts.
    assert!(
        warnings(&|row| if row == 5 { "code 0".into() } else { format!("code {}", row % 3) }, &class)
            .is_some()
    );
    assert!(warnings(&|row| format!("{}.{row}", row % 3), &class).unwrap().contains("a range of values"));
    assert!(
        warnings(&|row| format!("{}", 3 * row + 1), &|row| format!("{}", 5 * row))
            .unwrap()
            .contains("1.0000")
    );
    assert_eq!(warnings(&|row| format!("code {}", row % 4), &class), None);
    assert_eq!(warnings(&|row| format!("{}", row % 7), &|row| format!("{}", 5 * row)), None);
    // A column that is right as often as the most frequent class predicts nothing.
    assert_eq!(warnings(&|row| (row % 2).to_string(), &|row| (row / 89).to_string()), None);
}
