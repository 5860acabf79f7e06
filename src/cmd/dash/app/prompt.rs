//! A line that is typed: a search, or what to subscribe to. Pure.

use crossterm::event::{Event, KeyCode, KeyEvent};
use jiff::SignedDuration;
use tui_input::{Input, backend::crossterm::EventHandler as _};

use super::{super::state::search::Search, App, Effect, Overlay, Prompt, Purpose};
use crate::bus::Pattern;

/// A search begins when nothing more was typed for so long.
const PAUSE: SignedDuration = SignedDuration::from_millis(150);

/// Characters that are taken.
const LONGEST: usize = 2_000;

impl App {
    pub(super) fn ask(&mut self, purpose: Purpose) {
        let value = match purpose {
            Purpose::Search => self.filter.query.clone(),
            Purpose::Bind => {
                let patterns: Vec<&str> = self.patterns.iter().map(Pattern::as_str).collect();
                patterns.join(" ")
            }
            Purpose::Note => {
                let id = self.subject().map(|row| row.id);
                id.and_then(|id| self.marks.note(&id)).unwrap_or_default().to_owned()
            }
            Purpose::Preset => String::new(),
        };
        self.overlay = Some(Overlay::Prompt(Prompt { purpose, input: Input::new(value), error: None }));
    }

    pub(super) fn type_key(&mut self, key: KeyEvent) -> Vec<Effect> {
        match key.code {
            KeyCode::Enter => return self.answer(),
            KeyCode::Esc => {
                if self.close_prompt() == Some(Purpose::Search) {
                    self.typed = None;
                    self.search_for(String::new());
                }
                return Vec::new();
            }
            _ => {}
        }
        let Some(Overlay::Prompt(prompt)) = &mut self.overlay else { return Vec::new() };
        if prompt.input.value().len() >= LONGEST && matches!(key.code, KeyCode::Char(_)) {
            return Vec::new();
        }
        let changed = prompt.input.handle_event(&Event::Key(key)).is_some_and(|change| change.value);
        if changed {
            self.was_typed();
        }
        Vec::new()
    }

    pub(super) fn type_text(&mut self, text: &str) {
        let Some(Overlay::Prompt(prompt)) = &mut self.overlay else { return };
        let room = LONGEST.saturating_sub(prompt.input.value().len());
        for c in text.chars().filter(|c| !c.is_control()).take(room) {
            prompt.input.handle(tui_input::InputRequest::InsertChar(c));
        }
        self.was_typed();
    }

    fn was_typed(&mut self) {
        let Some(Overlay::Prompt(prompt)) = &mut self.overlay else { return };
        prompt.error = None;
        if prompt.purpose == Purpose::Search {
            let value = prompt.input.value().to_owned();
            self.typed = Some((value, self.clock.checked_add(PAUSE).unwrap_or(self.clock)));
        }
    }

    fn close_prompt(&mut self) -> Option<Purpose> {
        match self.overlay.take() {
            Some(Overlay::Prompt(prompt)) => Some(prompt.purpose),
            other => {
                self.overlay = other;
                None
            }
        }
    }

    fn answer(&mut self) -> Vec<Effect> {
        let Some(Overlay::Prompt(prompt)) = &mut self.overlay else { return Vec::new() };
        let (purpose, value) = (prompt.purpose, prompt.input.value().to_owned());
        let outcome = match purpose {
            Purpose::Search => Search::parse(&value).map(|_| Vec::new()).map_err(|error| error.to_string()),
            Purpose::Bind => patterns(&value),
            Purpose::Preset if value.trim().is_empty() => Err("a name, please".to_owned()),
            Purpose::Note | Purpose::Preset => Ok(Vec::new()),
        };
        let patterns = match outcome {
            Ok(patterns) => patterns,
            Err(error) => {
                prompt.error = Some(error);
                return Vec::new();
            }
        };
        self.close_prompt();
        match purpose {
            Purpose::Search => {
                self.typed = None;
                self.search_for(value);
                Vec::new()
            }
            Purpose::Bind => {
                self.patterns.clone_from(&patterns);
                vec![Effect::Rebind(patterns)]
            }
            Purpose::Note => self.note(value),
            Purpose::Preset => self.keep_preset(value.trim().to_owned()),
        }
    }

    /// Begins the search that was typed, once the typing has paused.
    pub(super) fn settle_search(&mut self) {
        if let Some((value, _)) = self.typed.take_if(|(_, due)| *due <= self.clock) {
            self.search_for(value);
        }
    }

    /// Shows what a query finds; a query that is none is told where it is typed.
    pub(super) fn search_for(&mut self, query: String) {
        match Search::parse(&query) {
            Ok(search) => {
                self.filter.search = search;
                self.filter.query = query;
                self.refilter();
            }
            Err(error) => match &mut self.overlay {
                Some(Overlay::Prompt(prompt)) => prompt.error = Some(error.to_string()),
                _ => self.tell(error.to_string()),
            },
        }
    }
}

/// Patterns between blanks or commas.
fn patterns(text: &str) -> Result<Vec<Pattern>, String> {
    let words = text.split([' ', ',']).filter(|word| !word.is_empty());
    let patterns: Vec<Pattern> = words
        .map(str::parse)
        .collect::<Result<_, crate::bus::PatternError>>()
        .map_err(|error| error.to_string())?;
    if patterns.is_empty() { Ok(vec![Pattern::all()]) } else { Ok(patterns) }
}
