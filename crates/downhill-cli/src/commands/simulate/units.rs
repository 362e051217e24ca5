//! Parses quantities of the command line.

/// Share of payload in the traffic: a full Ethernet frame takes 1538 bytes, of which 1448 are payload.
const PAYLOAD: f64 = 1448.0 / 1538.0;

/// Bytes of payload per second of a link of 10 Gbit/s.
pub(super) const TEN_GIGABIT: f64 = 1e10 / 8.0 * PAYLOAD;

/// Parses a bandwidth such as `10Gbit`. Returns bytes of payload per second.
pub(super) fn bandwidth(text: &str) -> Result<f64, String> {
    let units = [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)];
    quantity(text, &units)
        .map(|bits| bits / 8.0 * PAYLOAD)
        .ok_or_else(|| "expected a bandwidth such as 10Gbit or 200Mbit".into())
}

/// Parses a time such as `50us`. Returns seconds.
pub(super) fn latency(text: &str) -> Result<f64, String> {
    if text == "0" {
        return Ok(0.0);
    }
    let units = [("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    quantity(text, &units).ok_or_else(|| "expected a time such as 50us or 1ms".into())
}

fn quantity(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.to_ascii_lowercase();
    let (number, unit) = units.iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, size)))?;
    let number: f64 = number.trim().parse().ok()?;
    (number.is_finite() && number > 0.0).then_some(number * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_need_a_unit_and_are_above_zero() {
        assert_eq!(latency("50us"), Ok(50.0 * 1e-6));
        assert_eq!(latency("1.5 ms"), Ok(1.5 * 1e-3));
        assert_eq!(latency("0"), Ok(0.0));
        assert_eq!(bandwidth("8Gbit"), Ok(1e9 * PAYLOAD));
        assert_eq!(bandwidth("8000mbit"), bandwidth("8GBIT"));
        for wrong in ["", "10", "Gbit", "-1Gbit", "0Mbit", "nanGbit", "infGbit", "10GB", "50us"] {
            assert!(bandwidth(wrong).is_err(), "{wrong}");
        }
        assert!(latency("-1us").is_err() && latency("10").is_err());
    }
}
