//! What a turn cost, where its agent does not say: tokens times prices. Pure.
//!
//! Prices are data with a day from which they hold; those of the configuration come before those that are built in. A
//! model that is not among them has no price, and what has no price costs an unknown amount, which is not nothing.

use jiff::civil::Date;
use serde::Deserialize;

use super::Usage;
use crate::config::{PriceSettings, Usd};

/// The built-in ones.
const BUILT_IN: &str = include_str!("../../assets/prices.toml");
/// Prices are for so many tokens.
const PER: u128 = 1_000_000;
/// Shortest end of a name that is a date: `0309` stands for a model of its own.
const MIN_DATE: usize = 8;

/// All prices that are known, those that come first in front.
#[derive(Debug, Clone)]
pub struct Prices(Vec<Vec<PriceSettings>>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    price: Vec<PriceSettings>,
}

/// What a turn cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// The agent says so.
    Reported(Usd),
    /// Reckoned from tokens and prices.
    Computed(Usd),
    /// Nobody knows.
    Unknown,
}

impl Cost {
    /// The amount, if it is known.
    #[must_use]
    pub const fn amount(self) -> Option<Usd> {
        match self {
            Self::Reported(amount) | Self::Computed(amount) => Some(amount),
            Self::Unknown => None,
        }
    }
}

impl Default for Prices {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl Prices {
    /// Those of the configuration, and those that are built in.
    #[must_use]
    pub fn new(configured: &[PriceSettings]) -> Self {
        // The file is part of the program, and a test reads it.
        let built_in = toml::from_str::<File>(BUILT_IN).map(|file| file.price).unwrap_or_default();
        Self(vec![configured.to_vec(), built_in])
    }

    /// The price of a model on a day: of the entries for its name the newest that holds.
    #[must_use]
    pub fn of(&self, model: &str, day: Date) -> Option<&PriceSettings> {
        self.0.iter().find_map(|prices| {
            let holding = prices.iter().filter(|price| price.from <= day && is_of(price, model));
            // The longer name is the closer one.
            holding.max_by_key(|price| (price.model.len(), price.from))
        })
    }

    /// What a turn cost. `usage` must be that of the turn, and not of the conversation.
    #[must_use]
    pub fn cost(&self, usage: &Usage, model: Option<&str>, day: Date) -> Cost {
        if let Some(reported) = usage.cost_usd.and_then(Usd::from_dollars) {
            return Cost::Reported(reported);
        }
        let price = model.and_then(|model| self.of(model, day));
        match (price, usage.input_tokens, usage.output_tokens) {
            (Some(price), Some(input), Some(output)) => {
                Cost::Computed(reckon(price, input, usage.cached_tokens.unwrap_or(0), output))
            }
            _ => Cost::Unknown,
        }
    }
}

impl Prices {
    /// The same for a turn whose model has two names: services have names of their own for what they were asked for. The
    /// first that has a price counts.
    #[must_use]
    pub fn cost_of_either(&self, usage: &Usage, models: [Option<&str>; 2], day: Date) -> Cost {
        let costs = models.map(|model| self.cost(usage, model, day));
        costs.into_iter().find(|cost| *cost != Cost::Unknown).unwrap_or(Cost::Unknown)
    }
}

/// Tokens times prices, to the next millionth of a dollar above.
fn reckon(price: &PriceSettings, input: u64, cached: u64, output: u64) -> Usd {
    let cached = cached.min(input);
    let times = |tokens: u64, price: Usd| u128::from(tokens) * u128::from(price.micro());
    let cached_price = price.cached_usd.unwrap_or(price.input_usd);
    let sum = times(input - cached, price.input_usd)
        + times(cached, cached_price)
        + times(output, price.output_usd);
    Usd::from_micro(u64::try_from(sum.div_ceil(PER)).unwrap_or(u64::MAX))
}

/// Whether an entry is for a model: by its name, or its name with a date or `-latest` behind it.
fn is_of(price: &PriceSettings, model: &str) -> bool {
    let Some(rest) = model.strip_prefix(price.model.as_str()) else { return false };
    let is_date =
        |rest: &str| rest.len() >= MIN_DATE && rest.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    rest.is_empty() || rest.strip_prefix('-').is_some_and(|rest| rest == "latest" || is_date(rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn day(text: &str) -> Date {
        text.parse().unwrap()
    }

    fn usage(input: u64, cached: u64, output: u64) -> Usage {
        Usage {
            input_tokens: Some(input),
            cached_tokens: Some(cached),
            output_tokens: Some(output),
            ..Usage::default()
        }
    }

    fn price(text: &str) -> PriceSettings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn the_built_in_prices_are_sound() {
        let file: File = toml::from_str(BUILT_IN).unwrap();
        assert!(file.price.len() > 40);
        for price in &file.price {
            assert!(price.input_usd > Usd::ZERO && price.output_usd >= price.input_usd, "{price:?}");
            assert!(price.cached_usd.is_some_and(|cached| cached < price.input_usd), "{price:?}");
            let twins =
                file.price.iter().filter(|other| other.model == price.model && other.from == price.from);
            assert_eq!(twins.count(), 1, "{price:?}");
        }
    }

    #[test]
    fn a_price_holds_from_its_day_on_and_for_dated_names() {
        let prices = Prices::new(&[]);
        let found = |model: &str, on: &str| prices.of(model, day(on)).map(|price| price.model.clone());
        assert_eq!(found("gpt-5", "2025-08-06"), None, "before its day");
        assert_eq!(found("gpt-5", "2026-11-21").as_deref(), Some("gpt-5"));
        assert_eq!(found("gpt-5-2025-08-07", "2026-11-21").as_deref(), Some("gpt-5"));
        assert_eq!(found("gpt-5-mini-2025-08-07", "2026-11-21").as_deref(), Some("gpt-5-mini"));
        assert_eq!(found("claude-sonnet-4-20250514", "2026-11-21").as_deref(), Some("claude-sonnet-4"));
        assert_eq!(found("claude-sonnet-4-5-20250929", "2026-11-21").as_deref(), Some("claude-sonnet-4-5"));
        for unknown in ["gpt-5-turbo", "gpt", "", "qwen3", "claude-opus-9", "gpt-5-0309"] {
            assert_eq!(found(unknown, "2026-11-21"), None, "{unknown}");
        }
    }

    #[test]
    fn what_is_configured_comes_first_and_the_newest_of_it() {
        let configured = [
            price("model = 'gpt-5'\nfrom = '2026-01-01'\ninput_usd = 1\noutput_usd = 2"),
            price("model = 'gpt-5'\nfrom = '2026-06-01'\ninput_usd = 3\noutput_usd = 4"),
        ];
        let prices = Prices::new(&configured);
        let input = |on: &str| prices.of("gpt-5", day(on)).unwrap().input_usd;
        assert_eq!(input("2025-12-31"), Usd::from_micro(1_250_000), "the built-in one");
        assert_eq!(input("2026-05-31"), Usd::from_micro(1_000_000));
        assert_eq!(input("2026-06-01"), Usd::from_micro(3_000_000));
    }

    #[test]
    fn costs_are_reported_or_computed_or_unknown_and_never_made_up() {
        let prices = Prices::new(&[]);
        let on = day("2026-11-21");
        // 1000 fresh at 1.25, 3000 cached at 0.125, 500 written at 10 dollars a million.
        let computed = prices.cost(&usage(4_000, 3_000, 500), Some("gpt-5"), on);
        assert_eq!(computed, Cost::Computed(Usd::from_micro(1_250 + 375 + 5_000)));
        let reported = Usage { cost_usd: Some(0.25), ..usage(1, 0, 1) };
        assert_eq!(prices.cost(&reported, Some("gpt-5"), on), Cost::Reported(Usd::from_micro(250_000)));
        assert_eq!(prices.cost(&reported, None, on).amount(), Some(Usd::from_micro(250_000)));
        for (usage, model) in [
            (usage(1, 0, 1), Some("qwen3")),
            (usage(1, 0, 1), None),
            (Usage { input_tokens: None, ..usage(0, 0, 1) }, Some("gpt-5")),
            (Usage::default(), Some("gpt-5")),
        ] {
            assert_eq!(prices.cost(&usage, model, on), Cost::Unknown, "{usage:?} {model:?}");
        }
    }

    proptest! {
        #[test]
        fn more_tokens_never_cost_less(
            input in 0_u64..u64::MAX / 2, cached in 0_u64..u64::MAX / 2, output in 0_u64..u64::MAX / 2, more in 0_u64..1_000_000,
        ) {
            let prices = Prices::new(&[]);
            let cost = |usage| prices.cost(&usage, Some("gpt-5"), day("2026-11-21")).amount().unwrap();
            prop_assert!(cost(usage(input + more, cached, output)) >= cost(usage(input, cached, output)));
            prop_assert!(cost(usage(input, cached, output + more)) >= cost(usage(input, cached, output)));
        }
    }
}
