//! Reads rows of new data in blocks, so that their number does not matter for memory.

use crate::encoder::Encoder;
use crate::error::DataError;
use crate::format::csv;
use crate::json_lines;
use crate::raw::Raw;
use crate::split::Split;
use crate::unknown::{NewData, Unknown};
use std::io::Read;

/// Number of bytes of a block, unless its rows are long.
const SIZE: usize = 1 << 20;
/// A block has at least about this number of rows, so that work for each column of a block does not matter.
const ROWS: usize = 256;
/// Number of bytes that are read at a time.
const READ: usize = 1 << 16;
/// Maximum length of a row. A longer one is a mistake, such as a quote that is never closed.
const MAX_ROW: usize = 64 << 20;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFormat {
    /// A CSV file.
    Csv,
    /// A JSON object in each line, whose keys are the names of columns.
    JsonLines,
}

/// Reads the rows of a file in blocks, and encodes them.
pub struct RowBlocks<R> {
    encoder: Encoder,
    new: NewData,
    keep: Vec<String>,
    location: String,
    input: R,
    rows: Rows,
    /// What has been read and belongs to no part yet.
    rest: Vec<u8>,
    is_at_end: bool,
    /// The line on which `rest` begins.
    line: u64,
    /// Parts that are encoded next, last to first.
    parts: Vec<Part>,
    unknown: Unknown,
}

/// Some rows: the bytes and the line on which they begin.
struct Part {
    bytes: Vec<u8>,
    line: u64,
}

/// What parses rows.
enum Rows {
    Csv(csv::Parts),
    JsonLines,
}

/// Rows that are encoded.
pub struct Block {
    /// The encoded rows, without targets.
    pub split: Split,
    /// The columns to keep, in the order in which they were requested.
    pub kept: Vec<Kept>,
}

/// The cells of a column that is passed through.
pub struct Kept {
    /// By row, the trimmed string, or the value as JSON.
    pub cells: Vec<String>,
    /// Whether the cells are JSON.
    pub are_json: bool,
}

impl<R: Read> RowBlocks<R> {
    /// Begins to read `input`, which error messages call `location`. Blocks contain the cells of the columns
    /// `keep`, whether the model uses them or not.
    ///
    /// # Errors
    /// The model was not trained on a table; the input cannot be read; or a CSV file lacks a column.
    pub fn new(
        encoder: Encoder,
        input: R,
        location: &str,
        format: RowFormat,
        keep: Vec<String>,
        new: NewData,
    ) -> Result<Self, DataError> {
        let Some((columns, options)) = encoder.table(new) else {
            let problem = "the model was not trained on a table, so it cannot read rows";
            return Err(DataError::unfit(location, problem));
        };
        let mut blocks = RowBlocks {
            new,
            keep,
            location: location.into(),
            input,
            rows: Rows::JsonLines,
            rest: Vec::new(),
            is_at_end: false,
            line: 1,
            parts: Vec::new(),
            unknown: Unknown::default(),
            encoder: encoder.clone(),
        };
        if format == RowFormat::JsonLines {
            return Ok(blocks);
        }
        let mut size = SIZE;
        let (parts, head, header) = loop {
            blocks.fill(size)?;
            let end = match blocks.is_at_end {
                true => Some(blocks.rest.len()),
                false => blocks.rest.iter().rposition(|&byte| byte == b'\n').map(|last| last + 1),
            };
            if let Some(end) = end {
                break csv::Parts::begin(location, &blocks.rest[..end], options)?;
            }
            size = blocks.longer(size)?;
        };
        if let Some(name) = blocks.keep.iter().find(|name| head.column(name).is_none()) {
            let problem = format!("column `{name}`, which is to be kept, is missing");
            return Err(DataError::content(head.first_location(), problem));
        }
        columns.check_header(&blocks.without_kept(head), new.tolerance())?;
        blocks.line += csv::lines(&blocks.rest[..header]);
        blocks.rest.drain(..header);
        blocks.rows = Rows::Csv(parts);
        Ok(blocks)
    }

    /// Reads and encodes the next rows; `None` at the end.
    ///
    /// # Errors
    /// A row is invalid. All rows before it have been returned.
    pub fn next_block(&mut self) -> Result<Option<Block>, DataError> {
        loop {
            let part = match self.parts.pop() {
                Some(part) => part,
                None => match self.read_part()? {
                    Some(part) => part,
                    None => return Ok(None),
                },
            };
            if part.bytes.trim_ascii().is_empty() {
                continue;
            }
            match self.encode(&part) {
                Ok(Some(block)) => return Ok(Some(block)),
                Ok(None) => {}
                // The rows before the first invalid one are found by halving.
                Err(error) => match self.halves(part) {
                    // A stack: the first half comes next, so that the order of the rows is kept.
                    Some([first, second]) => self.parts.extend([second, first]),
                    None => return Err(error),
                },
            }
        }
    }

    /// What the user should know about the rows so far.
    pub fn notes(&self) -> Vec<String> {
        let notes = match &self.rows {
            Rows::Csv(parts) => parts.notes.clone(),
            Rows::JsonLines => Vec::new(),
        };
        [notes, self.unknown.notes(&self.location)].concat()
    }

    /// Reads until `rest` has `size` bytes or the input ends.
    fn fill(&mut self, size: usize) -> Result<(), DataError> {
        while self.rest.len() < size && !self.is_at_end {
            let length = self.rest.len();
            self.rest.resize(length + READ, 0);
            let read = self.input.read(&mut self.rest[length..]);
            self.rest.truncate(length + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => self.is_at_end = true,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(DataError::File { path: self.location.clone().into(), error }),
            }
        }
        Ok(())
    }

    /// Returns a larger size for `rest`, in which no row ends.
    fn longer(&self, size: usize) -> Result<usize, DataError> {
        match size < MAX_ROW {
            true => Ok(2 * size),
            false => Err(DataError::content(
                format!("{}:{}", self.location, self.line),
                format!("a row is longer than {}; is a quote never closed?", ps_host::bytes(MAX_ROW as u128)),
            )),
        }
    }

    fn read_part(&mut self) -> Result<Option<Part>, DataError> {
        let mut size = match &self.rows {
            Rows::Csv(parts) => SIZE.max(ROWS * parts.header_length()),
            Rows::JsonLines => SIZE,
        };
        loop {
            self.fill(size)?;
            let end = match self.is_at_end {
                true => Some(self.rest.len()),
                false => self.row_ends(&self.rest).last(),
            };
            match end {
                Some(0) => return Ok(None),
                Some(end) => {
                    let later = self.rest.split_off(end);
                    let bytes = std::mem::replace(&mut self.rest, later);
                    let line = self.line;
                    self.line += csv::lines(&bytes);
                    return Ok(Some(Part { bytes, line }));
                }
                None => size = self.longer(size)?,
            }
        }
    }

    /// The positions at which rows end.
    fn row_ends<'a>(&self, bytes: &'a [u8]) -> Box<dyn Iterator<Item = usize> + 'a> {
        match &self.rows {
            Rows::Csv(parts) => Box::new(parts.row_ends(bytes)),
            Rows::JsonLines => {
                let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
                Box::new(ends.map(|(index, _)| index + 1))
            }
        }
    }

    /// Cuts a part at the end of a row near its middle; `None` if it has a single row.
    fn halves(&self, Part { mut bytes, line }: Part) -> Option<[Part; 2]> {
        let (middle, length) = (bytes.len() / 2, bytes.len());
        let is_inside = |end: &usize| !bytes[*end..].trim_ascii().is_empty();
        let before = self.row_ends(&bytes).take_while(|&end| end <= middle).last();
        let end = before.or_else(|| self.row_ends(&bytes).find(|&end| end > middle && end < length));
        let end = end.filter(is_inside)?;
        let second = bytes.split_off(end);
        let second = Part { line: line + csv::lines(&bytes), bytes: second };
        Some([Part { bytes, line }, second])
    }

    fn encode(&mut self, part: &Part) -> Result<Option<Block>, DataError> {
        let (table, kept, columns) = match &self.rows {
            Rows::Csv(parts) => {
                let table = parts.parse(&part.bytes, part.line)?;
                let kept =
                    self.keep.iter().map(|name| table.column(name).map(|column| table.strings(column)));
                let cells = |strings: &crate::table::Strings| {
                    (0..table.rows()).map(|row| strings.get(row).to_owned()).collect()
                };
                let kept = kept.map(|strings| strings.map_or_else(Vec::new, cells));
                let kept = kept.map(|cells| Kept { cells, are_json: false }).collect();
                (self.without_kept(table), kept, Vec::new())
            }
            Rows::JsonLines => {
                let text = str::from_utf8(&part.bytes).map_err(|_| {
                    DataError::content(
                        format!("{}:{}", self.location, part.line),
                        "the line is not valid UTF-8",
                    )
                })?;
                let Some((columns, _)) = self.encoder.table(self.new) else { return Ok(None) };
                json_lines::parse(columns, &self.location, text, part.line, &self.keep, self.new)?
            }
        };
        if table.rows() == 0 {
            return Ok(None);
        }
        let split = self.encoder.encode(Raw::Table(table), &self.location, self.new)?;
        self.unknown.merge(split.dataset().unknown.clone());
        self.unknown.merge(Unknown { columns, ..Unknown::default() });
        Ok(Some(Block { split, kept }))
    }

    /// Removes the columns from a table that are only kept.
    fn without_kept(&self, mut table: crate::table::Table) -> crate::table::Table {
        let Some((columns, _)) = self.encoder.table(self.new) else { return table };
        for name in self.keep.iter().filter(|name| !columns.knows(name)) {
            if let Some(column) = table.column(name) {
                table.header.remove(column);
                table.columns.remove(column);
            }
        }
        table
    }
}
