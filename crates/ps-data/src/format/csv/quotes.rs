//! Checks the quotes of a CSV file before it is parsed. The csv crate accepts an unclosed quote, and text
//! after a closing quote, and may therefore read many rows as one cell.

/// The position of a byte within a cell.
#[derive(Clone, Copy)]
enum Place {
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

/// Finds the first misplaced quote in `bytes`.
///
/// # Errors
/// Returns the quote's line, from 1, and what is wrong.
pub(crate) fn check(bytes: &[u8]) -> Result<(), (u64, &'static str)> {
    if !bytes.contains(&b'"') {
        return Ok(());
    }
    let mut line = 1;
    let mut place = Place::Start { blank: false };
    for &byte in bytes {
        place = match (place, byte) {
            (Place::Quoted { line }, b'"') => Place::Quote { line },
            (Place::Quoted { .. }, _) => place,
            (Place::Quote { line }, b'"') => Place::Quoted { line },
            (_, b',' | b'\r' | b'\n') => Place::Start { blank: false },
            (Place::Start { blank: false }, b'"') => Place::Quoted { line },
            (Place::Start { blank: true }, b'"') => {
                return Err((line, "blanks precede the opening quote of a cell; remove them"));
            }
            (Place::Start { .. }, b' ' | b'\t') => Place::Start { blank: true },
            (Place::Quote { .. } | Place::Closed, b' ' | b'\t') => Place::Closed,
            (Place::Quote { .. } | Place::Closed, _) => {
                let problem =
                    "text follows the closing quote of a cell; write a quote inside a quoted cell twice";
                return Err((line, problem));
            }
            (Place::Start { .. } | Place::Plain, _) => Place::Plain,
        };
        line += u64::from(byte == b'\n');
    }
    match place {
        Place::Quoted { line } => Err((line, "a cell opens with a quote here that is never closed")),
        _ => Ok(()),
    }
}
