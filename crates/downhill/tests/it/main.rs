//! The library as its users call it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod arrays;
mod examples;
mod models;
mod runs;

use downhill::Run;
use std::path::Path;

/// A short run on [`table`]: two classes that a line does not quite separate.
fn short() -> Run {
    Run::new()
        .set("model.kind", "softmax")
        .set("data.standardize", true)
        .set("train.epochs", 3)
        .set("train.batch", 16)
        .set("train.leaf", 4)
        .set("learning_rate.initial", 0.5)
}

/// Returns the features of row number `row`, and its class.
fn row(row: usize) -> ([f32; 2], &'static str) {
    let (a, b) = (row * 7 % 23, row * 5 % 19);
    ([a as f32 / 8.0, b as f32], if a + b + row % 7 > 24 { "high" } else { "low" })
}

/// Writes a table of `rows` rows to the file `name` of a folder, and returns the source.
fn table(folder: &Path, name: &str, rows: usize) -> String {
    let lines = (0..rows).map(row).map(|([a, b], class)| format!("{a},{b},{class}\n"));
    let path = folder.join(name);
    std::fs::write(&path, format!("a,b,class\n{}", lines.collect::<String>())).unwrap();
    format!("csv:{}", path.display())
}
