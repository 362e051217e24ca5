//! Tables that fit a terminal.

use console::{Alignment, measure_text_width, pad_str};

/// A table with a line of headings. Columns are padded and separated by two spaces.
pub struct Table<'a> {
    /// Headings of the columns, from left to right.
    pub headings: &'a [&'a str],
    /// Cells of all rows, `[rows][columns]`.
    pub rows: Vec<Vec<String>>,
    /// Indices of columns with numbers, which are aligned to the right.
    pub right: &'a [usize],
    /// Steps that are applied one after the other while the table is too wide.
    pub narrowing: &'a [Narrow],
}

/// A step that makes a table narrower.
#[derive(Clone, Copy, Debug)]
pub enum Narrow {
    /// Omits the column with this index.
    Drop(usize),
    /// Shortens the cells of the column with this index to this width, with the given function.
    Shorten(usize, usize, fn(&str, usize) -> String),
}

impl Table<'_> {
    /// Formats the table in at most `width` columns, if its narrowing allows that; complete without one.
    pub fn lines(&self, width: Option<usize>) -> Vec<String> {
        let headings = self.headings.iter().map(|heading| Some((*heading).to_owned())).collect();
        let rows = self.rows.iter().map(|row| row.iter().cloned().map(Some).collect());
        // Cells of omitted columns are `None`.
        let mut rows: Vec<Vec<Option<String>>> = std::iter::once(headings).chain(rows).collect();
        for narrow in self.narrowing {
            let columns = widths(&rows).iter().flatten().map(|columns| columns + 2).sum::<usize>();
            if width.is_none_or(|width| columns.saturating_sub(2) <= width) {
                break;
            }
            for row in &mut rows {
                match *narrow {
                    Narrow::Drop(column) => row[column] = None,
                    Narrow::Shorten(column, most, shorten) => {
                        row[column] = row[column].as_deref().map(|cell| shorten(cell, most));
                    }
                }
            }
        }
        let widths = widths(&rows);
        rows.iter().map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[Option<String>], widths: &[Option<usize>]) -> String {
        let cells = row.iter().zip(widths).enumerate().filter_map(|(column, (cell, width))| {
            let side = if self.right.contains(&column) { Alignment::Right } else { Alignment::Left };
            Some(pad_str(cell.as_deref()?, (*width)?, side, None))
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

/// Returns the width of each column that was not omitted.
fn widths(rows: &[Vec<Option<String>>]) -> Vec<Option<usize>> {
    let columns = rows.first().map_or(0, Vec::len);
    let width =
        |column: usize| rows.iter().filter_map(|row| row[column].as_deref().map(measure_text_width)).max();
    (0..columns).map(width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clip_start;

    #[test]
    fn columns_are_left_out_and_shortened_until_the_table_fits() {
        let rows = [["runs/a-1", "1.25", "far away"], ["runs/b-10", "100.5", "near"]];
        let table = Table {
            headings: &["run", "loss", "where"],
            rows: rows.map(|row| row.map(str::to_owned).to_vec()).to_vec(),
            right: &[1],
            narrowing: &[Narrow::Drop(2), Narrow::Shorten(0, 5, clip_start)],
        };
        let complete = ["run         loss  where", "runs/a-1    1.25  far away", "runs/b-10  100.5  near"];
        assert_eq!(table.lines(None), complete);
        assert_eq!(table.lines(Some(26)), complete);
        assert_eq!(table.lines(Some(25)), ["run         loss", "runs/a-1    1.25", "runs/b-10  100.5"]);
        let narrowest = ["run     loss", "…/a-1   1.25", "…b-10  100.5"];
        assert_eq!(table.lines(Some(12)), narrowest);
        assert_eq!(table.lines(Some(3)), narrowest);
    }
}
