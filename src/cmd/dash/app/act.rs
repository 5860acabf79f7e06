//! What the keys of the table do. Pure.

use super::{
    super::{
        export, layout,
        state::{
            filter::Chain,
            row::{Kind, Row},
        },
    },
    App, Effect, Focus, Link, Overlay, Purpose, Theme, View,
    filters::Panel,
    keys::Action,
    marks::PresetsPanel,
    types::TypesPanel,
};

impl App {
    pub(super) fn act(&mut self, action: Action) -> Vec<Effect> {
        if self.focus == Focus::Details && self.act_on_details(action) {
            return Vec::new();
        }
        if let Some(effects) = self.act_on_view(action) {
            return effects;
        }
        match action {
            Action::Show(view) => {
                self.view = view;
                self.focus = Focus::Main;
                if view == View::Graph {
                    self.open_graph();
                }
            }
            Action::Search => self.ask(Purpose::Search),
            Action::Filters => self.overlay = Some(Overlay::Filters(Panel::default())),
            Action::ClearFilters => {
                self.filter.clear();
                self.refilter();
            }
            Action::Errors => {
                self.filter.errors = self.filter.errors.next();
                self.refilter();
            }
            Action::Freeze => self.freeze(),
            Action::Follow => {
                self.list.frozen = None;
                self.follow();
            }
            Action::Chain => self.chain(),
            Action::Unchain => {
                self.filter.chain = None;
                self.refilter();
            }
            Action::OfSession => self.of_session(),
            Action::Help => self.overlay = Some(Overlay::Help { scroll: 0 }),
            Action::Performance => self.overlay = Some(Overlay::Performance),
            Action::Types => self.overlay = Some(Overlay::Types(TypesPanel::default())),
            Action::Presets => self.overlay = Some(Overlay::Presets(PresetsPanel::default())),
            Action::Mark => return self.mark(),
            Action::NextMark => self.next_mark(),
            Action::Note => {
                if self.chosen_event().is_some() {
                    self.ask(Purpose::Note);
                }
            }
            Action::Alerts => self.overlay = Some(Overlay::Alerts),
            Action::Bind => self.ask(Purpose::Bind),
            Action::Theme => {
                self.theme = match self.theme {
                    Theme::Dark => Theme::Light,
                    Theme::Light => Theme::Mono,
                    Theme::Mono => Theme::Dark,
                };
                return vec![Effect::Keep];
            }
            Action::ClearBuffer => {
                self.buffer.clear();
                self.past.clear();
                self.list = super::List::default();
                self.graph = super::graph::GraphView::default();
                self.refilter();
                self.tell("the buffer is empty; counts stay".to_owned());
            }
            Action::Quit => return vec![Effect::Quit],
            Action::ToggleLink => return self.toggle_link(),
            Action::RetryNow => return vec![Effect::RetryNow],
            Action::ExportJson
            | Action::ExportCsv
            | Action::SaveEvent
            | Action::CopyPayload
            | Action::CopyEvent => {
                return self.hand_out(action);
            }
            Action::Back => self.back(),
            Action::Up
            | Action::Down
            | Action::PageUp
            | Action::PageDown
            | Action::Newest
            | Action::Oldest
            | Action::Left
            | Action::Right
            | Action::Open
            | Action::Details
            | Action::ZoomIn
            | Action::ZoomOut
            | Action::NextFocus => {}
        }
        Vec::new()
    }

    /// What the view that is shown does with a key; `None` where it means nothing there.
    fn act_on_view(&mut self, action: Action) -> Option<Vec<Effect>> {
        match self.view {
            View::List => self.act_on_list(action),
            View::Cloud => self.act_on_cloud(action),
            View::Flow => self.act_on_flow(action),
            View::Graph => self.act_on_graph(action),
            View::Services => self.act_on_services(action),
            View::Timeline => self.act_on_timeline(action),
            View::Sessions => self.act_on_sessions(action),
        }
    }

    /// What the list does with a key; `None` where it means nothing there.
    fn act_on_list(&mut self, action: Action) -> Option<Vec<Effect>> {
        let page = layout::page(self);
        match action {
            Action::Up => return Some(self.move_up(1)),
            Action::Down => return Some(self.move_down(1)),
            Action::PageUp => return Some(self.move_up(page)),
            Action::PageDown => return Some(self.move_down(page)),
            Action::Newest => self.follow(),
            // The oldest in the buffer, and further back when pressed again.
            Action::Oldest if self.cursor_index() + 1 >= self.listed() => return Some(self.move_down(1)),
            Action::Oldest => self.go_to(usize::MAX),
            Action::Open | Action::Right => {
                self.look();
                self.details = true;
                self.focus = Focus::Details;
            }
            Action::Details => {
                self.look();
                self.details = !self.details;
            }
            Action::NextFocus => {
                if layout::parts(self).details.is_some() {
                    self.focus = Focus::Details;
                }
            }
            _ => return None,
        }
        Some(Vec::new())
    }

    /// True if it was something for the details.
    fn act_on_details(&mut self, action: Action) -> bool {
        let page = layout::parts(self).details.map_or(1, |area| usize::from(layout::inside(area).height));
        match action {
            Action::Up => self.tree.up(1),
            Action::Down => self.tree.down(1),
            Action::PageUp => self.tree.up(page),
            Action::PageDown => self.tree.down(page),
            Action::Newest => self.tree.up(usize::MAX),
            Action::Oldest => self.tree.down(usize::MAX),
            Action::Left => self.tree.close(),
            Action::Right => self.tree.open(),
            Action::Open => self.tree.toggle(),
            Action::ExportCsv => self.tree.expand(),
            Action::NextFocus => self.focus = Focus::Main,
            Action::Back | Action::Details => {
                self.focus = Focus::Main;
                self.details = false;
            }
            _ => return false,
        }
        true
    }

    fn back(&mut self) {
        if self.filter.chain.take().is_some() {
            self.refilter();
        } else if self.list.cursor.is_some() {
            self.follow();
        }
    }

    fn chain(&mut self) {
        let chain = match self.subject() {
            Some(row) if row.kind == Kind::Event => Chain::of(row, &self.buffer),
            _ => return self.tell("choose an event first".to_owned()),
        };
        self.filter.chain = Some(chain);
        self.refilter();
    }

    /// The event that is spoken of: the one that is chosen where the person is.
    pub(super) fn subject(&self) -> Option<&Row> {
        match self.view {
            View::Graph => self.node(),
            View::List | View::Cloud | View::Flow | View::Services | View::Timeline | View::Sessions => {
                self.chosen()
            }
        }
    }

    /// The same with its bytes: the whole envelope, and the payload within it.
    fn subject_bytes(&self) -> Option<(&Row, &[u8], &[u8])> {
        match self.view {
            View::Graph => self.node().map(|row| (row, self.buffer.body(row), self.buffer.payload(row))),
            View::List | View::Cloud | View::Flow | View::Services | View::Timeline | View::Sessions => {
                self.chosen_bytes()
            }
        }
    }

    /// Lists the events that a choice in another view stands for. A domain or a chain that was chosen before would
    /// contradict it.
    pub(super) fn list_only(&mut self, app: Option<&str>, event_type: Option<&str>) {
        match event_type.map(str::parse).transpose() {
            Ok(pattern) => {
                self.filter.set_domain(None);
                self.filter.event_type = pattern;
                self.filter.app = app.map(str::to_owned);
                self.filter.chain = None;
                self.view = View::List;
                self.focus = Focus::Main;
                self.list.cursor = None;
                self.refilter();
            }
            Err(error) => {
                let error: crate::bus::PatternError = error;
                self.tell(error.to_string());
            }
        }
    }

    /// An entry of the view that is shown was clicked at.
    pub(super) fn click_entry(&mut self, index: usize) {
        match self.view {
            View::Cloud => self.click_cloud(index),
            View::Flow => self.click_flow(index),
            View::Graph => self.click_graph(index),
            View::Services => self.click_service(index),
            View::Timeline => self.click_moment(index),
            View::Sessions => self.click_session(index),
            View::List => {}
        }
    }

    fn of_session(&mut self) {
        if self.filter.session.take().is_none() {
            match self.subject().map(|row| row.session.to_string()).filter(|session| !session.is_empty()) {
                Some(session) => self.filter.session = Some(session),
                None => return self.tell("the chosen event belongs to no session".to_owned()),
            }
        }
        self.refilter();
    }

    fn toggle_link(&mut self) -> Vec<Effect> {
        match self.link {
            // While it is being connected there is nothing to toggle.
            Link::Connecting => Vec::new(),
            Link::Disconnected | Link::Failed(_) | Link::Ended => vec![Effect::Connect],
            Link::Connected | Link::Reconnecting { .. } => vec![Effect::Disconnect],
        }
    }

    /// Copies, saves and exports.
    fn hand_out(&mut self, action: Action) -> Vec<Effect> {
        let stamp = self.now.strftime("%Y-%m-%dT%H-%M-%SZ").to_string();
        if action == Action::ExportJson || action == Action::ExportCsv {
            if self.matches.events() == 0 {
                self.tell("there is nothing to export; no event is shown".to_owned());
                return Vec::new();
            }
            let rows = self.matches.iter().filter_map(|seq| self.buffer.row(seq));
            let (format, ending) = match action {
                Action::ExportJson => (export::Format::Json, "json"),
                _ => (export::Format::Csv, "csv"),
            };
            let bytes = export::bytes(format, rows.map(|row| (row, self.buffer.body(row))));
            return vec![Effect::Save { name: format!("godctl-events-{stamp}.{ending}"), bytes }];
        }
        let Some((row, body, payload)) = self.subject_bytes().filter(|(row, ..)| row.kind != Kind::Gap)
        else {
            self.tell("choose an event first".to_owned());
            return Vec::new();
        };
        let copy = |bytes: &[u8]| Effect::Copy(String::from_utf8_lossy(&export::pretty(bytes)).into_owned());
        vec![match action {
            Action::SaveEvent => {
                let name = match row.kind {
                    Kind::Event => format!("event-{}.json", row.id),
                    Kind::Unparsed | Kind::Gap => format!("unparsed-{stamp}.txt"),
                };
                Effect::Save { name, bytes: export::pretty(body) }
            }
            Action::CopyPayload => copy(payload),
            _ => copy(body),
        }]
    }
}
