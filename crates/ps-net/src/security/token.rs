//! A file of secret tokens; it is read again when it changes.

use super::{TokenError, read, warn_if_public};
use crate::limits::{MAX_TOKEN_BYTES, MIN_TOKEN_BYTES, TOKEN_FILE_INTERVAL};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use tonic::codegen::http::header::AUTHORIZATION;
use tonic::codegen::http::{HeaderMap, HeaderValue};
use tracing::{info, warn};

/// Prefix of a token in the header `authorization`.
const SCHEME: &str = "Bearer ";

/// A token file and the tokens in it.
pub(super) struct Tokens {
    /// The flag that names the file.
    flag: &'static str,
    path: PathBuf,
    held: Mutex<Held>,
}

/// The tokens as last read. Not `Debug`, so that they cannot be logged.
struct Held {
    tokens: Vec<Token>,
    stamp: Option<Stamp>,
    looked: Instant,
}

/// A token and its line in the file, from 1.
struct Token {
    line: usize,
    text: Vec<u8>,
}

/// Modification time and length: a difference means that the file has changed.
type Stamp = (SystemTime, u64);

impl Tokens {
    /// Reads the tokens in `path`.
    ///
    /// # Errors
    /// The flag, the file and what is wrong with it.
    pub(super) fn open(flag: &'static str, path: &Path) -> Result<Self, String> {
        // Taken before the file is read, so that a change in between is noticed later.
        let stamp = stamp(path);
        let tokens = tokens(flag, path)?;
        warn_if_public(flag, path);
        let held = Held { tokens, stamp, looked: Instant::now() };
        Ok(Tokens { flag, path: path.into(), held: Mutex::new(held) })
    }

    /// The line of the token in `headers`.
    pub(super) fn admits(&self, headers: &HeaderMap) -> Result<usize, TokenError> {
        let given = headers.get(AUTHORIZATION).ok_or(TokenError::Missing)?;
        let given = given.as_bytes().strip_prefix(SCHEME.as_bytes()).ok_or(TokenError::Missing)?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        self.look_again(&mut held);
        // Compares with every token, each in constant time, so that timing reveals nothing about them.
        let line = held.tokens.iter().fold(0, |line, Token { line: this, text }| {
            u64::conditional_select(&line, &(*this as u64), text.ct_eq(given))
        });
        if line > 0 { Ok(line as usize) } else { Err(TokenError::Unknown) }
    }

    /// Whether `other` contains one of these tokens.
    pub(super) fn shares_any(&self, other: &Tokens) -> bool {
        let [ours, theirs] = [self, other].map(|it| it.held.lock().unwrap_or_else(PoisonError::into_inner));
        let is_theirs = |token: &Token| theirs.tokens.iter().any(|other| other.text == token.text);
        ours.tokens.iter().any(is_theirs)
    }

    /// The value of the `authorization` header, with the first token of the file as it is now.
    pub(super) fn authorization(&self) -> Result<HeaderValue, String> {
        let first = tokens(self.flag, &self.path)?.swap_remove(0);
        let mut value = HeaderValue::from_bytes(&[SCHEME.as_bytes(), &first.text].concat())
            .map_err(|_| format!("{} {}: the token does not fit a header", self.flag, self.path.display()))?;
        // Libraries that log headers leave out the values of sensitive ones.
        value.set_sensitive(true);
        Ok(value)
    }

    /// Reads the file again if it has changed. If the file is invalid, the tokens stay as they are.
    fn look_again(&self, held: &mut Held) {
        if held.looked.elapsed() < TOKEN_FILE_INTERVAL {
            return;
        }
        held.looked = Instant::now();
        let stamp = stamp(&self.path);
        if stamp == held.stamp {
            return;
        }
        // Set before the file is read and also if it is invalid, so that an invalid file is reported once and
        // not at every check.
        held.stamp = stamp;
        match tokens(self.flag, &self.path) {
            Ok(tokens) => {
                info!("{} {}: now accepting {} tokens", self.flag, self.path.display(), tokens.len());
                held.tokens = tokens;
            }
            Err(error) => warn!("{error}; the tokens remain unchanged"),
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

/// The tokens of a file, at least one.
fn tokens(flag: &str, path: &Path) -> Result<Vec<Token>, String> {
    let bytes = read(flag, path)?;
    let wrong = |what: String| format!("{flag} {}: {what}", path.display());
    let mut tokens = Vec::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let number = index + 1;
        if !line.iter().all(u8::is_ascii_graphic) {
            return Err(wrong(format!(
                "line {number} contains spaces or other unsupported characters; a token consists of \
                 letters, digits and punctuation"
            )));
        }
        if !(MIN_TOKEN_BYTES..=MAX_TOKEN_BYTES).contains(&line.len()) {
            return Err(wrong(format!(
                "line {number} has {} characters, but a token has {MIN_TOKEN_BYTES} to {MAX_TOKEN_BYTES}; \
                 `openssl rand -hex 32` creates a good one",
                line.len()
            )));
        }
        tokens.push(Token { line: number, text: line.to_vec() });
    }
    match tokens.is_empty() {
        true => Err(wrong("the file contains no token; write one per line".into())),
        false => Ok(tokens),
    }
}
