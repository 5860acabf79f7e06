//! Events as lines, without a screen: for pipes, logs and terminals that can do nothing else. Runs in the command's
//! task; ends with the recording, a signal, or a reader that went away.

use std::io::{self, BufWriter, Write as _};

use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{
    app::{Arrived, Link},
    feed::News,
    record::Recorder,
    state::{
        buffer::{Buffer, Limits, Pushed},
        filter::Filter,
        row::Draft,
    },
};
use crate::{
    bus::{Body, Event, Item, Received},
    cmd::{Stdout, text::printable},
    shutdown::Shutdown,
};

/// Members of a payload that are shown, as the stream that this one replaces did.
const KEYS: [&str; 5] = ["event", "state", "title", "id", "project_id"];

/// Characters of the preview.
const PREVIEW: usize = 119;

/// What the lines look like.
#[derive(Debug, Clone)]
pub(super) struct Plain {
    pub(super) json: bool,
    pub(super) zone: TimeZone,
    /// End when everything was shown that had happened before.
    pub(super) ends_at_now: bool,
    /// Tell at the end how many there were.
    pub(super) stats: bool,
    pub(super) filter: Filter,
}

impl Plain {
    /// # Errors
    /// Output that can't be written, and a recording that can't.
    pub(super) async fn run(
        self,
        mut news: mpsc::Receiver<News>,
        mut recorder: Option<Recorder>,
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        let mut out = BufWriter::new(Stdout::lock());
        let mut seen = std::collections::HashSet::new();
        let (mut events, mut batches) = (0_u64, 0_u64);
        // One event at a time is looked at as the dashboard would.
        let mut buffer = Buffer::new(Limits { rows: 1, bytes: usize::MAX });
        let mut sift = |item: &Item| {
            if self.filter.count() == 0 {
                return true;
            }
            let now = Timestamp::now();
            let Some(draft) = Draft::of(item, now) else { return true };
            let row = match buffer.push(draft) {
                Pushed::Row(seq) => buffer.row(seq),
                Pushed::Duplicate => None,
            };
            row.is_none_or(|row| self.filter.sieve(now).lets_through(row, &buffer))
        };
        loop {
            let news = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                news = news.recv() => news,
            };
            match news {
                Some(News::Batch(batch)) => {
                    batches += 1;
                    if let Some(recorder) = &mut recorder {
                        recorder.write(&batch)?;
                    }
                    for Arrived { item, .. } in &batch {
                        if seen.len() >= 100_000 {
                            seen.clear();
                        }
                        if !sift(item) {
                            continue;
                        }
                        if let Item::Event(received) = item
                            && let Some(event) = received.body.event()
                            && !seen.insert(event.event_id)
                        {
                            continue;
                        }
                        events += u64::from(matches!(item, Item::Event(_)));
                        if let Some(line) = self.line(item) {
                            writeln!(out, "{line}")?;
                        }
                    }
                    out.flush()?;
                }
                Some(News::CaughtUp) if self.ends_at_now => break,
                Some(News::CaughtUp | News::History(_) | News::Page(..)) => {}
                Some(News::Link(Link::Ended)) | None => break,
                Some(News::Link(link)) => tell(&link),
            }
        }
        out.flush()?;
        if self.stats {
            // There is nowhere left to say that stderr is closed.
            drop(writeln!(io::stderr(), "{events} events, {batches} batches"));
        }
        Ok(())
    }

    fn line(&self, item: &Item) -> Option<String> {
        match (item, self.json) {
            (Item::Event(received), false) => Some(self.row(received)),
            (Item::Event(received), true) => Some(json(received)),
            (Item::Gap { missed, reason }, true) => {
                Some(serde_json::json!({ "gap": { "missed": missed, "reason": reason } }).to_string())
            }
            (Item::Gap { reason, .. }, false) => {
                Some(format!("-- events may be missing: {} --", printable(reason, 300)))
            }
            (Item::CaughtUp, _) => None,
        }
    }

    fn row(&self, received: &Received) -> String {
        let time = |at: Timestamp| at.to_zoned(self.zone.clone()).strftime("%H:%M:%S").to_string();
        match &received.body {
            Body::Event(event) => {
                let event_type = printable(event.event_type.as_str(), 255);
                let source = printable(&format!("{}@{}", event.source.app, event.source.host), 200);
                format!("{} {event_type} {source} {}", time(event.timestamp), preview(event))
                    .trim_end()
                    .to_owned()
            }
            Body::Unparsed(unparsed) => {
                let raw = printable(&String::from_utf8_lossy(&unparsed.raw), PREVIEW);
                format!(
                    "{} unparsed {} {raw}",
                    time(received.at.unwrap_or_default()),
                    printable(&received.routing_key, 255)
                )
            }
        }
    }
}

/// The members that tell most, or the gist where none of them is there.
fn preview(event: &Event) -> String {
    let told: Vec<String> = KEYS
        .iter()
        .filter_map(|key| {
            let value = event.payload.get(key)?;
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (!matches!(event.payload.get(key), Some(Value::Null))).then(|| format!("{key}={value}"))
        })
        .collect();
    match told.is_empty() {
        true => crate::cmd::text::gist(&event.payload, PREVIEW),
        false => printable(&told.join(" "), PREVIEW),
    }
}

fn json(received: &Received) -> String {
    match &received.body {
        Body::Event(event) => String::from_utf8_lossy(&event.to_json()).into_owned(),
        Body::Unparsed(unparsed) => serde_json::json!({
            "unparsed": {
                "reason": unparsed.reason,
                "raw": String::from_utf8_lossy(&unparsed.raw),
                "routing_key": received.routing_key,
            }
        })
        .to_string(),
    }
}

/// What becomes of the connection is no event, so it goes to stderr.
fn tell(link: &Link) {
    let text = match link {
        Link::Connecting | Link::Connected | Link::Ended => return,
        Link::Disconnected => "disconnected".to_owned(),
        Link::Reconnecting { attempt, why, .. } => format!("reconnecting (attempt {attempt}): {why}"),
        Link::Failed(why) => format!("error: {why}"),
    };
    // There is nowhere left to say that stderr is closed.
    drop(writeln!(io::stderr(), "{}", printable(&text, 2000)));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::state::testing::*, *};

    #[test]
    fn a_line_has_time_type_source_and_what_tells_most() {
        let plain = Plain {
            json: false,
            zone: TimeZone::UTC,
            ends_at_now: true,
            stats: false,
            filter: Filter::default(),
        };
        let rows = [
            json!({ "state": "open", "other": 1, "title": "a\x1b[2Jb", "id": 7, "event": null }),
            json!({ "text": "x".repeat(500) }),
            json!({}),
        ]
        .map(|payload| plain.row(&received(event("theboard.meeting.created", payload))));
        assert_eq!(
            rows[0],
            r"12:00:00 theboard.meeting.created godctl-test@desk state=open title=a\u{1b}[2Jb id=7"
        );
        assert_eq!(
            rows[1].chars().count(),
            "12:00:00 theboard.meeting.created godctl-test@desk ".len() + PREVIEW + 1
        );
        assert_eq!(rows[2], "12:00:00 theboard.meeting.created godctl-test@desk {}");
    }
}
