//! The tree of types: which are listed, which ring, which are silent. Pure.

use crossterm::event::{KeyCode, KeyEvent};

use super::{super::state::types::Flag, App, Effect, Overlay, View};

/// Where the person is in it.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct TypesPanel {
    pub(in crate::cmd::dash) line: usize,
}

impl App {
    pub(super) fn types_key(&mut self, key: KeyEvent) -> Vec<Effect> {
        let Some(Overlay::Types(panel)) = &mut self.overlay else { return Vec::new() };
        let tree = self.types.tree();
        let last = tree.len().saturating_sub(1);
        panel.line = panel.line.min(last);
        let prefix = tree.get(panel.line).map(|node| node.prefix.clone()).unwrap_or_default();
        match key.code {
            KeyCode::Up | KeyCode::Char('k') => panel.line = panel.line.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => panel.line = (panel.line + 1).min(last),
            KeyCode::PageUp => panel.line = panel.line.saturating_sub(10),
            KeyCode::PageDown => panel.line = (panel.line + 10).min(last),
            KeyCode::Home | KeyCode::Char('g') => panel.line = 0,
            KeyCode::End | KeyCode::Char('G') => panel.line = last,
            KeyCode::Char('l' | 'L' | ' ') => return self.toggle_flag(Flag::Listed, &prefix),
            KeyCode::Char('b' | 'B') => return self.toggle_flag(Flag::Bell, &prefix),
            KeyCode::Char('m' | 'M') => return self.toggle_flag(Flag::Muted, &prefix),
            KeyCode::Char('A') => return self.set_flag(Flag::Listed, "", true),
            KeyCode::Char('O') => return self.set_flag(Flag::Listed, "", false),
            KeyCode::Enter => {
                // The type itself and what is below it.
                self.filter.event_type = format!("{prefix}.#").parse().ok();
                self.overlay = None;
                self.view = View::List;
                self.refilter();
            }
            KeyCode::Esc | KeyCode::Char('T' | 'q') => self.overlay = None,
            _ => {}
        }
        Vec::new()
    }

    fn toggle_flag(&mut self, flag: Flag, prefix: &str) -> Vec<Effect> {
        let value = !self.flags.is(flag, prefix);
        self.set_flag(flag, prefix, value)
    }

    fn set_flag(&mut self, flag: Flag, prefix: &str, value: bool) -> Vec<Effect> {
        self.flags.set(flag, prefix, value);
        if flag == Flag::Listed {
            self.filter.listed.clone_from(&self.flags.listed);
            self.refilter();
        }
        vec![Effect::Keep]
    }
}
