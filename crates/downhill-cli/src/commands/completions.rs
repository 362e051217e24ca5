//! `downhill completions`: prints completion scripts for shells.

use crate::failure::Failure;
use crate::{output, programs};
use clap_complete::{Shell, generate, generate_to};
use std::path::PathBuf;
use std::process::ExitCode;

/// Print the completion script of a program for a shell
///
/// The script is printed to standard output. With --out, the scripts of all three programs are written to
/// files with the names that the shell expects.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{DETAILS}"))]
pub(crate) struct Arguments {
    /// Shell to print a script for
    #[arg(value_name = "SHELL")]
    shell: Shell,

    /// Program to complete
    #[arg(value_name = "PROGRAM", default_value = "downhill", value_parser = programs::NAMES)]
    program: String,

    /// Write the scripts of all programs to this folder
    ///
    /// Existing scripts are overwritten.
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath, conflicts_with = "program")]
    out: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  # In the current shell only
  source <(downhill completions bash)
  source <(downhill completions bash ps-server)

  # In every new shell
  downhill completions bash --out ~/.local/share/bash-completion/completions
  downhill completions fish --out ~/.config/fish/completions
  downhill completions zsh --out ~/.zfunc";

const DETAILS: &str = "\
Zsh reads ~/.zfunc if ~/.zshrc contains the following lines:
  fpath+=~/.zfunc
  autoload -Uz compinit && compinit";

/// Prints one script, or writes all of them.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let Some(folder) = &arguments.out else {
        let mut script = Vec::new();
        for mut program in
            programs::all().into_iter().filter(|program| program.get_name() == arguments.program)
        {
            generate(arguments.shell, &mut program, &arguments.program, &mut script);
        }
        output::to_stdout(|out| out.write_all(&script))?;
        return Ok(ExitCode::SUCCESS);
    };
    let failed = |error| Failure::Failed(format!("{}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    for (mut program, name) in programs::all().into_iter().zip(programs::NAMES) {
        let path = generate_to(arguments.shell, &mut program, name, folder).map_err(failed)?;
        output::lines(&[path.display().to_string()])?;
    }
    Ok(ExitCode::SUCCESS)
}
