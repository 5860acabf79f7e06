//! Reads what somebody said as a prompt, or says why it is none. Pure; time is passed in.
//!
//! Only whole utterances are read (`is_final`), never fragments of them. What is asked for goes through the same rules as
//! every other message afterwards. Recognition makes mistakes: a spoken prompt gets no more access than
//! [`VoiceRules::access`], unless the words that confirm it are said with it.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::Access;
use crate::bus::{
    Event,
    event::{
        ids,
        payload::{AgentPrompt, Payload as _, VoiceTranscription, agent::VoiceRefused},
        registry::VOICE_ALIAS,
    },
};

/// Words that come before an agent's name.
const VERBS: [&str; 4] = ["ask", "tell", "have", "let"];
/// Longer utterances are not commands but recordings.
const MAX_TEXT: usize = 16 * 1024;

/// How utterances are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoiceRules {
    /// The words that call us, such as `computer`.
    pub prefix: String,
    /// Nothing is meant for us that does not begin with them.
    pub needs_prefix: bool,
    /// Who works on what names nobody.
    pub provider: String,
    /// What agents are called when they are spoken of: spoken words to name.
    pub names: BTreeMap<String, String>,
    /// What agents may do if nothing is said of it.
    pub access: Access,
    /// The words that must end an utterance that asks for more than that.
    pub confirmation: String,
    /// Older utterances are not worked on: whoever said them does not wait any more.
    pub max_age: Duration,
}

/// What an utterance is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Heard {
    /// A prompt: as the event that would have asked for it.
    Prompt(Box<Event>),
    /// Not for us: why, in a few words.
    Nothing(&'static str),
    /// For us, and not to be worked on.
    Refused(VoiceRefused),
}

/// Whether events of this type are read.
#[must_use]
pub(super) fn is_voice(event_type: &str) -> bool {
    event_type == VoiceTranscription::TYPE || event_type == VOICE_ALIAS
}

impl VoiceRules {
    /// Reads an event.
    #[must_use]
    pub(super) fn read(&self, event: &Event, now: Timestamp) -> Heard {
        let payload = &event.payload;
        let field = |name: &str| payload.get(name).and_then(Value::as_str).unwrap_or_default().trim();
        if payload.get("is_final").and_then(Value::as_bool) != Some(true) {
            return Heard::Nothing("is a fragment");
        }
        let target = field("target").to_lowercase();
        let for_us = ["", "agent", "agents", "godctl"].contains(&target.as_str());
        let target = self.names.get(&target).or_else(|| self.names.values().find(|name| **name == target));
        if !for_us && target.is_none() {
            return Heard::Nothing("is meant for somebody else");
        }
        let text = field("text");
        let words = Words::of(text);
        let prefix = Words::of(&self.prefix);
        let rest = match words.after(&prefix) {
            Some(rest) if !prefix.0.is_empty() => rest,
            _ if self.needs_prefix => return Heard::Nothing("does not begin with the words that call us"),
            _ => words,
        };
        let refused = |reason: String| {
            let utterance_id = field("utterance_id").to_owned();
            let text = text.chars().take(500).collect();
            Heard::Refused(VoiceRefused { text, utterance_id, reason })
        };
        if text.len() > MAX_TEXT {
            return refused(format!("is longer than {MAX_TEXT} bytes"));
        }
        let age = Duration::try_from(now.duration_since(event.timestamp)).unwrap_or_default();
        if age > self.max_age {
            let limit = self.max_age.as_secs();
            return refused(format!("was said {} s ago; listen.voice_max_age_s is {limit}", age.as_secs()));
        }
        let command = self.command(rest);
        if command.prompt.trim().is_empty() {
            return Heard::Nothing("says nothing");
        }
        let wanted = command.access.unwrap_or(self.access);
        if wanted > self.access && !command.is_confirmed {
            let (access, words) = (wanted.name(), &self.confirmation);
            return refused(format!("asks for {access} access; end with \"{words}\" if that is meant"));
        }
        let provider = command.provider.or(target).unwrap_or(&self.provider);
        Heard::Prompt(Box::new(prompt(event, provider, &command.prompt, wanted)))
    }

    /// `ask NAME [with LEVEL access] [to] PROMPT [CONFIRMATION]`, or `NAME, PROMPT`, or a prompt alone.
    fn command<'a>(&'a self, words: Words<'a>) -> Command<'a> {
        let confirmation = Words::of(&self.confirmation);
        let (words, is_confirmed) = match words.before(&confirmation) {
            Some(before) if !confirmation.0.is_empty() => (before, true),
            _ => (words, false),
        };
        let all = Command { provider: None, access: None, prompt: words.text(), is_confirmed };
        let asked = VERBS.iter().find_map(|verb| words.after(&Words::of(verb)));
        let named = |words: &Words<'a>| {
            let found = self.names.iter().filter_map(|(spoken, name)| {
                let spoken = Words::of(spoken);
                Some((spoken.0.len(), name, words.after(&spoken)?))
            });
            // The longest name that fits.
            found.max_by_key(|(length, ..)| *length)
        };
        let (provider, rest) = match (&asked, named(asked.as_ref().unwrap_or(&words))) {
            (Some(_), Some((_, name, rest))) => (name, rest),
            // Without a verb it must be an address, as the comma tells.
            (None, Some((length, name, rest))) if words.0[length - 1].ends_with([',', ':', ';']) => {
                (name, rest)
            }
            _ => return all,
        };
        let (access, rest) = access(&rest);
        let rest = rest.after(&Words::of("to")).unwrap_or(rest);
        Command { provider: Some(provider), access, prompt: rest.text(), is_confirmed }
    }
}

struct Command<'a> {
    provider: Option<&'a String>,
    access: Option<Access>,
    prompt: String,
    is_confirmed: bool,
}

/// `with LEVEL access`, and what comes after it.
fn access<'a>(words: &Words<'a>) -> (Option<Access>, Words<'a>) {
    for (spoken, access) in [
        ("with plan access", Access::Plan),
        ("with read only access", Access::Plan),
        ("with read-only access", Access::Plan),
        ("with edit access", Access::Edit),
        ("with write access", Access::Edit),
        ("with full access", Access::Full),
    ] {
        if let Some(rest) = words.after(&Words::of(spoken)) {
            return (Some(access), rest);
        }
    }
    (None, words.clone())
}

/// The event that would have asked for it. An utterance and a microphone are known by their ids, so that an utterance is
/// worked on once, and what is said into one microphone is one conversation with each agent.
fn prompt(event: &Event, provider: &str, text: &str, access: Access) -> Event {
    let field = |name: &str| event.payload.get(name).and_then(Value::as_str).unwrap_or_default();
    let key = match field("utterance_id") {
        "" => event.event_id.to_string(),
        id => ids::deterministic("utterance", &format!("{} {id}", field("session_id"))).to_string(),
    };
    let mut payload = json!({
        "provider": provider,
        "prompt": text,
        "access": access.name(),
        "idempotency_key": format!("voice:{key}"),
        "tags": ["voice"],
    });
    if let Ok(session) = Uuid::try_parse(field("session_id")) {
        payload["session_id"] =
            json!(ids::deterministic("voice", &format!("{session} {provider}")).to_string());
    }
    Event {
        event_type: AgentPrompt::TYPE.parse().unwrap_or_else(|_| event.event_type.clone()),
        payload,
        ..event.clone()
    }
}

/// Words as they were written, compared as they sound: without case and punctuation around them.
#[derive(Debug, Clone)]
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn of(text: &'a str) -> Self {
        Self(text.split_whitespace().collect())
    }

    /// What comes after these words, if they come first.
    fn after(&self, first: &Words<'_>) -> Option<Self> {
        let (head, rest) = self.0.split_at_checked(first.0.len())?;
        head.iter().zip(&first.0).all(|(a, b)| sound(a) == sound(b)).then(|| Self(rest.to_vec()))
    }

    /// What comes before these words, if they come last.
    fn before(&self, last: &Words<'_>) -> Option<Self> {
        let (rest, tail) = self.0.split_at_checked(self.0.len().checked_sub(last.0.len())?)?;
        tail.iter().zip(&last.0).all(|(a, b)| sound(a) == sound(b)).then(|| Self(rest.to_vec()))
    }

    fn text(&self) -> String {
        let text = self.0.join(" ");
        // What stood before the words that were taken away.
        text.trim_end_matches([',', ';', ':']).trim_start_matches([',', ';', ':']).trim().to_owned()
    }
}

fn sound(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bus::event::{Source, Stamp, registry};

    fn rules() -> VoiceRules {
        let names = [("claude", "claude"), ("cloud", "claude"), ("gemini", "gemini"), ("code x", "codex")];
        VoiceRules {
            prefix: "computer".to_owned(),
            needs_prefix: false,
            provider: "claude".to_owned(),
            names: names.map(|(spoken, name)| (spoken.to_owned(), name.to_owned())).into(),
            access: Access::Default,
            confirmation: "confirm full access".to_owned(),
            max_age: Duration::from_secs(300),
        }
    }

    fn said(text: &str) -> Event {
        let payload = VoiceTranscription { text: text.to_owned(), ..VoiceTranscription::example() };
        let stamp = Stamp { id: Uuid::from_u128(9), at: Timestamp::from_second(1_000_000).unwrap() };
        registry::event(stamp, Source::new("desk", "godctl-asr", "manual"), &payload)
    }

    fn read(rules: &VoiceRules, event: &Event) -> Heard {
        rules.read(event, Timestamp::from_second(1_000_010).unwrap())
    }

    /// Provider, prompt and access.
    fn heard(rules: &VoiceRules, text: &str) -> (String, String, String) {
        let Heard::Prompt(event) = read(rules, &said(text)) else {
            panic!("{text}: {:?}", read(rules, &said(text)))
        };
        let field = |name: &str| event.payload[name].as_str().unwrap().to_owned();
        (field("provider"), field("prompt"), field("access"))
    }

    #[test]
    fn who_is_asked_and_for_what() {
        for (text, provider, prompt, access) in [
            ("Why does the test fail?", "claude", "Why does the test fail?", "default"),
            ("Computer, run the test.", "claude", "run the test.", "default"),
            ("computer ask Gemini to read the log", "gemini", "read the log", "default"),
            ("Ask cloud: what is new?", "claude", "what is new?", "default"),
            ("tell code X to fix it", "codex", "fix it", "default"),
            ("Gemini, what time is it?", "gemini", "what time is it?", "default"),
            ("gemini is a constellation", "claude", "gemini is a constellation", "default"),
            ("ask the users to wait", "claude", "ask the users to wait", "default"),
            ("ask gemini with plan access to look around", "gemini", "look around", "plan"),
            (
                "Computer, ask claude with full access to delete it, confirm full access.",
                "claude",
                "delete it",
                "full",
            ),
        ] {
            assert_eq!(heard(&rules(), text), (provider.into(), prompt.into(), access.into()), "{text}");
        }
    }

    #[test]
    fn more_access_needs_the_words_that_confirm_it() {
        for text in
            ["ask claude with full access to delete it", "ask claude with edit access to fix it, confirm"]
        {
            let Heard::Refused(refused) = read(&rules(), &said(text)) else { panic!("{text}") };
            assert!(refused.reason.contains("end with \"confirm full access\""), "{refused:?}");
        }
        let free = VoiceRules { access: Access::Edit, ..rules() };
        assert_eq!(heard(&free, "ask claude with edit access to fix it").2, "edit");
    }

    #[test]
    fn what_is_not_meant_for_us_is_left() {
        let strict = VoiceRules { needs_prefix: true, ..rules() };
        assert!(matches!(read(&strict, &said("run the test")), Heard::Nothing(_)));
        assert_eq!(heard(&strict, "Computer run the test").1, "run the test");
        for text in ["", "computer", "Computer!", "ask gemini"] {
            let heard = read(&rules(), &said(text));
            assert!(matches!(heard, Heard::Nothing(_)), "{text}: {heard:?}");
        }
        for is_final in [json!(false), json!(null), json!("true")] {
            let mut event = said("run the test");
            event.payload["is_final"] = is_final;
            assert_eq!(read(&rules(), &event), Heard::Nothing("is a fragment"));
        }
        let mut event = said("turn on the light");
        event.payload["target"] = json!("tonny");
        assert!(matches!(read(&rules(), &event), Heard::Nothing(_)));
        event.payload["target"] = json!("Gemini");
        let Heard::Prompt(prompt) = read(&rules(), &event) else { panic!() };
        assert_eq!(prompt.payload["provider"], "gemini");
    }

    #[test]
    fn what_was_said_long_ago_is_not_done_now() {
        let later = Timestamp::from_second(1_000_301).unwrap();
        let Heard::Refused(refused) = rules().read(&said("run the test"), later) else { panic!() };
        assert_eq!(refused.reason, "was said 301 s ago; listen.voice_max_age_s is 300");
    }

    #[test]
    fn an_utterance_is_one_prompt_under_both_names_and_a_microphone_one_conversation() {
        let first = said("run the test");
        let mut second = Event { event_id: Uuid::from_u128(10), ..first.clone() };
        second.event_type = VOICE_ALIAS.parse().unwrap();
        let of = |event: &Event| {
            let Heard::Prompt(event) = read(&rules(), event) else { panic!() };
            (event.payload["idempotency_key"].clone(), event.payload["session_id"].clone())
        };
        assert_eq!(of(&first), of(&second));
        let mut next = first.clone();
        next.payload["utterance_id"] = json!("another");
        assert_ne!(of(&first).0, of(&next).0);
        assert_eq!(of(&first).1, of(&next).1);
        assert!(is_voice("voice.transcription.completed") && is_voice(VOICE_ALIAS));
        assert!(!is_voice("agent.thread.prompt") && !is_voice("voice.transcription.partial"));
    }

    proptest! {
        #[test]
        fn whatever_is_said_gets_no_more_than_the_rules_allow_without_confirmation(text in ".{0,80}|(ask|tell) (claude|gemini) with (full|edit) access .{0,20}") {
            if let Heard::Prompt(event) = read(&rules(), &said(&text)) {
                let confirmed = sound(&text).ends_with("confirm full access");
                prop_assert!(confirmed || event.payload["access"] == "default" || event.payload["access"] == "plan");
                prop_assert!(!event.payload["prompt"].as_str().unwrap().trim().is_empty());
            }
        }
    }
}
