//! Axes: ranges, ticks and their labels.

/// An axis of a panel.
#[derive(Clone, Debug, Default)]
pub struct Axis {
    /// Label of the axis.
    pub label: String,
    /// Whether the axis is logarithmic.
    pub is_log: bool,
    /// The largest value shown. Curves are cut off there.
    pub top: Option<f64>,
}

/// The range and ticks of an axis, in drawing units: values, or decimal logarithms on a log axis.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    /// Lower end of the range.
    pub low: f64,
    /// Upper end of the range.
    pub high: f64,
    /// Positions of the ticks, in ascending order.
    pub ticks: Vec<f64>,
    is_log: bool,
}

impl Axis {
    /// Creates a linear axis.
    pub fn linear(label: &str) -> Self {
        Axis { label: label.into(), ..Axis::default() }
    }

    /// Creates a logarithmic axis.
    pub fn log(label: &str) -> Self {
        Axis { label: label.into(), is_log: true, top: None }
    }

    /// Creates a logarithmic axis if all finite `values` are positive and span more than a factor of 20;
    /// otherwise, a linear one.
    pub fn fitting(label: &str, values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high, mut count, mut above) = (f64::INFINITY, 0.0_f64, 0, 0);
        for value in values.filter(|value| value.is_finite()) {
            count += 1;
            if value > 0.0 {
                above += 1;
                (low, high) = (low.min(value), high.max(value));
            }
        }
        Axis { label: label.into(), is_log: above == count && high > 20.0 * low, top: None }
    }

    /// Limits the axis to values of at most `top`.
    pub fn up_to(self, top: f64) -> Self {
        Axis { top: Some(top), ..self }
    }

    /// Converts a value to drawing units; `None` if it cannot be shown on this axis.
    pub(crate) fn drawn(&self, value: f64) -> Option<f64> {
        let drawn = if self.is_log { value.log10() } else { value };
        drawn.is_finite().then_some(drawn)
    }

    /// Returns a scale that shows all of `values` up to the axis's `top`, with a margin.
    pub(crate) fn scale(&self, values: impl Iterator<Item = f64>) -> Scale {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        let shown = values.filter(|value| self.top.is_none_or(|top| *value <= top));
        for value in shown.filter_map(|value| self.drawn(value)) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if high - low <= 1e-9 * high.abs().max(1e-30) {
            let room = if self.is_log || high == 0.0 { 0.5 } else { high.abs() * 0.1 };
            (low, high) = (low - room, high + room);
        }
        self.between(low, high, 0.04)
    }

    /// Returns the scale from `low` to `high`, in drawing units, with margins of `room` times the range.
    pub(crate) fn between(&self, low: f64, high: f64, room: f64) -> Scale {
        let room = (high - low) * room;
        let (low, high) = (low - room, high + room);
        let ticks = match self.is_log {
            false => round(low, high),
            true if high - low >= 0.7 => decades(low, high),
            // Within less than a decade, round numbers are better ticks than round logarithms.
            true => round(10_f64.powf(low), 10_f64.powf(high)).into_iter().map(f64::log10).collect(),
        };
        Scale { low, high, ticks, is_log: self.is_log }
    }
}

impl Scale {
    /// Formats the label of a tick.
    pub(crate) fn text(&self, tick: f64) -> String {
        number(if self.is_log { 10_f64.powf(tick) } else { tick })
    }
}

/// Returns ticks at 1, 2 and 5 times powers of ten if there is room for them, otherwise at powers of ten.
fn decades(low: f64, high: f64) -> Vec<f64> {
    let span = high - low;
    let factors: &[f64] = match span {
        ..1.6 => &[1.0, 2.0, 5.0],
        ..3.2 => &[1.0, 3.0],
        _ => &[1.0],
    };
    let every = (span / 7.0).ceil().max(1.0) as i64;
    let decades = (low.floor() as i64)..=(high.ceil() as i64);
    let decades = decades.filter(|decade| decade.rem_euclid(every) == 0);
    let ticks = decades.flat_map(|decade| factors.iter().map(move |factor| decade as f64 + factor.log10()));
    ticks.filter(|tick| (low..=high).contains(tick)).collect()
}

/// Returns about six ticks, at multiples of 1, 2 or 5 times a power of ten.
fn round(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 6.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|tick| tick as f64 * step).collect()
}

/// Formats a number briefly: `0.0123`, `1,000`, `2.5e7`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || size < 1e-12 {
        return "0".into();
    }
    // Beyond this, writing out all digits would take too much room beside an axis.
    if !(1e-3..1e7).contains(&size) {
        let text = format!("{value:.1e}");
        return text.replace(".0e", "e");
    }
    let digits = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').into()
    } else {
        separated(&text)
    }
}

/// Groups the digits of a whole number by three.
fn separated(number: &str) -> String {
    let mut text = String::with_capacity(number.len() + number.len() / 3);
    for (index, digit) in number.char_indices() {
        let is_start = text.is_empty() || text == "-";
        if !is_start && (number.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_within_the_range() {
        let scale = Axis::linear("").scale([0.0, 97.0].into_iter());
        assert_eq!(scale.ticks, [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        let narrow = Axis::log("").scale([50.0, 100.0].into_iter());
        let texts: Vec<String> = narrow.ticks.iter().map(|tick| narrow.text(*tick)).collect();
        assert_eq!(texts, ["50", "60", "70", "80", "90", "100"]);
        let scale = Axis::log("").scale([2e-5, 3.0].into_iter());
        let texts: Vec<String> = scale.ticks.iter().map(|tick| scale.text(*tick)).collect();
        assert_eq!(texts, ["1e-4", "0.001", "0.01", "0.1", "1"]);
    }

    #[test]
    fn one_value_and_no_value_have_a_scale_too() {
        for values in [vec![], vec![3.0], vec![0.0, 0.0], vec![f64::NAN, 1.0], vec![-5e-20]] {
            for axis in [Axis::linear(""), Axis::log("")] {
                let scale = axis.scale(values.iter().copied());
                assert!(scale.low < scale.high && scale.ticks.len() < 20, "{values:?} {scale:?}");
            }
        }
    }

    #[test]
    fn thousands_are_separated() {
        let numbers = [999.0, 1000.0, -1000.0, 12_345.6, -999_999.0, 1e6, 2.5e7, 1234.5, 0.5, -100.0];
        let texts =
            ["999", "1,000", "-1,000", "12,346", "-999,999", "1,000,000", "2.5e7", "1,234", "0.5", "-100"];
        assert_eq!(numbers.map(number), texts);
    }

    #[test]
    fn an_axis_ends_at_its_top() {
        let scale = Axis::linear("").up_to(3.0).scale([0.0, 2.0, 50.0].into_iter());
        assert!(scale.low < 0.0 && (2.0..3.2).contains(&scale.high), "{scale:?}");
    }

    #[test]
    fn an_axis_is_logarithmic_where_values_differ_much() {
        assert!(Axis::fitting("", [0.001, 2.0].into_iter()).is_log);
        assert!(!Axis::fitting("", [0.5, 2.0].into_iter()).is_log);
        assert!(!Axis::fitting("", [0.0, 2.0].into_iter()).is_log);
    }
}
