//! What readers look for in an event, wherever its producer put it. Pure.

use serde_json::Value;

use super::{
    Event,
    domain::{self, Domain},
};

impl Event {
    /// Its domain. A CloudEvent whose type follows no rule says it itself.
    #[must_use]
    pub fn domain(&self) -> Domain {
        let said =
            self.extra.get("specversion").and_then(|_| self.extra.get("domain")).and_then(Value::as_str);
        match domain::of(self.event_type.as_str()) {
            domain::UNKNOWN => said.map_or(domain::UNKNOWN, domain::of),
            domain => domain,
        }
    }

    /// Whether it tells that something went wrong.
    #[must_use]
    pub fn is_error(&self) -> bool {
        domain::is_error(self.event_type.as_str())
    }

    /// The session it belongs to.
    #[must_use]
    pub fn session_id(&self) -> Option<&str> {
        let payload = ["session_id", "session_key", "thread_id"].into_iter().map(|key| self.payload.get(key));
        let agent = self.agent_context.as_ref().and_then(|agent| agent.session_id.as_deref());
        let said = payload.chain([self.extra.get("session_id")]).flatten().find_map(Value::as_str);
        agent.or(said)
    }

    /// What was said or written, for the types that tell about it.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        let keys = ["text", "transcript_text", "response_text", "response", "prompt", "content"];
        keys.into_iter().find_map(|key| self.payload.get(key)?.as_str())
    }
}
