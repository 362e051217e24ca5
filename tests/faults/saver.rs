//! Saves checkpoints like a run, for tests in which saving fails.
//!
//! `saver save FOLDER STEP…` prints `saved STEP` for each checkpoint once it is durable, and on standard
//! error why another one is not. It exits with 1 if the store says that the process must not continue. `saver
//! newest FOLDER` prints `newest STEP`.

#[path = "tiny.rs"]
mod tiny;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ended = match &arguments[..] {
        [command, folder, steps @ ..] if command == "save" => save(Path::new(folder), steps),
        [command, folder] if command == "newest" => newest(Path::new(folder)),
        _ => Err("usage: saver save FOLDER STEP… | saver newest FOLDER".into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            say(&mut std::io::stderr(), &problem);
            ExitCode::FAILURE
        }
    }
}

fn save(folder: &Path, steps: &[String]) -> Result<(), String> {
    let store = tiny::open(folder).map_err(|error| format!("not opened: {error}"))?;
    for text in steps {
        let step = text.parse().map_err(|_| format!("`{text}` is no step"))?;
        match store.save(&tiny::snapshot(step)) {
            Ok(_) => say(&mut std::io::stdout(), &format!("saved {step}")),
            Err(error) if error.is_final() => return Err(format!("the end: {error}")),
            Err(error) => say(&mut std::io::stderr(), &format!("not saved {step}: {error}")),
        }
    }
    Ok(())
}

fn newest(folder: &Path) -> Result<(), String> {
    say(&mut std::io::stdout(), &format!("newest {}", tiny::newest(folder)?));
    Ok(())
}

/// Write errors are ignored, because a test may also make these writes fail.
fn say(to: &mut impl Write, text: &str) {
    let _ = writeln!(to, "{text}");
}
