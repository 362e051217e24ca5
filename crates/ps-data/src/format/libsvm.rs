//! `libsvm:PATH`: a label and `index:value` pairs on each line.

use super::{Format, Reader, csv, path};
use crate::error::DataError;
use crate::number::finite;
use crate::progress::{ReadContext, TrackedFile};
use crate::raw::Raw;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub(super) const FORMAT: Format = Format {
    prefix: "libsvm",
    name: "LIBSVM",
    usage: "libsvm:PATH",
    reads_stdin: true,
    parse: |rest| Ok(Box::new(Libsvm(path("libsvm", rest)?))),
};

/// The path of a file with sparse rows in text form.
struct Libsvm(String);

impl Reader for Libsvm {
    fn files(&self) -> Vec<&str> {
        vec![&self.0]
    }

    fn read(&self, files: &[PathBuf], from: ReadContext<'_>, _: &csv::Options) -> Result<Raw, DataError> {
        read(&files[0], from).map(Raw::Sparse)
    }
}

/// The rows of a file, kept sparse.
pub(crate) struct Sparse {
    /// The path, for error messages.
    pub location: String,
    text: String,
    rows: Vec<Row>,
    pairs: Vec<(u32, f32)>,
    /// The largest index, from 1, and its line.
    pub largest: (u32, u64),
}

struct Row {
    label: Option<Range<usize>>,
    /// Index after the row's last pair.
    end: usize,
    line: u64,
}

impl Sparse {
    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The label of a row.
    pub(crate) fn label(&self, row: usize) -> Option<&str> {
        self.rows[row].label.clone().map(|range| &self.text[range])
    }

    /// The pairs of a row. Indices start at 1 and ascend.
    pub(crate) fn pairs(&self, row: usize) -> &[(u32, f32)] {
        let start = if row == 0 { 0 } else { self.rows[row - 1].end };
        &self.pairs[start..self.rows[row].end]
    }

    /// Keeps only these rows.
    pub(crate) fn select(&mut self, rows: Range<usize>) {
        let start = if rows.start == 0 { 0 } else { self.rows[rows.start - 1].end };
        let end = self.rows[rows.end - 1].end;
        self.pairs = self.pairs[start..end].to_vec();
        self.rows = self.rows.drain(rows).collect();
        self.rows.iter_mut().for_each(|row| row.end -= start);
        let last = |row: usize| self.pairs(row).last().map(|&(index, _)| (index, self.rows[row].line));
        let largest = (0..self.rows()).filter_map(last).reduce(|a, b| if b.0 > a.0 { b } else { a });
        self.largest = largest.unwrap_or((0, 0));
    }

    /// File and line, for error messages.
    pub(crate) fn location_of(&self, row: usize) -> String {
        format!("{}:{}", self.location, self.rows[row].line)
    }
}

/// Reads the file at `path`.
fn read(path: &Path, from: ReadContext<'_>) -> Result<Sparse, DataError> {
    let location = path.display().to_string();
    let bytes = TrackedFile::open(path, from)?.read_whole()?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        DataError::content(
            format!("{location}:{line}"),
            "the line is not valid UTF-8; is this a LIBSVM file?",
        )
    })?;
    let mut sparse =
        Sparse { location, text: String::new(), rows: Vec::new(), pairs: Vec::new(), largest: (0, 0) };
    let mut start = text.len() - text.trim_start_matches('\u{feff}').len();
    for (line, whole) in (1..).zip(text[start..].split_inclusive('\n')) {
        let content = whole.split('#').next().unwrap_or_default();
        parse_line(&mut sparse, line, start, content)
            .map_err(|problem| DataError::content(format!("{}:{line}", sparse.location), problem))?;
        start += whole.len();
    }
    if sparse.rows.is_empty() {
        return Err(DataError::content(sparse.location, "the file contains no rows"));
    }
    sparse.text = text;
    Ok(sparse)
}

/// Parses a line with the text `content`, which starts at byte `start` of the file.
fn parse_line(sparse: &mut Sparse, line: u64, start: usize, content: &str) -> Result<(), String> {
    let mut tokens = content.split_ascii_whitespace().peekable();
    let Some(first) = tokens.peek() else { return Ok(()) };
    let mut label = None;
    if !first.contains(':') {
        if !first.parse::<f64>().is_ok_and(f64::is_finite) {
            return Err(format!("label `{first}` is not a finite number"));
        }
        let at = start + (first.as_ptr() as usize - content.as_ptr() as usize);
        label = Some(at..at + first.len());
        tokens.next();
    }
    let mut previous = 0;
    for token in tokens {
        let (index, value) = pair(token)?;
        if index <= previous {
            let problem = if index == previous { "is repeated" } else { "is not above the previous one" };
            return Err(format!(
                "index {index} in `{token}` {problem} ({previous}); indices must be in \
                                ascending order"
            ));
        }
        previous = index;
        sparse.pairs.push((index, value));
    }
    if previous > sparse.largest.0 {
        sparse.largest = (previous, line);
    }
    sparse.rows.push(Row { label, end: sparse.pairs.len(), line });
    Ok(())
}

fn pair(token: &str) -> Result<(u32, f32), String> {
    let Some((index, value)) = token.split_once(':') else {
        return Err(format!("expected index:value, found `{token}`"));
    };
    let index = match index.parse::<u32>() {
        Ok(0) => return Err(format!("index 0 in `{token}`: indices start at 1")),
        Ok(index) => index,
        Err(_) => {
            return Err(format!(
                "`{index}` in `{token}` is not an index: expected an integer of at \
                                      least 1"
            ));
        }
    };
    Ok((index, finite(value).map_err(|problem| format!("index {index}: {problem}"))?))
}
