//! How many streams are transcribed at once: a number, or as many as the machine holds.

use std::{fmt, num::NonZeroU32, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Unexpected, Visitor},
};

use super::AUTO;

/// `asr.max_sessions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sessions {
    /// As many as a self-test at start finds that this machine holds in real time.
    Auto,
    /// This many.
    AtMost(NonZeroU32),
}

const EXPECTED: &str = "a number from 1 up, or \"auto\"";

impl fmt::Display for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str(AUTO),
            Self::AtMost(sessions) => write!(f, "{sessions}"),
        }
    }
}

impl FromStr for Sessions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == AUTO {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::AtMost).map_err(|_| format!("want {EXPECTED}"))
    }
}

impl Serialize for Sessions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str(AUTO),
            Self::AtMost(sessions) => serializer.serialize_u32(sessions.get()),
        }
    }
}

impl<'de> Deserialize<'de> for Sessions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SessionsVisitor)
    }
}

struct SessionsVisitor;

impl Visitor<'_> for SessionsVisitor {
    type Value = Sessions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Sessions, E> {
        let sessions = u32::try_from(number).ok().and_then(NonZeroU32::new);
        sessions.map(Sessions::AtMost).ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Sessions, E> {
        let sessions = u32::try_from(number).ok().and_then(NonZeroU32::new);
        sessions.map(Sessions::AtMost).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Sessions, E> {
        if text == AUTO { Ok(Sessions::Auto) } else { Err(E::invalid_value(Unexpected::Str(text), &self)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Section {
        sessions: Sessions,
    }

    #[test]
    fn a_number_or_auto_goes_both_ways() {
        for (text, sessions) in
            [("4", Sessions::AtMost(NonZeroU32::new(4).unwrap())), ("\"auto\"", Sessions::Auto)]
        {
            let line = format!("sessions = {text}\n");
            let section: Section = toml::from_str(&line).unwrap();
            assert_eq!(section, Section { sessions });
            assert_eq!(toml::to_string(&section).unwrap(), line);
            assert_eq!(sessions.to_string().parse(), Ok(sessions));
        }
    }

    #[test]
    fn nothing_else_is_taken() {
        for text in ["0", "-1", "\"many\"", "99999999999", "1.5"] {
            let error = toml::from_str::<Section>(&format!("sessions = {text}\n")).unwrap_err().to_string();
            assert!(error.contains("a number from 1 up, or \"auto\""), "{error}");
        }
        assert!("0".parse::<Sessions>().is_err() && "many".parse::<Sessions>().is_err());
    }
}
