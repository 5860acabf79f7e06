//! `godctl agent dlq`: prompts that were given up. The same dead letters as `godctl bus dead` shows, told in the words of
//! agents, with the queue of `agent listen` unless another one is named.

use std::io::{self, Write as _};

use anyhow::{anyhow, bail};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::{
    Context, Exit, Failure, Stdout, Threads,
    bus::{Side, confirm, json_line, table, with_bus, with_exit_code},
    text::printable,
};
use crate::{
    agents::lines::shortened,
    bus::{
        Body, BusError, EventBus, Held, Lane, Selection,
        event::payload::{Payload as _, agent::AgentPromptFailed},
    },
};

/// Flags of `godctl agent dlq`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A prompt that a listener gave up, or refused, is a dead letter of its queue: this shows the same as
`godctl bus dead`, with why the agent failed and what it was asked. Put back, a prompt is worked on
again with new attempts and the same correlation id.

Examples:
  godctl agent dlq list
  godctl agent dlq show 0197c2f0
  godctl agent dlq replay 0197c2f0
  godctl agent dlq purge --all --yes")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List prompts that were given up, oldest first
    #[command(
        after_help = "Examples:\n  godctl agent dlq list\n  godctl agent dlq list --json | jq -r '[.class, .prompt] | @tsv'"
    )]
    List {
        #[command(flatten)]
        queue: Queue,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// Print each as one JSON line
        #[arg(long)]
        json: bool,
    },
    /// Show all that is known of them: each attempt, the whole prompt
    #[command(
        after_help = "Examples:\n  godctl agent dlq show 0197c2f0\n  godctl agent dlq show 0197c2f0 --json | jq .event"
    )]
    Show {
        /// The dead letters, or beginnings of their ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        queue: Queue,
        /// Print each as one JSON line
        #[arg(long)]
        json: bool,
    },
    /// Put them back, to be worked on again
    #[command(after_help = "Examples:\n  godctl agent dlq replay 0197c2f0\n  godctl agent dlq replay --all")]
    Replay {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        queue: Queue,
    },
    /// Delete them
    #[command(
        after_help = "Examples:\n  godctl agent dlq purge 0197c2f0\n  godctl agent dlq purge --all --yes"
    )]
    Purge {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        queue: Queue,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Which dead letters.
#[derive(Debug, clap::Args)]
struct Which {
    /// The dead letters, or beginnings of their ids
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All of the queue
    #[arg(long)]
    all: bool,
}

/// Of which queue.
#[derive(Debug, clap::Args)]
struct Queue {
    /// The queue that they died in (listen.queue)
    #[arg(long = "queue", value_name = "NAME")]
    name: Option<String>,
}

impl Queue {
    fn name<'a>(&'a self, context: &'a Context) -> &'a str {
        self.name.as_deref().unwrap_or(&context.config.listen.queue)
    }
}

/// Dead letters that are looked through for an id.
const SEARCHED: usize = 100_000;
/// Characters of a prompt and of an error in a table.
const WORDS: usize = 50;
/// Characters of a name in a table.
const NAME: usize = 40;

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    if let Action::Purge { which, queue, yes } = &args.action {
        let what = match which.all {
            true => "all prompts that were given up".to_owned(),
            false => format!("{} of the prompts that were given up", which.ids.len()),
        };
        confirm(*yes, &format!("delete {what} in {}", queue.name(context)))?;
    }
    let result = context.block_on(Threads::Current, async {
        with_bus(context, async |bus| {
            let bus = &*bus;
            match &args.action {
                Action::List { queue, limit, json } => list(bus, queue.name(context), *limit, *json).await,
                Action::Show { ids, queue, json } => show(bus, queue.name(context), ids, *json).await,
                Action::Replay { which, queue } => {
                    let queue = queue.name(context);
                    let count = bus.requeue(queue, &chosen(bus, queue, which).await?).await?;
                    tell("put back", count, which)
                }
                Action::Purge { which, queue, .. } => {
                    let queue = queue.name(context);
                    let count = bus.purge(queue, Lane::Dead, &chosen(bus, queue, which).await?).await?;
                    tell("deleted", count, which)
                }
            }
        })
        .await
    });
    result.map_err(with_exit_code)
}

fn tell(done: &str, count: u64, which: &Which) -> anyhow::Result<()> {
    writeln!(Stdout::lock(), "{done} {count}")?;
    match which.all || count >= which.ids.len() as u64 {
        true => Ok(()),
        false => bail!("somebody else was quicker with {}", which.ids.len() as u64 - count),
    }
}

/// What a dead letter tells of its prompt. What is not known is left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Letter {
    event_id: Option<Uuid>,
    event_type: Option<String>,
    died_at: Option<Timestamp>,
    class: Option<String>,
    error: String,
    attempts: u64,
    provider: Option<String>,
    session_id: Option<String>,
    correlation_id: Option<Uuid>,
    key: Option<String>,
    prompt: Option<String>,
}

impl Letter {
    fn read(held: &Held) -> Self {
        let reason = held.reason.clone().unwrap_or_default();
        // A listener says `class: error`.
        let (class, error) = match reason.split_once(": ") {
            Some((class, error)) if class.chars().all(|c| c.is_ascii_lowercase() || c == '_') => {
                (Some(class.to_owned()), error.to_owned())
            }
            _ => (None, reason),
        };
        let mut letter = Self {
            event_id: None,
            event_type: None,
            died_at: held.since,
            class,
            error,
            attempts: u64::from(held.attempts),
            provider: None,
            session_id: None,
            correlation_id: None,
            key: None,
            prompt: None,
        };
        let Body::Event(event) = &held.received.body else { return letter };
        letter.event_id = Some(event.event_id);
        letter.event_type = Some(event.event_type.as_str().to_owned());
        letter.correlation_id = event.correlation_ids.first().copied();
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let payload = &event.payload;
        let has_failed = letter.event_type.as_deref() == Some(AgentPromptFailed::TYPE);
        letter.provider = text(payload, "provider");
        letter.session_id = text(payload, "session_id");
        if has_failed {
            letter.class = text(payload, "class").or(letter.class);
            letter.error = text(payload, "error").unwrap_or(letter.error);
            letter.attempts = payload.get("attempts").and_then(Value::as_u64).unwrap_or(letter.attempts);
            letter.key = text(payload, "key");
            letter.prompt = payload.pointer("/event/payload").and_then(|asked| text(asked, "prompt"));
        } else {
            letter.prompt = text(payload, "prompt");
        }
        letter
    }

    fn row(&self, zone: &TimeZone) -> Vec<String> {
        let or_nothing = |text: &Option<String>, limit| printable(text.as_deref().unwrap_or_default(), limit);
        let died = self.died_at.map(|at| at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string());
        vec![
            self.event_id.map_or_else(|| "unparsed".to_owned(), |id| id.to_string()),
            or_nothing(&self.provider, NAME),
            self.class.as_deref().map_or_else(|| "?".to_owned(), |class| printable(class, NAME)),
            self.attempts.to_string(),
            died.unwrap_or_default(),
            or_nothing(&self.session_id, NAME),
            printable(&self.error, WORDS),
            or_nothing(&self.prompt, WORDS),
        ]
    }
}

fn rows(letters: &[Letter], zone: &TimeZone) -> String {
    let left = |heading| (heading, Side::Left);
    let columns = [
        left("ID"),
        left("AGENT"),
        left("CLASS"),
        ("ATTEMPTS", Side::Right),
        left("DIED"),
        left("SESSION"),
        left("ERROR"),
        left("PROMPT"),
    ];
    let rows: Vec<_> = letters.iter().map(|letter| letter.row(zone)).collect();
    table(&columns, &rows)
}

/// The dead letters of a queue; none if there is no such queue yet.
async fn dead(bus: &dyn EventBus, queue: &str, limit: usize) -> anyhow::Result<Vec<Held>> {
    match bus.peek(queue, Lane::Dead, limit).await {
        Err(BusError::NoSuchQueue(_)) => Ok(Vec::new()),
        held => Ok(held?),
    }
}

async fn list(bus: &dyn EventBus, queue: &str, limit: usize, json: bool) -> anyhow::Result<()> {
    let held = dead(bus, queue, limit).await?;
    if held.len() == limit {
        writeln!(io::stderr(), "{queue} may have more than {limit}; see --limit").ok();
    }
    let letters: Vec<_> = held.iter().map(Letter::read).collect();
    let mut out = Stdout::lock();
    match (json, letters.is_empty()) {
        (true, _) => {
            for letter in &letters {
                writeln!(out, "{}", json_line(&json!(letter)))?;
            }
        }
        (false, true) => writeln!(out, "no prompt was given up in {queue}")?,
        (false, false) => write!(out, "{}", rows(&letters, &TimeZone::system()))?,
    }
    Ok(())
}

/// The dead letter whose id is this or, as the only one, begins so.
fn find<'a>(held: &'a [Held], text: &str, queue: &str) -> anyhow::Result<&'a Held> {
    let text = text.to_ascii_lowercase();
    let begins = |held: &&Held| {
        held.received.body.event().is_some_and(|event| event.event_id.to_string().starts_with(&text))
    };
    let mut found = held.iter().filter(begins);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => bail!("more than one begins with {text}; write more of its id"),
        (None, _) => bail!("{text} was not given up in {queue}; `godctl agent dlq list` shows what was"),
    }
}

async fn chosen(bus: &dyn EventBus, queue: &str, which: &Which) -> anyhow::Result<Selection> {
    if which.all {
        return Ok(Selection::All);
    }
    if which.ids.iter().any(|id| id.trim().is_empty()) {
        return Err(Failure::new(Exit::Usage, anyhow!("an id is empty; --all means all")).into());
    }
    let held = dead(bus, queue, SEARCHED).await?;
    let ids = which.ids.iter().map(|text| {
        let event = find(&held, text, queue)?.received.body.event();
        event.map(|event| event.event_id).ok_or_else(|| anyhow!("{text} is no event"))
    });
    let mut ids = ids.collect::<anyhow::Result<Vec<_>>>()?;
    ids.sort_unstable();
    ids.dedup();
    Ok(Selection::Events(ids))
}

async fn show(bus: &dyn EventBus, queue: &str, ids: &[String], json: bool) -> anyhow::Result<()> {
    let held = dead(bus, queue, SEARCHED).await?;
    let mut out = Stdout::lock();
    for (number, text) in ids.iter().enumerate() {
        let held = find(&held, text, queue)?;
        let letter = Letter::read(held);
        let payload = held.received.body.event().map(|event| &event.payload);
        let history = payload.and_then(|payload| payload.get("history")).and_then(Value::as_array);
        if json {
            let mut value = json!(letter);
            value["history"] = json!(history.unwrap_or(&Vec::new()));
            value["event"] = json!(held.received.body.event());
            writeln!(out, "{}", json_line(&value))?;
            continue;
        }
        if number > 0 {
            writeln!(out)?;
        }
        let id = |id: Option<Uuid>| id.map(|id| id.to_string());
        let lines = [
            ("id", id(letter.event_id)),
            ("event", letter.event_type),
            ("agent", letter.provider),
            ("session", letter.session_id),
            ("key", letter.key),
            ("correlation", id(letter.correlation_id)),
            (
                "died",
                letter
                    .died_at
                    .map(|at| at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()),
            ),
            ("class", letter.class),
            ("error", Some(letter.error)),
            ("attempts", Some(letter.attempts.to_string())),
        ];
        for (name, value) in lines {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                writeln!(out, "{name:<12} {}", printable(&value, usize::MAX))?;
            }
        }
        for attempt in history.into_iter().flatten() {
            let field = |name: &str| attempt.get(name).and_then(Value::as_str).unwrap_or_default();
            let line = format!("{}  {}: {}", field("at"), field("class"), shortened(field("error"), 500));
            writeln!(out, "{:<12} {}", "", printable(&line, usize::MAX))?;
        }
        for line in letter.prompt.iter().flat_map(|prompt| prompt.lines()) {
            writeln!(out, "> {}", printable(line, usize::MAX))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{
        Event, Received, Unparsed,
        event::{Source, Stamp},
    };

    fn held(body: Body, reason: &str) -> Held {
        let received = Received { position: None, at: None, routing_key: "x".to_owned(), body };
        let since = Timestamp::from_second(1_795_255_200).ok();
        Held { received, attempts: 1, reason: Some(reason.to_owned()), since, history: Vec::new() }
    }

    fn event(number: u128, event_type: &str, payload: Value) -> Body {
        let stamp = Stamp { id: Uuid::from_u128(number), at: Timestamp::UNIX_EPOCH };
        let source = Source::new("h", "a", "service");
        Body::Event(Event::new(stamp, event_type.parse().unwrap(), source, payload))
    }

    #[test]
    fn a_dead_letter_tells_who_was_asked_what_and_why_it_failed() {
        let failed = json!({
            "queue": "agent.prompt", "key": "key:k", "session_id": "s-1", "provider": "claude", "class": "overloaded",
            "error": "too much\u{1b}[2J to do", "attempts": 3,
            "event": {"payload": {"prompt": "fix 日本語\nplease"}},
        });
        let letters = [
            held(event(1, "agent.prompt.failed", failed), "overloaded: too much to do (after 3 attempts)"),
            held(
                event(2, "agent.prompt", json!({"provider": "siri", "prompt": "x"})),
                "bad_request: no such agent",
            ),
            held(
                Body::Unparsed(Unparsed { reason: "no JSON".to_owned(), raw: b"{".to_vec() }),
                "bad_request: no JSON",
            ),
        ];
        let letters: Vec<_> = letters.iter().map(Letter::read).collect();
        insta::assert_snapshot!(rows(&letters, &TimeZone::UTC));
        assert_eq!(letters[0].prompt.as_deref(), Some("fix 日本語\nplease"));
        assert_eq!(letters[0].key.as_deref(), Some("key:k"));
    }

    #[test]
    fn the_beginning_of_an_id_is_enough_if_it_is_the_only_one() {
        let two =
            [1_u128 << 100, (1 << 100) + 1].map(|number| held(event(number, "agent.prompt", json!({})), ""));
        let id = |text: &str| find(&two, text, "q").map(|held| held.received.body.event().unwrap().event_id);
        assert_eq!(id("00000010-0000-0000-0000-000000000001").unwrap(), Uuid::from_u128((1 << 100) + 1));
        assert!(id("0000").unwrap_err().to_string().contains("more than one"));
        assert!(id("ffff").unwrap_err().to_string().contains("dlq list"));
    }
}
