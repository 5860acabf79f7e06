//! The panel of filters: one line for each condition, with what there is to choose from. Pure.

use crate::bus::event::domain;
use crossterm::event::{KeyCode, KeyEvent};

use super::{
    super::state::filter::{Errors, Range},
    App, Effect, Overlay, Purpose,
};

/// A line of the panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) enum Field {
    Domain,
    Type,
    Source,
    Time,
    Session,
    Errors,
    Search,
}

impl Field {
    pub(in crate::cmd::dash) const EACH: [Self; 7] =
        [Self::Domain, Self::Type, Self::Source, Self::Time, Self::Session, Self::Errors, Self::Search];

    pub(in crate::cmd::dash) const fn name(self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::Type => "type",
            Self::Source => "source",
            Self::Time => "time",
            Self::Session => "session",
            Self::Errors => "errors only",
            Self::Search => "search",
        }
    }
}

/// The panel.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct Panel {
    /// The line that is chosen.
    pub(in crate::cmd::dash) line: usize,
}

impl App {
    /// What a field may be, besides anything.
    pub(in crate::cmd::dash) fn choices(&self, field: Field) -> Vec<String> {
        let facets = self.buffer.facets();
        let mut choices: Vec<String> = match field {
            Field::Domain => {
                let known = domain::ALL.iter().map(|domain| domain.key.to_owned());
                facets.domains.keys().map(ToString::to_string).chain(known).collect()
            }
            Field::Type => {
                let is_in =
                    |domain: &str| self.filter.domain.as_deref().is_none_or(|wanted| wanted == domain);
                let types = facets.types.keys().filter(|(domain, _)| is_in(domain));
                let expected = self.types.names().filter(|name| is_in(domain::key(name)));
                types.map(|(_, event_type)| event_type).chain(expected).map(ToString::to_string).collect()
            }
            Field::Source => facets.apps.keys().map(ToString::to_string).collect(),
            Field::Session => facets.sessions.keys().map(ToString::to_string).collect(),
            Field::Time => {
                return Range::EACH.iter().skip(1).map(|range| range.word().to_owned()).collect();
            }
            Field::Errors => return Errors::WORDS.map(str::to_owned).to_vec(),
            Field::Search => return Vec::new(),
        };
        choices.sort();
        choices.dedup();
        choices
    }

    /// What a field is set to.
    pub(in crate::cmd::dash) fn value(&self, field: Field) -> Option<String> {
        let filter = &self.filter;
        match field {
            Field::Domain => filter.domain.clone(),
            Field::Type => filter.event_type.as_ref().map(ToString::to_string),
            Field::Source => filter.app.clone(),
            Field::Time => (filter.range != Range::All).then(|| filter.range.word().to_owned()),
            Field::Session => filter.session.clone(),
            Field::Errors => filter.errors.word().map(str::to_owned),
            Field::Search => (!filter.search.is_nothing()).then(|| filter.query.clone()),
        }
    }

    /// Sets a field, or lets it be anything.
    ///
    /// # Errors
    /// A value that the field can't have.
    pub(in crate::cmd::dash) fn set(&mut self, field: Field, value: Option<String>) -> Result<(), String> {
        match field {
            Field::Domain => self.filter.set_domain(value),
            Field::Type => {
                self.filter.event_type = value
                    .map(|value| value.parse())
                    .transpose()
                    .map_err(|error: crate::bus::PatternError| error.to_string())?;
            }
            Field::Source => self.filter.app = value,
            Field::Time => self.filter.range = value.map_or(Ok(Range::All), |value| value.parse())?,
            Field::Session => self.filter.session = value,
            Field::Errors => self.filter.errors = Errors::of(value.as_deref())?,
            Field::Search => self.search_for(value.unwrap_or_default()),
        }
        self.refilter();
        Ok(())
    }

    pub(super) fn panel_key(&mut self, key: KeyEvent) -> Vec<Effect> {
        let Some(Overlay::Filters(panel)) = &mut self.overlay else { return Vec::new() };
        let last = Field::EACH.len() - 1;
        let Some(field) = Field::EACH.get(panel.line).copied() else { return Vec::new() };
        match key.code {
            KeyCode::Up | KeyCode::Char('k') => panel.line = panel.line.checked_sub(1).unwrap_or(last),
            KeyCode::Down | KeyCode::Char('j') => {
                panel.line = if panel.line == last { 0 } else { panel.line + 1 }
            }
            KeyCode::Right | KeyCode::Char('l' | ' ') => self.turn(field, true),
            KeyCode::Left | KeyCode::Char('h') => self.turn(field, false),
            KeyCode::Delete | KeyCode::Char('x') => self.turn_off(field),
            KeyCode::Backspace => {
                self.filter.clear();
                self.refilter();
            }
            KeyCode::Enter if field == Field::Search => self.ask(Purpose::Search),
            KeyCode::Char('/') => self.ask(Purpose::Search),
            KeyCode::Enter | KeyCode::Esc | KeyCode::Char('F' | 'q') => self.overlay = None,
            _ => {}
        }
        Vec::new()
    }

    fn turn_off(&mut self, field: Field) {
        if let Err(error) = self.set(field, None) {
            self.tell(error);
        }
    }

    /// The next choice, or the one before; anything lies between the last and the first.
    fn turn(&mut self, field: Field, forward: bool) {
        let choices = self.choices(field);
        let count = choices.len() + 1;
        let at = self.value(field).and_then(|value| choices.iter().position(|choice| *choice == value));
        let place = at.map_or(0, |index| index + 1);
        let next = (place + if forward { 1 } else { count - 1 }) % count;
        let value = next.checked_sub(1).and_then(|index| choices.get(index).cloned());
        if let Err(error) = self.set(field, value) {
            self.tell(error);
        }
    }
}
