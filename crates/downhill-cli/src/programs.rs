//! The command lines of all three programs, from which completions and manual pages are generated.

use clap::{Command, CommandFactory};

/// The commit that this program was built from, if it is known.
pub(crate) const COMMIT: Option<&str> = ps_version::commit!();

/// The names of the programs, in the order of [`all`].
pub(crate) const NAMES: [&str; 3] = ["downhill", "ps-server", "ps-worker"];

/// Returns the command lines of the programs.
pub(crate) fn all() -> [Command; 3] {
    [
        crate::Arguments::command(),
        ps_server::args::Arguments::command(),
        ps_worker::args::Arguments::command(),
    ]
    .map(|command| ps_config::program(command, COMMIT))
}

#[cfg(test)]
mod reference;

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `check` with each program and subcommand, and the words that call it. Fails with all problems
    /// that `check` adds.
    fn check_each(check: impl Fn(&str, &Command, &mut Vec<String>)) {
        fn visit(
            path: &str,
            command: &Command,
            check: &impl Fn(&str, &Command, &mut Vec<String>),
            problems: &mut Vec<String>,
        ) {
            check(path, command, problems);
            for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
                visit(&format!("{path} {}", subcommand.get_name()), subcommand, check, problems);
            }
        }
        let mut problems = Vec::new();
        for mut program in all() {
            program.build();
            visit(program.get_name(), &program, &check, &mut problems);
        }
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }

    #[test]
    fn names_are_in_order() {
        assert_eq!(all().map(|program| program.get_name().to_owned()), NAMES);
    }

    #[test]
    fn help_fits_the_terminal() {
        check_each(|path, command, problems| {
            for width in [60, 80, 100] {
                let mut command = command.clone().term_width(width);
                let helps = [command.render_help(), command.render_long_help()].map(|help| help.to_string());
                let lines = helps.iter().flat_map(|help| help.lines());
                let is_one_word = |line: &str| !line.trim().contains(' ');
                let wide = lines.filter(|line| line.chars().count() > width && !is_one_word(line));
                problems.extend(wide.map(|line| format!("{path}: longer than {width}: {line}")));
            }
        });
    }

    /// A summary with its default value fits on one line of a terminal with 80 columns.
    #[test]
    fn summaries_are_short_and_have_no_full_stop() {
        const FLAG_INDENT: usize = 10;
        const COMMAND_INDENT: usize = 15;
        let is_good = |summary: &str, room: usize| {
            !summary.is_empty()
                && summary.chars().count() <= room
                && !summary.ends_with('.')
                && !summary.contains(". ")
        };
        check_each(|path, command, problems| {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let is_command = path.contains(' ');
            if !is_good(&about, if is_command { 80 - COMMAND_INDENT } else { 80 }) {
                problems.push(format!("{path}: {about}"));
            }
            for argument in command.get_arguments() {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                let values = argument.get_default_values().iter().map(|value| value.len() + 1).sum::<usize>();
                let has_default = argument.get_action().takes_values() && values > 0;
                let default = if has_default { " [default:]".len() + values } else { 0 };
                if !is_good(&help, 80 - FLAG_INDENT - default) {
                    problems.push(format!("{path}, {argument}: {help}"));
                }
            }
        });
    }

    #[test]
    fn examples_in_help_parse() {
        check_each(|path, command, problems| {
            let text = command.get_after_long_help().or_else(|| command.get_after_help());
            let text = text.map(ToString::to_string).unwrap_or_default();
            let wide = text.lines().filter(|line| line.starts_with("  ") && line.len() > 80);
            problems.extend(wide.map(|line| format!("{path}: longer than 80: {line}")));
            let mut examples = 0;
            for line in text.replace("\\\n", "").lines().map(str::trim) {
                // Pipes, redirections and other commands are not ours to check.
                let line = line.trim_start_matches("source <(").trim_end_matches(')');
                let end = [" | ", " > ", " && "].iter().filter_map(|end| line.find(end)).min();
                let words: Vec<&str> = line[..end.unwrap_or(line.len())].split_whitespace().collect();
                let Some(program) =
                    all().into_iter().find(|program| words.first() == Some(&program.get_name()))
                else {
                    continue;
                };
                examples += 1;
                if let Err(error) = program.try_get_matches_from(words) {
                    problems.push(format!("{path}: {line}: {error}"));
                }
            }
            if examples == 0 && path != "downhill data" {
                problems.push(format!("{path}: no example"));
            }
        });
    }

    /// Flags that were renamed keep their old names for one version.
    #[test]
    fn old_names_of_flags_still_work_and_are_hidden() {
        let parsed = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let program = all().into_iter().find(|program| program.get_name() == words[0]).unwrap();
            program.try_get_matches_from(words).unwrap_or_else(|error| panic!("{line}: {error}"))
        };
        for (command, old, new) in [
            ("downhill train a.toml --dashboard", "--stay", "--linger"),
            ("downhill launch a.toml --dashboard", "--stay", "--linger"),
            ("downhill certs", "--with-shards", "--host-shards"),
            ("ps-server a.toml", "--stay", "--linger"),
            ("ps-server a.toml", "--shards-beside 2", "--shards-colocated 2"),
            ("ps-worker --server localhost:1", "--stay", "--linger"),
            ("ps-worker --server localhost:1", "--patience 5", "--connect-timeout 5"),
            ("ps-worker --server localhost:1", "--with-shard", "--host-shard"),
        ] {
            assert_eq!(parsed(&format!("{command} {old}")), parsed(&format!("{command} {new}")), "{old}");
        }
        for command in ["launch", "simulate"] {
            parsed(&format!("downhill {command} a.toml --shards beside"));
            parsed(&format!("downhill {command} a.toml --shards colocated"));
        }
        check_each(|path, command, problems| {
            let help = command.clone().render_long_help().to_string();
            let old = ["--stay", "--with-shard", "--shards-beside", "|beside", "--patience"];
            problems
                .extend(old.iter().filter(|old| help.contains(**old)).map(|old| format!("{path}: {old}")));
        });
    }
}
