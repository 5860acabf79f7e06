//! Agents, voices and rooms, as far as events tell. Pure.
//!
//! Nobody is asked: what a session is like follows from the events that name it, those of godctl's agents
//! (`agent.session.started` and what follows), of other programs of this bus (`session.thread.*`, `agent.thread.*`,
//! `llm.*`, `bloodbank.v1.agent.*`), utterances, and `space.*` for rooms.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Name, latency::Latency, tallies::Seen};
use crate::{
    bus::{
        Event,
        event::registry::{VOICE, VOICE_ALIAS},
    },
    cmd::text::printable,
};

/// Sessions that are kept.
const SESSIONS: usize = 2_000;

/// So many go at once when there are too many: first those that are over, the oldest first.
const EVICTED: usize = 200;

/// Letters of the last words that are kept.
const WORDS: usize = 200;

/// Who speaks in a room or an utterance, and who works.
const WHO: usize = 60;

/// After so long a silence a session counts as over when room is needed, and a voice as waiting after this one.
const SILENCE: SignedDuration = SignedDuration::from_hours(1);
const PAUSE: SignedDuration = SignedDuration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::cmd::dash) enum Sort {
    Agent,
    Voice,
    Room,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) enum State {
    Running,
    /// It waits: a prompt for its agent, an agent for the person, a voice for the next words.
    Waiting,
    Answered,
    Failed,
    Ended,
}

impl State {
    pub(in crate::cmd::dash) const fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Ended => "ended",
        }
    }
}

/// One of them. Texts are fit for a terminal, but for the id.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cmd::dash) struct Session {
    pub(in crate::cmd::dash) sort: Sort,
    /// As the events have it.
    pub(in crate::cmd::dash) id: Name,
    /// The agent, the speaker, or what the room is called.
    pub(in crate::cmd::dash) who: String,
    state: State,
    /// Prompts that were worked on, or utterances.
    pub(in crate::cmd::dash) turns: u64,
    /// US dollars, as far as was told.
    pub(in crate::cmd::dash) cost: Option<f64>,
    /// When the bus took the newest event of it.
    pub(in crate::cmd::dash) last: Timestamp,
    pub(in crate::cmd::dash) words: String,
    /// The events say that it belongs to this session, so that the filter finds them.
    pub(in crate::cmd::dash) is_session: bool,
}

impl Session {
    pub(in crate::cmd::dash) fn state(&self, now: Timestamp) -> State {
        let is_silent = now.duration_since(self.last) > PAUSE;
        if self.sort == Sort::Voice && self.state == State::Running && is_silent {
            return State::Waiting;
        }
        self.state
    }

    fn is_over(&self, now: Timestamp) -> bool {
        let is_done = matches!(self.state, State::Answered | State::Failed | State::Ended);
        is_done || now.duration_since(self.last) > SILENCE
    }

    fn says(&mut self, text: Option<&str>) {
        if let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) {
            self.words = printable(text, WORDS);
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct Sessions {
    sessions: HashMap<(Sort, Name), Session>,
    /// Sessions that had to go.
    evicted: u64,
    latency: Latency,
}

/// What an event tells of a session.
#[derive(Debug, Clone, Copy, PartialEq)]
enum News<'a> {
    Queued(Option<&'a str>),
    Began(Option<&'a str>),
    Tool(&'a str),
    Said(Option<&'a str>),
    Answered(Option<&'a str>),
    Failed(Option<&'a str>),
    /// A turn is over, and whether it went well, or the whole session where that is not told.
    Over(Option<bool>),
    /// Something else happened to it.
    Touched,
}

impl Sessions {
    pub(super) fn take(&mut self, seen: &Seen<'_>) {
        let Seen { row, event, .. } = *seen;
        let event_type = plain(&row.event_type);
        if is_utterance(event_type) {
            self.latency.said(row);
            self.utterance(seen);
        } else if let Some(rest) = event_type.strip_prefix("space.") {
            self.room(seen, rest);
        } else if !row.session.is_empty()
            && let Some(news) = news(event_type, event)
        {
            self.agent(seen, event_type, news);
        }
        if event_type == "agent.response.completed" {
            self.latency.answered(row);
        }
    }

    /// The session of this id; a new one where there is none.
    fn session(&mut self, sort: Sort, id: &Name, seen: &Seen<'_>) -> &mut Session {
        let key = (sort, Name::clone(id));
        if !self.sessions.contains_key(&key) && self.sessions.len() >= SESSIONS {
            self.evict(seen.now);
        }
        let session = self.sessions.entry(key).or_insert_with(|| Session {
            sort,
            id: Name::clone(id),
            who: String::new(),
            state: State::Running,
            turns: 0,
            cost: None,
            last: seen.row.taken,
            words: String::new(),
            is_session: *id == seen.row.session,
        });
        session.last = session.last.max(seen.row.taken);
        session
    }

    fn evict(&mut self, now: Timestamp) {
        let mut keys: Vec<(bool, Timestamp, (Sort, Name))> = self
            .sessions
            .iter()
            .map(|(key, session)| (!session.is_over(now), session.last, key.clone()))
            .collect();
        keys.sort_unstable();
        for (.., key) in keys.into_iter().take(EVICTED) {
            self.sessions.remove(&key);
            self.evicted += 1;
        }
    }

    fn agent(&mut self, seen: &Seen<'_>, event_type: &str, news: News<'_>) {
        let Seen { row, event, .. } = *seen;
        let is_known = self.sessions.contains_key(&(Sort::Agent, Name::clone(&row.session)));
        if news == News::Touched && !is_known {
            return;
        }
        let text = |name: &str| event.payload.get(name).and_then(Value::as_str);
        let number = |name: &str| event.payload.get(name).and_then(Value::as_u64);
        let session = self.session(Sort::Agent, &row.session, seen);
        let who = text("provider").or_else(|| text("agent_name")).or_else(|| text("model"));
        let named = who.or(Some(&*row.agent)).filter(|who| !who.is_empty());
        if let Some(who) = named
            && (session.who.is_empty() || text("provider").is_some())
        {
            session.who = printable(who, WHO);
        }
        match news {
            News::Queued(words) => {
                session.state = State::Waiting;
                session.says(words);
            }
            News::Began(words) | News::Said(words) => {
                session.state = State::Running;
                session.says(words);
            }
            News::Tool(name) => {
                session.state = State::Running;
                session.words = printable(&format!("uses {name}"), WORDS);
            }
            News::Answered(words) => {
                session.state = State::Answered;
                session.turns += 1;
                session.says(words);
            }
            News::Failed(words) => {
                session.state = State::Failed;
                session.says(words);
            }
            // How a turn ended is known before it is said to be over.
            News::Over(Some(true)) => session.state = State::Answered,
            News::Over(Some(false)) => session.state = State::Failed,
            News::Over(None) => {
                session.state = State::Ended;
                session.says(text("summary"));
            }
            News::Touched => {}
        }
        // A failure is told once for each turn; others repeat it where they tell about the session.
        if event_type == "agent.error" {
            session.turns += 1;
        }
        if event_type.starts_with("session.thread.") {
            // Claude Code counts itself.
            if let Some(turns) = number("total_turns").or_else(|| number("turn_number")) {
                session.turns = session.turns.max(turns);
            }
            if event_type == "session.thread.message" && text("role") != Some("user") {
                session.state = State::Waiting;
            }
        }
        let cost = |name: &str| event.payload.get(name).and_then(Value::as_f64).filter(|cost| *cost >= 0.0);
        if matches!(news, News::Answered(_))
            && let Some(cost) = cost("cost_usd")
        {
            session.cost = Some(session.cost.unwrap_or(0.0) + cost);
        }
        if let Some(total) = cost("total_cost_usd") {
            session.cost = Some(total);
        }
    }

    fn utterance(&mut self, seen: &Seen<'_>) {
        let Seen { row, event, .. } = *seen;
        // Who names no session is one.
        let id = if row.session.is_empty() { &row.app } else { &row.session };
        let session = self.session(Sort::Voice, id, seen);
        let part = |part: &str, name: &str| event.payload.get(part)?.get(name)?.as_str();
        let who =
            part("audio_metadata", "speaker_id").or_else(|| part("context", "user_id")).unwrap_or(&row.app);
        session.who = printable(who, WHO);
        session.state = State::Running;
        session.turns += 1;
        session.says(event.text());
    }

    fn room(&mut self, seen: &Seen<'_>, what: &str) {
        let Seen { row, event, .. } = *seen;
        let text =
            |name: &str| event.payload.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let id = ["space_id", "room_id", "broadcast_id", "space", "room"].into_iter().find_map(text);
        let id: Name = match id {
            Some(id) => id.chars().take(200).collect::<String>().into(),
            None if row.session.is_empty() => return,
            None => Name::clone(&row.session),
        };
        let session = self.session(Sort::Room, &id, seen);
        if let Some(title) = text("title").or_else(|| text("name")) {
            session.who = printable(title, WHO);
        } else if session.who.is_empty() {
            session.who = printable(text("host").unwrap_or(&row.app), WHO);
        }
        session.state = match what {
            // Of the room itself, not of somebody in it.
            "ended" | "closed" | "destroyed" | "left" | "session.ended" => State::Ended,
            _ if what.starts_with("session.") && row.is_error => State::Failed,
            "failed" | "error" => State::Failed,
            _ => State::Running,
        };
        if let Some(words) = event.text().filter(|text| !text.trim().is_empty()) {
            session.turns += 1;
            let speaker = ["speaker", "speaker_name", "username", "display_name"].into_iter().find_map(text);
            let said = speaker.map_or_else(|| words.to_owned(), |speaker| format!("{speaker}: {words}"));
            session.says(Some(&said));
        } else if row.is_error {
            session.says(text("error").or_else(|| text("error_message")));
        }
    }

    /// Those with the newest activity first.
    pub(in crate::cmd::dash) fn newest(&self) -> Vec<&Session> {
        let mut sessions: Vec<&Session> = self.sessions.values().collect();
        sessions.sort_unstable_by(|a, b| (b.last, a.sort, &a.id).cmp(&(a.last, b.sort, &b.id)));
        sessions
    }

    pub(in crate::cmd::dash) const fn evicted(&self) -> u64 {
        self.evicted
    }

    pub(in crate::cmd::dash) const fn latency(&self) -> &Latency {
        &self.latency
    }
}

/// A type without what all CloudEvents of this bus begin with.
fn plain(event_type: &str) -> &str {
    let rest = event_type.strip_prefix("bloodbank.v").and_then(|rest| rest.split_once('.'));
    rest.map_or(event_type, |(_, rest)| rest)
}

/// Somebody has said something, by any of the names that this has.
fn is_utterance(event_type: &str) -> bool {
    [VOICE, VOICE_ALIAS].contains(&event_type)
        || (event_type.ends_with("transcription.completed") && !event_type.starts_with("agent."))
}

/// What an event tells of the agent's session that it names; nothing where it is not about one.
fn news<'a>(event_type: &str, event: &'a Event) -> Option<News<'a>> {
    let text = |name: &str| event.payload.get(name).and_then(Value::as_str);
    let went_well = event.payload.get("success").and_then(Value::as_bool);
    let wrong = || text("error").or_else(|| text("error_message"));
    let tool = || {
        let nested = || event.payload.get("tool_metadata")?.get("tool_name")?.as_str();
        text("tool_name").or_else(nested).unwrap_or("a tool")
    };
    Some(match event_type {
        "agent.prompt" | "agent.thread.prompt" | "agent.session.requested" | "llm.prompt" => {
            News::Queued(text("prompt"))
        }
        "agent.session.started"
        | "agent.invocation.started"
        | "session.thread.start"
        | "jelmore.session.started" => News::Began(text("user_prompt").or_else(|| text("prompt"))),
        "agent.tool.invoked" | "session.thread.agent.action" => News::Tool(tool()),
        "agent.thinking" => News::Said(text("text")),
        "session.thread.message" => News::Said(text("content")),
        "session.thread.agent.thinking" => News::Said(text("thinking_text")),
        "agent.response.completed"
        | "agent.response"
        | "agent.thread.response"
        | "agent.invocation.completed"
        | "llm.response" => News::Answered(event.text()),
        "agent.error"
        | "agent.thread.error"
        | "agent.invocation.failed"
        | "agent.prompt.failed"
        | "llm.error"
        | "session.thread.error"
        | "jelmore.agent.error" => News::Failed(wrong()),
        "agent.session.ended" | "jelmore.session.completed" => News::Over(went_well),
        "session.thread.end" => match text("final_status") {
            Some("error" | "failed") => News::Failed(text("summary").or_else(|| text("end_reason"))),
            _ => News::Over(None),
        },
        other
            if other.starts_with("agent.")
                || other.starts_with("session.")
                || other.starts_with("jelmore.") =>
        {
            News::Touched
        }
        _ => return None,
    })
}
