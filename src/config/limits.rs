//! `agents.limits`: how much an agent may do at once, in a minute, and for how much money.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Usd, Violation};

/// `agents.limits`, by the name of an agent.
pub type LimitMap = BTreeMap<String, LimitSettings>;

/// The key that all of this stands under.
const KEY: &str = "agents.limits";
/// More would not fit into any machine.
const MAX_AT_ONCE: usize = 256;
/// More is no limit.
const MAX_PER_MINUTE: u32 = 100_000;

/// What holds for one agent, beside what holds for all. What is unset is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Turns that `agent listen` lets it work on at once, in all processes of this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_once: Option<usize>,
    /// Turns that `agent listen` lets it begin in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_minute: Option<u32>,
    /// Of these, how many may begin at the same moment after a time without any; unset means 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// US dollars that a turn may cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn_usd: Option<Usd>,
    /// US dollars after which a session takes no more turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_usd: Option<Usd>,
    /// US dollars after which no turn begins until the next day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day_usd: Option<Usd>,
}

/// What [`super::Config::validate`] checks about these.
pub(super) fn validate(limits: &LimitMap) -> Result<(), Violation> {
    for (name, limit) in limits {
        let fits = limit.at_once.is_none_or(|at_once| (1..=MAX_AT_ONCE).contains(&at_once));
        let rates = [limit.per_minute, limit.burst].into_iter().flatten();
        let mut rates = rates.filter(|rate| !(1..=MAX_PER_MINUTE).contains(rate));
        let reason = match (fits, rates.next()) {
            (false, _) => format!("'{name}' at_once: want 1 to {MAX_AT_ONCE}"),
            (_, Some(_)) => format!("'{name}' per_minute and burst: want 1 to {MAX_PER_MINUTE}"),
            _ if limit.burst.is_some() && limit.per_minute.is_none() => {
                format!("'{name}' burst: says nothing without per_minute")
            }
            _ => continue,
        };
        return Err(Violation { key: KEY, reason });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_checked() {
        let read = |text: &str| toml::from_str::<LimitMap>(&format!("[claude]\n{text}"));
        let good = read("at_once = 2\nper_minute = 30\nburst = 5\nday_usd = 20").unwrap();
        assert!(validate(&good).is_ok());
        assert_eq!(toml::from_str::<LimitMap>(&toml::to_string(&good).unwrap()).unwrap(), good);
        for (text, says) in [
            ("at_once = 0", "at_once"),
            ("at_once = 300", "1 to 256"),
            ("per_minute = 0", "per_minute"),
            ("burst = 3", "nothing without per_minute"),
        ] {
            let refusal = validate(&read(text).unwrap()).unwrap_err().to_string();
            assert!(refusal.contains(says), "{text}: {refusal}");
        }
        assert!(read("dayusd = 3").is_err());
    }
}
