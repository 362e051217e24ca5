//! What is measured, and how it is asked for and told.

use crate::race::Effort;
use std::fmt;

/// A figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Its stable name, slash-separated.
    pub name: String,
    /// Its value, above 0; of a `cost` at least 0.
    pub value: f64,
    /// Its unit: `GFLOP/s`, `GB/s`, `us`, `ns`, `samples/s`, or `x` for a ratio.
    pub unit: &'static str,
    /// What it is held against, if there is anything.
    pub held: Option<Held>,
}

/// What a figure is held against.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// The figure over the other one, taken in the same turns.
    pub ratio: f64,
    /// The other one's name.
    pub of: String,
}

impl Measurement {
    /// A figure on its own.
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Measurement { name: name.into(), value, unit, held: None }
    }

    /// The same, held against another of the same unit.
    pub(crate) fn against(self, of: impl Into<String>, other: f64) -> Self {
        let held = Held { ratio: self.value / other, of: of.into() };
        Measurement { held: Some(held), ..self }
    }
}

impl fmt::Display for Measurement {
    /// A line of a table for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measurement { name, value, unit, held } = self;
        let digits = if *value < 10.0 { 3 } else { usize::from(*value < 1000.0) };
        write!(f, "{name:<48} {value:>12.digits$} {unit:<9}")?;
        match held {
            Some(Held { ratio, of }) => write!(f, " {ratio:>7.3} of {of}"),
            None => Ok(()),
        }
    }
}

/// Why measuring ended early.
#[derive(Debug)]
pub enum Error {
    /// What was measured could not be told.
    Report(std::io::Error),
    /// Something did not work.
    Failed {
        /// What was to be measured.
        what: String,
        /// What went wrong.
        why: String,
    },
    /// These figures could not be measured; all others were.
    Incomplete(Vec<Error>),
}

impl Error {
    /// `what` failed because of `why`.
    pub(crate) fn failed(what: &str, why: impl fmt::Display) -> Self {
        Error::Failed { what: what.into(), why: why.to_string() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Report(error) => write!(f, "cannot write what was measured: {error}"),
            Error::Failed { what, why } => write!(f, "cannot measure {what}: {why}"),
            Error::Incomplete(errors) => {
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
        }
    }
}

impl std::error::Error for Error {}

/// Takes a figure as soon as it is known.
pub type Report<'a> = Box<dyn FnMut(&Measurement) -> std::io::Result<()> + 'a>;

/// What is asked for, and who is told.
pub struct Bench<'a> {
    effort: Effort,
    only: Vec<String>,
    report: Report<'a>,
    skipped: Vec<Error>,
}

impl<'a> Bench<'a> {
    /// Everything, told to `report`.
    pub fn new(effort: Effort, report: Report<'a>) -> Self {
        Bench { effort, only: Vec::new(), report, skipped: Vec::new() }
    }

    /// Only names that are, or begin with, one of these; everything if there are none.
    pub fn only(self, only: Vec<String>) -> Self {
        Bench { only, ..self }
    }

    /// How much time is spent.
    pub(crate) fn effort(&self) -> Effort {
        self.effort
    }

    /// Whether a name, or anything whose name begins with it, is asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.only.is_empty() || self.only.iter().any(|only| within(name, only) || within(only, name))
    }

    /// Goes on without the figure `name`, which cannot be measured because of `why`.
    pub(crate) fn skip(&mut self, name: &str, why: impl fmt::Display) {
        if self.wants(name) {
            self.skipped.push(Error::failed(name, why));
        }
    }

    /// Ends the measurements.
    ///
    /// # Errors
    /// Some figures were skipped.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        match std::mem::take(&mut self.skipped) {
            skipped if skipped.is_empty() => Ok(()),
            skipped => Err(Error::Incomplete(skipped)),
        }
    }

    /// Tells a figure if it is asked for.
    ///
    /// # Errors
    /// It cannot be told.
    pub(crate) fn tell(&mut self, measurement: Measurement) -> Result<(), Error> {
        if !self.wants(&measurement.name) {
            return Ok(());
        }
        (self.report)(&measurement).map_err(Error::Report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_asks_for_what_it_begins() {
        let bench = |only: &str| Bench::new(Effort::Quick, Box::new(|_| Ok(()))).only(vec![only.into()]);
        for (only, name, wanted) in [
            ("round/10kB", "round", true),
            ("round/10kB", "round/10kB/p50", true),
            ("round/10kB", "round/1MB", false),
            ("fold", "fold-update", false),
            ("peak", "peak/fma", true),
        ] {
            assert_eq!(bench(only).wants(name), wanted, "--only {only}: {name}");
        }
        assert!(Bench::new(Effort::Quick, Box::new(|_| Ok(()))).wants("anything"));
    }

    #[test]
    fn what_is_skipped_is_named_in_the_end() {
        let mut bench = Bench::new(Effort::Quick, Box::new(|_| Ok(()))).only(vec!["round".into()]);
        bench.skip("step/a", "not asked for");
        assert!(bench.finish().is_ok());
        bench.skip("round/a", "too busy");
        bench.skip("round/b", "too busy");
        let error = bench.finish().unwrap_err().to_string();
        assert_eq!(error, "cannot measure round/a: too busy\ncannot measure round/b: too busy");
    }

    #[test]
    fn a_ratio_is_over_what_it_is_held_against() {
        let measurement = Measurement::new("b", 3.0, "us").against("a", 2.0);
        assert_eq!(measurement.held.as_ref().map(|held| held.ratio), Some(1.5));
        assert!(measurement.to_string().ends_with("1.500 of a"), "{measurement}");
    }
}
