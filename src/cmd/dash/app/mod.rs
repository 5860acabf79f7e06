//! What a person does with the dashboard: keys, clicks and events in, a new state and [`Effect`]s out. Pure: time comes
//! with each [`Msg`], and everything that touches the world is an effect for somebody else to perform.
//!
//! `update` is the way in; `keys` is the one table of keys, which the help is made of. `ingest` takes events, `list`
//! moves in them, `filters` and `prompt` (a line that is typed) choose among them, `tree` opens and closes the parts of a
//! payload.

mod act;
mod alerts;
pub(super) mod cloud;
pub(super) mod filters;
pub(super) mod flow;
pub(super) mod graph;
mod ingest;
pub(super) mod keys;
mod list;
pub(super) mod marks;
mod prompt;
pub(super) mod services;
pub(super) mod sessions;
pub(super) mod timeline;
pub(super) mod tree;
pub(super) mod types;
mod update;

use std::time::Duration;

use crossterm::event::{KeyEvent, MouseEvent};
use jiff::{Timestamp, tz::TimeZone};
use tui_input::Input;

use super::state::{
    buffer::{Buffer, Limits},
    filter::Filter,
    marks::{Marks, Preset},
    matches::Matches,
    metrics::Metrics,
    past::{Past, Reading},
    registry::Service,
    rule::Rule,
    tallies::Tallies,
    types::{Flags, Types},
};
use crate::bus::{Item, Pattern, Position, Received};

/// Something that has happened.
#[derive(Debug)]
pub(super) enum Msg {
    /// So much time has gone by for the person; that of a recording may go otherwise, or stand still.
    Tick(Duration),
    Key(KeyEvent),
    /// A click or the wheel, and what was drawn there.
    Mouse(MouseEvent, Option<Target>),
    /// Text that was pasted.
    Paste(String),
    /// The screen has so many columns and lines.
    Resize(u16, u16),
    /// What came from the bus.
    Batch(Vec<Arrived>),
    /// What has become of the connection.
    Link(Link),
    /// Whether the bus keeps a history that can be read page by page.
    History(bool),
    /// A page of it, oldest first.
    Page(Reading, Vec<Received>),
    /// What came of an effect, in words for the person.
    Told(String),
    /// A frame was drawn in so many microseconds, after so many that were not because the terminal was still busy;
    /// the process has so many bytes of memory.
    Drawn {
        micros: u64,
        skipped: u64,
        resident: usize,
    },
}

/// One item from the bus.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) item: Item,
    /// It came as it happened, not from the history.
    pub(super) is_live: bool,
}

/// Something that can be clicked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// A row of the list.
    Row(Anchor),
    /// A line of the payload's tree.
    Tree(usize),
    View(View),
    /// An entry of the view that is shown.
    Entry(usize),
    /// The list, where no row is.
    List,
    Details,
}

/// What finds a row again when others have come or gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    /// In the buffer, by its number.
    Kept(u64),
    /// Before the buffer, by its place in the bus's history.
    Past(Position),
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    Quit,
    Connect,
    Disconnect,
    RetryNow,
    /// Get events from before the buffer.
    Read(Reading),
    /// Subscribe to these types instead.
    Rebind(Vec<Pattern>),
    /// Put a text into the clipboard.
    Copy(String),
    /// Write a file of this name and tell how it went.
    Save {
        name: String,
        bytes: Vec<u8>,
    },
    Bell,
    /// Tell the person, who may look elsewhere.
    Notify {
        title: String,
        text: String,
    },
    /// The settings that are kept have changed.
    Keep,
}

/// What has become of the connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Link {
    #[default]
    Connecting,
    Connected,
    Disconnected,
    /// It was lost; `retry_at` is when it is tried again.
    Reconnecting {
        attempt: u32,
        retry_at: Timestamp,
        why: String,
    },
    /// It can't be mended by waiting.
    Failed(String),
    /// The recording has come to its end.
    Ended,
}

/// The ways to look at what has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum View {
    #[default]
    List,
    Cloud,
    Flow,
    Graph,
    Services,
    Timeline,
    Sessions,
}

impl View {
    pub(super) const EACH: [Self; 7] =
        [Self::List, Self::Cloud, Self::Flow, Self::Graph, Self::Services, Self::Timeline, Self::Sessions];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Cloud => "cloud",
            Self::Flow => "flow",
            Self::Graph => "graph",
            Self::Services => "services",
            Self::Timeline => "timeline",
            Self::Sessions => "sessions",
        }
    }
}

/// Which part takes the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Focus {
    #[default]
    Main,
    Details,
}

/// What lies above the view.
#[derive(Debug)]
pub(super) enum Overlay {
    Help {
        scroll: usize,
    },
    Filters(filters::Panel),
    Performance,
    Types(types::TypesPanel),
    Presets(marks::PresetsPanel),
    /// Alert rules and how they stand.
    Alerts,
    /// A line that is typed.
    Prompt(Prompt),
}

/// A line that is typed, and what it is for.
#[derive(Debug)]
pub(super) struct Prompt {
    pub(super) purpose: Purpose,
    pub(super) input: Input,
    /// What is wrong with it.
    pub(super) error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Search,
    Bind,
    /// A note for the chosen event.
    Note,
    /// A name for the filter.
    Preset,
}

/// The colours.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub(super) enum Theme {
    #[default]
    Dark,
    Light,
    /// None.
    Mono,
}

/// How it begins.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) limits: Limits,
    pub(super) theme: Theme,
    /// Only letters that every terminal has.
    pub(super) ascii: bool,
    pub(super) zone: TimeZone,
    /// Where events come from, fit to be shown.
    pub(super) bus: String,
    pub(super) patterns: Vec<Pattern>,
    /// Those of the registry.
    pub(super) services: Vec<Service>,
    pub(super) alerts: Vec<Rule>,
    pub(super) size: (u16, u16),
    pub(super) now: Timestamp,
    /// Events come when they happened, as far as counts are concerned.
    pub(super) is_recording: bool,
    pub(super) flags: Flags,
    pub(super) marks: Marks,
    pub(super) presets: Vec<Preset>,
    /// Types that may come, from schemas.
    pub(super) expected: Vec<String>,
}

/// Where the person is in the list.
#[derive(Debug, Default)]
pub(super) struct List {
    /// The row that is chosen; the newest one without.
    pub(super) cursor: Option<Anchor>,
    /// The first row that is shown; the newest one without.
    pub(super) top: Option<Anchor>,
    /// Rows from this number on are not shown yet.
    pub(super) frozen: Option<u64>,
}

/// How quick the dashboard itself is.
#[derive(Debug, Default)]
pub(super) struct Speed {
    /// Microseconds of the last frames.
    pub(super) draws: std::collections::VecDeque<u64>,
    pub(super) frames: u64,
    /// Frames that were left out because the terminal was not ready.
    pub(super) skipped: u64,
    /// Batches of events that have come.
    pub(super) batches: u64,
    /// Bytes of memory that this process has.
    pub(super) resident: usize,
    /// How long the newest event took from the bus to here, in milliseconds.
    pub(super) lag_ms: i64,
    /// The same of the oldest event of each of the last batches.
    pub(super) lags: std::collections::VecDeque<i64>,
}

/// The dashboard.
#[derive(Debug)]
pub(super) struct App {
    pub(super) options: Options,
    pub(super) now: Timestamp,
    /// The person's own time, for what waits for the person.
    pub(super) clock: Timestamp,
    pub(super) size: (u16, u16),
    pub(super) theme: Theme,
    pub(super) link: Link,
    pub(super) patterns: Vec<Pattern>,
    pub(super) buffer: Buffer,
    pub(super) filter: Filter,
    pub(super) matches: Matches,
    pub(super) metrics: Metrics,
    pub(super) tallies: Tallies,
    pub(super) types: Types,
    pub(super) flags: Flags,
    pub(super) marks: Marks,
    pub(super) presets: Vec<Preset>,
    pub(super) cloud: cloud::CloudView,
    pub(super) flow: flow::FlowView,
    pub(super) graph: graph::GraphView,
    pub(super) services: services::ServicesView,
    pub(super) timeline: timeline::TimelineView,
    pub(super) sessions: sessions::SessionsView,
    pub(super) view: View,
    pub(super) focus: Focus,
    pub(super) overlay: Option<Overlay>,
    pub(super) list: List,
    /// Events from before the buffer.
    pub(super) past: Past,
    /// They can be had.
    pub(super) has_history: bool,
    /// The payload that is looked at.
    pub(super) tree: tree::Tree,
    /// Shown although there is little room; the person has asked for it.
    pub(super) details: bool,
    pub(super) toast: Option<Toast>,
    pub(super) speed: Speed,
    /// A search that was typed and waits for the typing to pause.
    pub(super) typed: Option<(String, Timestamp)>,
    /// When the filter looked at the time last.
    aged_at: Timestamp,
    /// Something has changed since the last frame.
    pub(super) is_dirty: bool,
}

/// A short message, and until when it is shown.
#[derive(Debug)]
pub(super) struct Toast {
    pub(super) text: String,
    pub(super) until: Timestamp,
}
