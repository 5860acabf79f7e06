//! Reads what a message asks for, and refuses what a message may not. Pure but for looking up directories, which is
//! passed in.
//!
//! Whoever may publish on the bus is not trusted with this machine: a message names an agent, a prompt and a session. It
//! brings no command, no arguments and no environment, asks for no more access and no other directory than the
//! configuration allows, and switches on only hooks that are configured here by name.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::super::{
    Access, Class, Failure,
    hooks::Wish,
    session::{MAX_TAGS, SessionId, parse_tag},
};
use crate::bus::{
    Event,
    event::{
        ids,
        payload::{AgentPrompt, Continuation, Hook, Payload as _},
    },
};

/// What hooks of agents publish for each prompt that a person types.
pub const TELEMETRY: &str = "agent.thread.prompt";
/// Longer prompts are mistakes.
const MAX_PROMPT: usize = 16 * 1024 * 1024;
/// Longest key that tells the same prompt.
const MAX_KEY: usize = 256;
/// Correlation ids of an answer.
const MAX_CORRELATIONS: usize = 32;

/// What a message may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Agents that there are.
    pub agents: Vec<String>,
    /// Directories that agents may work in, and all below them; as the system names them. The first one is where they
    /// work if nothing is said.
    pub roots: Vec<PathBuf>,
    /// What agents may do at most.
    pub access: Access,
    /// Seconds that a turn may take at most.
    pub timeout_s: u64,
}

/// The session that a prompt wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// A new one.
    New,
    /// The latest of the agent in the directory.
    Continue,
    /// This one; made if it does not exist.
    Named(SessionId),
    /// This one, which exists.
    Existing(SessionId),
}

/// What a message asks for, allowed as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Tells whether two messages ask for the same thing once.
    pub key: String,
    /// Of all that was asked for.
    pub hash: String,
    /// Who shall work on it.
    pub provider: String,
    /// What is to be done.
    pub prompt: String,
    /// In which session.
    pub wanted: Wanted,
    /// Where; `None` is where the session works, or the first root.
    pub directory: Option<PathBuf>,
    /// Which model.
    pub model: Option<String>,
    /// What it may do.
    pub access: Access,
    /// How long it may take.
    pub timeout_s: Option<u64>,
    /// What the session can be found by.
    pub tags: Vec<String>,
    /// Which hooks are switched on and off for it; whether it may is for [`Hooks::check`] to say.
    ///
    /// [`Hooks::check`]: super::super::hooks::Hooks::check
    #[serde(default)]
    pub wishes: Vec<Wish>,
    /// Ties the answer to the question, the root first.
    pub correlation_ids: Vec<Uuid>,
}

impl Request {
    /// Reads an event.
    ///
    /// # Errors
    /// [`Class::BadRequest`] for what is no prompt, [`Class::Denied`] for what a message may not ask for.
    pub fn read(
        event: &Event,
        rules: &Rules,
        resolve: impl Fn(&Path) -> io::Result<PathBuf>,
    ) -> Result<Self, Failure> {
        let bad = |message: String| Failure::new(Class::BadRequest, message);
        let denied = |message: String| Failure::new(Class::Denied, message);
        // What people type elsewhere is told on the bus too; to work on that would be to do everything twice.
        if event.event_type.as_str() == TELEMETRY {
            return Err(bad(format!("{TELEMETRY} tells of a prompt and is none")));
        }
        refuse_commands(&event.payload).map_err(denied)?;
        let asked: AgentPrompt = serde_json::from_value(event.payload.clone())
            .map_err(|error| bad(format!("the payload is no {}: {error}", AgentPrompt::TYPE)))?;
        if asked.prompt.trim().is_empty() || asked.prompt.len() > MAX_PROMPT {
            return Err(bad(format!("want a prompt of 1 to {MAX_PROMPT} bytes")));
        }
        if !rules.agents.contains(&asked.provider) {
            return Err(bad(format!(
                "there is no agent '{}'; this one has {}",
                asked.provider,
                rules.agents.join(", ")
            )));
        }
        let session = asked.session_id.as_deref().map(SessionId::parse).transpose()?;
        let wanted = match (asked.continuation_mode, session) {
            (Continuation::New, None) => Wanted::New,
            (Continuation::New, Some(id)) => Wanted::Named(id),
            (Continuation::Continue, None) => Wanted::Continue,
            (Continuation::Resume | Continuation::Continue, Some(id)) => Wanted::Existing(id),
            (Continuation::Resume, None) => return Err(bad("resume needs a session_id".to_owned())),
        };
        let access = match asked.access {
            Some(name) => serde_json::from_value(Value::String(name.clone()))
                .map_err(|_| bad(format!("'{name}' is no access; write plan, default, edit or full")))?,
            None => Access::default(),
        };
        if access > rules.access {
            let (wants, may) = (access.name(), rules.access.name());
            return Err(denied(format!(
                "the message wants access '{wants}' and may have '{may}' (listen.access)"
            )));
        }
        let directory = match &asked.cwd {
            None => None,
            Some(wanted) => Some(allowed(Path::new(wanted), rules, resolve).map_err(denied)?),
        };
        if asked.tags.len() > MAX_TAGS {
            return Err(bad(format!("more than {MAX_TAGS} tags")));
        }
        let tags = asked.tags.iter().map(|tag| parse_tag(tag)).collect::<Result<_, _>>().map_err(bad)?;
        let key = match asked.idempotency_key {
            Some(key) if key.is_empty() || key.len() > MAX_KEY => {
                return Err(bad(format!("an idempotency_key has 1 to {MAX_KEY} bytes")));
            }
            // Keys of senders and ids of events are never mixed up.
            Some(key) => format!("key:{key}"),
            None => format!("event:{}", event.event_id),
        };
        let mut correlation_ids = Vec::new();
        let root = asked
            .correlation_id
            .as_deref()
            .map(|text| Uuid::try_parse(text).unwrap_or_else(|_| ids::deterministic("correlation", text)));
        for id in root.into_iter().chain(event.correlation_ids.iter().copied()).chain([event.event_id]) {
            if !correlation_ids.contains(&id) && correlation_ids.len() < MAX_CORRELATIONS {
                correlation_ids.push(id);
            }
        }
        Ok(Self {
            key,
            hash: hash(&event.payload),
            provider: asked.provider,
            prompt: asked.prompt,
            wanted,
            directory,
            model: asked.model,
            access,
            timeout_s: asked.timeout_s.map(|seconds| seconds.clamp(1, rules.timeout_s)),
            tags,
            wishes: asked
                .hooks
                .into_iter()
                .map(|Hook { name, enabled, .. }| Wish { name, enabled })
                .collect(),
            correlation_ids,
        })
    }
}

/// What a message must not bring, under whatever name agents know it.
fn refuse_commands(payload: &Value) -> Result<(), String> {
    const COMMANDS: [&str; 10] = [
        "args",
        "argv",
        "arguments",
        "extra_args",
        "command",
        "cmd",
        "exec",
        "env",
        "environment",
        "program",
    ];
    const MODES: [&str; 4] = ["permission_mode", "permissions", "dangerously_skip_permissions", "sandbox"];
    let places = [Some(payload), payload.get("metadata"), payload.get("options"), payload.get("config")];
    for object in places.into_iter().flatten() {
        if let Some(name) = COMMANDS.iter().find(|name| object.get(**name).is_some()) {
            return Err(format!("a message may not bring '{name}'"));
        }
        if let Some(name) = MODES.iter().find(|name| object.get(**name).is_some()) {
            return Err(format!(
                "a message may not bring '{name}'; it may ask for 'access' up to listen.access"
            ));
        }
    }
    let hooks = payload.get("hooks").and_then(Value::as_array).into_iter().flatten();
    let brings = |hook: &Value| {
        let places = [Some(hook), hook.get("config")];
        places.into_iter().flatten().any(|place| COMMANDS.iter().any(|name| place.get(*name).is_some()))
    };
    if hooks.into_iter().any(brings) {
        return Err("a message may not bring the command of a hook".to_owned());
    }
    Ok(())
}

/// A directory that is one of the roots, or below one.
fn allowed(
    wanted: &Path,
    rules: &Rules,
    resolve: impl Fn(&Path) -> io::Result<PathBuf>,
) -> Result<PathBuf, String> {
    if !wanted.is_absolute() {
        return Err(format!("the directory {} is not absolute", wanted.display()));
    }
    // Links and .. are looked through before anything is compared.
    let real = resolve(wanted).map_err(|error| format!("the directory {}: {error}", wanted.display()))?;
    if rules.roots.iter().any(|root| real.starts_with(root)) {
        return Ok(real);
    }
    Err(format!("the directory {} is in none of listen.roots", wanted.display()))
}

/// Of a payload, whatever the order of its fields: `serde_json` keeps them sorted.
fn hash(payload: &Value) -> String {
    let digest = Sha256::digest(payload.to_string().as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::bus::event::{Source, Stamp};

    fn rules() -> Rules {
        Rules {
            agents: vec!["claude".to_owned()],
            roots: vec!["/repo".into(), "/srv/code".into()],
            access: Access::Edit,
            timeout_s: 600,
        }
    }

    /// A file system in which `/repo/link` leads out.
    fn resolve(path: &Path) -> io::Result<PathBuf> {
        match path.to_str().unwrap() {
            "/repo/link" => Ok("/etc".into()),
            "/repo/../etc" => Ok("/etc".into()),
            "/missing" => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(path.to_owned()),
        }
    }

    fn event(payload: Value) -> Event {
        let stamp = Stamp { id: Uuid::from_u128(9), at: Timestamp::UNIX_EPOCH };
        Event::new(stamp, AgentPrompt::TYPE.parse().unwrap(), Source::new("h", "a", "service"), payload)
    }

    fn read(payload: Value) -> Result<Request, Failure> {
        Request::read(&event(payload), &rules(), resolve)
    }

    #[test]
    fn a_prompt_says_who_what_and_in_which_session() {
        let request = read(json!({"provider": "claude", "prompt": "count"})).unwrap();
        assert_eq!(
            (request.key.as_str(), &request.wanted),
            ("event:00000000-0000-0000-0000-000000000009", &Wanted::New)
        );
        assert_eq!(
            (request.access, request.directory, request.correlation_ids),
            (Access::Default, None, vec![Uuid::from_u128(9)])
        );
        let request = read(json!({
            "provider": "claude", "prompt": "count", "session_id": "s", "continuation_mode": "resume",
            "cwd": "/srv/code/x", "access": "edit", "timeout_s": 99999, "idempotency_key": "k", "tags": ["a"],
            "correlation_id": "req-1", "model": "opus"
        }))
        .unwrap();
        assert_eq!(request.wanted, Wanted::Existing(SessionId::parse("s").unwrap()));
        assert_eq!((request.key.as_str(), request.timeout_s), ("key:k", Some(600)));
        assert_eq!(request.directory, Some("/srv/code/x".into()));
        assert_eq!(request.correlation_ids.len(), 2, "the root first, the event last");
    }

    #[test]
    fn the_same_request_has_the_same_hash_and_another_one_another() {
        let hash = |payload: Value| read(payload).unwrap().hash;
        let one = hash(json!({"provider": "claude", "prompt": "a"}));
        assert_eq!(one, hash(json!({"prompt": "a", "provider": "claude"})));
        assert_ne!(one, hash(json!({"provider": "claude", "prompt": "b"})));
    }

    #[test]
    fn what_is_no_prompt_is_a_bad_request() {
        for payload in [
            json!({}),
            json!({"provider": "claude", "prompt": " "}),
            json!({"provider": "siri", "prompt": "x"}),
            json!({"provider": "claude", "prompt": "x", "continuation_mode": "resume"}),
            json!({"provider": "claude", "prompt": "x", "session_id": "--flag"}),
            json!({"provider": "claude", "prompt": "x", "idempotency_key": ""}),
            json!({"provider": "claude", "prompt": "x", "tags": ["a b"]}),
        ] {
            assert_eq!(read(payload.clone()).unwrap_err().class, Class::BadRequest, "{payload}");
        }
        let mut other = event(json!({"provider": "claude", "prompt": "x"}));
        other.event_type = "agent.thread.prompt".parse().unwrap();
        let refused = Request::read(&other, &rules(), resolve).unwrap_err();
        assert_eq!(refused.class, Class::BadRequest, "telemetry of prompts is no work");
    }

    #[test]
    fn a_hostile_message_gets_nothing() {
        let with = |name: &str, value: Value| {
            let mut payload = json!({"provider": "claude", "prompt": "x"});
            payload[name] = value;
            payload
        };
        for payload in [
            with("access", json!("full")),
            with("permission_mode", json!("bypassPermissions")),
            with("metadata", json!({"dangerously_skip_permissions": true})),
            with("extra_args", json!(["--dangerously-skip-permissions"])),
            with("env", json!({"PATH": "/tmp"})),
            with("hooks", json!([{"name": "exec", "config": {"command": "rm -rf ~"}}])),
            with("cwd", json!("/etc")),
            with("cwd", json!("/repo/link")),
            with("cwd", json!("/repo/../etc")),
            with("cwd", json!("/repos")),
            with("cwd", json!("relative")),
            with("cwd", json!("/missing")),
        ] {
            assert_eq!(read(payload.clone()).unwrap_err().class, Class::Denied, "{payload}");
        }
    }
}
