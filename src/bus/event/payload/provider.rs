//! What is told of an agent that gets no turns for a while.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Payload;

/// An agent keeps failing through its own fault, or that of its service, and gets no turns for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProviderCircuitOpened {
    /// Who, such as `claude`.
    #[schemars(length(min = 1))]
    pub provider: String,
    /// When one turn may try.
    pub until: Timestamp,
    /// What kind of failure was one too many, such as `overloaded`.
    #[schemars(length(min = 1))]
    pub class: String,
    /// What was said.
    pub error: String,
}

/// An agent gets turns again after it failed too often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProviderCircuitClosed {
    /// Who, such as `claude`.
    #[schemars(length(min = 1))]
    pub provider: String,
    /// When it had begun to get none.
    pub since: Timestamp,
}

/// An agent gets no turns until a time; prompts for it wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProviderPaused {
    /// Who, such as `claude`.
    #[schemars(length(min = 1))]
    pub provider: String,
    /// `rate_limited`: its service said so; `budget`: what may be spent on a day is spent.
    #[schemars(length(min = 1))]
    pub reason: String,
    /// When it goes on.
    pub until: Timestamp,
    /// For people.
    pub message: String,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or_default()
}

impl Payload for ProviderCircuitOpened {
    const TYPE: &'static str = "agent.provider.circuit.opened";

    fn example() -> Self {
        Self {
            provider: "claude".to_owned(),
            until: at(1_795_255_230),
            class: "overloaded".to_owned(),
            error: "the service has too much to do".to_owned(),
        }
    }
}

impl Payload for ProviderCircuitClosed {
    const TYPE: &'static str = "agent.provider.circuit.closed";

    fn example() -> Self {
        Self { provider: "claude".to_owned(), since: at(1_795_255_200) }
    }
}

impl Payload for ProviderPaused {
    const TYPE: &'static str = "agent.provider.paused";

    fn example() -> Self {
        Self {
            provider: "claude".to_owned(),
            reason: "rate_limited".to_owned(),
            until: at(1_795_258_800),
            message: "the limit of five hours is reached".to_owned(),
        }
    }
}
