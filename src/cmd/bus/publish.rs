//! `godctl bus publish`: one event from the command line, or many from standard input (see `publish_lines.rs`).

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    time::Duration,
};

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::{connection::with_bus, envelope, line::event_line, publish_lines, quantity};
use crate::{
    bus::{
        Event, EventType, Publish, Published,
        event::{AgentContext, Stamp, ids},
    },
    cmd::{Context, Exit, Failure, Stdout, Threads},
};

/// More than any `bus.max_event_bytes` allows, so that the bus itself says what is too large, and no memory is lost
/// to a device that never ends.
const LARGEST_PAYLOAD: u64 = 256 << 20;

/// Flags of `godctl bus publish`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus publish demo.hello.said '{\"text\": \"hello\"}'
  godctl bus publish report.daily.made @report.json --json
  date | jq -R '{now: .}' | godctl bus publish clock.time.told -
  godctl bus publish agent.prompt '{\"prompt\": \"hi\"}' --session s1 --require-route
  godctl bus publish --lines < events.jsonl
  godctl bus publish x.y '{\"a\":1}' --bus file:events.jsonl

With --lines, each line of standard input is an event: a whole envelope of any known shape, or
{\"event_type\": …, \"payload\": …}. When it is durable, a line tells what became of it:
{\"event_id\": …, \"event_type\": …, \"outcome\": \"published|duplicate|deferred|unrouted\"}, or
{\"line\": N, \"error\": …}; the others go on, and the exit code is 1.")]
pub(super) struct Args {
    /// What happened, such as voice.transcription.completed
    #[arg(
        value_name = "TYPE",
        value_parser = plain_type,
        required_unless_present = "lines",
        conflicts_with = "lines"
    )]
    event_type: Option<EventType>,
    /// The facts: JSON, @FILE, or - for standard input
    #[arg(
        value_name = "JSON",
        required_unless_present = "lines",
        conflicts_with = "lines",
        allow_hyphen_values = true
    )]
    payload: Option<String>,
    /// Publish the events that come on standard input, one a line
    #[arg(long, conflicts_with_all = ["single", "require_route", "json"])]
    lines: bool,
    /// With --lines: end with an error when the bus has been away or full for so long, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration, requires = "lines")]
    pub(super) give_up_after: Option<Duration>,
    #[command(flatten)]
    single: Single,
    /// Fail if no queue is bound to take the event
    #[arg(long)]
    require_route: bool,
    /// Print the whole event as one JSON line
    #[arg(long)]
    json: bool,
}

/// A type that patterns can select.
fn plain_type(text: &str) -> Result<EventType, String> {
    let event_type: EventType = text.parse().map_err(|error| format!("{error}"))?;
    if event_type.is_plain() {
        Ok(event_type)
    } else {
        Err("want words between dots, without blanks, * and #, such as report.daily.made".to_owned())
    }
}

/// What goes into the envelope of one event.
#[derive(Debug, clap::Args)]
#[group(id = "single", multiple = true)]
struct Single {
    /// An event that led to this one (may be repeated, the first one first); any text, UUIDs are kept
    #[arg(long = "correlation-id", value_name = "ID")]
    correlation_ids: Vec<String>,
    /// The program that says so
    #[arg(long, value_name = "NAME", default_value = envelope::APP)]
    source_app: String,
    /// What set it off: manual, agent, scheduled, service, webhook, …
    #[arg(long, value_name = "KIND", default_value = envelope::KIND)]
    source_type: String,
    /// The session that it belongs to
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// The agent that was at work
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// What the agent is: claude-code, gemini-cli, custom, …
    #[arg(long, value_name = "KIND", requires = "agent")]
    agent_type: Option<String>,
    /// What was worked on
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// Publish under this id instead of a new one; an id that is on the bus already is not published again
    #[arg(long, value_name = "UUID")]
    event_id: Option<Uuid>,
    /// When it happened, if not now
    #[arg(long, value_name = "RFC3339")]
    timestamp: Option<Timestamp>,
}

impl Single {
    fn event(&self, event_type: EventType, payload: Value) -> Event {
        let now = Stamp::now();
        let stamp = Stamp { id: self.event_id.unwrap_or(now.id), at: self.timestamp.unwrap_or(now.at) };
        let source = envelope::source(&self.source_app, &self.source_type);
        let mut event = Event::new(stamp, event_type, source, payload);
        event.correlation_ids = self.correlation_ids.iter().map(|id| ids::normalise(id)).collect();
        event.agent_context = self.agent_context();
        event
    }

    fn agent_context(&self) -> Option<AgentContext> {
        if self.session.is_none() && self.agent.is_none() && self.project.is_none() {
            return None;
        }
        let kind = self.agent_type.as_deref().unwrap_or("custom");
        Some(envelope::agent_context(
            kind,
            self.agent.as_deref(),
            self.session.as_deref(),
            self.project.as_deref(),
        ))
    }
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let (Some(event_type), Some(payload)) = (&args.event_type, &args.payload) else {
        return publish_lines::run(args, context);
    };
    let event = args.single.event(event_type.clone(), payload_of(payload)?);
    let published = context.block_on(Threads::Current, async {
        with_bus(context, async |bus| {
            let options = Publish { require_route: args.require_route, ..Publish::default() };
            Ok(bus.publish(std::slice::from_ref(&event), options).await?)
        })
        .await
    })?;
    report(args, &event, published)
}

/// Reads a payload from where the argument says that it is.
fn payload_of(argument: &str) -> anyhow::Result<Value> {
    let usage = |error: anyhow::Error| anyhow::Error::new(Failure::new(Exit::Usage, error));
    let (bytes, place) = match argument {
        "-" => (
            read(io::stdin(), LARGEST_PAYLOAD).context("cannot read standard input")?,
            "standard input".to_owned(),
        ),
        argument => match argument.strip_prefix('@') {
            Some(path) => {
                let file = File::open(path).and_then(|file| read(file, LARGEST_PAYLOAD));
                let file = file.with_context(|| format!("cannot read {path}"));
                (file.map_err(usage)?, path.to_owned())
            }
            None => (argument.as_bytes().to_vec(), "the payload".to_owned()),
        },
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        let hint = if place == "the payload" { "; quote it for the shell, such as '{\"a\": 1}'" } else { "" };
        usage(anyhow::anyhow!("{place} is not JSON: {error}{hint}"))
    })
}

fn read(source: impl io::Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let message = format!("it has more than {} MiB; send a reference instead", limit >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

fn report(args: &Args, event: &Event, published: Published) -> anyhow::Result<()> {
    let mut out = Stdout::lock();
    let word = match published {
        Published { duplicates: 1.., .. } => "duplicate",
        Published { deferred: 1.., .. } => "deferred",
        _ => "published",
    };
    match args.json {
        true => writeln!(out, "{}", event_line(event))?,
        false => writeln!(out, "{word} {} {}", event.event_type, event.event_id)?,
    }
    out.flush()?;
    let say = |text: String| writeln!(io::stderr(), "{text}").ok();
    if published.duplicates > 0 {
        say(format!("an event of this id and type is on the bus already: {}", event.event_id));
    }
    if published.deferred > 0 {
        say("the broker is away; the event waits in the outbox and is sent when it is back".to_owned());
    }
    if published.unrouted > 0 {
        say(format!("no queue bound to take {}: the broker took it and nobody gets it", event.event_type));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_type_that_no_pattern_could_name_is_refused() {
        for plain in ["x", "a.b.c", "agent.feature-auth.done", "über.a_b.1"] {
            assert_eq!(plain_type(plain).unwrap().as_str(), plain);
        }
        for wild in ["", "a..b", ".a", "a.", "a.*", "#", "a b.c", "a\tb"] {
            assert!(plain_type(wild).is_err(), "{wild}");
        }
    }

    #[test]
    fn a_payload_is_any_json_and_a_mistake_has_a_place() {
        assert_eq!(payload_of("{\"a\": 1}").unwrap(), json!({ "a": 1 }));
        assert_eq!(payload_of("[1, null]").unwrap(), json!([1, null]));
        assert_eq!(payload_of("\"text\"").unwrap(), json!("text"));
        let error = payload_of("{\"a\": }").unwrap_err();
        assert!(error.is::<Failure>());
        insta::assert_snapshot!(error, @r#"the payload is not JSON: expected value at line 1 column 7; quote it for the shell, such as '{"a": 1}'"#);
        let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
        assert!(payload_of(&deep).unwrap_err().to_string().contains("recursion limit"));
        assert!(payload_of("@/no/such/file").unwrap_err().to_string().contains("cannot read /no/such/file"));
    }

    #[test]
    fn a_payload_that_never_ends_is_refused() {
        assert_eq!(read(io::repeat(b' ').take(10), 10).unwrap().len(), 10);
        assert!(read(io::repeat(b' '), 10).is_err());
    }
}
