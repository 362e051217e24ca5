//! Trains the run that a run file describes, like `downhill train RUN_FILE`.
//!
//! ```sh
//! cargo run -p downhill --example run_file -- examples/digits.toml 2
//! ```

use downhill::Run;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: run_file RUN_FILE [EPOCHS]")?;
    let mut run = Run::from_file(path)?;
    if let Some(epochs) = arguments.next() {
        run = run.set("train.epochs", epochs.parse::<u32>()?);
    }
    let trained = run.train()?;
    for line in trained.summary.lines(None) {
        println!("{line}");
    }
    Ok(())
}
