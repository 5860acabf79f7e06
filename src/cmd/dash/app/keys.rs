//! The one table of keys: what is pressed, what it does, and what the help says about it. Pure.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::View;

/// What a key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) enum Action {
    Show(View),
    NextFocus,
    Up,
    Down,
    PageUp,
    PageDown,
    Newest,
    Oldest,
    Left,
    Right,
    Open,
    Back,
    Details,
    Freeze,
    Follow,
    Search,
    Filters,
    ClearFilters,
    Errors,
    Chain,
    Unchain,
    OfSession,
    ZoomIn,
    ZoomOut,
    Alerts,
    ExportJson,
    ExportCsv,
    SaveEvent,
    CopyPayload,
    CopyEvent,
    ToggleLink,
    RetryNow,
    Bind,
    Types,
    Presets,
    Mark,
    NextMark,
    Note,
    ClearBuffer,
    Theme,
    Performance,
    Help,
    Quit,
}

/// A group of keys in the help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) enum Group {
    Views,
    Moving,
    Choosing,
    Doing,
    Program,
}

impl Group {
    pub(in crate::cmd::dash) const EACH: [Self; 5] =
        [Self::Views, Self::Moving, Self::Choosing, Self::Doing, Self::Program];

    pub(in crate::cmd::dash) const fn title(self) -> &'static str {
        match self {
            Self::Views => "Views",
            Self::Moving => "Moving",
            Self::Choosing => "Choosing",
            Self::Doing => "Doing",
            Self::Program => "Program",
        }
    }
}

/// A key that is pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) struct Press {
    code: KeyCode,
    /// With the control key.
    is_control: bool,
}

const fn char(letter: char) -> Press {
    Press { code: KeyCode::Char(letter), is_control: false }
}

const fn control(letter: char) -> Press {
    Press { code: KeyCode::Char(letter), is_control: true }
}

const fn key(code: KeyCode) -> Press {
    Press { code, is_control: false }
}

/// One line of the table.
#[derive(Debug)]
pub(in crate::cmd::dash) struct Binding {
    pub(in crate::cmd::dash) presses: &'static [Press],
    pub(in crate::cmd::dash) action: Action,
    pub(in crate::cmd::dash) group: Group,
    pub(in crate::cmd::dash) help: &'static str,
}

const fn bind(group: Group, presses: &'static [Press], action: Action, help: &'static str) -> Binding {
    Binding { presses, action, group, help }
}

/// All of them.
pub(in crate::cmd::dash) const TABLE: &[Binding] = &[
    bind(Group::Views, &[char('1')], Action::Show(View::List), "events, the newest first"),
    bind(Group::Views, &[char('2')], Action::Show(View::Cloud), "domains, bright where something happens"),
    bind(Group::Views, &[char('3')], Action::Show(View::Flow), "who sends what to whom"),
    bind(Group::Views, &[char('4')], Action::Show(View::Graph), "the chain of the chosen event"),
    bind(Group::Views, &[char('5')], Action::Show(View::Services), "services, lit when they get something"),
    bind(Group::Views, &[char('6')], Action::Show(View::Timeline), "events over time"),
    bind(Group::Views, &[char('7')], Action::Show(View::Sessions), "agents, voices and rooms"),
    bind(Group::Moving, &[key(KeyCode::Up), char('k')], Action::Up, "up; in the list to newer events"),
    bind(Group::Moving, &[key(KeyCode::Down), char('j')], Action::Down, "down; in the list to older events"),
    bind(Group::Moving, &[key(KeyCode::PageUp), control('b')], Action::PageUp, "a page up"),
    bind(Group::Moving, &[key(KeyCode::PageDown), control('d')], Action::PageDown, "a page down"),
    bind(
        Group::Moving,
        &[key(KeyCode::Home), char('g')],
        Action::Newest,
        "to the top; in the list the newest event",
    ),
    bind(
        Group::Moving,
        &[key(KeyCode::End), char('G')],
        Action::Oldest,
        "to the bottom; in the list the oldest event",
    ),
    bind(Group::Moving, &[key(KeyCode::Left), char('h')], Action::Left, "left; close a part of the payload"),
    bind(
        Group::Moving,
        &[key(KeyCode::Right), char('l')],
        Action::Right,
        "right; open a part of the payload",
    ),
    bind(
        Group::Moving,
        &[key(KeyCode::Tab)],
        Action::NextFocus,
        "between list and details, columns and paths",
    ),
    bind(Group::Moving, &[key(KeyCode::Enter)], Action::Open, "details; into what is chosen"),
    bind(Group::Moving, &[key(KeyCode::Esc)], Action::Back, "back"),
    bind(Group::Moving, &[char(' ')], Action::Freeze, "freeze and go on"),
    bind(Group::Moving, &[char('f')], Action::Follow, "follow the newest"),
    bind(Group::Moving, &[char('+'), char('=')], Action::ZoomIn, "nearer: less time in a column"),
    bind(Group::Moving, &[char('-')], Action::ZoomOut, "farther: more time in a column"),
    bind(Group::Moving, &[char('d')], Action::Details, "details, beside or instead of the list"),
    bind(Group::Choosing, &[char('/'), control('f')], Action::Search, "search: text, ~fuzzy, /pattern/"),
    bind(Group::Choosing, &[char('F'), control('k')], Action::Filters, "filters"),
    bind(Group::Choosing, &[char('!')], Action::Errors, "errors only: by type, by payload too, all"),
    bind(Group::Choosing, &[char('x')], Action::Chain, "only the chain of the chosen event"),
    bind(Group::Choosing, &[char('X')], Action::Unchain, "no chain"),
    bind(Group::Choosing, &[char('S')], Action::OfSession, "only the session of the chosen event, or all"),
    bind(Group::Choosing, &[key(KeyCode::Backspace)], Action::ClearFilters, "clear all filters"),
    bind(Group::Doing, &[char('e'), control('e')], Action::ExportJson, "export what is shown as JSON"),
    bind(Group::Doing, &[char('E')], Action::ExportCsv, "export it as CSV; in the details: open all"),
    bind(Group::Doing, &[char('s')], Action::SaveEvent, "save the chosen event to a file"),
    bind(Group::Doing, &[char('y')], Action::CopyPayload, "copy its payload"),
    bind(Group::Doing, &[char('Y')], Action::CopyEvent, "copy the whole event"),
    bind(Group::Choosing, &[char('P')], Action::Presets, "filters that were kept; keep this one"),
    bind(Group::Choosing, &[char('T')], Action::Types, "types: listed, with a bell, silent"),
    bind(Group::Doing, &[char('m')], Action::Mark, "mark the chosen event"),
    bind(Group::Doing, &[char('\'')], Action::NextMark, "to the next mark"),
    bind(Group::Doing, &[char('n')], Action::Note, "write a note to the chosen event"),
    bind(Group::Doing, &[char('C')], Action::ClearBuffer, "forget the events; counts stay"),
    bind(Group::Program, &[char('c')], Action::ToggleLink, "disconnect and connect"),
    bind(Group::Program, &[char('R'), control('r')], Action::RetryNow, "connect again now"),
    bind(Group::Program, &[char('b')], Action::Bind, "subscribe to other types"),
    bind(Group::Program, &[char('t')], Action::Theme, "dark, light, no colours"),
    bind(Group::Program, &[char('p')], Action::Performance, "how quick this program is"),
    bind(Group::Program, &[char('A')], Action::Alerts, "alerts, and how they stand"),
    bind(Group::Program, &[char('?'), key(KeyCode::F(1))], Action::Help, "this help"),
    bind(Group::Program, &[char('q'), control('c')], Action::Quit, "quit"),
];

/// What a key does; nothing, where it is in no line of the table.
pub(in crate::cmd::dash) fn action(event: KeyEvent) -> Option<Action> {
    let is_control = event.modifiers.contains(KeyModifiers::CONTROL);
    if event.modifiers.contains(KeyModifiers::ALT) {
        return None;
    }
    let pressed = Press { code: event.code, is_control };
    TABLE.iter().find(|binding| binding.presses.contains(&pressed)).map(|binding| binding.action)
}

impl std::fmt::Display for Press {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_control {
            f.write_str("Ctrl-")?;
        }
        match self.code {
            KeyCode::Char(' ') => f.write_str("Space"),
            KeyCode::Char(letter) => write!(f, "{letter}"),
            KeyCode::Up => f.write_str("↑"),
            KeyCode::Down => f.write_str("↓"),
            KeyCode::Left => f.write_str("←"),
            KeyCode::Right => f.write_str("→"),
            KeyCode::PageUp => f.write_str("PgUp"),
            KeyCode::PageDown => f.write_str("PgDn"),
            KeyCode::F(number) => write!(f, "F{number}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// A key by its name, as in `--keys`.
fn named(name: &str) -> Option<Press> {
    let lower = name.to_ascii_lowercase();
    if let Some(letter) = lower.strip_prefix("ctrl-") {
        let mut letters = letter.chars();
        return letters.next().filter(|_| letters.next().is_none()).map(control);
    }
    Some(match lower.as_str() {
        "enter" => key(KeyCode::Enter),
        "esc" => key(KeyCode::Esc),
        "tab" => key(KeyCode::Tab),
        "backspace" => key(KeyCode::Backspace),
        "space" => char(' '),
        "up" => key(KeyCode::Up),
        "down" => key(KeyCode::Down),
        "left" => key(KeyCode::Left),
        "right" => key(KeyCode::Right),
        "pgup" => key(KeyCode::PageUp),
        "pgdn" => key(KeyCode::PageDown),
        "home" => key(KeyCode::Home),
        "end" => key(KeyCode::End),
        "del" => key(KeyCode::Delete),
        "f1" => key(KeyCode::F(1)),
        _ => return None,
    })
}

/// The keys of a text: each character is one, `<Enter>`, `<Esc>`, `<Down>`, `<Ctrl-f>` and so on are by name, `<lt>` is
/// a `<`.
///
/// # Errors
/// A name that no key has.
pub(in crate::cmd::dash) fn parse(text: &str) -> Result<Vec<KeyEvent>, String> {
    let mut events = Vec::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let name = rest.strip_prefix('<').and_then(|inner| inner.split_once('>'));
        let press = match name {
            Some(("lt", behind)) => {
                rest = behind;
                char('<')
            }
            Some((name, behind)) => {
                rest = behind;
                named(name).ok_or_else(|| {
                    format!(
                        "there is no key <{name}>; there are Enter, Esc, Tab, Backspace, Space, Up, Down, Left, Right, \
                         PgUp, PgDn, Home, End, Del, F1, Ctrl-x, and lt for a <"
                    )
                })?
            }
            None => {
                rest = rest.strip_prefix(letter).unwrap_or_default();
                char(letter)
            }
        };
        let modifiers = if press.is_control { KeyModifiers::CONTROL } else { KeyModifiers::NONE };
        events.push(KeyEvent::new(press.code, modifiers));
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_does_two_things_and_each_action_has_one() {
        let presses: Vec<Press> = TABLE.iter().flat_map(|binding| binding.presses).copied().collect();
        for (index, press) in presses.iter().enumerate() {
            assert!(!presses[..index].contains(press), "{press} stands twice");
        }
        for (index, binding) in TABLE.iter().enumerate() {
            assert!(
                TABLE[..index].iter().all(|other| other.action != binding.action),
                "{:?}",
                binding.action
            );
            assert!(!binding.presses.is_empty() && !binding.help.is_empty());
        }
    }

    #[test]
    fn keys_can_be_written() {
        let keys = parse("/a<lt><Enter><Ctrl-F>é").unwrap();
        let codes: Vec<KeyCode> = keys.iter().map(|key| key.code).collect();
        let expected = [
            KeyCode::Char('/'),
            KeyCode::Char('a'),
            KeyCode::Char('<'),
            KeyCode::Enter,
            KeyCode::Char('f'),
            KeyCode::Char('é'),
        ];
        assert_eq!(codes, expected);
        assert_eq!(action(keys[4]), Some(Action::Search));
        assert!(parse("<Nonsense>").unwrap_err().contains("<Nonsense>"));
        assert_eq!(parse("<").unwrap().len(), 1);
    }
}
