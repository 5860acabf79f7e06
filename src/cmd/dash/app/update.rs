//! The way into the dashboard: one message, one new state. Pure.

use std::collections::VecDeque;

use crossterm::event::{KeyEvent, KeyEventKind, MouseButton, MouseEvent, MouseEventKind};
use jiff::{SignedDuration, Timestamp};

use super::{
    super::state::{
        buffer::Buffer, filter::Filter, matches::Matches, metrics::Metrics, past::Past, tallies::Tallies,
        types::Types,
    },
    App, Effect, Focus, Link, List, Msg, Options, Overlay, Speed, Target, Toast, View,
    cloud::CloudView,
    flow::FlowView,
    graph::GraphView,
    keys::{self, Action},
    services::ServicesView,
    sessions::SessionsView,
    timeline::TimelineView,
    tree::Tree,
};

/// How long a short message is shown.
const TOAST: SignedDuration = SignedDuration::from_secs(3);

/// How often the filter looks whether events have become too old.
const AGING: SignedDuration = SignedDuration::from_secs(1);

/// Frames whose time is remembered.
const DRAWS: usize = 256;

/// Batches whose lag is remembered.
const LAGS: usize = 4096;

/// Rows that the wheel moves.
const WHEEL: usize = 3;

impl App {
    pub(in crate::cmd::dash) fn new(options: Options) -> Self {
        let mut types = Types::default();
        types.expect(options.expected.iter().cloned());
        Self {
            types,
            flags: options.flags.clone(),
            marks: options.marks.clone(),
            presets: options.presets.clone(),
            now: options.now,
            clock: options.now,
            size: options.size,
            theme: options.theme,
            link: Link::default(),
            patterns: options.patterns.clone(),
            buffer: Buffer::new(options.limits),
            filter: Filter { listed: options.flags.listed.clone(), ..Filter::default() },
            matches: Matches::default(),
            metrics: Metrics::default(),
            tallies: Tallies::new(&options),
            cloud: CloudView::default(),
            flow: FlowView::default(),
            graph: GraphView::default(),
            services: ServicesView::default(),
            timeline: TimelineView::default(),
            sessions: SessionsView::default(),
            view: View::default(),
            focus: Focus::default(),
            overlay: None,
            list: List::default(),
            past: Past::default(),
            has_history: false,
            tree: Tree::default(),
            details: false,
            toast: None,
            speed: Speed::default(),
            typed: None,
            aged_at: options.now,
            is_dirty: true,
            options,
        }
    }

    /// Takes a message at this time, and says what is to be done.
    pub(in crate::cmd::dash) fn update(&mut self, msg: Msg, now: Timestamp) -> Vec<Effect> {
        self.now = now;
        match msg {
            Msg::Tick(gone) => {
                self.clock = self.clock.checked_add(gone).unwrap_or(self.clock);
                self.tick();
                self.watch()
            }
            Msg::Drawn { micros, skipped, resident } => {
                self.speed.resident = resident;
                self.drawn(micros, skipped);
                Vec::new()
            }
            msg => {
                self.is_dirty = true;
                self.take(msg)
            }
        }
    }

    fn take(&mut self, msg: Msg) -> Vec<Effect> {
        match msg {
            Msg::Key(key) if key.kind == KeyEventKind::Release => Vec::new(),
            Msg::Key(key) => self.key(key),
            Msg::Mouse(mouse, target) => self.mouse(mouse, target.as_ref()),
            Msg::Paste(text) => {
                self.type_text(&text);
                Vec::new()
            }
            Msg::Resize(width, height) => {
                self.size = (width, height);
                self.go_on_screen();
                Vec::new()
            }
            Msg::Batch(batch) => self.batch(batch),
            Msg::Link(link) => {
                // What was asked for on another connection never comes.
                self.past.reading = None;
                self.link = link;
                Vec::new()
            }
            Msg::History(has_history) => {
                self.has_history = has_history;
                Vec::new()
            }
            Msg::Page(reading, events) => self.take_page(reading, &events),
            Msg::Told(text) => {
                self.tell(text);
                Vec::new()
            }
            Msg::Tick(_) | Msg::Drawn { .. } => Vec::new(),
        }
    }

    fn key(&mut self, key: KeyEvent) -> Vec<Effect> {
        let action = keys::action(key);
        if action == Some(Action::Quit) && key.code != crossterm::event::KeyCode::Char('q') {
            return vec![Effect::Quit];
        }
        match &mut self.overlay {
            Some(Overlay::Prompt(_)) => return self.type_key(key),
            Some(Overlay::Filters(_)) => return self.panel_key(key),
            Some(Overlay::Types(_)) => return self.types_key(key),
            Some(Overlay::Presets(_)) => return self.presets_key(key),
            Some(Overlay::Help { scroll }) => {
                match action {
                    Some(Action::Up) => *scroll = scroll.saturating_sub(1),
                    Some(Action::Down) => *scroll += 1,
                    Some(Action::PageUp) => *scroll = scroll.saturating_sub(10),
                    Some(Action::PageDown) => *scroll += 10,
                    _ => self.overlay = None,
                }
                return Vec::new();
            }
            Some(Overlay::Alerts) => {
                if matches!(action, Some(Action::Alerts | Action::Back | Action::Quit)) {
                    self.overlay = None;
                    return Vec::new();
                }
            }
            Some(Overlay::Performance) => {
                if matches!(action, Some(Action::Performance | Action::Back | Action::Quit)) {
                    self.overlay = None;
                    return Vec::new();
                }
            }
            None => {}
        }
        action.map(|action| self.act(action)).unwrap_or_default()
    }

    fn mouse(&mut self, mouse: MouseEvent, target: Option<&Target>) -> Vec<Effect> {
        let in_details = matches!(target, Some(Target::Details | Target::Tree(_)));
        match mouse.kind {
            MouseEventKind::ScrollUp if in_details => self.tree.up(WHEEL),
            MouseEventKind::ScrollDown if in_details => self.tree.down(WHEEL),
            MouseEventKind::ScrollUp => return self.wheel(Action::Up),
            MouseEventKind::ScrollDown => return self.wheel(Action::Down),
            MouseEventKind::Down(MouseButton::Left) => self.click(target),
            _ => {}
        }
        Vec::new()
    }

    fn wheel(&mut self, action: Action) -> Vec<Effect> {
        (0..WHEEL).flat_map(|_| self.act(action)).collect()
    }

    fn click(&mut self, target: Option<&Target>) {
        match target {
            Some(Target::View(view)) => drop(self.act(Action::Show(*view))),
            Some(Target::Row(anchor)) => {
                self.focus = Focus::Main;
                self.choose(*anchor);
            }
            Some(Target::Tree(line)) => {
                self.focus = Focus::Details;
                if self.tree.cursor == *line {
                    self.tree.toggle();
                } else {
                    self.tree.cursor = *line;
                }
            }
            Some(Target::Details) => self.focus = Focus::Details,
            Some(Target::List) => self.focus = Focus::Main,
            Some(Target::Entry(index)) => self.click_entry(*index),
            None => {}
        }
    }

    fn tick(&mut self) {
        if self.toast.take_if(|toast| toast.until <= self.clock).is_some() {
            self.is_dirty = true;
        }
        if self.typed.as_ref().is_some_and(|(_, due)| *due <= self.clock) {
            self.settle_search();
            self.is_dirty = true;
        }
        if self.fade() || (self.view == View::Services && self.tallies.services.is_fading(self.now)) {
            self.is_dirty = true;
        }
        if self.clock.duration_since(self.aged_at) >= AGING {
            self.aged_at = self.clock;
            if self.filter.ages() {
                self.matches.age(&self.buffer, &self.filter, self.now);
            }
            // Rates and times change without an event.
            self.is_dirty = true;
        }
    }

    /// Looks at some more rows of a filter that has changed. False when there is nothing left to do.
    pub(in crate::cmd::dash) fn search_on(&mut self) -> bool {
        if !self.matches.is_searching() {
            return false;
        }
        let goes_on = self.matches.step(&self.buffer, &self.filter, self.now);
        if self.list.cursor.is_none() {
            self.look();
        }
        self.is_dirty = true;
        goes_on
    }

    fn drawn(&mut self, micros: u64, skipped: u64) {
        self.speed.frames += 1;
        self.speed.skipped += skipped;
        if self.speed.draws.len() == DRAWS {
            self.speed.draws.pop_front();
        }
        self.speed.draws.push_back(micros);
    }

    pub(super) fn tell(&mut self, text: String) {
        self.toast = Some(Toast { text, until: self.clock.checked_add(TOAST).unwrap_or(self.clock) });
    }

    /// The filter has changed.
    pub(super) fn refilter(&mut self) {
        self.matches.restart(&self.buffer);
        self.past.sift(&self.filter, self.now);
        // The first step is done at once: most buffers need no second one.
        self.search_on();
        self.go_on_screen();
    }

    /// Keeps the cursor on the page.
    fn go_on_screen(&mut self) {
        if self.list.cursor.is_some() {
            self.go_to(self.cursor_index());
        } else {
            self.list.top = None;
            self.look();
        }
    }

    /// The time within which 95 of 100 frames were drawn, in microseconds.
    pub(in crate::cmd::dash) fn draw_p95(&self) -> u64 {
        p95(&self.speed.draws)
    }

    /// The time within which 95 of 100 batches came from the bus to here, in milliseconds.
    pub(in crate::cmd::dash) fn lag_p95(&self) -> i64 {
        p95(&self.speed.lags)
    }
}

impl Speed {
    /// A batch has come whose oldest event took so long.
    pub(super) fn took(&mut self, lag: Option<i64>) {
        if self.lags.len() == LAGS {
            self.lags.pop_front();
        }
        self.lags.extend(lag);
    }
}

fn p95<T: Copy + Ord + Default>(values: &VecDeque<T>) -> T {
    let mut values: Vec<T> = values.iter().copied().collect();
    values.sort_unstable();
    values.get((values.len() * 95 / 100).min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}
