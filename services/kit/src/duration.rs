//! Lengths of time as people write them in settings: `90s`, `5m`, `24h`, `7d`.

use std::time::Duration;

/// Reads a whole number followed by `s`, `m`, `h` or `d`. For clap's `value_parser`.
pub fn parse(text: &str) -> Result<Duration, String> {
    const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    UNITS
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, seconds)))
        .and_then(|(number, seconds)| number.parse::<u64>().ok()?.checked_mul(*seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| "must be a whole number with a unit, such as 90s, 5m, 24h or 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_with_units_only() {
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("7d"), Ok(Duration::from_hours(7 * 24)));
        for text in ["", "5", "m", "1.5h", "-1s", "5 m", "10ss0", "5ms", "99999999999999999999d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
