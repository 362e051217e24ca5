//! Command lines that users can copy and paste.

use std::ffi::OsString;

/// Returns the command line that started this process, with the flags `more` added, quoted for a POSIX shell.
pub fn this_command(more: &[OsString]) -> String {
    command(std::env::args_os().collect(), more)
}

fn command(mut words: Vec<OsString>, more: &[OsString]) -> String {
    // Everything after a bare `--` is an operand, so flags must be inserted before it.
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    words.splice(end..end, more.iter().cloned());
    let words: Vec<String> = words.iter().map(|word| quoted(&word.to_string_lossy())).collect();
    words.join(" ")
}

fn quoted(word: &str) -> String {
    // shlex also quotes `=`, `,` and `%`, which have no meaning inside these words. `--set key=value` is
    // easier to read without quotes.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "+-./:@_=,%".contains(c);
    if !word.is_empty() && !word.starts_with('=') && word.chars().all(is_plain) {
        return word.into();
    }
    // Only a NUL cannot be quoted, and arguments of a process contain none.
    shlex::try_quote(word).map_or_else(|_| word.into(), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command_of(words: &[&str], more: &[&str]) -> String {
        let more: Vec<OsString> = more.iter().map(OsString::from).collect();
        command(words.iter().map(OsString::from).collect(), &more)
    }

    #[test]
    fn quoted_arguments_survive_a_shell() {
        let words =
            ["downhill", "train", "my run's.toml", "--set", "data.train=csv:a b.csv", "--set", "x=$HOME", ""];
        let line = command_of(&words, &["--out", "runs/my run-1"]);
        let read = shlex::split(&line).unwrap();
        assert_eq!(read[..words.len()], words);
        assert_eq!(read[words.len()..], ["--out", "runs/my run-1"]);
    }

    #[test]
    fn plain_words_stay_bare() {
        let line =
            command_of(&["downhill", "train", "a.toml", "--set", "train.epochs=2"], &["--out", "runs/a-1"]);
        assert_eq!(line, "downhill train a.toml --set train.epochs=2 --out runs/a-1");
    }

    #[test]
    fn flags_come_before_the_end_of_flags() {
        let line = command_of(&["downhill", "train", "--", "-odd.toml"], &["--out", "runs/odd-1"]);
        assert_eq!(line, "downhill train --out runs/odd-1 -- -odd.toml");
    }
}
