//! Marked events, notes, and filters that are kept under a name. Pure.

use std::collections::BTreeMap;

use crossterm::event::{KeyCode, KeyEvent};

use super::{
    super::state::{
        marks::{MAX_PRESETS, Preset},
        row::Kind,
    },
    App, Effect, Overlay, Purpose, View,
    filters::Field,
};

/// Where the person is among the filters that were kept.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct PresetsPanel {
    pub(in crate::cmd::dash) line: usize,
}

impl App {
    /// The id of the chosen event; says so where there is none.
    pub(super) fn chosen_event(&mut self) -> Option<uuid::Uuid> {
        let id = self.subject().filter(|row| row.kind == Kind::Event).map(|row| row.id);
        if id.is_none() {
            self.tell("choose an event first".to_owned());
        }
        id
    }

    pub(super) fn mark(&mut self) -> Vec<Effect> {
        let Some(id) = self.chosen_event() else { return Vec::new() };
        let is_marked = self.marks.toggle(id);
        self.tell(
            if is_marked { "marked; ' goes to the next mark" } else { "not marked any more" }.to_owned(),
        );
        vec![Effect::Keep]
    }

    pub(super) fn note(&mut self, note: String) -> Vec<Effect> {
        let Some(id) = self.chosen_event() else { return Vec::new() };
        self.marks.write(id, note);
        vec![Effect::Keep]
    }

    /// To the next older marked event; from the oldest to the newest.
    pub(super) fn next_mark(&mut self) {
        let at = self.cursor_index();
        let is_marked = |index: usize| self.row_at(index).is_some_and(|row| self.marks.has(&row.id));
        let older = (at + 1)..self.listed();
        match older.chain(0..=at).find(|index| is_marked(*index)) {
            Some(index) if self.listed() > 0 => self.go_to(index),
            _ => self.tell("no event that is shown is marked; m marks one".to_owned()),
        }
    }

    pub(super) fn presets_key(&mut self, key: KeyEvent) -> Vec<Effect> {
        let Some(Overlay::Presets(panel)) = &mut self.overlay else { return Vec::new() };
        let last = self.presets.len().saturating_sub(1);
        match key.code {
            KeyCode::Up | KeyCode::Char('k') => panel.line = panel.line.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => panel.line = (panel.line + 1).min(last),
            KeyCode::Char(digit @ '1'..='9') => {
                let line = usize::from(u8::try_from(digit).unwrap_or(b'1').saturating_sub(b'1'));
                self.apply_preset(line);
            }
            KeyCode::Enter => {
                let line = panel.line;
                self.apply_preset(line);
            }
            KeyCode::Delete | KeyCode::Char('x') if panel.line < self.presets.len() => {
                self.presets.remove(panel.line);
                panel.line = panel.line.min(self.presets.len().saturating_sub(1));
                return vec![Effect::Keep];
            }
            KeyCode::Char('s') => {
                if self.presets.len() >= MAX_PRESETS {
                    self.tell(format!("{MAX_PRESETS} filters are kept already; Del removes one"));
                } else if self.filter.count() == 0 {
                    self.tell("there is no filter to keep; F sets one".to_owned());
                } else {
                    self.ask(Purpose::Preset);
                }
            }
            KeyCode::Esc | KeyCode::Char('P' | 'q') => self.overlay = None,
            _ => {}
        }
        Vec::new()
    }

    /// Keeps the filter under a name; that of a chain is not kept, since its events will be gone.
    pub(super) fn keep_preset(&mut self, name: String) -> Vec<Effect> {
        let value = |field: Field| self.value(field).map(|value| (field.name().to_owned(), value));
        let fields: BTreeMap<String, String> = Field::EACH.into_iter().filter_map(value).collect();
        self.presets.retain(|preset| preset.name != name);
        self.presets.push(Preset { name, fields });
        self.tell("kept; P and its number bring it back".to_owned());
        vec![Effect::Keep]
    }

    fn apply_preset(&mut self, line: usize) {
        let Some(preset) = self.presets.get(line).cloned() else { return };
        self.overlay = None;
        self.view = View::List;
        self.filter.clear();
        for field in Field::EACH {
            let value = preset.fields.get(field.name()).cloned();
            if value.is_some()
                && let Err(error) = self.set(field, value)
            {
                self.tell(error);
            }
        }
        self.refilter();
    }
}
