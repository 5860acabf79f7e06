//! A payload as a tree that opens and closes. Pure.
//!
//! A payload is parsed when it is looked at, and only what is open becomes lines; of a large array or object a part is
//! shown, and more on request.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Anchor;

/// Parts are open to this depth at first, as in the dashboard that this one replaces.
const OPEN: usize = 2;

/// Members that are shown of an open part at first, and how many more each time.
const MEMBERS: usize = 200;

/// Characters of a text that are shown.
const TEXT: usize = 4_000;

/// What a value is, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) enum Sort {
    Text,
    Number,
    Bool,
    Null,
    /// How many members an object or an array has, or its brackets.
    Part,
    /// There is more.
    More,
}

/// One line of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cmd::dash) struct Line {
    pub(in crate::cmd::dash) depth: usize,
    /// The name of the member, or its number.
    pub(in crate::cmd::dash) key: Option<String>,
    pub(in crate::cmd::dash) value: String,
    pub(in crate::cmd::dash) sort: Sort,
    /// Whether it is open, for what can be.
    pub(in crate::cmd::dash) is_open: Option<bool>,
    path: Path,
}

/// The numbers of the members on the way from the root.
type Path = Vec<u32>;

/// The tree of one payload.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct Tree {
    /// The row that it belongs to.
    of: Option<Anchor>,
    root: Value,
    /// Parts that are not as they are at first.
    toggled: BTreeSet<Path>,
    /// Members shown of large parts.
    shown: BTreeMap<Path, usize>,
    /// Everything is open, but for what was closed.
    all: bool,
    pub(in crate::cmd::dash) lines: Vec<Line>,
    pub(in crate::cmd::dash) cursor: usize,
    pub(in crate::cmd::dash) figures: Figures,
}

/// The line below the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::cmd::dash) struct Figures {
    pub(in crate::cmd::dash) bytes: usize,
    /// Lines of the payload when it is printed nicely.
    pub(in crate::cmd::dash) lines: usize,
    pub(in crate::cmd::dash) depth: usize,
}

impl Tree {
    /// Shows a payload. One that is shown already stays as it is.
    pub(in crate::cmd::dash) fn show(&mut self, of: Anchor, payload: &[u8]) {
        if self.of == Some(of) {
            return;
        }
        let text = || Value::String(String::from_utf8_lossy(payload).into_owned());
        let root: Value = serde_json::from_slice(payload).unwrap_or_else(|_| text());
        let (lines, depth) = measure(&root);
        let figures = Figures { bytes: payload.len(), lines, depth };
        *self = Self { of: Some(of), root, all: self.all, figures, ..Self::default() };
        self.lay_out();
    }

    pub(in crate::cmd::dash) fn clear(&mut self) {
        *self = Self { all: self.all, ..Self::default() };
    }

    pub(in crate::cmd::dash) fn up(&mut self, by: usize) {
        self.cursor = self.cursor.saturating_sub(by);
    }

    pub(in crate::cmd::dash) fn down(&mut self, by: usize) {
        self.cursor = self.cursor.saturating_add(by).min(self.lines.len().saturating_sub(1));
    }

    /// Opens the part at the cursor, or shows more of it.
    pub(in crate::cmd::dash) fn open(&mut self) {
        match self.lines.get(self.cursor) {
            Some(line) if line.is_open == Some(false) => self.toggle(),
            Some(line) if line.sort == Sort::More => self.more(),
            _ => {}
        }
    }

    /// Closes the part at the cursor; where there is none, goes to the one around it.
    pub(in crate::cmd::dash) fn close(&mut self) {
        let Some(line) = self.lines.get(self.cursor) else { return };
        if line.is_open == Some(true) {
            self.toggle();
        } else if let Some(depth) = line.depth.checked_sub(1) {
            let before = self.lines.iter().take(self.cursor);
            self.cursor = before.clone().rposition(|line| line.depth == depth).unwrap_or(self.cursor);
        }
    }

    /// Opens what is closed and closes what is open.
    pub(in crate::cmd::dash) fn toggle(&mut self) {
        let Some(line) = self.lines.get(self.cursor) else { return };
        match (line.is_open, line.sort) {
            (Some(_), _) => {
                let path = line.path.clone();
                if !self.toggled.remove(&path) {
                    self.toggled.insert(path);
                }
                self.lay_out();
            }
            (None, Sort::More) => self.more(),
            (None, _) => {}
        }
    }

    fn more(&mut self) {
        if let Some(line) = self.lines.get(self.cursor) {
            *self.shown.entry(line.path.clone()).or_insert(MEMBERS) += MEMBERS;
            self.lay_out();
        }
    }

    /// Opens everything, or closes it again.
    pub(in crate::cmd::dash) fn expand(&mut self) {
        self.all = !self.all;
        self.toggled.clear();
        self.lay_out();
        self.down(0);
    }

    fn lay_out(&mut self) {
        let mut lines = Vec::new();
        self.add(&self.root, None, &mut Vec::new(), &mut lines);
        self.lines = lines;
        self.down(0);
    }

    fn add(&self, value: &Value, key: Option<&str>, path: &mut Path, lines: &mut Vec<Line>) {
        let key = key.map(str::to_owned);
        let depth = path.len();
        let leaf = |value: String, sort| Line {
            depth,
            key: key.clone(),
            value,
            sort,
            is_open: None,
            path: path.clone(),
        };
        let (count, unit, ends) = match value {
            Value::Null => return lines.push(leaf("null".to_owned(), Sort::Null)),
            Value::Bool(value) => return lines.push(leaf(value.to_string(), Sort::Bool)),
            Value::Number(value) => return lines.push(leaf(value.to_string(), Sort::Number)),
            Value::String(text) => {
                let mut shown: String = text.chars().take(TEXT).collect();
                if shown.len() < text.len() {
                    shown.push('…');
                }
                return lines.push(leaf(shown, Sort::Text));
            }
            Value::Array(items) => (items.len(), "items", ["[", "]"]),
            Value::Object(map) => (map.len(), "keys", ["{", "}"]),
        };
        let is_open = (self.all || depth < OPEN) != self.toggled.contains(path);
        let [open, close] = ends;
        if count == 0 {
            return lines.push(leaf(format!("{open}{close}"), Sort::Part));
        }
        let shown = if is_open { open.to_owned() } else { format!("{open} {count} {unit} {close}") };
        lines.push(Line {
            depth,
            key: key.clone(),
            value: shown,
            sort: Sort::Part,
            is_open: Some(is_open),
            path: path.clone(),
        });
        if !is_open {
            return;
        }
        let limit = self.shown.get(path).copied().unwrap_or(MEMBERS);
        let mut member = |index: usize, key: &str, value: &Value| {
            path.push(u32::try_from(index).unwrap_or(u32::MAX));
            self.add(value, Some(key), path, lines);
            path.pop();
        };
        match value {
            Value::Array(items) => {
                items.iter().take(limit).enumerate().for_each(|(n, item)| member(n, &n.to_string(), item));
            }
            Value::Object(map) => {
                map.iter().take(limit).enumerate().for_each(|(n, (key, item))| member(n, key, item));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        if count > limit {
            lines.push(Line {
                depth: depth + 1,
                key: None,
                value: format!("… {} more", count - limit),
                sort: Sort::More,
                is_open: None,
                path: path.clone(),
            });
        }
    }
}

/// Lines of a value when it is printed nicely, and how deep it is nested.
fn measure(value: &Value) -> (usize, usize) {
    let inside = |parts: &mut dyn Iterator<Item = &Value>| {
        let (mut lines, mut depth) = (2, 0);
        for (more, deeper) in parts.map(measure) {
            lines += more;
            depth = depth.max(deeper);
        }
        (lines, depth + 1)
    };
    match value {
        Value::Array(items) if !items.is_empty() => inside(&mut items.iter()),
        Value::Object(map) if !map.is_empty() => inside(&mut map.values()),
        Value::Array(_) | Value::Object(_) => (1, 1),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (1, 0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tree(value: &Value) -> Tree {
        let mut tree = Tree::default();
        tree.show(Anchor::Kept(1), &serde_json::to_vec(value).unwrap());
        tree
    }

    fn text(tree: &Tree) -> String {
        let line = |line: &Line| {
            let mark = match line.is_open {
                Some(true) => "- ",
                Some(false) => "+ ",
                None => "  ",
            };
            let key = line.key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default();
            format!("{}{mark}{key}{}", "  ".repeat(line.depth), line.value)
        };
        tree.lines.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn two_levels_are_open_and_the_rest_says_how_much_it_is() {
        let value = json!({ "a": { "b": { "c": 1, "d": [1, 2, 3] }, "e": [] }, "n": null, "s": "x" });
        let mut tree = tree(&value);
        insta::assert_snapshot!(text(&tree), @r"
        - {
          - a: {
            + b: { 2 keys }
              e: []
            n: null
            s: x
        ");
        tree.down(2);
        tree.open();
        insta::assert_snapshot!(text(&tree), @r"
        - {
          - a: {
            - b: {
                c: 1
              + d: [ 3 items ]
              e: []
            n: null
            s: x
        ");
        tree.down(1);
        tree.close();
        assert_eq!(tree.cursor, 2, "to the part around it");
        tree.close();
        assert_eq!(tree.lines.len(), 6);
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        assert_eq!((tree.figures.lines, tree.figures.depth), (pretty.lines().count(), 4));
        tree.expand();
        assert!(tree.lines.iter().all(|line| line.is_open != Some(false)));
        tree.expand();
        assert_eq!(tree.lines.len(), 6);
    }

    #[test]
    fn of_a_large_part_some_is_shown_and_more_on_request() {
        let mut tree = tree(&json!((0..450).collect::<Vec<_>>()));
        assert_eq!(tree.lines.len(), 202);
        tree.down(usize::MAX);
        assert_eq!(tree.lines[tree.cursor].value, "… 250 more");
        tree.open();
        assert_eq!(tree.lines.len(), 402);
        tree.down(usize::MAX);
        tree.toggle();
        assert_eq!(tree.lines.len(), 451);
    }

    #[test]
    fn what_is_no_json_is_text() {
        let mut tree = Tree::default();
        tree.show(Anchor::Kept(1), b"not \xff json");
        assert_eq!(tree.lines[0].value, "not \u{fffd} json");
        tree.show(Anchor::Kept(2), b"{}");
        assert_eq!(tree.lines[0].value, "{}");
    }
}
