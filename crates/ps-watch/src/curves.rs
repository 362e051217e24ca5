//! Turns lines of metrics files into curves.

use ps_plot::{Axis, Figure, Lines, Mark, Panel, Series, Style};
use ps_run::{EpochLine, EventLine, Line, ProbeLine, StepLine};

/// Maximum number of labels of events per run; more would hide one another.
const MAX_MARKS: usize = 24;

/// The course of a run: its lines of metrics, by kind.
pub struct RunCurves {
    name: String,
    steps: Vec<StepLine>,
    epochs: Vec<EpochLine>,
    probes: Vec<ProbeLine>,
    events: Vec<EventLine>,
}

impl RunCurves {
    /// Sorts `lines`, those of the run `name`.
    pub fn new(name: String, lines: Vec<Line>) -> Self {
        let mut course =
            RunCurves { name, steps: Vec::new(), epochs: Vec::new(), probes: Vec::new(), events: Vec::new() };
        for line in lines {
            match line {
                Line::Step(line) => course.steps.push(line),
                Line::Epoch(line) => course.epochs.push(line),
                Line::Probe(line) => course.probes.push(line),
                Line::Event(line) => course.events.push(line),
                Line::Hash(_) => {}
            }
        }
        course
    }

    /// Returns a point for each step line that has this value.
    fn of_steps(&self, value: impl Fn(&StepLine) -> Option<f64>) -> Vec<(f64, f64)> {
        self.steps.iter().filter_map(|line| Some((line.step as f64, value(line)?))).collect()
    }

    /// Returns a point for each epoch whose validation has this value.
    fn of_validation(&self, value: impl Fn(&ps_run::Measures) -> Option<f64>) -> Vec<(f64, f64)> {
        let point = |line: &EpochLine| Some((line.step as f64, value(line.validation.as_ref()?)?));
        self.epochs.iter().filter_map(point).collect()
    }

    fn of_probes(&self, value: impl Fn(&ProbeLine) -> f64) -> Vec<(f64, f64)> {
        self.probes.iter().map(|probe| (probe.step as f64, value(probe))).collect()
    }
}

/// Draws all metrics of the runs into one figure.
pub fn figure(courses: &[RunCurves]) -> Figure {
    let names: Vec<&str> = courses.iter().map(|course| course.name.as_str()).collect();
    let panels = panels(courses);
    Figure {
        title: names.join(", "),
        columns: if panels.len() > 1 { 2 } else { 1 },
        panel: (560, 320),
        panels: panels.into_iter().map(Panel::Lines).collect(),
    }
}

/// Returns the panels of that figure, without those that would be empty.
pub(crate) fn panels(courses: &[RunCurves]) -> Vec<Lines> {
    let pairs = |train: fn(&RunCurves) -> Vec<(f64, f64)>, validation: fn(&RunCurves) -> Vec<(f64, f64)>| {
        let of = |(index, course): (usize, &RunCurves)| {
            let words = words(courses, index);
            // With a single run, the curves of a panel have different colors; with several runs, each run has
            // its own color.
            let other = if courses.len() == 1 { 1 } else { index };
            [
                series(words("training"), index, Style::Noisy, train(course)),
                series(words("validation"), other, Style::Dashed, validation(course)),
            ]
        };
        courses.iter().enumerate().flat_map(of).collect::<Vec<_>>()
    };
    let mut panels = vec![panel(
        "mean loss per sample",
        pairs(|it| it.of_steps(|line| Some(line.loss)), |it| it.of_validation(|it| Some(it.loss))),
        marks(courses),
    )];
    let accuracy = pairs(
        |it| it.of_steps(|line| line.accuracy.map(|share| 100.0 * share)),
        |it| it.of_validation(|it| it.accuracy.map(|share| 100.0 * share)),
    );
    panels.push(linear("accuracy in %", accuracy));
    let r_squared = pairs(
        // Before a model has learned anything, R² can be far below 0, which says no more than 0 does.
        |it| it.of_steps(|line| line.r_squared.map(|it| it.max(0.0))),
        |it| it.of_validation(|it| it.r_squared.map(|it| it.max(0.0))),
    );
    panels.push(linear("R²", r_squared));
    let each = |name: &str, style, points: fn(&RunCurves) -> Vec<(f64, f64)>| {
        let of = |(index, course): (usize, &RunCurves)| {
            series(words(courses, index)(name), index, style, points(course))
        };
        courses.iter().enumerate().map(of).collect::<Vec<_>>()
    };
    let rates = each("", Style::Solid, |it| it.of_steps(|line| Some(line.learning_rate.into())));
    panels.push(panel("learning rate", rates, marks(courses)));
    let norms = each("", Style::Solid, |it| it.of_probes(|probe| probe.gradient_norm));
    panels.push(panel("norm of the gradient", norms, Vec::new()));
    let predicted =
        each("predicted to first order", Style::Solid, |it| it.of_probes(|probe| probe.predicted_decrease));
    let actual = each("actual", Style::Dots, |it| it.of_probes(|probe| probe.actual_decrease));
    let actual = actual
        .into_iter()
        .map(|series| Series { color: series.color + usize::from(courses.len() == 1), ..series });
    let decreases: Vec<Series> = predicted.into_iter().chain(actual).collect();
    panels.push(panel("decrease of the batch loss in a step", decreases, Vec::new()));
    // If the predicted decrease is close to 0, the ratio is meaningless and would flatten all others.
    let ratio = |probe: &ProbeLine| (probe.actual_decrease / probe.predicted_decrease).clamp(-1.0, 3.0);
    let ratios = courses.iter().enumerate().map(|(index, course)| {
        series(words(courses, index)(""), index, Style::Dots, course.of_probes(ratio))
    });
    panels.push(linear("actual / predicted decrease, clipped to [-1, 3]", ratios.collect()));
    panels.push(panel("change of a layer's weight / its norm", layers(courses), Vec::new()));
    panels.retain(|panel| panel.series.iter().any(|series| !series.points.is_empty()));
    panels
}

/// Returns a function for names of curves of the run `index`: the given name, prefixed with the run's name if
/// there are several.
fn words(courses: &[RunCurves], index: usize) -> impl Fn(&str) -> String {
    let run = (courses.len() > 1).then(|| courses[index].name.clone());
    move |what| match &run {
        None => what.to_string(),
        Some(run) if what.is_empty() => run.clone(),
        Some(run) => format!("{run}, {what}"),
    }
}

fn layers(courses: &[RunCurves]) -> Vec<Series> {
    let of = |(index, course): (usize, &RunCurves)| {
        let count = course.probes.first().map_or(0, |probe| probe.update_ratios.len());
        let words = words(courses, index);
        let layer = |layer: usize| {
            let points =
                course.of_probes(|probe| probe.update_ratios.get(layer).copied().unwrap_or(f64::NAN));
            let color = if courses.len() == 1 { layer } else { index };
            series(words(&format!("layer {layer}")), color, Style::Solid, points)
        };
        (0..count).map(layer).collect::<Vec<_>>()
    };
    courses.iter().enumerate().flat_map(of).collect()
}

fn series(name: String, color: usize, style: Style, points: Vec<(f64, f64)>) -> Series {
    // An empty curve gets no entry in the legend.
    let name = if points.is_empty() { String::new() } else { name };
    Series { name, color, style, points }
}

fn panel(title: &str, series: Vec<Series>, marks: Vec<Mark>) -> Lines {
    let values = series.iter().flat_map(|series| &series.points).map(|(_, value)| *value);
    Lines { title: title.into(), x: Axis::linear("step"), y: Axis::fitting("", values), series, marks }
}

/// Returns a panel with a linear y axis.
fn linear(title: &str, series: Vec<Series>) -> Lines {
    Lines { y: Axis::linear(""), ..panel(title, series, Vec::new()) }
}

fn marks(courses: &[RunCurves]) -> Vec<Mark> {
    let of = |(index, course): (usize, &RunCurves)| {
        let color = if courses.len() == 1 { 6 } else { index };
        let mut last = "";
        let mark = |line| {
            let EventLine { step, event, .. }: &EventLine = line;
            // Of several equal events in a row, only the first one has a label.
            let label = if event == last { String::new() } else { event.clone() };
            last = event.as_str();
            Mark { at: *step as f64, label, color }
        };
        course.events.iter().take(MAX_MARKS).map(mark).collect::<Vec<_>>()
    };
    courses.iter().enumerate().flat_map(of).collect()
}
