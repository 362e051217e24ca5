//! The git commit that a program is built from.
//!
//! This is a macro, not a build script, so that a new commit recompiles only the file that invokes it: the
//! `main.rs` of each program. A build script would also recompile the library of its package, and everything
//! that depends on that.

use proc_macro::TokenStream;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Expands to the abbreviated commit as an `Option<&str>`, such as `Some("44561d3")`.
///
/// The environment variable `DOWNHILL_COMMIT` takes precedence, for builds that have no `.git` folder.
/// Without either, as in a source archive, this is `None`.
#[proc_macro]
pub fn commit(_: TokenStream) -> TokenStream {
    // Rustc records what `include_bytes!` and `option_env!` read, so Cargo recompiles the program when they
    // change.
    let checkout = match head() {
        Some((commit, log)) => format!("{{ const _: &[u8] = include_bytes!({log:?}); Some({commit:?}) }}"),
        None => "None".into(),
    };
    format!(
        "match option_env!(\"DOWNHILL_COMMIT\") {{
            Some(commit) if !commit.is_empty() => Some(commit),
            _ => {checkout},
        }}"
    )
    .parse()
    .expect("this is an expression")
}

/// Returns the commit that is checked out, and a file that changes whenever another commit is.
fn head() -> Option<(String, PathBuf)> {
    let package = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    let name = std::env::var("CARGO_PKG_NAME").ok()?;
    let arguments = ["rev-parse", "--show-prefix", "--git-path", "logs/HEAD", "--short=7", "HEAD"];
    let output = Command::new("git").args(arguments).current_dir(&package).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    let [prefix, log, commit] = text.lines().collect::<Vec<_>>()[..] else { return None };
    // A source archive may have been unpacked inside another project's checkout.
    let is_ours = prefix == format!("crates/{name}/");
    // Git may be configured to keep no log of `HEAD`. The program would then not be recompiled after a
    // commit, and no commit is better than an outdated one.
    let log = Path::new(&package).join(log).canonicalize().ok()?;
    is_ours.then_some((commit.to_owned(), log))
}
