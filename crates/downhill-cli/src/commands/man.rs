//! `downhill man`: prints the manual pages of all programs.

use crate::failure::Failure;
use crate::{output, programs};
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use ps_config::is_heading;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Print a manual page, or write all of them
///
/// There is a page for each of the three programs and for each subcommand.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Page to print, such as train or ps-server
    #[arg(value_name = "PAGE", default_value = "downhill")]
    page: String,

    /// Write all pages to this folder
    ///
    /// Existing pages are overwritten.
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath, conflicts_with = "page")]
    out: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  downhill man | man -l -
  downhill man train | man -l -
  downhill man --out ~/.local/share/man/man1";

/// Prints a page, or writes all of them.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let pages = pages();
    let Some(folder) = &arguments.out else {
        let wanted = &arguments.page;
        let is_wanted = |name: &str| name == wanted || name.strip_prefix("downhill-") == Some(wanted);
        let Some((_, command)) = pages.iter().find(|(name, _)| is_wanted(name)) else {
            let names: Vec<&str> = pages.iter().map(|(name, _)| &**name).collect();
            let problem = format!("there is no manual page {wanted}; the pages are {}", names.join(", "));
            return Err(Failure::Usage(problem));
        };
        output::to_stdout(|out| render(command, out))?;
        return Ok(ExitCode::SUCCESS);
    };
    let failed = |error| Failure::Failed(format!("{}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    for (name, command) in &pages {
        let path = folder.join(format!("{name}.1"));
        let mut page = Vec::new();
        render(command, &mut page)
            .and_then(|()| std::fs::write(&path, page))
            .map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    }
    output::lines(&[format!("{}: {} pages", folder.display(), pages.len())])?;
    Ok(ExitCode::SUCCESS)
}

/// Returns all pages with their names. The page of a program comes before those of its subcommands.
fn pages() -> Vec<(String, Command)> {
    fn collect(command: &Command, pages: &mut Vec<(String, Command)>) {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name());
        pages.push((name.to_owned(), command.clone()));
        command.get_subcommands().for_each(|subcommand| collect(subcommand, pages));
    }
    let mut pages = Vec::new();
    for program in programs::all() {
        let mut program = program.disable_help_subcommand(true);
        program.build();
        collect(&program, &mut pages);
    }
    pages
}

fn render(command: &Command, out: &mut dyn io::Write) -> io::Result<()> {
    let version = command.get_version().unwrap_or_default().to_owned();
    let command = command.clone().subcommand_value_name("COMMAND").subcommand_help_heading("COMMANDS");
    // An empty date, which is the default, would shift the arguments of the title.
    let man =
        Man::new(command.clone()).date(" ").source(format!("Downhill {version}")).manual("Downhill Manual");
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_options_section(out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(out)?;
    }
    let text = command.get_after_long_help().or_else(|| command.get_after_help());
    let mut roff = sections(&text.map(ToString::to_string).unwrap_or_default());
    roff.control("SH", ["SEE ALSO"]);
    let others = programs::NAMES.iter().filter(|name| **name != command.get_name());
    roff.text([roman(others.map(|name| format!("{name}(1)")).collect::<Vec<_>>().join(", "))]);
    roff.to_writer(out)
}

/// Formats the text after the options as sections. Headings start a section, indented lines are kept, and
/// everything else becomes paragraphs. clap_mangen itself would join the lines of examples.
fn sections(text: &str) -> Roff {
    let mut roff = Roff::new();
    let mut is_filled = true;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            if lines.peek().is_some_and(|next| !is_heading(next)) {
                roff.control("PP", []);
            }
            continue;
        }
        let is_example = line.starts_with(' ');
        if is_example == is_filled {
            roff.control(if is_example { "nf" } else { "fi" }, []);
            is_filled = !is_example;
        }
        if is_heading(line) {
            roff.control("SH", [line.trim_end_matches(':').to_uppercase().as_str()]);
        } else {
            roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
        }
    }
    if !is_filled {
        roff.control("fi", []);
    }
    roff
}
