//! Tokens and money that can be added up. Pure.
//!
//! Some agents count from the beginning of the conversation: Claude Code its cost, Codex its tokens. What a turn has
//! used is then the difference to what was said before. A count that went down means that the agent has begun anew, so
//! that the number itself is what was used. What is not told stays unknown, which is not 0.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::super::Usage;

/// Micro-dollars in a dollar.
const MICRO: f64 = 1e6;

/// Tokens and money of something; `None` is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Amounts {
    /// Tokens read, those from a cache included.
    pub input_tokens: Option<u64>,
    /// Tokens of those that came from a cache.
    pub cached_tokens: Option<u64>,
    /// Tokens written, thoughts included.
    pub output_tokens: Option<u64>,
    /// Millionths of a US dollar.
    pub cost_micro_usd: Option<u64>,
}

impl Amounts {
    /// What an agent has said.
    #[must_use]
    pub fn of(usage: &Usage) -> Self {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to be finite and not negative; what is too large becomes the largest"
        )]
        let micro = |usd: f64| (usd.is_finite() && usd >= 0.0).then(|| (usd * MICRO).round() as u64);
        Self {
            input_tokens: usage.input_tokens,
            cached_tokens: usage.cached_tokens,
            output_tokens: usage.output_tokens,
            cost_micro_usd: usage.cost_usd.and_then(micro),
        }
    }

    fn tokens(self) -> [Option<u64>; 3] {
        [self.input_tokens, self.cached_tokens, self.output_tokens]
    }

    /// Tokens that went down. Tokens and money are looked at apart, for agents may count the one from the beginning of
    /// the conversation and the other from that of the turn.
    fn has_begun_anew(self, before: Self) -> bool {
        let pairs = self.tokens().into_iter().zip(before.tokens());
        pairs.into_iter().any(|pair| matches!(pair, (Some(now), Some(before)) if now < before))
    }

    /// What came since `baseline`, if both count from the same beginning; all of it if they cannot.
    #[must_use]
    pub fn since(self, baseline: Self) -> Self {
        let before = if self.has_begun_anew(baseline) { Self::default() } else { baseline };
        let rest = |now: Option<u64>, before: Option<u64>| {
            now.map(|now| now.checked_sub(before.unwrap_or(0)).unwrap_or(now))
        };
        Self {
            input_tokens: rest(self.input_tokens, before.input_tokens),
            cached_tokens: rest(self.cached_tokens, before.cached_tokens),
            output_tokens: rest(self.output_tokens, before.output_tokens),
            cost_micro_usd: rest(self.cost_micro_usd, baseline.cost_micro_usd),
        }
    }

    /// The next baseline: what is said now, and where nothing is, what was said before.
    #[must_use]
    pub fn over(self, baseline: Self) -> Self {
        let before = if self.has_begun_anew(baseline) { Self::default() } else { baseline };
        Self {
            input_tokens: self.input_tokens.or(before.input_tokens),
            cached_tokens: self.cached_tokens.or(before.cached_tokens),
            output_tokens: self.output_tokens.or(before.output_tokens),
            cost_micro_usd: self.cost_micro_usd.or(baseline.cost_micro_usd),
        }
    }
}

/// Where a cost comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CostSource {
    /// The agent told it.
    Reported,
    /// Tokens times a price.
    Computed,
    /// Nobody knows it.
    Unknown,
}

/// Sums over turns. A sum counts what is known; how much is not known stands beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Turns.
    pub turns: u64,
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens of those that came from a cache.
    pub cached_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Turns of which the tokens are not known.
    pub turns_without_tokens: u64,
    /// Millionths of a US dollar.
    pub cost_micro_usd: u64,
    /// Turns of which the cost is not known.
    pub turns_without_cost: u64,
}

impl Totals {
    /// With one turn more.
    #[must_use]
    pub fn and(mut self, turn: Amounts) -> Self {
        self.turns = self.turns.saturating_add(1);
        self.input_tokens = self.input_tokens.saturating_add(turn.input_tokens.unwrap_or(0));
        self.cached_tokens = self.cached_tokens.saturating_add(turn.cached_tokens.unwrap_or(0));
        self.output_tokens = self.output_tokens.saturating_add(turn.output_tokens.unwrap_or(0));
        let knows_tokens = turn.input_tokens.is_some() && turn.output_tokens.is_some();
        self.turns_without_tokens = self.turns_without_tokens.saturating_add(u64::from(!knows_tokens));
        self.cost_micro_usd = self.cost_micro_usd.saturating_add(turn.cost_micro_usd.unwrap_or(0));
        self.turns_without_cost =
            self.turns_without_cost.saturating_add(u64::from(turn.cost_micro_usd.is_none()));
        self
    }

    /// The cost, unless no turn has told any.
    #[must_use]
    pub const fn known_cost_micro_usd(&self) -> Option<u64> {
        if self.turns_without_cost == self.turns { None } else { Some(self.cost_micro_usd) }
    }
}

/// What one turn has used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// The turn.
    pub run: Uuid,
    /// Its session.
    pub session: super::SessionId,
    /// The agent.
    pub provider: String,
    /// The model, if the agent told.
    pub model: Option<String>,
    /// Where the agent worked.
    pub directory: String,
    /// When the turn ended.
    pub at: Timestamp,
    /// How long it took, in milliseconds; `None` if an earlier version has written this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// Why it failed, if it did; one of the names of [`Class`](super::super::Class).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_class: Option<String>,
    /// Of this turn alone.
    pub amounts: Amounts,
    /// Where the cost comes from.
    pub cost_source: CostSource,
    /// As the agent told it.
    pub raw: Amounts,
    /// The agent counts from the beginning of the conversation.
    pub is_cumulative: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(input: u64) -> Amounts {
        Amounts { input_tokens: Some(input), output_tokens: Some(0), ..Amounts::default() }
    }

    #[test]
    fn a_cost_that_counts_from_the_beginning_is_split_into_turns() {
        let cost = |usd| Amounts::of(&Usage { cost_usd: Some(usd), ..Usage::default() });
        let (first, second) = (cost(0.10), cost(0.25));
        assert_eq!(first.since(Amounts::default()).cost_micro_usd, Some(100_000));
        assert_eq!(second.since(first).cost_micro_usd, Some(150_000));
        assert_eq!(cost(0.05).since(second).cost_micro_usd, Some(50_000), "the agent has begun anew");
    }

    #[test]
    fn what_is_not_told_is_not_nought() {
        let totals = Totals::default().and(tokens(5));
        assert_eq!((totals.known_cost_micro_usd(), totals.turns_without_cost), (None, 1));
        let told = Amounts { cost_micro_usd: Some(0), ..tokens(5) };
        assert_eq!(totals.and(told).known_cost_micro_usd(), Some(0));
        for odd in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(Amounts::of(&Usage { cost_usd: Some(odd), ..Usage::default() }).cost_micro_usd, None);
        }
    }

    proptest! {
        /// Whatever was used is counted once: between two new beginnings the differences add up to the last number.
        #[test]
        fn differences_add_up_to_what_was_used(
            conversations in prop::collection::vec(prop::collection::vec(0_u64..1000, 1..6), 1..5)
        ) {
            let (mut baseline, mut total, mut used) = (Amounts::default(), Totals::default(), 0);
            let mut last = 0;
            for steps in conversations {
                let mut counted = 0;
                for (index, step) in steps.iter().enumerate() {
                    counted += step;
                    // A new beginning shows only if its first number is smaller than the last one.
                    if index == 0 && counted >= last {
                        counted += last;
                    }
                    let said = tokens(counted);
                    total = total.and(said.since(baseline));
                    baseline = said.over(baseline);
                    used += step;
                }
                last = counted;
            }
            prop_assert_eq!(total.input_tokens, used);
        }

        #[test]
        fn a_turn_never_uses_more_than_was_counted(
            now in any::<[Option<u32>; 4]>(),
            before in any::<[Option<u32>; 4]>(),
        ) {
            let amounts = |[input, cached, output, cost]: [Option<u32>; 4]| Amounts {
                input_tokens: input.map(u64::from),
                cached_tokens: cached.map(u64::from),
                output_tokens: output.map(u64::from),
                cost_micro_usd: cost.map(u64::from),
            };
            let fields = |amounts: Amounts| amounts.tokens().into_iter().chain([amounts.cost_micro_usd]);
            let (now, before) = (amounts(now), amounts(before));
            for (turn, said) in fields(now.since(before)).zip(fields(now)) {
                prop_assert_eq!(turn.is_some(), said.is_some());
                prop_assert!(turn <= said);
            }
            // The same number again means that nothing was used.
            let again = now.since(now.over(before));
            prop_assert!(fields(again).flatten().all(|amount| amount == 0));
        }
    }
}
