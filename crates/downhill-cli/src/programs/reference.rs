//! Generates the reference in `docs/commands.md` from the command lines: every command with its arguments and
//! flags.

use super::all;
use clap::{Arg, Command};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

const BEGIN: &str = "<!-- commands: begin -->\n";
const END: &str = "<!-- commands: end -->\n";

/// Run with `UPDATE_DOCS=1` to update the page.
#[test]
fn the_page_of_commands_agrees_with_the_command_lines() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/commands.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    let generated = reference();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{generated}{END}{after}")).unwrap();
        return;
    }
    let changed = written.lines().zip(generated.lines()).find(|(written, generated)| written != generated);
    assert!(
        written == generated,
        "docs/commands.md is out of date, first at {changed:?}; run UPDATE_DOCS=1 cargo test -p downhill-cli"
    );
}

/// Formats a section for each command, and a table of the flags that several commands share.
fn reference() -> String {
    let commands = commands();
    let mut users: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (name, command) in &commands {
        for flag in flags(command) {
            users.entry(row(flag)).or_default().insert(name);
        }
    }
    let is_common = |flag: &Arg| users[&row(flag)].len() > 1;
    let mut text = String::new();
    for (name, command) in &commands {
        let usage = command.clone().render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ").trim();
        let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string);
        let about = sentences(&about.unwrap_or_default());
        let _ = write!(text, "\n## {name}\n\n{about}\n\n```text\n{usage}\n```\n");
        let own: Vec<&Arg> =
            command.get_positionals().chain(flags(command).filter(|f| !is_common(f))).collect();
        if !own.is_empty() {
            text += "\n| argument or flag | meaning |\n| --- | --- |\n";
            own.into_iter().for_each(|argument| text += &row(argument));
        }
        let common: Vec<String> = flags(command).filter(|flag| is_common(flag)).map(long).collect();
        if !common.is_empty() {
            let _ = write!(text, "\n[Common flags](#common-flags): {}.\n", common.join(", "));
        }
    }
    text += "\n## Common flags\n\n| flag | meaning |\n| --- | --- |\n";
    users.iter().filter(|(_, names)| names.len() > 1).for_each(|(row, _)| text += row);
    text
}

/// Returns each command that can be run, with its full name.
fn commands() -> Vec<(String, Command)> {
    fn collect(command: &Command, name: &str, commands: &mut Vec<(String, Command)>) {
        if !command.has_subcommands() {
            return commands.push((name.to_owned(), command.clone()));
        }
        for subcommand in command.get_subcommands() {
            collect(subcommand, &format!("{name} {}", subcommand.get_name()), commands);
        }
    }
    let mut commands = Vec::new();
    for program in all() {
        let mut program = program.disable_help_subcommand(true);
        program.build();
        collect(&program, program.get_name(), &mut commands);
    }
    commands
}

/// Returns the flags of a command that are shown to users, without `--help` and `--version`.
fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    let is_shown =
        |flag: &&Arg| !flag.is_hide_set() && !["help", "version"].contains(&flag.get_id().as_str());
    command.get_opts().chain(command.get_arguments().filter(|a| is_switch(a))).filter(is_shown)
}

fn is_switch(argument: &Arg) -> bool {
    !argument.is_positional() && !argument.get_action().takes_values()
}

fn long(flag: &Arg) -> String {
    format!("`--{}`", flag.get_long().unwrap_or_default())
}

/// Formats a row of a table: the argument, then its help with values, default and environment variable.
fn row(argument: &Arg) -> String {
    let written = argument.to_string().replace('|', "\\|");
    let help = argument.get_long_help().or_else(|| argument.get_help()).map(ToString::to_string);
    let help = help.unwrap_or_default();
    let (help, variable) = help.split_once("Environment variable: ").unwrap_or((&help, ""));
    let mut text = sentences(help).replace("\n\n", " ").replace('\n', " ").replace('|', "\\|");
    let takes_values = argument.get_action().takes_values();
    let quoted = |words: Vec<String>| words.join("`, `");
    let values: Vec<_> =
        argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if takes_values && !values.is_empty() {
        let _ = write!(text, " One of `{}`.", quoted(values));
    }
    let defaults = argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned());
    let defaults: Vec<_> = defaults.collect();
    if takes_values && !defaults.is_empty() {
        let _ = write!(text, " Default: `{}`.", quoted(defaults));
    }
    if !variable.is_empty() {
        let _ = write!(text, " Environment variable: `{}`.", variable.trim());
    }
    format!("| `{written}` | {} |\n", text.trim())
}

/// Formats help as Markdown: the summary ends with a full stop, a default in brackets becomes a sentence, and
/// no text is interpreted as an HTML element.
fn sentences(help: &str) -> String {
    let (summary, rest) = help.trim().split_once("\n\n").unwrap_or((help.trim(), ""));
    let (summary, default) =
        match summary.split_once(" [").map(|(summary, rest)| (summary, rest.split_once(']'))) {
            Some((summary, Some((default, "")))) => {
                let (first, others) = default.split_at(1);
                (summary, format!(" {}{others}.", first.to_uppercase()))
            }
            _ => (summary, String::new()),
        };
    format!("{summary}.{default} {rest}").replace('<', "&lt;").trim().to_owned()
}
