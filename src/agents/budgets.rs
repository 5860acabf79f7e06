//! Whether there is money left for another turn. Pure; time and what was spent are passed in.
//!
//! A budget stops politely: a turn that has begun is not broken off by ours (an agent that keeps to a budget itself is
//! given what is left of it), and none begins after the limit was reached. Turns whose cost nobody knows do not count,
//! and it is said how many of them there were.

use std::collections::BTreeMap;

use jiff::{Timestamp, Zoned};

use super::{
    Class, Failure,
    session::{Totals, UsageRow},
};
use crate::config::{Agents, Usd};

/// What may be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// On one turn.
    pub turn: Option<Usd>,
    /// On all turns of one session.
    pub session: Option<Usd>,
    /// On all turns of one day.
    pub day: Option<Usd>,
}

/// What may be spent on all agents together, and on each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Budgets {
    all: Budget,
    one: BTreeMap<String, Budget>,
}

/// What has been spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// As far as it is known.
    pub known: Usd,
    /// Turns of which it is not known.
    pub unknown_turns: u64,
}

/// What has been spent on a day.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Today {
    all: Spent,
    one: BTreeMap<String, Spent>,
}

impl Spent {
    fn add(&mut self, cost: Option<u64>) {
        match cost {
            Some(micro) => self.known = self.known + Usd::from_micro(micro),
            None => self.unknown_turns += 1,
        }
    }
}

impl From<&Totals> for Spent {
    fn from(totals: &Totals) -> Self {
        Self { known: Usd::from_micro(totals.cost_micro_usd), unknown_turns: totals.turns_without_cost }
    }
}

impl Today {
    /// Sums what turns have used.
    #[must_use]
    pub fn of(rows: &[UsageRow]) -> Self {
        let mut today = Self::default();
        for row in rows {
            today.all.add(row.amounts.cost_micro_usd);
            today.one.entry(row.provider.clone()).or_default().add(row.amounts.cost_micro_usd);
        }
        today
    }

    fn on(&self, provider: &str) -> Spent {
        self.one.get(provider).copied().unwrap_or_default()
    }
}

impl Budgets {
    /// Those of a configuration.
    #[must_use]
    pub fn new(config: &Agents) -> Self {
        let Agents { turn_usd: turn, session_usd: session, day_usd: day, .. } = *config;
        let one = config.limits.iter().map(|(name, limit)| {
            (name.clone(), Budget { turn: limit.turn_usd, session: limit.session_usd, day: limit.day_usd })
        });
        Self { all: Budget { turn, session, day }, one: one.collect() }
    }

    /// Whether anybody needs to know what was spent on a day.
    #[must_use]
    pub fn have_days(&self) -> bool {
        self.all.day.is_some() || self.one.values().any(|budget| budget.day.is_some())
    }

    /// The limits of a day, first that of all agents together (`None`), with what was spent of them.
    pub fn days<'a>(&'a self, today: &'a Today) -> impl Iterator<Item = (Option<&'a str>, Spent, Usd)> {
        let all = self.all.day.map(|limit| (None, today.all, limit));
        let one = self.one.iter().filter_map(|(name, budget)| {
            budget.day.map(|limit| (Some(name.as_str()), today.on(name), limit))
        });
        all.into_iter().chain(one)
    }

    fn on(&self, provider: &str) -> Budget {
        self.one.get(provider).copied().unwrap_or_default()
    }

    /// Whether a turn of an agent may begin, after what was spent on this day.
    ///
    /// # Errors
    /// [`Class::Budget`], with the time until the next day.
    pub fn admit_today(&self, provider: &str, today: &Today, now: &Zoned) -> Result<(), Failure> {
        let all = (self.all.day, today.all, "the budget of the day".to_owned());
        let one =
            (self.on(provider).day, today.on(provider), format!("the budget of the day for {provider}"));
        for (limit, spent, what) in [all, one] {
            let Some(limit) = limit.filter(|limit| spent.known >= *limit) else { continue };
            let (_, end) = day_of(now);
            let message = format!("{what} is used up: {}; it goes on at {end}", amounts(spent, limit));
            let retry_after = end.duration_since(now.timestamp()).try_into().ok();
            return Err(Failure { retry_after, ..Failure::new(Class::Budget, message) });
        }
        Ok(())
    }

    /// Whether a session may have another turn, after what was spent on it.
    ///
    /// # Errors
    /// [`Class::Budget`].
    pub fn admit_session(&self, provider: &str, spent: Spent) -> Result<(), Failure> {
        let limits = [
            (self.all.session, "agents.session_usd".to_owned()),
            (self.on(provider).session, format!("agents.limits.{provider}.session_usd")),
        ];
        for (limit, key) in limits {
            if let Some(limit) = limit.filter(|limit| spent.known >= *limit) {
                let message = format!(
                    "the budget of this session is used up: {}; raise {key}, or begin a new session",
                    amounts(spent, limit)
                );
                return Err(Failure::new(Class::Budget, message));
            }
        }
        Ok(())
    }

    /// What the next turn may cost: what is allowed to one, and no more than is left of the session and of the day.
    #[must_use]
    pub fn of_turn(&self, provider: &str, session: Spent, today: &Today) -> Option<Usd> {
        let of = |budget: Budget, today: Spent| {
            let left = |limit: Option<Usd>, spent: Spent| limit.map(|limit| limit.minus(spent.known));
            [budget.turn, left(budget.session, session), left(budget.day, today)]
        };
        let (all, one) = (of(self.all, today.all), of(self.on(provider), today.on(provider)));
        all.into_iter().chain(one).flatten().min()
    }
}

fn amounts(spent: Spent, limit: Usd) -> String {
    let unknown = match spent.unknown_turns {
        0 => String::new(),
        1 => ", and an unknown amount on 1 more turn".to_owned(),
        turns => format!(", and an unknown amount on {turns} more turns"),
    };
    format!("{} of {limit}{unknown}", spent.known)
}

/// The first moment of a day and that of the next, where `now` is.
#[must_use]
pub fn day_of(now: &Zoned) -> (Timestamp, Timestamp) {
    let start = now.start_of_day().map_or_else(|_| now.timestamp(), |start| start.timestamp());
    let next = now.tomorrow().and_then(|next| next.start_of_day());
    // At the end of time there is no next day.
    (start, next.map_or(Timestamp::MAX, |next| next.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn usd(micro: u64) -> Usd {
        Usd::from_micro(micro)
    }

    fn budgets(text: &str) -> Budgets {
        Budgets::new(&toml::from_str(text).unwrap())
    }

    fn today(of: &[(&str, Option<u64>)]) -> Today {
        let mut today = Today::default();
        for (provider, cost) in of {
            today.all.add(*cost);
            today.one.entry((*provider).to_owned()).or_default().add(*cost);
        }
        today
    }

    fn now() -> Zoned {
        "2026-11-21T18:00:00+01:00[Europe/Berlin]".parse().unwrap()
    }

    #[test]
    fn a_day_stops_at_its_limit_and_says_when_it_goes_on() {
        let budgets = budgets("day_usd = 2\n[limits.claude]\nday_usd = 1");
        assert!(budgets.have_days() && !Budgets::default().have_days());
        let admit = |provider: &str, spent: &[(&str, Option<u64>)]| {
            budgets.admit_today(provider, &today(spent), &now())
        };
        assert_eq!(admit("claude", &[("claude", Some(999_999)), ("codex", Some(999_999))]), Ok(()));
        let failure = admit("claude", &[("claude", Some(1_000_000)), ("claude", None)]).unwrap_err();
        assert_eq!((failure.class, failure.retry_after.unwrap().as_secs()), (Class::Budget, 6 * 3600));
        assert!(
            failure.message.contains("for claude is used up: $1.00 of $1.00, and an unknown"),
            "{failure}"
        );
        assert_eq!(admit("codex", &[("claude", Some(1_000_000))]), Ok(()), "the others go on");
        let failure = admit("codex", &[("claude", Some(1_000_000)), ("codex", Some(1_000_000))]).unwrap_err();
        assert!(
            failure.message.starts_with("the budget of the day is used up: $2.00 of $2.00;"),
            "{failure}"
        );
        let much = today(&[("claude", Some(u64::MAX))]);
        assert_eq!(Budgets::default().admit_today("claude", &much, &now()), Ok(()));
    }

    #[test]
    fn a_session_stops_at_its_limit_and_a_turn_gets_what_is_left() {
        let budgets =
            budgets("session_usd = 3\nturn_usd = 0.5\n[limits.claude]\nsession_usd = 1\nday_usd = 2");
        let spent = |micro| Spent { known: usd(micro), unknown_turns: 0 };
        assert_eq!(budgets.admit_session("claude", spent(999_999)), Ok(()));
        let failure = budgets.admit_session("claude", spent(1_000_000)).unwrap_err();
        assert!(failure.message.contains("raise agents.limits.claude.session_usd"), "{failure}");
        assert_eq!((failure.class, failure.retry_after), (Class::Budget, None));
        assert_eq!(budgets.admit_session("codex", spent(1_000_000)), Ok(()));
        let none = Today::default();
        assert_eq!(budgets.of_turn("codex", spent(0), &none), Some(usd(500_000)));
        assert_eq!(budgets.of_turn("claude", spent(900_000), &none), Some(usd(100_000)), "of the session");
        let much = today(&[("claude", Some(1_950_000))]);
        assert_eq!(budgets.of_turn("claude", spent(0), &much), Some(usd(50_000)), "of the day");
        assert_eq!(Budgets::default().of_turn("claude", spent(7), &much), None);
    }
}
