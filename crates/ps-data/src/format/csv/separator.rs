//! Finds the separator of a file, and the comments at its beginning.

use super::quotes;
use crate::dialect::{Decimal, Separator};
use std::ops::Range;

/// The separators that are considered if the run file names none, in order of preference.
const CANDIDATES: [u8; 4] = [b',', b';', b'\t', b'|'];

/// Number of rows, from the first one on, that determine the separator.
const ROWS: usize = 100;

/// Finds the separator of `bytes`.
///
/// A separator fits if it cuts each of the first [`ROWS`] rows into the same number of cells, at least two.
/// The only one that fits is the separator. If none fits, it is the one that cuts the first row into the most
/// cells, so that the error about the rows that differ is about that separator.
///
/// # Errors
/// Returns a description of the candidates if several fit.
pub(super) fn find(bytes: &[u8], decimal: Decimal) -> Result<Separator, String> {
    let candidates = CANDIDATES.into_iter().filter(|&byte| decimal == Decimal::Point || byte != b',');
    let shapes: Vec<(u8, Shape)> = candidates.map(|byte| (byte, Shape::of(bytes, byte))).collect();
    let mut fitting: Vec<(Separator, usize)> = shapes
        .iter()
        .filter(|(_, shape)| shape.is_even)
        .map(|&(byte, ref shape)| (Separator::Byte(byte), shape.width))
        .collect();
    // Blanks are common within the cells of other files, but separate the cells of a file with tabs only if
    // they lead to another number of cells.
    let is_cut = |&(byte, ref shape): &(u8, Shape)| byte != b'\t' && shape.width > 1;
    if !shapes.iter().any(is_cut) {
        let blanks = Shape::of(&without_runs(bytes, ROWS), b'\t');
        let has_other_cells = |&(_, width): &(Separator, usize)| width != blanks.width;
        if blanks.is_even && fitting.iter().all(has_other_cells) {
            fitting.push((Separator::Blanks, blanks.width));
        }
    }
    match fitting[..] {
        [(separator, _)] => Ok(separator),
        [] => {
            let widest = shapes.iter().rev().max_by_key(|(_, shape)| shape.width);
            Ok(Separator::Byte(widest.map_or(b',', |(byte, _)| *byte)))
        }
        _ => {
            let described = |(separator, width): &(Separator, usize)| {
                format!(
                    "{} (`data.separator = {:?}`, {width} columns)",
                    separator.described(),
                    separator.to_string()
                )
            };
            Err(fitting.iter().map(described).collect::<Vec<_>>().join(" or "))
        }
    }
}

/// How a separator cuts the first rows of a file.
struct Shape {
    /// Number of cells in the first row.
    width: usize,
    /// Whether there are several cells in each row, and as many as in the first one.
    is_even: bool,
}

impl Shape {
    fn of(bytes: &[u8], separator: u8) -> Self {
        let bytes = &bytes[comments(bytes, separator).0..];
        let mut reader = rows(bytes, separator);
        let (mut record, mut width, mut count) = (csv::ByteRecord::new(), 0, 0);
        let mut is_even = true;
        while count < ROWS && reader.read_byte_record(&mut record).unwrap_or(false) {
            if count == 0 {
                width = record.len();
            }
            is_even &= record.len() == width || is_comment(record.get(0), record.len());
            count += 1;
        }
        let end = (reader.position().byte() as usize).min(bytes.len());
        let is_even = is_even && width > 1 && quotes::check(&bytes[..end], separator).is_ok();
        Shape { width, is_even }
    }
}

/// Whether a row below the first is a comment: a single cell that begins with `#`.
pub(super) fn is_comment(first: Option<&[u8]>, cells: usize) -> bool {
    cells == 1 && first.is_some_and(|cell| cell.trim_ascii_start().starts_with(b"#"))
}

/// The number of bytes and lines that the comments at the beginning of `bytes` take.
///
/// Comments begin with `#`, `%` or `|`. Such lines directly above the first line that begins otherwise are
/// rows if they have as many cells as that line.
pub(super) fn comments(bytes: &[u8], separator: u8) -> (usize, u64) {
    let cells = |bytes: &[u8]| {
        let mut record = csv::ByteRecord::new();
        rows(bytes, separator).read_byte_record(&mut record).map_or(0, |_| record.len())
    };
    // The lines that begin like comments.
    let mut head: Vec<Range<usize>> = Vec::new();
    let mut end = 0;
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n');
    let first = lines.find_map(|line| {
        let range = end..end + line.len();
        end = range.end;
        match line.first() {
            Some(b'#' | b'%' | b'|') => head.push(range),
            Some(b'\n' | b'\r') => {}
            _ => return Some(range.start),
        }
        None
    });
    let (Some(first), false) = (first, head.is_empty()) else { return (0, 0) };
    let width = cells(&bytes[first..]);
    let is_row = |line: &&Range<usize>| cells(&bytes[(*line).clone()]) == width;
    let rows = head.iter().rev().take_while(is_row).count();
    match head.get(head.len() - rows) {
        Some(row) => (row.start, (head.len() - rows) as u64),
        None => (first, head.len() as u64),
    }
}

/// Reads rows of any number of cells.
pub(super) fn rows(bytes: &[u8], separator: u8) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new().has_headers(false).flexible(true).delimiter(separator).from_reader(bytes)
}

/// Replaces each run of spaces and tabs outside quotes by one tab, and removes those at the ends of lines.
/// Lines stay where they are. Stops after `max_rows` lines that are neither empty nor comments.
pub(super) fn without_runs(bytes: &[u8], max_rows: usize) -> Vec<u8> {
    /// The position of a byte in its line.
    enum State {
        Start,
        Blank,
        Plain,
        Quoted,
        /// After a quote in a quoted cell, which closes the cell unless another quote follows.
        Quote,
    }
    let mut out = Vec::with_capacity(bytes.len().min(1 << 16));
    let (mut state, mut rows) = (State::Start, 0);
    let mut is_row = false;
    for &byte in bytes {
        state = match (state, byte) {
            (State::Quoted, b'"') => State::Quote,
            (State::Quoted, _) => State::Quoted,
            (_, b'\r' | b'\n') => {
                rows += usize::from(is_row);
                is_row = false;
                State::Start
            }
            (State::Start, b' ' | b'\t') => State::Start,
            (_, b' ' | b'\t') => State::Blank,
            (state, _) => {
                is_row |= !(matches!(state, State::Start) && b"#%|".contains(&byte));
                if matches!(state, State::Blank) {
                    out.push(b'\t');
                }
                match (state, byte) {
                    (State::Start | State::Blank | State::Quote, b'"') => State::Quoted,
                    _ => State::Plain,
                }
            }
        };
        let is_removed = match state {
            State::Blank => true,
            State::Start => matches!(byte, b' ' | b'\t'),
            State::Plain | State::Quoted | State::Quote => false,
        };
        if !is_removed {
            out.push(byte);
        }
        if rows == max_rows {
            break;
        }
    }
    out
}
