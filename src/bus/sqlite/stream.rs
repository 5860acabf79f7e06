//! Subscriptions: a cursor that walks over the file's events, and waits at the end for news. Runs where it is called;
//! dropping it ends it.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    bus::Shared,
    reader::{Edge, Filter, Readers},
};
use crate::bus::{BusError, EventStream, Item, Received, Start, Subscription};

pub(super) struct SqliteStream {
    shared: Arc<Shared>,
    news: watch::Receiver<u64>,
    filter: Filter,
    follow: bool,
    waiting: VecDeque<Received>,
    /// Something is missing before what waits.
    gap: bool,
    /// All up to here was read.
    cursor: i64,
    /// The newest event when the subscription began.
    history_end: i64,
    caught_up: bool,
    ended: bool,
}

impl SqliteStream {
    pub(super) async fn new(shared: Arc<Shared>, subscription: Subscription) -> Result<Self, BusError> {
        let news = shared.hub.listen();
        let edge = shared.readers.edge().await?;
        let history_end = edge.last;
        let cursor = first(&shared.readers, subscription.start, edge).await?;
        let filter = Filter::new(subscription.patterns);
        Ok(Self {
            shared,
            news,
            filter,
            follow: subscription.follow,
            waiting: VecDeque::new(),
            gap: false,
            cursor,
            history_end,
            caught_up: false,
            ended: false,
        })
    }

    async fn advance(&mut self) -> Result<Option<Item>, BusError> {
        loop {
            if std::mem::take(&mut self.gap) {
                let reason = "old events were deleted before this reader came to them".to_owned();
                return Ok(Some(Item::Gap { missed: None, reason }));
            }
            if let Some(received) = self.waiting.pop_front() {
                return Ok(Some(Item::Event(Box::new(received))));
            }
            if self.shared.over.is_cancelled() {
                return Ok(None);
            }
            if !self.caught_up && self.cursor >= self.history_end {
                self.caught_up = true;
                return Ok(self.follow.then_some(Item::CaughtUp));
            }
            // Noticed before the read, so that what comes during it makes another one.
            self.news.mark_unchanged();
            let limit = (!self.caught_up).then_some(self.history_end);
            let page = self.shared.readers.forward(&mut self.filter, self.cursor, limit).await?;
            // From here to the next await nothing can be lost by a cancelled call.
            self.cursor = page.cursor;
            self.waiting = page.events.into();
            self.gap = page.gap;
            if self.waiting.is_empty() && page.end && !page.gap && self.caught_up {
                let over = self.shared.over.clone();
                over.run_until_cancelled(self.news.changed()).await;
            }
        }
    }
}

/// The position before the first event that is wanted. Only who names a position can miss what was deleted behind it.
async fn first(readers: &Readers, start: Start, edge: Edge) -> Result<i64, BusError> {
    Ok(match start {
        Start::Now => edge.last,
        Start::Beginning => edge.pruned_to,
        Start::After(position) => i64::try_from(position.0).unwrap_or(i64::MAX).min(edge.last),
        Start::Time(time) => (readers.first_at(time).await? - 1).clamp(edge.pruned_to, edge.last),
    })
}

#[async_trait]
impl EventStream for SqliteStream {
    async fn next(&mut self) -> Result<Option<Item>, BusError> {
        if self.ended {
            return Ok(None);
        }
        let next = self.advance().await;
        self.ended = !matches!(next, Ok(Some(_)));
        match next {
            Err(BusError::Closed) => Ok(None),
            next => next,
        }
    }
}
