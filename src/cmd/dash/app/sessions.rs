//! The view `sessions`: agents, voices and rooms, as far as events tell; what a person does in it. Pure.

use super::{
    super::{
        layout,
        state::{Name, sessions::Sort},
    },
    App, Effect,
    filters::Field,
    keys::Action,
};

/// Where the person is in it.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct SessionsView {
    /// The chosen one; the first without.
    chosen: Option<(Sort, Name)>,
}

impl App {
    /// The place of the chosen one in the list, which others may have passed meanwhile.
    pub(in crate::cmd::dash) fn chosen_session(&self) -> usize {
        let Some((sort, id)) = &self.sessions.chosen else { return 0 };
        let sessions = self.tallies.sessions.newest();
        sessions.iter().position(|session| session.sort == *sort && session.id == *id).unwrap_or(0)
    }

    /// Takes a key; `None` where it means nothing here.
    pub(super) fn act_on_sessions(&mut self, action: Action) -> Option<Vec<Effect>> {
        let place = self.chosen_session();
        let page = layout::page(self);
        let place = match action {
            Action::Up => place.saturating_sub(1),
            Action::Down => place + 1,
            Action::PageUp => place.saturating_sub(page),
            Action::PageDown => place + page,
            Action::Newest => 0,
            Action::Oldest => usize::MAX,
            Action::Open => {
                self.follow_session(place);
                return Some(Vec::new());
            }
            _ => return None,
        };
        self.choose_session(place);
        // The first place is that of whoever is first.
        if place == 0 {
            self.sessions.chosen = None;
        }
        Some(Vec::new())
    }

    fn choose_session(&mut self, place: usize) {
        let sessions = self.tallies.sessions.newest();
        let chosen = sessions.get(place.min(sessions.len().saturating_sub(1)));
        self.sessions.chosen = chosen.map(|session| (session.sort, Name::clone(&session.id)));
    }

    /// The first click chooses, the second one opens.
    pub(super) fn click_session(&mut self, place: usize) {
        if self.sessions.chosen.is_some() && self.chosen_session() == place {
            self.follow_session(place);
        } else {
            self.choose_session(place);
        }
    }

    /// Shows the events of one session.
    fn follow_session(&mut self, place: usize) {
        let sessions = self.tallies.sessions.newest();
        let Some(session) = sessions.get(place) else { return };
        // Where events tell of no session they still have the words.
        let field = if session.is_session { Field::Session } else { Field::Search };
        let id = session.id.to_string();
        if let Err(error) = self.set(field, Some(id)) {
            self.tell(error);
        }
        self.show_list();
        self.follow();
    }
}
