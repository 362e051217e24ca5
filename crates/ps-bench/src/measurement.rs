//! Figures, which of them are asked for, and how they are reported.

use crate::race::Effort;
use std::fmt;

/// A measured figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Name that stays the same across versions, with parts separated by slashes.
    pub name: String,
    /// The measured value: positive, or at least 0 for a `cost`.
    pub value: f64,
    /// Unit of the value: `GFLOP/s`, `GB/s`, `us`, `ns`, `samples/s`, or `x` for a ratio.
    pub unit: &'static str,
    /// The bound that the figure is compared with, if there is one.
    pub comparison: Option<Comparison>,
}

/// The comparison of a figure with another one.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The figure divided by the other one, both measured in the same turns.
    pub ratio: f64,
    /// Name of the other figure.
    pub of: String,
}

impl Measurement {
    /// Creates a figure without a comparison.
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Measurement { name: name.into(), value, unit, comparison: None }
    }

    /// Adds the comparison with another figure of the same unit, whose value is `other`.
    pub(crate) fn against(self, of: impl Into<String>, other: f64) -> Self {
        let comparison = Comparison { ratio: self.value / other, of: of.into() };
        Measurement { comparison: Some(comparison), ..self }
    }
}

impl fmt::Display for Measurement {
    /// Formats the figure as a line of a table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measurement { name, value, unit, comparison } = self;
        let digits = if *value < 10.0 { 3 } else { usize::from(*value < 1000.0) };
        write!(f, "{name:<48} {value:>12.digits$} {unit:<9}")?;
        match comparison {
            Some(Comparison { ratio, of }) => write!(f, " {ratio:>7.3} of {of}"),
            None => Ok(()),
        }
    }
}

/// Why measuring ended without all figures.
#[derive(Debug)]
pub enum Error {
    /// A figure could not be reported.
    Report(std::io::Error),
    /// A measurement failed.
    Failed {
        /// The measurement that failed.
        what: String,
        /// The cause of the failure.
        why: String,
    },
    /// These figures could not be measured, but all others were.
    Incomplete(Vec<Error>),
}

impl Error {
    /// Creates the error that `what` failed because of `why`.
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

/// Receives each figure as soon as it is measured.
pub type Report<'a> = Box<dyn FnMut(&Measurement) -> std::io::Result<()> + 'a>;

/// The selection of figures, and the function that receives them.
pub struct Bench<'a> {
    effort: Effort,
    only: Vec<String>,
    report: Report<'a>,
    skipped: Vec<Error>,
}

impl<'a> Bench<'a> {
    /// Selects all figures and passes them to `report`.
    pub fn new(effort: Effort, report: Report<'a>) -> Self {
        Bench { effort, only: Vec::new(), report, skipped: Vec::new() }
    }

    /// Restricts the selection to names that begin with one of these. An empty list selects everything.
    pub fn only(self, only: Vec<String>) -> Self {
        Bench { only, ..self }
    }

    /// Returns how much time to spend.
    pub(crate) fn effort(&self) -> Effort {
        self.effort
    }

    /// Returns whether `name`, or any name that begins with it, is selected.
    pub(crate) fn is_selected(&self, name: &str) -> bool {
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.only.is_empty() || self.only.iter().any(|only| within(name, only) || within(only, name))
    }

    /// Continues without the figure `name`, which cannot be measured because of `why`.
    pub(crate) fn skip(&mut self, name: &str, why: impl fmt::Display) {
        if self.is_selected(name) {
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

    /// Reports a figure if it is selected.
    ///
    /// # Errors
    /// The figure cannot be reported.
    pub(crate) fn report(&mut self, measurement: Measurement) -> Result<(), Error> {
        if !self.is_selected(&measurement.name) {
            return Ok(());
        }
        (self.report)(&measurement).map_err(Error::Report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_selects_all_figures_it_is_a_prefix_of() {
        let bench = |only: &str| Bench::new(Effort::Quick, Box::new(|_| Ok(()))).only(vec![only.into()]);
        for (only, name, wanted) in [
            ("round/10kB", "round", true),
            ("round/10kB", "round/10kB/p50", true),
            ("round/10kB", "round/1MB", false),
            ("fold", "fold-update", false),
            ("peak", "peak/fma", true),
        ] {
            assert_eq!(bench(only).is_selected(name), wanted, "--only {only}: {name}");
        }
        assert!(Bench::new(Effort::Quick, Box::new(|_| Ok(()))).is_selected("anything"));
    }

    #[test]
    fn skipped_figures_are_named_at_the_end() {
        let mut bench = Bench::new(Effort::Quick, Box::new(|_| Ok(()))).only(vec!["round".into()]);
        bench.skip("step/a", "not asked for");
        assert!(bench.finish().is_ok());
        bench.skip("round/a", "too busy");
        bench.skip("round/b", "too busy");
        let error = bench.finish().unwrap_err().to_string();
        assert_eq!(error, "cannot measure round/a: too busy\ncannot measure round/b: too busy");
    }

    #[test]
    fn a_ratio_is_relative_to_the_compared_figure() {
        let measurement = Measurement::new("b", 3.0, "us").against("a", 2.0);
        assert_eq!(measurement.comparison.as_ref().map(|comparison| comparison.ratio), Some(1.5));
        assert!(measurement.to_string().ends_with("1.500 of a"), "{measurement}");
    }
}
