//! The measured costs of a run, stored as one JSON object per line.

use serde_json::Value;
use std::fmt;

/// Costs in seconds of one thread, unless stated otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    /// Seconds to compute a number of leaves whose sum is one node, including all overhead of a step; in
    /// ascending order of leaves.
    pub compute: Vec<(u32, f64)>,
    /// Additional seconds for each node beyond the first.
    pub extra_node: f64,
    /// Pairs (`n`, `share`): the first `n` weights are needed once `share` of the time has passed; ascending.
    pub needs: Vec<(usize, f64)>,
    /// Pairs (`n`, `share`): all elements of the gradient from index `n` on are final once `share` of the
    /// time has passed; in ascending order of `share`.
    pub gives: Vec<(usize, f64)>,
    /// To copy a byte of weights to where the computation reads it.
    pub take_byte: f64,
    /// To check a byte of a gradient for finite values, and to store it.
    pub check_byte: f64,
    /// To add a byte of a gradient to a sum.
    pub add_byte: f64,
    /// To add the last byte of a gradient, divide by the number of samples, and update the weights.
    pub update_byte: f64,
    /// To send a byte of a chunk.
    pub send_byte: f64,
    /// To receive a byte of a chunk.
    pub receive_byte: f64,
    /// To send or to receive a small message.
    pub message: f64,
    /// Delay from the end of sending to the start of receiving on one machine, if the receiver is asleep. No
    /// thread is busy during that time.
    pub wire_wake: f64,
    /// Like `wire_wake`, but between two threads of a process.
    pub handoff: f64,
    /// To pass a message to another thread of the process, and to take it there.
    pub switch: f64,
    /// The constant part of the round logic's time, for each message from or to a worker.
    pub control: f64,
    /// The part per worker: the round logic loops over all of them.
    pub control_worker: f64,
    /// Standard deviation of a worker's time, relative to its mean. A round waits for the slowest worker.
    pub jitter: f64,
    /// Factor on computation if all cores are busy: they share caches, memory bandwidth and power.
    pub crowding: f64,
}

/// A cost as it is reported.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Name of the figure, with parts separated by slashes.
    pub name: String,
    /// Value in the given unit.
    pub value: f64,
    /// `us`, `ns`, or `x` for a ratio.
    pub unit: &'static str,
}

/// Why lines are not valid costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CostsError {
    /// A line is not a JSON object with a name and a value. Line number, counted from 1.
    Line(usize),
    /// The figures with these names are missing.
    Missing(Vec<String>),
}

type Field = (&'static str, fn(&mut Costs) -> &mut f64);

/// The figures that do not depend on the computation. Those per byte are in nanoseconds per 1000 bytes, the
/// others in microseconds.
const FIELDS: [Field; 12] = [
    ("cost/take/kB", |costs| &mut costs.take_byte),
    ("cost/check/kB", |costs| &mut costs.check_byte),
    ("cost/add/kB", |costs| &mut costs.add_byte),
    ("cost/update/kB", |costs| &mut costs.update_byte),
    ("cost/send/kB", |costs| &mut costs.send_byte),
    ("cost/receive/kB", |costs| &mut costs.receive_byte),
    ("cost/message", |costs| &mut costs.message),
    ("cost/wire-wake", |costs| &mut costs.wire_wake),
    ("cost/handoff", |costs| &mut costs.handoff),
    ("cost/switch", |costs| &mut costs.switch),
    ("cost/control", |costs| &mut costs.control),
    ("cost/control/worker", |costs| &mut costs.control_worker),
];

/// Ratios, whose names begin with that of the computation.
const RATIOS: [Field; 2] = [("jitter", |costs| &mut costs.jitter), ("crowding", |costs| &mut costs.crowding)];

/// Returns the prefix of names of the costs of a computation. `model` lists its widths, such as 784-16-10;
/// `leaf` is the number of samples of a leaf.
pub fn compute_name(model: &str, leaf: usize, threads: usize) -> String {
    format!("cost/compute/{model}/leaf{leaf}/t{threads}")
}

impl Costs {
    /// Costs that are all 0.
    pub fn nothing() -> Self {
        Costs {
            compute: vec![(1, 0.0)],
            extra_node: 0.0,
            needs: Vec::new(),
            gives: Vec::new(),
            take_byte: 0.0,
            check_byte: 0.0,
            add_byte: 0.0,
            update_byte: 0.0,
            send_byte: 0.0,
            receive_byte: 0.0,
            message: 0.0,
            wire_wake: 0.0,
            handoff: 0.0,
            switch: 0.0,
            jitter: 0.0,
            control: 0.0,
            control_worker: 0.0,
            crowding: 1.0,
        }
    }

    /// Returns the median of each figure over several measurements of the same model.
    pub fn medians(measured: &[Costs]) -> Self {
        let median = |figure: &dyn Fn(&Costs) -> f64| {
            let mut values: Vec<f64> = measured.iter().map(figure).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        let mut medians = measured.first().cloned().unwrap_or_else(Costs::nothing);
        for (_, field) in FIELDS.into_iter().chain(RATIOS) {
            *field(&mut medians) = median(&|costs| *field(&mut costs.clone()));
        }
        medians.extra_node = median(&|costs| costs.extra_node);
        for (index, (_, share)) in medians.needs.iter_mut().enumerate() {
            *share = median(&|costs| costs.needs.get(index).map_or(0.0, |(_, share)| *share));
        }
        for (index, (_, share)) in medians.gives.iter_mut().enumerate() {
            *share = median(&|costs| costs.gives.get(index).map_or(1.0, |(_, share)| *share));
        }
        for (index, (_, seconds)) in medians.compute.iter_mut().enumerate() {
            *seconds = median(&|costs| costs.compute.get(index).map_or(0.0, |(_, seconds)| *seconds));
        }
        medians
    }

    /// Seconds to compute `leaves` leaves whose sums are `nodes` nodes. Interpolates linearly between
    /// measured numbers of leaves, and extrapolates proportionally beyond the largest.
    pub fn compute_seconds(&self, leaves: u32, nodes: usize) -> f64 {
        if leaves == 0 {
            return 0.0;
        }
        let extra = self.extra_node * nodes.saturating_sub(1) as f64;
        let above = self.compute.partition_point(|&(measured, _)| measured < leaves);
        let one_node = match (above.checked_sub(1).map(|below| self.compute[below]), self.compute.get(above))
        {
            (_, Some(&(measured, seconds))) if measured == leaves => seconds,
            (Some((fewer, less)), Some(&(more, most))) => {
                less + (most - less) * f64::from(leaves - fewer) / f64::from(more - fewer)
            }
            (Some((measured, seconds)), None) => seconds * f64::from(leaves) / f64::from(measured),
            (None, Some(&(_, seconds))) => seconds,
            (None, None) => 0.0,
        };
        one_node + extra
    }

    /// Parses lines of the form `{"name": …, "value": …}`. Lines that are not costs are skipped. `compute` is
    /// a result of [`compute_name`].
    ///
    /// # Errors
    /// A line is not such an object, or a figure is missing.
    pub fn read(lines: &str, compute: &str) -> Result<Costs, CostsError> {
        let mut found = Vec::new();
        for (number, line) in lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let value: Value = serde_json::from_str(line).map_err(|_| CostsError::Line(number + 1))?;
            match (value["name"].as_str(), value["value"].as_f64()) {
                (Some(name), Some(value)) => found.push((name.to_owned(), value)),
                _ => return Err(CostsError::Line(number + 1)),
            }
        }
        let mut missing = Vec::new();
        // If a name occurs several times, its last line counts, so that new measurements can be appended to a
        // file.
        let mut take = |name: &str| {
            let value = found.iter().rev().find(|(found, _)| found == name).map(|(_, value)| *value);
            if value.is_none() {
                missing.push(name.to_owned());
            }
            value.unwrap_or_default()
        };
        let mut costs = Costs::nothing();
        for (name, field) in FIELDS {
            *field(&mut costs) = take(name) * scale(name);
        }
        for (name, field) in RATIOS {
            *field(&mut costs) = take(&format!("{compute}/{name}"));
        }
        costs.extra_node = take(&format!("{compute}/extra-node")) * 1e-6;
        let prefix = format!("{compute}/leaves/");
        let leaves = |name: &str| name.strip_prefix(&prefix)?.parse().ok();
        costs.compute =
            found.iter().filter_map(|(name, value)| Some((leaves(name)?, value * 1e-6))).collect();
        costs.compute.sort_by_key(|&(leaves, _)| leaves);
        for (name, marks) in [("needs", &mut costs.needs), ("gives", &mut costs.gives)] {
            let prefix = format!("{compute}/{name}/");
            let element = |name: &str| name.strip_prefix(&prefix)?.parse().ok();
            *marks = found.iter().filter_map(|(name, value)| Some((element(name)?, *value))).collect();
            marks.sort_by(|a, b| a.1.total_cmp(&b.1));
        }
        if costs.compute.is_empty() {
            missing.push(format!("{prefix}N"));
        }
        if missing.is_empty() { Ok(costs) } else { Err(CostsError::Missing(missing)) }
    }

    /// Returns the figures that [`Costs::read`] needs, those that do not depend on the computation first.
    pub fn figures(&self, compute: &str) -> Vec<Figure> {
        let mut copy = self.clone();
        let mut figures: Vec<Figure> = FIELDS
            .iter()
            .map(|(name, field)| Figure::new(*name, *field(&mut copy) / scale(name), unit(name)))
            .collect();
        for (name, field) in RATIOS {
            figures.push(Figure::new(format!("{compute}/{name}"), *field(&mut copy), "x"));
        }
        figures.push(Figure::new(format!("{compute}/extra-node"), self.extra_node * 1e6, "us"));
        for (name, marks) in [("needs", &self.needs), ("gives", &self.gives)] {
            let mark = |(element, share): &(usize, f64)| {
                Figure::new(format!("{compute}/{name}/{element}"), *share, "x")
            };
            figures.extend(marks.iter().map(mark));
        }
        let leaves = self.compute.iter();
        figures.extend(
            leaves.map(|(leaves, seconds)| {
                Figure::new(format!("{compute}/leaves/{leaves}"), seconds * 1e6, "us")
            }),
        );
        figures
    }

    /// Formats the figures as lines of JSON.
    pub fn lines(&self, compute: &str) -> Vec<String> {
        let line = |Figure { name, value, unit }| {
            serde_json::json!({"name": name, "value": value, "unit": unit}).to_string()
        };
        self.figures(compute).into_iter().map(line).collect()
    }
}

impl Figure {
    fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        // Further digits would exceed the resolution of clocks.
        Figure { name: name.into(), value: (value * 1e6).round() / 1e6, unit }
    }
}

fn unit(name: &str) -> &'static str {
    if name.ends_with("/kB") { "ns" } else { "us" }
}

fn scale(name: &str) -> f64 {
    if unit(name) == "ns" { 1e-12 } else { 1e-6 }
}

impl fmt::Display for CostsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CostsError::Line(number) => {
                write!(f, "line {number} is no JSON object with a \"name\" and a numeric \"value\"")
            }
            CostsError::Missing(names) => write!(f, "no line is named {}", names.join(", nor ")),
        }
    }
}

impl std::error::Error for CostsError {}
