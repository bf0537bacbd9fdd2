//! Times on the command line.

use std::time::Duration;

/// Reads a duration such as `10m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "write a number with its unit, such as 30s, 10m, 8h or 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        for wrong in ["", "5", "1x", "-1s", "soon"] {
            let error = duration(wrong).unwrap_err();
            assert!(error.contains("such as 30s"), "{wrong}: {error}");
        }
    }
}
