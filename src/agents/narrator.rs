//! Tells the bus of a turn: an agent's [`Output`]s and [`Outcome`] as events. Pure; time and ids are passed in.

use std::time::Duration;

use uuid::Uuid;

use super::{Outcome, Output, errand::Workspace};
use crate::bus::{
    Event,
    event::{
        AgentContext, Source, Stamp,
        payload::{
            Payload,
            agent::{
                AgentError, AgentResponse, AgentSessionEnded, AgentSessionStarted, AgentThinking,
                AgentToolCompleted, AgentToolInvoked, AgentWorkspace,
            },
        },
        registry,
    },
};

/// Thoughts are gathered until there is this much of them, in bytes: they come in pieces of a few letters.
const MAX_THOUGHT: usize = 2_000;

/// What all events of a turn have in common.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The agent, such as `claude`.
    pub provider: String,
    /// What readers of the bus call it; see [`Provider::kind`](super::Provider::kind).
    pub kind: &'static str,
    /// The conversation, as godctl knows it.
    pub session_id: String,
    /// The directory that the agent works in.
    pub directory: String,
    /// What is asked.
    pub prompt: String,
    /// Ties all events to what caused the turn: the root first.
    pub correlation_ids: Vec<Uuid>,
    /// How often the turn was tried, this time included.
    pub attempt: u32,
}

/// Makes events of one turn.
#[derive(Debug)]
pub struct Narrator {
    subject: Subject,
    source: Source,
    model: Option<String>,
    thought: String,
    has_started: bool,
    workspace: Option<AgentWorkspace>,
    left_out: u64,
}

impl Narrator {
    /// A turn about which nothing has been said.
    #[must_use]
    pub const fn new(subject: Subject, source: Source) -> Self {
        Self {
            subject,
            source,
            model: None,
            thought: String::new(),
            has_started: false,
            workspace: None,
            left_out: 0,
        }
    }

    /// The events that follow from an output, with what was held back before. Pieces of the answer are no events; the
    /// whole answer is one.
    pub fn output(&mut self, output: &Output, stamp: impl Fn() -> Stamp) -> Vec<Event> {
        let mut events = Vec::new();
        if !matches!(output, Output::Thinking { .. }) {
            events.extend(self.thought(&stamp));
        }
        let Subject { provider, session_id, directory, .. } = &self.subject;
        match output {
            Output::Started { native_id, model, .. } => {
                let payload = AgentSessionStarted {
                    agent_name: provider.clone(),
                    session_key: native_id.to_string(),
                    session_id: session_id.clone(),
                    provider: provider.clone(),
                    model: model.clone(),
                    working_directory: directory.clone(),
                };
                events.push(self.event(stamp(), &payload));
                self.model.clone_from(model);
                self.has_started = true;
            }
            Output::Thinking { text } => {
                self.thought.push_str(text);
                if self.thought.len() >= MAX_THOUGHT {
                    events.extend(self.thought(&stamp));
                }
            }
            Output::ToolInvoked { id, name, input } => {
                let payload = AgentToolInvoked {
                    session_id: session_id.clone(),
                    provider: provider.clone(),
                    tool_id: id.clone(),
                    tool_name: name.clone(),
                    input: input.clone(),
                };
                events.push(self.event(stamp(), &payload));
            }
            Output::ToolCompleted { id, name, is_error, output } => {
                let payload = AgentToolCompleted {
                    session_id: session_id.clone(),
                    provider: provider.clone(),
                    tool_id: id.clone(),
                    tool_name: name.clone(),
                    success: !is_error,
                    output: output.clone(),
                };
                events.push(self.event(stamp(), &payload));
            }
            Output::Text { .. }
            | Output::Retrying { .. }
            | Output::RateLimited { .. }
            | Output::Usage(_)
            | Output::Warning { .. }
            | Output::Unread { .. } => {}
        }
        events
    }

    /// What was done in a worktree; its last event tells of it.
    pub fn worked(&mut self, workspace: &Workspace) {
        let Workspace { branch, path, work } = workspace;
        self.workspace = Some(AgentWorkspace {
            branch: branch.clone(),
            path: path.as_ref().map(|path| path.display().to_string()),
            files_changed: work.files.clone(),
            commits: work.commits.iter().map(|commit| commit.id.clone()).collect(),
        });
    }

    /// So many of the events that it made will not be published; its last event tells of it.
    pub const fn left_out(&mut self, events: u64) {
        self.left_out = self.left_out.saturating_add(events);
    }

    /// The last events: the answer or why there is none, and the end.
    pub fn end(&mut self, outcome: &Outcome, took: Duration, stamp: impl Fn() -> Stamp) -> Vec<Event> {
        let mut events: Vec<_> = self.thought(&stamp).into_iter().collect();
        let subject = self.subject.clone();
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let correlation_id = subject.correlation_ids.first().map(Uuid::to_string).unwrap_or_default();
        match &outcome.verdict {
            Ok(()) => {
                let usage = outcome.usage;
                let tokens =
                    usage.input_tokens.zip(usage.output_tokens).map(|(input, output)| input + output);
                let payload = AgentResponse {
                    session_id: subject.session_id.clone(),
                    provider: subject.provider.clone(),
                    model: self.model.clone(),
                    prompt: subject.prompt,
                    response: outcome.text.clone(),
                    success: true,
                    duration_ms,
                    // Of a conversation that went on before, these are the sums of all its turns.
                    tokens_used: tokens,
                    cost_usd: usage.cost_usd,
                    attempts: subject.attempt,
                    correlation_id,
                    warning: outcome.warning.clone(),
                };
                events.push(self.event(stamp(), &payload));
            }
            Err(failure) => {
                let now = stamp();
                let payload = AgentError {
                    session_id: subject.session_id.clone(),
                    provider: subject.provider.clone(),
                    class: failure.class.name().to_owned(),
                    error: failure.message.clone(),
                    retryable: failure.class.is_retryable(),
                    attempts: subject.attempt,
                    failed_at: now.at,
                    duration_ms,
                    partial_response: outcome.text.clone(),
                    correlation_id,
                };
                events.push(self.event(now, &payload));
            }
        }
        // What never began has no end.
        if self.has_started {
            let payload = AgentSessionEnded {
                agent_name: subject.provider.clone(),
                session_key: outcome.native_id.as_ref().map(ToString::to_string),
                session_id: subject.session_id,
                provider: subject.provider,
                working_directory: subject.directory,
                success: outcome.verdict.is_ok(),
                duration_ms,
                workspace: self.workspace.take(),
                events_left_out: Some(self.left_out).filter(|count| *count > 0),
            };
            events.push(self.event(stamp(), &payload));
        }
        events
    }

    fn thought(&mut self, stamp: &impl Fn() -> Stamp) -> Option<Event> {
        if self.thought.is_empty() {
            return None;
        }
        let payload = AgentThinking {
            session_id: self.subject.session_id.clone(),
            provider: self.subject.provider.clone(),
            text: std::mem::take(&mut self.thought),
        };
        Some(self.event(stamp(), &payload))
    }

    fn event<P: Payload>(&self, stamp: Stamp, payload: &P) -> Event {
        let Subject { provider, kind, session_id, directory, correlation_ids, .. } = &self.subject;
        let mut event = registry::event(stamp, self.source.clone(), payload);
        event.correlation_ids.clone_from(correlation_ids);
        event.agent_context = Some(AgentContext::new(kind, provider, session_id, directory));
        event
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::agents::{Class, Failure, NativeId, Usage};

    fn narrator() -> Narrator {
        let subject = Subject {
            provider: "claude".to_owned(),
            kind: "claude-code",
            session_id: "s-1".to_owned(),
            directory: "/w".to_owned(),
            prompt: "count".to_owned(),
            correlation_ids: vec![Uuid::from_u128(7)],
            attempt: 1,
        };
        Narrator::new(subject, Source::new("desk", "godctl", "agent"))
    }

    fn stamp() -> Stamp {
        Stamp { id: Uuid::from_u128(9), at: Timestamp::UNIX_EPOCH }
    }

    fn outcome(verdict: Result<(), Failure>) -> Outcome {
        Outcome {
            native_id: Some(NativeId::parse("n-1").unwrap()),
            text: "two".to_owned(),
            usage: Usage { input_tokens: Some(3), output_tokens: Some(4), ..Usage::default() },
            verdict,
            warning: None,
        }
    }

    fn outputs() -> Vec<Output> {
        vec![
            Output::Started { native_id: NativeId::parse("n-1").unwrap(), model: None, version: None },
            Output::Thinking { text: "h".to_owned() },
            Output::Thinking { text: "m".to_owned() },
            Output::Text { text: "I".to_owned() },
            Output::ToolInvoked { id: "t".to_owned(), name: "Bash".to_owned(), input: json!({}) },
            Output::ToolCompleted { id: "t".to_owned(), name: None, is_error: true, output: "no".to_owned() },
        ]
    }

    #[test]
    fn a_turn_is_told_in_events_that_the_validator_takes() {
        for (verdict, last) in [
            (Ok(()), "agent.response.completed"),
            (Err(Failure::new(Class::RateLimited, "slow down")), "agent.error"),
        ] {
            let mut narrator = narrator();
            let mut events: Vec<_> =
                outputs().iter().flat_map(|output| narrator.output(output, stamp)).collect();
            events.extend(narrator.end(&outcome(verdict), Duration::from_millis(8), stamp));
            let types: Vec<_> = events.iter().map(|event| event.event_type.as_str().to_owned()).collect();
            let before =
                ["agent.session.started", "agent.thinking", "agent.tool.invoked", "agent.tool.completed"];
            assert_eq!(types, [&before[..], &[last, "agent.session.ended"]].concat());
            for event in &events {
                assert_eq!(registry::validate(&event.to_json()), []);
                assert_eq!(event.correlation_ids, [Uuid::from_u128(7)]);
            }
            assert_eq!(events[1].payload["text"], "hm", "pieces are gathered");
        }
    }

    #[test]
    fn what_never_began_has_no_end() {
        let failure = Failure::new(Class::MissingExecutable, "not installed");
        let events = narrator().end(&outcome(Err(failure)), Duration::ZERO, stamp);
        assert_eq!(events.len(), 1);
        assert_eq!(
            (events[0].event_type.as_str(), &events[0].payload["retryable"]),
            ("agent.error", &json!(false))
        );
    }
}
