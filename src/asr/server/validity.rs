//! From when to when a certificate is valid, read from its DER: enough of X.509 (RFC 5280, section 4.1) for that, and
//! no more. rustls serves an expired certificate without a word; its clients then refuse the server. Pure.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub from: Timestamp,
    /// Not after.
    pub until: Timestamp,
}

impl Validity {
    /// What keeps clients from believing the certificate at this time.
    #[must_use]
    pub fn problem(&self, now: Timestamp) -> Option<String> {
        if now > self.until {
            return Some(format!("expired at {}", self.until));
        }
        (now < self.from).then(|| format!("not valid before {}", self.from))
    }

    /// Of a certificate in DER; `None` for what is none.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (whole, _) = element(certificate, SEQUENCE)?;
        let (mut rest, _) = element(whole, SEQUENCE)?;
        // The version is left out for version 1; serial number, signature algorithm and issuer come always.
        if let Some((_, after)) = element(rest, VERSION) {
            rest = after;
        }
        for tag in [INTEGER, SEQUENCE, SEQUENCE] {
            (_, rest) = element(rest, tag)?;
        }
        let (validity, _) = element(rest, SEQUENCE)?;
        let (from, rest) = time(validity)?;
        let (until, _) = time(rest)?;
        Some(Self { from, until })
    }
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// The contents of the element with this tag at the start, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    if *found != tag {
        return None;
    }
    let (length, rest) = match length {
        short @ 0..=0x7f => (usize::from(*short), rest),
        // 0x80 is no definite length, and more than four bytes of length is no certificate.
        long @ 0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// A time at the start, and what follows it.
fn time(bytes: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (text, rest, years) = match element(bytes, UTC_TIME) {
        Some((text, rest)) => (text, rest, 2),
        None => element(bytes, GENERALIZED_TIME).map(|(text, rest)| (text, rest, 4))?,
    };
    let digits = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let number = |from: usize, to: usize| digits.get(from..to)?.parse::<i16>().ok();
    let small = |at: usize| i8::try_from(number(years + at, years + at + 2)?).ok();
    let year = match (years, number(0, years)?) {
        // RFC 5280, section 4.1.2.5.1.
        (2, year @ 50..) => 1900 + year,
        (2, year) => 2000 + year,
        (_, year) => year,
    };
    let civil = DateTime::new(year, small(0)?, small(2)?, small(4)?, small(6)?, small(8)?, 0).ok()?;
    Some((civil.to_zoned(TimeZone::UTC).ok()?.timestamp(), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn certificate(from: i32, until: i32) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 2, 3);
        params.not_after = rcgen::date_time_ymd(until, 4, 5);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn both_ways_to_write_a_time_are_read() {
        let text = |timestamp: Timestamp| timestamp.to_string();
        for (from, until) in [(1999, 2049), (2020, 2060)] {
            let validity = Validity::of(&certificate(from, until)).unwrap();
            assert_eq!(text(validity.from), format!("{from}-02-03T00:00:00Z"));
            assert_eq!(text(validity.until), format!("{until}-04-05T00:00:00Z"));
        }
    }

    #[test]
    fn a_certificate_is_good_in_its_time() {
        let validity = Validity::of(&certificate(2020, 2030)).unwrap();
        let problem = |at: &str| validity.problem(at.parse().unwrap());
        assert_eq!(problem("2025-01-01T00:00:00Z"), None);
        assert_eq!(problem("2031-01-01T00:00:00Z").unwrap(), "expired at 2030-04-05T00:00:00Z");
        assert_eq!(problem("2019-01-01T00:00:00Z").unwrap(), "not valid before 2020-02-03T00:00:00Z");
    }

    proptest! {
        #[test]
        fn damage_is_no_certificate_and_does_no_harm(at in 0_usize..200, byte in any::<u8>(), cut in 0_usize..400) {
            let mut bytes = certificate(2020, 2030);
            bytes[at] = byte;
            bytes.truncate(cut);
            let found = Validity::of(&bytes);
            prop_assert!(cut > 40 || found.is_none(), "the times come later than that");
        }
    }
}
