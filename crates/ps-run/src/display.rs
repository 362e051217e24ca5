//! Formats progress to fit a terminal.

use crate::lines::{EpochLine, StepLine};
use crate::measures::{Measures, counted, grouped, percent, seconds};
use ps_terminal::{clip_start, fit, meter};
use std::time::Duration;

/// Widths of a bar in columns, widest first.
const METERS: [usize; 6] = [30, 20, 15, 12, 10, 8];

/// Formats an epoch in at most `width` columns. Numbers are padded to line up from epoch to epoch.
pub(crate) fn epoch(line: &EpochLine, width: usize) -> String {
    let digits = line.epochs.to_string().len();
    let [name, brief_name] = score_names(&line.train);
    let validation = |part: fn(&Measures) -> Option<String>| line.validation.as_ref().and_then(part);
    let mut fields = vec![
        vec![format!("epoch {:>digits$}/{}", line.epoch, line.epochs)],
        named(&["loss"], loss(&line.train)),
        named(&[name, brief_name], score(&line.train)),
        named(&["validation loss", "validation", "val"], validation(loss)),
        named(&[name, if line.train.accuracy.is_some() { "" } else { name }], validation(score)),
        vec![format!("{:>7}", seconds(line.seconds))],
        vec![format!("{} samples/s", grouped(line.samples_per_second))],
    ];
    let [train_score, loss, score, time, speed] = [2, 3, 4, 5, 6];
    let droppable = [train_score, loss, score, time, speed];
    droppable.iter().for_each(|&field| fields[field].push(String::new()));
    fit(width, &fields, &[speed, score, loss, train_score, loss, time, train_score, score, loss])
}

/// Formats the position and metrics of a run with a bar, in at most `width` columns. `left` is the estimated
/// remaining time of the run.
pub(crate) fn step(line: &StepLine, width: usize, left: Option<Duration>, color: bool) -> String {
    let share = line.step as f64 / line.steps.max(1) as f64;
    let digits = line.epochs.to_string().len();
    let score = match (line.accuracy, line.r_squared) {
        (Some(accuracy), _) => named(&["accuracy", ""], Some(percentage(accuracy))),
        (None, r_squared) => named(&["R²"], r_squared.map(|r_squared| format!("{r_squared:.4}"))),
    };
    let speed = grouped(line.samples_per_second);
    let mut fields = vec![
        vec![format!("epoch {:>digits$}/{}", line.epoch, line.epochs)],
        vec![format!("step {}/{}", line.step, line.steps)],
        METERS.map(|columns| meter(share, columns, color)).to_vec(),
        vec![format!("{:>3.0} %", (100.0 * share).floor())],
        left.map(|left| format!("{:>6} left", short_time(left))).into_iter().collect(),
        vec![format!("loss {:>6}", short_number(line.loss))],
        score,
        vec![format!("{speed} samples/s"), format!("{speed}/s")],
        vec![counted(line.workers, "worker")],
        vec![format!("rate {}", short_number(line.learning_rate.into()))],
    ];
    let [step, bar, left, loss, score, speed, workers, rate] = [1, 2, 4, 5, 6, 7, 8, 9];
    let droppable = [step, bar, left, loss, score, speed, workers, rate];
    droppable.iter().for_each(|&field| fields[field].push(String::new()));
    let bars = [bar; METERS.len() - 2];
    let first = [bar, rate, workers, speed, step, score];
    fit(width, &fields, &[&first[..], &bars, &[speed, score, bar, left, loss]].concat())
}

/// Returns the value after each of its names; an empty name is left out. Without a value, returns nothing.
fn named(names: &[&str], value: Option<String>) -> Vec<String> {
    let Some(value) = value else { return Vec::new() };
    names.iter().map(|name| if name.is_empty() { value.clone() } else { format!("{name} {value}") }).collect()
}

/// Formats the progress of reading `files` files in bytes, with a bar, in at most `width` columns. `name` is
/// one of the files.
pub(crate) fn read_progress(
    name: &str,
    files: usize,
    [done, total]: [u64; 2],
    width: usize,
    color: bool,
) -> String {
    let name = name.rsplit('/').next().unwrap_or(name);
    let others = if files > 1 { format!(" and {} more", files - 1) } else { String::new() };
    let bytes = format!("{} of {}", megabytes(done), megabytes(total));
    let share = done as f64 / total.max(1) as f64;
    let head = |most| format!("reading {}{others}", clip_start(name, most));
    let fields = [
        vec![head(usize::MAX), head(24), head(12)],
        METERS.map(|columns| meter(share, columns, color)).into_iter().chain([String::new()]).collect(),
        vec![bytes, String::new()],
    ];
    fit(width, &fields, &[1, 0, 1, 1, 1, 0, 1, 1, 2])
}

fn loss(measures: &Measures) -> Option<String> {
    Some(format!("{:>6}", short_number(measures.loss)))
}

/// Returns the accuracy of a classification or R² of a regression.
fn score(measures: &Measures) -> Option<String> {
    let accuracy = measures.accuracy.map(percentage);
    accuracy.or_else(|| measures.r_squared.map(|r_squared| format!("{r_squared:.4}")))
}

/// Formats a percentage in seven columns.
fn percentage(share: f64) -> String {
    let text = percent(share);
    format!("{:>7}", if text.len() > 7 { format!("{:.1} %", 100.0 * share) } else { text })
}

/// Formats a loss or rate in six columns if it is not negative. Wider numbers would make the line change its
/// layout during the run.
fn short_number(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || (0.001..9.999_95).contains(&size) => format!("{value:.4}"),
        size if (9.0..99.999_5).contains(&size) => format!("{value:.3}"),
        size if (99.0..999.995).contains(&size) => format!("{value:.2}"),
        size if (999.0..99_999.5).contains(&size) => format!("{value:.0}"),
        _ => format!("{value:.1e}"),
    }
}

/// The long and the short name of [`score`].
fn score_names(measures: &Measures) -> [&'static str; 2] {
    if measures.accuracy.is_some() { ["accuracy", "acc"] } else { ["R²", "R²"] }
}

/// Formats a time in six columns. It is an estimate, so two digits are enough.
fn short_time(time: Duration) -> String {
    match time.as_secs() {
        s if s < 60 => format!("{s}s"),
        s if s < 600 => format!("{}m {:02}s", s / 60, s % 60),
        s if s < 3600 => format!("{}m", s / 60),
        s if s < 36_000 => format!("{}h {:02}m", s / 3600, s / 60 % 60),
        s if s < 86_400 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measures(loss: f64, accuracy: f64) -> Measures {
        Measures {
            samples: 1,
            loss,
            accuracy: Some(accuracy),
            class_errors: [].into(),
            r_squared: None,
            scores: None,
        }
    }

    fn epoch_line(validation: Option<Measures>) -> EpochLine {
        EpochLine {
            epoch: 3,
            epochs: 12,
            step: 300,
            steps: 1200,
            train: measures(0.1234, 0.9755),
            validation,
            learning_rate: 0.1,
            samples_per_second: 123_456.0,
            workers: 2,
            seconds: 12.3,
        }
    }

    fn step_line() -> StepLine {
        StepLine {
            step: 600,
            steps: 1200,
            epoch: 6,
            epochs: 12,
            loss: 0.1234,
            accuracy: Some(0.9755),
            r_squared: None,
            learning_rate: 0.05,
            samples_per_second: 123_456.0,
            workers: 2,
            seconds: 12.3,
        }
    }

    #[test]
    fn an_epoch_says_what_fits() {
        let line = epoch_line(Some(measures(0.2345, 0.96)));
        for (width, wanted) in [
            (
                120,
                "epoch  3/12  loss 0.1234  accuracy 97.55 %  validation loss 0.2345  accuracy 96.00 %   12.3 s  123,456 samples/s",
            ),
            (
                100,
                "epoch  3/12  loss 0.1234  accuracy 97.55 %  validation loss 0.2345  accuracy 96.00 %   12.3 s",
            ),
            (80, "epoch  3/12  loss 0.1234  accuracy 97.55 %  validation 0.2345  96.00 %   12.3 s"),
            (60, "epoch  3/12  loss 0.1234  acc 97.55 %  val 0.2345  96.00 %"),
            (45, "epoch  3/12  loss 0.1234  val 0.2345  96.00 %"),
            (10, "epoch  3/12  loss 0.1234"),
        ] {
            assert_eq!(epoch(&line, width), wanted, "{width}");
        }
        assert_eq!(
            epoch(&epoch_line(None), 80),
            "epoch  3/12  loss 0.1234  accuracy 97.55 %   12.3 s  123,456 samples/s"
        );
    }

    #[test]
    fn lines_fit_every_width_from_forty_columns() {
        let left = Some(Duration::from_secs(3700));
        for width in 40..160 {
            let regression = Measures { accuracy: None, r_squared: Some(0.91), ..measures(1234.5, 0.0) };
            let lines = [
                epoch(&epoch_line(Some(measures(0.2345, 0.96))), width),
                epoch(&EpochLine { train: regression.clone(), ..epoch_line(Some(regression)) }, width),
                step(&step_line(), width, left, false),
                step(&StepLine { accuracy: None, r_squared: Some(0.5), ..step_line() }, width, None, false),
                read_progress(
                    "some/folder/train-images-idx3-ubyte.gz",
                    3,
                    [1_000_000, 9_912_422],
                    width,
                    false,
                ),
            ];
            for line in lines {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
    }

    #[test]
    fn numbers_keep_their_width() {
        let values = [0.0, 8.759e-4, 0.5, 9.999_96, 12.345_6, 123.456, 999.996, 1234.5, 99_999.6, 1.5e12];
        let texts =
            ["0.0000", "8.8e-4", "0.5000", "10.000", "12.346", "123.46", "1000", "1234", "1.0e5", "1.5e12"];
        assert_eq!(values.map(short_number), texts);
        assert_eq!([0.05, 0.99, 1.0].map(percentage), [" 5.00 %", "99.00 %", "100.0 %"]);
        assert_eq!(short_number(f64::NAN), "NaN");
    }

    #[test]
    fn a_bar_gives_way_to_numbers() {
        let left = Some(Duration::from_secs(83));
        let full = step(&step_line(), 160, left, false);
        assert!(
            full.starts_with(
                "epoch  6/12  step 600/1200  ━━━━━━━━━━━━━━━───────────────   50 %  1m 23s left"
            )
        );
        assert!(
            full.ends_with("loss 0.1234  accuracy 97.55 %  123,456 samples/s  2 workers  rate 0.0500"),
            "{full}"
        );
        assert_eq!(
            step(&step_line(), 77, left, false),
            "epoch  6/12  ━━━━━─────   50 %  1m 23s left  loss 0.1234  97.55 %  123,456/s"
        );
        assert_eq!(
            step(&step_line(), 57, left, false),
            "epoch  6/12  ━━━━────   50 %  1m 23s left  loss 0.1234"
        );
    }
}
