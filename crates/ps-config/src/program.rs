//! What the command lines of all programs share: the version, and the appearance of help.

use clap::builder::StyledStr;
use clap::{Arg, Command, CommandFactory, FromArgMatches};
use ps_core::NUMERICS_VERSION;
use std::fmt::Write;

/// Maximum width of help texts. Longer lines are hard to read, even in a wide terminal.
const MAX_HELP_WIDTH: usize = 100;

/// Parses the arguments of this process, a program built from `commit` (`ps_version::commit!()`). On
/// `--help`, `--version` or an error, this prints the message and exits, with code 2 after an error.
pub fn parse<A: CommandFactory + FromArgMatches>(commit: Option<&str>) -> A {
    let matches = program(A::command(), commit).get_matches();
    A::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Adds the version of a program built from `commit` to `command`, and gives its help the common appearance.
pub fn program(command: Command, commit: Option<&str>) -> Command {
    with_styled_help(command.version(version(commit)).max_term_width(MAX_HELP_WIDTH))
}

/// Formats the version, such as `0.1.0 (44561d3, numerics 3)`: the package version, the commit if it is
/// known, and the version of `docs/numerics.md`.
fn version(commit: Option<&str>) -> String {
    let commit = commit.map(|commit| format!("{commit}, ")).unwrap_or_default();
    format!("{} ({commit}numerics {NUMERICS_VERSION})", env!("CARGO_PKG_VERSION"))
}

/// Styles headings in the text after the options, such as `Examples:`, and lays out the arguments.
fn with_styled_help(mut command: Command) -> Command {
    let header = *command.get_styles().get_header();
    let styled = |text: &StyledStr| {
        text.to_string().lines().fold(String::new(), |mut styled, line| {
            let _ = match is_heading(line) {
                true => writeln!(styled, "{header}{line}{header:#}"),
                false => writeln!(styled, "{line}"),
            };
            styled
        })
    };
    if let Some(text) = command.get_after_help().map(styled) {
        command = command.after_help(text);
    }
    if let Some(text) = command.get_after_long_help().map(styled) {
        command = command.after_long_help(text);
    }
    command.mut_args(argument).mut_subcommands(with_styled_help)
}

/// Puts the help of an argument below its flag, which clap does only for long texts. Hides the environment
/// variable in the summary of `-h`, where it is too wide; `--help` shows it.
fn argument(argument: Arg) -> Arg {
    let Some(variable) = argument.get_env().map(|variable| variable.display().to_string()) else {
        return argument.next_line_help(true);
    };
    let help = argument.get_long_help().or_else(|| argument.get_help());
    let help = format!("{}\n\nEnvironment variable: {variable}", help.cloned().unwrap_or_default());
    argument.next_line_help(true).hide_env(true).long_help(help)
}

/// Returns whether a line of help is a heading of the lines below it.
pub fn is_heading(line: &str) -> bool {
    line.ends_with(':') && !line.starts_with(' ') && line.len() < 40
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_leaves_out_an_unknown_commit() {
        let numerics = format!("numerics {NUMERICS_VERSION})");
        assert!(version(Some("44561d3")).ends_with(&format!(" (44561d3, {numerics}")));
        assert!(version(None).ends_with(&format!(" ({numerics}")));
    }

    #[test]
    fn an_environment_variable_is_in_long_help_only() {
        let argument = Arg::new("name").long("name").env("SOME_NAME").help("Some name");
        let mut command = program(Command::new("test").arg(argument), None);
        assert!(!command.render_help().to_string().contains("SOME_NAME"));
        let help = command.render_long_help().to_string();
        assert!(help.contains("Environment variable: SOME_NAME\n"), "{help}");
    }

    #[test]
    fn titles_in_help_are_styled() {
        let command = Command::new("test").after_help("Examples:\n  test").subcommand(Command::new("inner"));
        let command = program(command, None);
        let text = command.get_after_help().map(|text| text.ansi().to_string());
        let header = command.get_styles().get_header();
        assert_eq!(text, Some(format!("{header}Examples:{header:#}\n  test\n")));
    }
}
