//! Money: US dollars, kept in millionths, so that sums are exact.

use std::{fmt, iter::Sum, ops::Add};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Millionths in a dollar.
const MICRO: u64 = 1_000_000;
/// More than anybody will spend here; keeps what is read within what a float holds exactly.
const MAX_USD: f64 = 1e9;

/// An amount in US dollars, exact to a millionth. It is written as a number of dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Usd(u64);

impl Usd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// So many millionths.
    #[must_use]
    pub const fn from_micro(micro: u64) -> Self {
        Self(micro)
    }

    /// In millionths.
    #[must_use]
    pub const fn micro(self) -> u64 {
        self.0
    }

    /// So many dollars, to the nearest millionth; `None` for what is no amount.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the range is checked, and its millionths lie well within 2^53"
    )]
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        let fits = dollars.is_finite() && (0.0..=MAX_USD).contains(&dollars);
        fits.then(|| Self((dollars * MICRO as f64).round() as u64))
    }

    /// In dollars.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "shown, and written where no more than dollars are wanted")]
    pub fn dollars(self) -> f64 {
        self.0 as f64 / MICRO as f64
    }

    /// What is left of it; nothing if more than all is taken away.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Usd {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Usd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dollars, micro) = (self.0 / MICRO, self.0 % MICRO);
        // Cents, and as many of the digits behind them as there are.
        let digits = format!("{micro:06}");
        let behind = digits.trim_end_matches('0');
        write!(f, "${dollars}.{behind:0<2}")
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        Self::from_dollars(dollars)
            .ok_or_else(|| D::Error::custom(format!("want dollars from 0 to {MAX_USD}, not {dollars}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Section {
        usd: Usd,
    }

    #[test]
    fn amounts_are_exact_to_a_millionth() {
        let read =
            |text: &str| toml::from_str::<Section>(&format!("usd = {text}")).map(|section| section.usd);
        assert_eq!(read("1.25").unwrap(), Usd::from_micro(1_250_000));
        assert_eq!(read("3").unwrap(), Usd::from_micro(3_000_000));
        assert_eq!(read("0.1").unwrap() + read("0.2").unwrap(), read("0.3").unwrap());
        for bad in ["-1", "nan", "inf", "1e10", "\"1\""] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let section = Section { usd: Usd::from_micro(1) };
        assert_eq!(toml::from_str::<Section>(&toml::to_string(&section).unwrap()).unwrap(), section);
    }

    #[test]
    fn amounts_are_shown_with_cents_and_what_lies_below_them() {
        for (micro, shown) in [(0, "$0.00"), (2_500_000, "$2.50"), (1_234_567, "$1.234567"), (100, "$0.0001")]
        {
            assert_eq!(Usd::from_micro(micro).to_string(), shown);
        }
    }
}
