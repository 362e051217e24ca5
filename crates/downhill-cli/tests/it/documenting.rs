//! Completions, manual pages and the version.

use std::fs;
use std::process::{Command, Output};

fn downhill(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_downhill")).args(arguments).output().unwrap()
}

fn succeed(arguments: &[&str]) -> String {
    let output = downhill(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns bash's completions of the last word of `line`, with the completion script of its first word.
fn completed(line: &str) -> Vec<String> {
    let program = line.split(' ').next().unwrap();
    let script = succeed(&["completions", "bash", program]);
    let ask = format!(
        "{script}\nread -ra COMP_WORDS <<< \"$1\"; [[ $1 == *' ' ]] && COMP_WORDS+=(''); \
         COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
         [[ $(complete -p {program}) =~ -F\\ ([^ ]+) ]]\n\
         ${{BASH_REMATCH[1]}} {program} \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
    );
    let output = Command::new("bash").args(["--norc", "-c", &ask, "bash", line]).output().unwrap();
    assert!(output.stderr.is_empty(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_all_three_programs() {
    assert_eq!(completed("downhill tr"), ["train"]);
    assert_eq!(completed("downhill train --checkpoint-e"), ["--checkpoint-every"]);
    assert_eq!(completed("downhill train --log-format "), ["text", "json"]);
    assert_eq!(completed("downhill data in"), ["inspect"]);
    assert_eq!(completed("ps-server --min"), ["--min-workers"]);
    assert_eq!(completed("ps-worker --allow"), ["--allow-any-path", "--allow-url"]);
}

#[test]
fn completions_for_each_shell_are_files_with_the_names_it_expects() {
    let folder = tempfile::tempdir().unwrap();
    let shells = [
        ("bash", ["downhill.bash", "ps-server.bash", "ps-worker.bash"]),
        ("zsh", ["_downhill", "_ps-server", "_ps-worker"]),
        ("fish", ["downhill.fish", "ps-server.fish", "ps-worker.fish"]),
        ("elvish", ["downhill.elv", "ps-server.elv", "ps-worker.elv"]),
        ("powershell", ["_downhill.ps1", "_ps-server.ps1", "_ps-worker.ps1"]),
    ];
    for (shell, names) in shells {
        let out = folder.path().join(shell);
        succeed(&["completions", shell, "--out", out.to_str().unwrap()]);
        for (name, program) in names.iter().zip(["downhill", "ps-server", "ps-worker"]) {
            let script = fs::read_to_string(out.join(name)).unwrap();
            assert_eq!(script, succeed(&["completions", shell, program]), "{shell} {program}");
        }
    }
}

#[test]
fn there_is_a_manual_page_for_each_program_and_subcommand() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("man1");
    succeed(&["man", "--out", out.to_str().unwrap()]);
    for page in
        ["downhill", "downhill-train", "downhill-data", "downhill-data-inspect", "ps-server", "ps-worker"]
    {
        let text = fs::read_to_string(out.join(format!("{page}.1"))).unwrap();
        assert!(text.contains(&format!("\n.TH {page} 1 ")), "{text}");
        assert!(text.contains("\n.SH \"SEE ALSO\"\n"), "{text}");
        assert_eq!(text, succeed(&["man", page]));
    }
    assert_eq!(succeed(&["man", "train"]), succeed(&["man", "downhill-train"]));
    assert_eq!(succeed(&["man"]), succeed(&["man", "downhill"]));
}

#[test]
fn examples_in_manual_pages_keep_their_lines() {
    let page = succeed(&["man", "train"]);
    let (_, examples) = page.split_once(".SH EXAMPLES\n.nf\n").unwrap();
    assert!(examples.starts_with("downhill train examples/digits.toml\n"), "{examples}");
    assert!(examples.contains("\n.fi\n.SH RESULTS\n"), "{examples}");
}

#[test]
fn a_page_or_shell_that_does_not_exist_is_refused() {
    for (arguments, reason) in [
        (["man", "nonsense"], "no manual page nonsense; the pages are downhill, downhill-train"),
        (["completions", "tcsh"], "possible values: bash"),
    ] {
        let output = downhill(&arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn the_version_names_the_numerics_version() {
    let version = succeed(&["--version"]);
    let expected = format!("numerics {})\n", ps_core::NUMERICS_VERSION);
    assert!(version.starts_with(concat!("downhill ", env!("CARGO_PKG_VERSION"), " (")), "{version}");
    assert!(version.ends_with(&expected), "{version}");
}
