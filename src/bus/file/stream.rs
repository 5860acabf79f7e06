//! A subscription to a file: sleeps between two looks at it. Ends with the bus, or when it is dropped.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::sleep;

use super::{
    append,
    bus::{Shared, matches_any},
    lines::{Line, Lines},
};
use crate::bus::{BusError, EventStream, Item, Pattern, Start, Subscription};

/// How often a subscriber looks at a file that has just changed.
const BUSY_POLL: Duration = Duration::from_millis(5);
/// How often it looks at one that has not changed for [`BUSY_POLLS`] looks.
const IDLE_POLL: Duration = Duration::from_millis(50);
const BUSY_POLLS: u32 = 100;

pub(super) struct FileStream {
    shared: Arc<Shared>,
    patterns: Vec<Pattern>,
    follow: bool,
    /// Nothing before the first event of this time or later is wanted.
    since: Option<Timestamp>,
    /// `None` while there is no file.
    lines: Option<Lines>,
    /// Where to start in a file that is not open yet.
    from: u64,
    /// Where the history ends.
    end: u64,
    /// The end of the history was told, or is not to be told.
    told: bool,
    gap: Option<Item>,
    /// Looks at the file that found nothing new.
    quiet: u32,
    /// The path names another file now; what is left in this one comes first.
    replaced: bool,
}

/// What a look at the file gives.
enum Look {
    Item(Item),
    /// Look again at once.
    Again,
    Wait,
    End,
}

impl FileStream {
    /// A stream over what the file holds now, and what comes then.
    pub(super) async fn open(shared: Arc<Shared>, subscription: Subscription) -> Result<Self, BusError> {
        let end = shared.settled_length().await?;
        let (from, since) = match subscription.start {
            Start::Now => (end, None),
            Start::Beginning => (0, None),
            Start::Time(time) => (0, Some(time)),
            Start::After(position) => (position.0, None),
        };
        let gap = (from > end).then(|| Item::Gap {
            missed: None,
            reason: format!("{shared} is shorter than it was; going on at its end"),
        });
        let from = from.min(end);
        let lines = shared.lines(from).await?;
        let Subscription { patterns, follow, .. } = subscription;
        let (told, quiet, replaced) = (false, 0, false);
        Ok(Self { shared, patterns, follow, since, lines, from, end, told, gap, quiet, replaced })
    }

    async fn look(&mut self) -> Result<Look, BusError> {
        if let Some(gap) = self.gap.take() {
            return Ok(Look::Item(gap));
        }
        let shared = Arc::clone(&self.shared);
        if self.lines.is_none() {
            self.lines = shared.lines(self.from).await?;
        }
        let line = match &mut self.lines {
            Some(lines) if self.told || lines.offset() < self.end => {
                let line = if self.follow { lines.next().await } else { lines.next_of_whole().await };
                line.map_err(|error| shared.failed(&error))?
            }
            _ => None,
        };
        // Without follow the file ends where it ended when the subscription began.
        if let Some(line) = line.filter(|line| self.follow || line.start < self.end) {
            self.quiet = 0;
            return Ok(self.wanted(line).map_or(Look::Again, Look::Item));
        }
        if !self.told {
            self.told = true;
            // What comes from now on was published after the call, whatever time it says.
            self.since = None;
            return Ok(if self.follow { Look::Item(Item::CaughtUp) } else { Look::End });
        }
        if !self.follow {
            return Ok(Look::End);
        }
        self.check_file().await
    }

    fn wanted(&mut self, line: Line) -> Option<Item> {
        let received = self.shared.received(line)?;
        if let Some(since) = self.since {
            if received.at.is_none_or(|at| at < since) {
                return None;
            }
            self.since = None;
        }
        matches_any(&self.patterns, &received.routing_key).then(|| Item::Event(Box::new(received)))
    }

    /// At the end of the file: whether it is still the one that the path names, and no shorter than what was read.
    async fn check_file(&mut self) -> Result<Look, BusError> {
        let Some(lines) = &self.lines else { return Ok(Look::Wait) };
        if self.replaced {
            return Ok(self.start_over("was replaced"));
        }
        let there = match tokio::fs::metadata(&self.shared.path).await {
            Ok(there) => there,
            // Moved away; the next event makes a new one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Look::Wait),
            Err(error) => return Err(self.shared.failed(&error)),
        };
        if append::identity(&there) != lines.identity {
            self.replaced = true;
            return Ok(Look::Again);
        }
        if there.len() < lines.read_up_to() {
            return Ok(self.start_over("was cut short"));
        }
        Ok(Look::Wait)
    }

    fn start_over(&mut self, how: &str) -> Look {
        let reason = format!("{} {how}; going on from its beginning", self.shared);
        (self.lines, self.from, self.replaced) = (None, 0, false);
        Look::Item(Item::Gap { missed: None, reason })
    }
}

#[async_trait]
impl EventStream for FileStream {
    async fn next(&mut self) -> Result<Option<Item>, BusError> {
        let shared = Arc::clone(&self.shared);
        loop {
            if shared.closed.is_cancelled() {
                return Ok(None);
            }
            let rung = shared.bell.notified();
            tokio::pin!(rung);
            // Before looking, so that nothing that comes in between is missed.
            rung.as_mut().enable();
            // Cancel safe: an item is given whole, and a read that is under way goes on with the next look.
            match self.look().await? {
                Look::Item(item) => return Ok(Some(item)),
                Look::Again => continue,
                Look::End => return Ok(None),
                Look::Wait => {}
            }
            self.quiet = self.quiet.saturating_add(1);
            let pause = if self.quiet < BUSY_POLLS { BUSY_POLL } else { IDLE_POLL };
            tokio::select! {
                biased;
                () = shared.closed.cancelled() => return Ok(None),
                () = rung => {}
                () = sleep(pause) => {}
            }
        }
    }
}
