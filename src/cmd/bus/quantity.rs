//! Durations, sizes and moments as people write them on a command line. Pure.

use std::time::Duration;

use jiff::{SpanRelativeTo, Timestamp, civil, tz::TimeZone};

/// `90s`, `10m`, `1h 30m`, `7d`, `2w`; a day has 24 hours.
pub(in crate::cmd) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a duration; write it like 90s, 10m, 1h30m or 7d");
    let span: jiff::Span = text.trim().parse().map_err(|_| wrong())?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Duration::try_from(duration).map_err(|_| wrong())
}

/// Multiples of a byte; decimal, as disks are labelled, or binary with an `i`.
const UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("b", 1),
    ("k", 1_000),
    ("kb", 1_000),
    ("kib", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1_000_000),
    ("mib", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1_000_000_000),
    ("gib", 1 << 30),
    ("tb", 1_000_000_000_000),
    ("tib", 1 << 40),
];

/// `500MB`, `1.5GB`, `64KiB`, `4096`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a size; write it like 500MB, 1.5GB or 64KiB");
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_lowercase();
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor).ok_or_else(wrong)?;
    // Whole and decimal part apart, so that no size is rounded.
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let digits =
        u32::try_from(part.len()).ok().filter(|digits| (1..=12).contains(digits)).ok_or_else(wrong)?;
    let part: u64 = part.parse().map_err(|_| wrong())?;
    let part = u128::from(part) * u128::from(factor) / 10_u128.pow(digits);
    let part = u64::try_from(part).map_err(|_| wrong())?;
    whole.checked_mul(factor).and_then(|bytes| bytes.checked_add(part)).ok_or_else(wrong)
}

/// A point in time: how long ago, or when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd) enum Moment {
    /// The oldest there is.
    Beginning,
    /// So long before now.
    Ago(Duration),
    /// Then.
    At(Timestamp),
}

impl Moment {
    /// When that is; `None` is before everything.
    pub(in crate::cmd) fn resolve(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Beginning => None,
            Self::At(at) => Some(at),
            Self::Ago(duration) => Some(now.checked_sub(duration).unwrap_or(Timestamp::MIN)),
        }
    }
}

/// `10m` (ago), an RFC 3339 time, a date or a local time without zone, or `beginning`.
pub(in crate::cmd) fn moment(text: &str) -> Result<Moment, String> {
    let text = text.trim();
    if text == "beginning" {
        return Ok(Moment::Beginning);
    }
    if let Ok(at) = text.parse() {
        return Ok(Moment::At(at));
    }
    // 2026-01-31T12:00 or 2026-01-31, on the clock of this machine.
    let local = text.parse::<civil::DateTime>().ok().and_then(|time| time.to_zoned(TimeZone::system()).ok());
    if let Some(local) = local {
        return Ok(Moment::At(local.timestamp()));
    }
    duration(text).map(Moment::Ago).map_err(|_| {
        format!("'{text}' is not a time; write it like 10m, 2h, 7d, 2026-01-31T12:00:00Z or beginning")
    })
}

/// A duration with as many digits as people care for.
pub(super) fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.as_millis() < 1000 => format!("{} ms", duration.as_millis()),
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let cases =
            [("90s", 90), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("7d", 604_800), ("2w", 1_209_600)];
        for (text, seconds) in cases {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for wrong in ["", "5", "-5s", "soon", "1mo", "5 parsecs"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_decimal_unless_they_say_otherwise() {
        let cases = [
            ("4096", 4096),
            ("500MB", 500_000_000),
            ("1.5GB", 1_500_000_000),
            ("64KiB", 65_536),
            ("1 k", 1000),
        ];
        for (text, size) in cases {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for wrong in ["", "MB", "5 bananas", "1.2.3GB", "-1", "99999999999TB", "1.", ".5GB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let at = |text: &str| moment(text).unwrap().resolve(now).map(|at| at.to_string());
        assert_eq!(at("10m").as_deref(), Some("2026-11-21T11:50:00Z"));
        assert_eq!(at("2026-01-31T12:00:00+01:00").as_deref(), Some("2026-01-31T11:00:00Z"));
        assert_eq!(at("beginning"), None);
        assert!(matches!(moment("2026-01-31"), Ok(Moment::At(_))));
        assert!(moment("yesterday").is_err());
        // Longer than there is time.
        assert_eq!(moment("9999999h").map(|moment| moment.resolve(Timestamp::MIN)), Ok(Some(Timestamp::MIN)));
    }

    #[test]
    fn a_rough_duration_has_one_unit() {
        let cases =
            [(12, "12 ms"), (90_000, "90 s"), (600_000, "10 min"), (7_200_000, "2 h"), (172_800_000, "2 d")];
        for (ms, text) in cases {
            assert_eq!(rough(Duration::from_millis(ms)), text);
        }
    }
}
