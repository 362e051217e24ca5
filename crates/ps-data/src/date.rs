//! Dates and times in the proleptic Gregorian calendar, and their parts.

use serde::{Deserialize, Serialize};

/// A number that is derived from a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatePart {
    /// The year, such as 2026.
    Year,
    /// The quarter, from 1 to 4.
    Quarter,
    /// The month, from 1 to 12.
    Month,
    /// The day of the month, from 1.
    Day,
    /// The day of the week, from 0 for Monday to 6 for Sunday.
    Weekday,
    /// The day of the year, from 1.
    Yearday,
    /// The hour, from 0 to 23.
    Hour,
    /// The minute, from 0 to 59.
    Minute,
    /// The second, from 0 to 59, without its fraction.
    Second,
    /// The days since 1970-01-01, with the time as a fraction of a day.
    Days,
}

impl DatePart {
    /// All parts, in the order of their declaration.
    pub const ALL: [DatePart; 10] = [
        DatePart::Year,
        DatePart::Quarter,
        DatePart::Month,
        DatePart::Day,
        DatePart::Weekday,
        DatePart::Yearday,
        DatePart::Hour,
        DatePart::Minute,
        DatePart::Second,
        DatePart::Days,
    ];

    /// The parts that become features if the run file lists none.
    pub(crate) const DEFAULT: [DatePart; 5] =
        [DatePart::Year, DatePart::Month, DatePart::Day, DatePart::Weekday, DatePart::Hour];

    /// The name of the part in the run file and in names of features.
    pub fn name(self) -> &'static str {
        match self {
            DatePart::Year => "year",
            DatePart::Quarter => "quarter",
            DatePart::Month => "month",
            DatePart::Day => "day",
            DatePart::Weekday => "weekday",
            DatePart::Yearday => "yearday",
            DatePart::Hour => "hour",
            DatePart::Minute => "minute",
            DatePart::Second => "second",
            DatePart::Days => "days",
        }
    }
}

/// How dates are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Option<String>", into = "Option<String>")]
pub(crate) struct DateFormat {
    /// `None` for ISO 8601.
    pattern: Option<(String, Vec<Item>)>,
}

/// An element of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Literal(char),
    /// `%Y`: four digits.
    Year,
    /// `%y`: two digits, from 1969 to 2068.
    ShortYear,
    /// `%m`: one or two digits, like all items below unless stated otherwise.
    Month,
    /// `%b`: the first three letters of the English name, in any case.
    MonthName,
    /// `%d`: the day of the month, from 1.
    Day,
    /// `%H`, from 0 to 23.
    Hour,
    /// `%I`, from 1 to 12.
    HalfDayHour,
    /// `%p`: `AM` or `PM` in any case.
    HalfDay,
    /// `%M`: the minute, from 0 to 59.
    Minute,
    /// `%S`: the second, from 0 to 59.
    Second,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

impl DateFormat {
    /// Parses a pattern such as `%d/%m/%Y`; `None` stands for ISO 8601.
    pub(crate) fn new(pattern: Option<&str>) -> Result<Self, String> {
        let Some(pattern) = pattern else { return Ok(DateFormat::default()) };
        let mut items = Vec::new();
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            items.push(match character {
                '%' => match characters.next() {
                    Some('Y') => Item::Year,
                    Some('y') => Item::ShortYear,
                    Some('m') => Item::Month,
                    Some('b') => Item::MonthName,
                    Some('d') => Item::Day,
                    Some('H') => Item::Hour,
                    Some('I') => Item::HalfDayHour,
                    Some('p') => Item::HalfDay,
                    Some('M') => Item::Minute,
                    Some('S') => Item::Second,
                    Some('%') => Item::Literal('%'),
                    other => {
                        let other = other.map_or(String::new(), String::from);
                        return Err(format!(
                            "`%{other}` is unknown; there are %Y %y %m %b %d %H %I %p %M %S and %%"
                        ));
                    }
                },
                literal => Item::Literal(literal),
            });
        }
        Ok(DateFormat { pattern: Some((pattern.into(), items)) })
    }

    /// Whether dates are written as in ISO 8601.
    pub(crate) fn is_iso(&self) -> bool {
        self.pattern.is_none()
    }

    /// Parses a date.
    pub(crate) fn parse(&self, text: &str) -> Option<Date> {
        match &self.pattern {
            None => iso(text),
            Some((_, items)) => by_pattern(text, items),
        }
    }

    /// What dates look like, for error messages.
    pub(crate) fn described(&self) -> String {
        match &self.pattern {
            None => "YYYY-MM-DD, possibly with HH:MM or HH:MM:SS".into(),
            Some((pattern, _)) => format!("`{pattern}`"),
        }
    }
}

impl TryFrom<Option<String>> for DateFormat {
    type Error = String;

    fn try_from(pattern: Option<String>) -> Result<Self, String> {
        DateFormat::new(pattern.as_deref())
    }
}

impl From<DateFormat> for Option<String> {
    fn from(format: DateFormat) -> Self {
        format.pattern.map(|(pattern, _)| pattern)
    }
}

/// A valid date with a time, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Date {
    year: u32,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
}

impl Date {
    fn checked(self) -> Option<Date> {
        let Date { year, month, day, hour, minute, second } = self;
        let is_valid = (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
        (is_valid && hour < 24 && minute < 60 && second < 60).then_some(self)
    }

    /// The value of a part.
    pub(crate) fn part(self, part: DatePart) -> f32 {
        let days = self.days();
        (match part {
            DatePart::Year => self.year,
            DatePart::Quarter => self.month.div_ceil(3),
            DatePart::Month => self.month,
            DatePart::Day => self.day,
            // 1970-01-01 was a Thursday.
            DatePart::Weekday => (days + 3).rem_euclid(7) as u32,
            DatePart::Yearday => {
                (1..self.month).map(|month| days_in_month(self.year, month)).sum::<u32>() + self.day
            }
            DatePart::Hour => self.hour,
            DatePart::Minute => self.minute,
            DatePart::Second => self.second,
            DatePart::Days => {
                let seconds = (self.hour * 60 + self.minute) * 60 + self.second;
                return ((days * 86_400 + i64::from(seconds)) as f64 / 86_400.0) as f32;
            }
        }) as f32
    }

    /// The days since 1970-01-01.
    fn days(self) -> i64 {
        // Years are counted from March, so that a leap day is the last day of its year.
        let year = i64::from(self.year) - i64::from(self.month <= 2);
        let month = i64::from((self.month + 9) % 12);
        let day_of_year = (153 * month + 2) / 5 + i64::from(self.day) - 1;
        let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        365 * year + leap_days + day_of_year - 719_468
    }
}

fn days_in_month(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Parses `YYYY-MM-DD`, optionally followed by a `T` or a space and `HH:MM` or `HH:MM:SS`, the latter with an
/// optional fraction, and by `Z` or a UTC offset. Offset and fraction do not affect the parts.
fn iso(text: &str) -> Option<Date> {
    let mut rest = Rest(text);
    let year = rest.digits(4, 4)?;
    let month = rest.literal('-').and_then(|()| rest.digits(2, 2))?;
    let day = rest.literal('-').and_then(|()| rest.digits(2, 2))?;
    let mut date = Date { year, month, day, hour: 0, minute: 0, second: 0 };
    if !rest.0.is_empty() {
        rest.literal('T').or_else(|| rest.literal(' '))?;
        date.hour = rest.digits(2, 2)?;
        date.minute = rest.literal(':').and_then(|()| rest.digits(2, 2))?;
        if rest.literal(':').is_some() {
            date.second = rest.digits(2, 2)?;
            if rest.literal('.').is_some() {
                rest.digits(1, 9)?;
            }
        }
        if rest.literal('Z').is_none() && rest.literal('+').or_else(|| rest.literal('-')).is_some() {
            rest.digits(2, 2)?;
            let has_colon = rest.literal(':').is_some();
            if has_colon || !rest.0.is_empty() {
                rest.digits(2, 2)?;
            }
        }
    }
    if rest.0.is_empty() { date.checked() } else { None }
}

/// Parses a date by a pattern. Parts that the pattern lacks are those of 1970-01-01 00:00:00.
fn by_pattern(text: &str, items: &[Item]) -> Option<Date> {
    let mut rest = Rest(text);
    let mut date = Date { year: 1970, month: 1, day: 1, hour: 0, minute: 0, second: 0 };
    let mut is_afternoon = None;
    for item in items {
        match item {
            Item::Literal(literal) => rest.literal(*literal)?,
            Item::Year => date.year = rest.digits(4, 4)?,
            Item::ShortYear => {
                let year = rest.digits(2, 2)?;
                // The century is that of `strptime` in POSIX.
                date.year = if year < 69 { 2000 + year } else { 1900 + year };
            }
            Item::Month => date.month = rest.digits(1, 2)?,
            Item::MonthName => {
                let name = rest.letters(3)?;
                date.month = MONTHS.iter().position(|month| name.eq_ignore_ascii_case(month))? as u32 + 1;
            }
            Item::Day => date.day = rest.digits(1, 2)?,
            Item::Hour => date.hour = rest.digits(1, 2)?,
            // 12 AM is midnight and 12 PM is noon, so 12 counts as 0 before the half of the day is added.
            Item::HalfDayHour => date.hour = rest.digits(1, 2).filter(|hour| (1..=12).contains(hour))? % 12,
            Item::HalfDay => {
                let name = rest.letters(2)?;
                is_afternoon = ["am", "pm"].iter().position(|half| name.eq_ignore_ascii_case(half));
                is_afternoon?;
            }
            Item::Minute => date.minute = rest.digits(1, 2)?,
            Item::Second => date.second = rest.digits(1, 2)?,
        }
    }
    if is_afternoon == Some(1) && date.hour < 12 {
        date.hour += 12;
    }
    if rest.0.is_empty() { date.checked() } else { None }
}

/// The part of a string that has not been parsed.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn literal(&mut self, literal: char) -> Option<()> {
        self.0 = self.0.strip_prefix(literal)?;
        Some(())
    }

    /// Reads all digits that follow, up to the limit, as a number.
    fn digits(&mut self, min: usize, max: usize) -> Option<u32> {
        let count = self.0.bytes().take(max).take_while(u8::is_ascii_digit).count();
        if count < min {
            return None;
        }
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        digits.parse().ok()
    }

    fn letters(&mut self, count: usize) -> Option<&'a str> {
        let (letters, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(letters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(format: Option<&str>, text: &str) -> Option<Vec<f32>> {
        let date = DateFormat::new(format).unwrap().parse(text)?;
        Some(DatePart::ALL.iter().map(|&part| date.part(part)).collect())
    }

    #[test]
    fn iso_dates_are_read_with_and_without_times() {
        let day = vec![2024.0, 1.0, 2.0, 29.0, 3.0, 60.0, 0.0, 0.0, 0.0, 19_782.0];
        let time = vec![2024.0, 1.0, 2.0, 29.0, 3.0, 60.0, 18.0, 30.0, 0.0, 19_782.771];
        for (text, expected) in [
            ("2024-02-29", &day),
            ("2024-02-29T18:30", &time),
            ("2024-02-29 18:30:00", &time),
            ("2024-02-29 18:30:00.125", &time),
            ("2024-02-29T18:30:00Z", &time),
            ("2024-02-29T18:30+01:00", &time),
            ("2024-02-29T18:30:00-0730", &time),
            ("2024-02-29T18:30+01", &time),
        ] {
            assert_eq!(parts(None, text).as_ref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "2023-02-29",
            "2024-2-29",
            "2024-13-01",
            "2024-00-01",
            "2024-01-00",
            "20240229",
            "2024-02-29x",
            "2024-02-29 ",
            "2024-02-29 24:00",
            "2024-02-29 18",
            "2024-02-29 18:60",
            "2024-02-29 18:30:00.",
            "2024-02-29 18:30+1",
            "2024-02-29 18:30+01:",
            "-2024-02-29",
            "２０24-02-29",
        ] {
            assert_eq!(parts(None, text), None, "{text}");
        }
    }

    #[test]
    fn days_are_counted_from_1970() {
        for (text, weekday, days) in [
            ("1970-01-01", 3.0, 0.0),
            ("1969-12-31 12:00", 2.0, -0.5),
            ("2000-02-29", 1.0, 11_016.0),
            ("1900-03-01", 3.0, -25_508.0),
            ("0001-01-01", 0.0, -719_162.0),
            ("9999-12-31", 4.0, 2_932_896.0),
        ] {
            let date = DateFormat::default().parse(text).unwrap();
            assert_eq!((date.part(DatePart::Weekday), date.part(DatePart::Days)), (weekday, days), "{text}");
        }
    }

    #[test]
    fn patterns_read_what_they_describe_and_nothing_else() {
        let date = |format, text| {
            let parts = parts(Some(format), text)?;
            Some([0, 2, 3, 6, 7, 8].map(|part| parts[part]))
        };
        for (format, text, expected) in [
            ("%d/%m/%Y", "3/12/2013", [2013.0, 12.0, 3.0, 0.0, 0.0, 0.0]),
            ("%m/%d/%y %H:%M", "12/03/68 7:05", [2068.0, 12.0, 3.0, 7.0, 5.0, 0.0]),
            ("%d-%b-%y", "01-JUL-69", [1969.0, 7.0, 1.0, 0.0, 0.0, 0.0]),
            ("%Y%m%d", "20131203", [2013.0, 12.0, 3.0, 0.0, 0.0, 0.0]),
            ("%I:%M:%S %p", "12:01:59 am", [1970.0, 1.0, 1.0, 0.0, 1.0, 59.0]),
            ("%I %p%%", "12 PM%", [1970.0, 1.0, 1.0, 12.0, 0.0, 0.0]),
            ("%I %p", "11 PM", [1970.0, 1.0, 1.0, 23.0, 0.0, 0.0]),
        ] {
            assert_eq!(date(format, text), Some(expected), "{format} {text}");
        }
        for (format, text) in [
            ("%d/%m/%Y", "31/04/2013"),
            ("%d/%m/%Y", "3/12/13"),
            ("%d/%m/%Y", "3/12/2013 "),
            ("%b", "Ju"),
            ("%b", "Jui"),
            ("%I", "0"),
            ("%I %p", "1 xm"),
            ("%H", "é"),
        ] {
            assert_eq!(date(format, text), None, "{format} {text}");
        }
        assert!(DateFormat::new(Some("%d.%q")).unwrap_err().starts_with("`%q` is unknown"));
        assert!(DateFormat::new(Some("%")).is_err());
    }
}
