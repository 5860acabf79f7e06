//! What is counted from each event as it comes, for the views that show more than rows. Pure.

use jiff::Timestamp;

use super::{
    alerts::Alerts, cloud::Cloud, flow::Flow, row::Row, services::Services, sessions::Sessions,
    timeline::Timeline,
};
use crate::{bus::Event, cmd::dash::app::Options};

/// An event that has come.
#[derive(Debug, Clone, Copy)]
pub(in crate::cmd::dash) struct Seen<'a> {
    /// As it is kept.
    pub(in crate::cmd::dash) row: &'a Row,
    /// The whole of it, payload and all.
    pub(in crate::cmd::dash) event: &'a Event,
    /// It came as it happened, not from the history.
    pub(in crate::cmd::dash) is_live: bool,
    pub(in crate::cmd::dash) now: Timestamp,
}

/// All of them.
#[derive(Debug)]
pub(in crate::cmd::dash) struct Tallies {
    pub(in crate::cmd::dash) cloud: Cloud,
    pub(in crate::cmd::dash) flow: Flow,
    pub(in crate::cmd::dash) services: Services,
    pub(in crate::cmd::dash) timeline: Timeline,
    pub(in crate::cmd::dash) sessions: Sessions,
    pub(in crate::cmd::dash) alerts: Alerts,
}

impl Tallies {
    /// Nothing was counted yet.
    pub(in crate::cmd::dash) fn new(options: &Options) -> Self {
        Self {
            cloud: Cloud::default(),
            flow: Flow::default(),
            services: Services::new(&options.services),
            timeline: Timeline::new(options.now),
            sessions: Sessions::default(),
            alerts: Alerts::new(&options.alerts, options.now),
        }
    }

    pub(in crate::cmd::dash) fn take(&mut self, seen: &Seen<'_>) {
        self.cloud.take(seen);
        self.flow.take(seen);
        self.services.take(seen);
        self.timeline.take(seen);
        self.sessions.take(seen);
        self.alerts.take(seen);
    }
}
