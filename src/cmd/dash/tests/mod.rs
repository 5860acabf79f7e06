//! The dashboard as a person uses it: events and keys in, frames out.

mod alerts;
mod choosing;
mod cloud;
mod flow;
mod graph;
mod list;
mod outside;
mod services;
mod sessions;
mod timeline;

use std::time::Duration;

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};

use super::{
    app::{App, Arrived, Effect, Link, Msg, Options, Theme, filters::Field, keys},
    frame,
    state::{
        marks::Marks,
        testing::{ROOMY, at, received},
        types::{Flag, Flags},
    },
    view::look::{Depth, Look},
};
use crate::bus::{Event, Item, Pattern};

/// A dashboard at work, and what it wants to be done.
pub(super) struct Desk {
    pub(super) app: App,
    pub(super) effects: Vec<Effect>,
    now: Timestamp,
}

pub(super) fn options(width: u16, height: u16) -> Options {
    Options {
        limits: ROOMY,
        theme: Theme::Dark,
        ascii: false,
        zone: TimeZone::UTC,
        bus: "sqlite:bus.db".to_owned(),
        patterns: vec![Pattern::all()],
        services: Vec::new(),
        alerts: Vec::new(),
        size: (width, height),
        now: at(0),
        is_recording: false,
        flags: Flags::default(),
        marks: Marks::default(),
        presets: Vec::new(),
        expected: Vec::new(),
    }
}

impl Desk {
    /// A connected dashboard of this size, at 12:00:00.
    pub(super) fn new(width: u16, height: u16) -> Self {
        Self::with(options(width, height))
    }

    pub(super) fn with(options: Options) -> Self {
        let now = options.now;
        let mut desk = Self { app: App::new(options), effects: Vec::new(), now };
        desk.send(Msg::Link(Link::Connected));
        desk
    }

    pub(super) fn send(&mut self, msg: Msg) {
        let effects = self.app.update(msg, self.now);
        self.effects.extend(effects);
        while self.app.search_on() {}
    }

    /// Live events, in one batch.
    pub(super) fn live(&mut self, events: impl IntoIterator<Item = Event>) {
        self.items(events.into_iter().map(|event| Item::Event(Box::new(received(event)))));
    }

    pub(super) fn items(&mut self, items: impl IntoIterator<Item = Item>) {
        let batch = items.into_iter().map(|item| Arrived { item, is_live: true }).collect();
        self.send(Msg::Batch(batch));
    }

    /// Keys, as in `--keys`.
    pub(super) fn keys(&mut self, text: &str) {
        for key in keys::parse(text).unwrap() {
            self.send(Msg::Key(key));
        }
    }

    /// Lets time go by.
    pub(super) fn wait(&mut self, milliseconds: i64) {
        self.now += milliseconds.milliseconds();
        self.send(Msg::Tick(Duration::from_millis(u64::try_from(milliseconds).unwrap())));
    }

    /// What is on the screen.
    pub(super) fn frame(&self) -> String {
        frame::text(&self.app, None)
    }
}
