//! Checks the quotes of a CSV file before it is parsed. The csv crate accepts an unclosed quote, and text
//! after a closing quote, and may therefore read many rows as one cell.

/// The position of a byte within a cell.
#[derive(Clone, Copy)]
enum State {
    /// At the beginning of the cell, possibly after blanks.
    Start { blank: bool },
    /// In an unquoted cell, where a quote is an ordinary character.
    Plain,
    /// After the opening quote, which is on this line.
    Quoted { line: u64 },
    /// After a quote in a quoted cell, which closes the cell unless another quote follows.
    Quote { line: u64 },
    /// After the closing quote, possibly followed by blanks.
    Closed,
}

/// The ends of the rows in `bytes`: the positions after the line breaks that are not in a quoted cell.
/// `is_separator` tells which bytes separate cells.
pub(crate) fn row_ends<'a>(
    bytes: &'a [u8],
    is_separator: impl Fn(u8) -> bool + 'a,
) -> impl Iterator<Item = usize> + 'a {
    #[derive(Clone, Copy, PartialEq)]
    enum Cell {
        Start,
        Plain,
        Quoted,
        Quote,
    }
    let mut cell = Cell::Start;
    let end = move |(index, &byte): (usize, &u8)| {
        cell = match (cell, byte) {
            (Cell::Quoted, b'"') => Cell::Quote,
            (Cell::Quoted, _) => Cell::Quoted,
            (Cell::Start | Cell::Quote, b'"') => Cell::Quoted,
            (_, b'\r' | b'\n') => Cell::Start,
            (_, byte) if is_separator(byte) => Cell::Start,
            _ => Cell::Plain,
        };
        (byte == b'\n' && cell == Cell::Start).then_some(index + 1)
    };
    bytes.iter().enumerate().filter_map(end)
}

/// Finds the first misplaced quote in `bytes`, whose cells are separated by `separator`.
///
/// # Errors
/// Returns the quote's line, from 1, and what is wrong.
pub(crate) fn check(bytes: &[u8], separator: u8) -> Result<(), (u64, &'static str)> {
    if !bytes.contains(&b'"') {
        return Ok(());
    }
    let mut line = 1;
    let mut state = State::Start { blank: false };
    for &byte in bytes {
        state = match (state, byte) {
            (State::Quoted { line }, b'"') => State::Quote { line },
            (State::Quoted { .. }, _) => state,
            (State::Quote { line }, b'"') => State::Quoted { line },
            (_, b'\r' | b'\n') => State::Start { blank: false },
            (_, byte) if byte == separator => State::Start { blank: false },
            (State::Start { blank: false }, b'"') => State::Quoted { line },
            (State::Start { blank: true }, b'"') => {
                return Err((line, "there are spaces before the opening quote of a cell; remove them"));
            }
            (State::Start { .. }, b' ' | b'\t') => State::Start { blank: true },
            (State::Quote { .. } | State::Closed, b' ' | b'\t') => State::Closed,
            (State::Quote { .. } | State::Closed, _) => {
                let problem =
                    "there is text after the closing quote of a cell; double the quotes inside a quoted cell";
                return Err((line, problem));
            }
            (State::Start { .. } | State::Plain, _) => State::Plain,
        };
        line += u64::from(byte == b'\n');
    }
    match state {
        State::Quoted { line } => Err((line, "the quote that opens this cell is never closed")),
        _ => Ok(()),
    }
}
