//! Templates of prompts: text with holes for inputs and for results of steps. Pure.
//!
//! `{{ inputs.NAME }}`, `{{ steps.NAME.text }}`, `{{ steps.NAME.ok }}` (`true` or `false`) and `{{ steps.NAME.error }}`;
//! `{{ "{{" }}` gives two braces. What is filled in stands there as it is and is never read as a template: an answer
//! cannot ask for more than the flow's author did.

use serde::{Serialize, Serializer};

/// A text with holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Hole(Hole),
}

/// What is filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hole {
    /// An input of the flow.
    Input(String),
    /// Something of a step's result.
    Step {
        /// Its name.
        name: String,
        /// What of it.
        field: Field,
    },
}

/// What of a step's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Its answer; nothing if it failed.
    Text,
    /// Whether it answered.
    Ok,
    /// Why it did not; nothing if it did.
    Error,
}

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct TemplateError {
    /// The first line is 1.
    pub line: usize,
    /// What, and what to write.
    pub message: String,
}

/// What a filled template would have been too long for: its length in bytes, as far as it was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong(pub usize);

const OPEN: &str = "{{";
const CLOSE: &str = "}}";

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateError`] for a hole that is not closed, or that is none of those there are.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = source;
        while let Some((text, after)) = rest.split_once(OPEN) {
            let line = 1 + source.len().checked_sub(after.len()).map_or(0, |at| lines(source, at));
            if !text.is_empty() {
                pieces.push(Piece::Text(text.to_owned()));
            }
            // The braces in quotes would end nothing, so they are looked for first.
            if let Some(after) = quoted(after) {
                pieces.push(Piece::Text(OPEN.to_owned()));
                rest = after;
                continue;
            }
            let Some((inside, after)) = after.split_once(CLOSE) else {
                let message = format!(
                    "a {OPEN} is not closed; write {CLOSE}, or {OPEN} \"{OPEN}\" {CLOSE} for the braces themselves"
                );
                return Err(TemplateError { line, message });
            };
            pieces.push(Piece::Hole(hole(inside.trim()).map_err(|message| TemplateError { line, message })?));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self { source: source.to_owned(), pieces })
    }

    /// Its holes, in order.
    pub fn holes(&self) -> impl Iterator<Item = &Hole> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Hole(hole) => Some(hole),
            Piece::Text(_) => None,
        })
    }

    /// Whether nothing would ever be asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.source.trim().is_empty()
    }

    /// The text with its holes filled, at most `limit` bytes of it.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn fill<'a>(&'a self, limit: usize, value: impl Fn(&'a Hole) -> &'a str) -> Result<String, TooLong> {
        let texts = || {
            self.pieces.iter().map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                Piece::Hole(hole) => value(hole),
            })
        };
        let length = texts().fold(0_usize, |sum, text| sum.saturating_add(text.len()));
        if length > limit {
            return Err(TooLong(length));
        }
        Ok(texts().collect())
    }
}

/// As it was written.
impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

/// Ends of lines before a place.
fn lines(text: &str, before: usize) -> usize {
    text.bytes().take(before).filter(|byte| *byte == b'\n').count()
}

/// What comes after a hole that holds nothing but two braces in quotes.
fn quoted(after: &str) -> Option<&str> {
    let inside = after.trim_start().strip_prefix("\"{{\"")?;
    inside.trim_start().strip_prefix(CLOSE)
}

fn hole(inside: &str) -> Result<Hole, String> {
    let words: Vec<&str> = inside.split('.').map(str::trim).collect();
    let field = |word: &str| match word {
        "text" => Some(Field::Text),
        "ok" => Some(Field::Ok),
        "error" => Some(Field::Error),
        _ => None,
    };
    match words[..] {
        ["inputs", name] if is_name(name) => Ok(Hole::Input(name.to_owned())),
        ["steps", name, word] if is_name(name) => match field(word) {
            Some(field) => Ok(Hole::Step { name: name.to_owned(), field }),
            None => Err(format!("steps.{name} has no '{}'; it has text, ok and error", word.escape_debug())),
        },
        _ => Err(format!(
            "'{}' can't be filled in; write inputs.NAME, or steps.NAME with .text, .ok or .error",
            inside.chars().take(60).collect::<String>().escape_debug()
        )),
    }
}

/// Names of flows' steps and inputs: they stand in templates, tags and file names.
#[must_use]
pub(super) fn is_name(text: &str) -> bool {
    const MAX_NAME: usize = 40;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (1..=MAX_NAME).contains(&text.len()) && text.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(hole: &Hole) -> &str {
        match hole {
            Hole::Input(name) => name,
            Hole::Step { field: Field::Text, .. } => "{{ inputs.secret }}",
            Hole::Step { field: Field::Ok, .. } => "true",
            Hole::Step { field: Field::Error, .. } => "",
        }
    }

    fn filled(source: &str) -> String {
        Template::parse(source).unwrap().fill(1_000, value).unwrap()
    }

    #[test]
    fn holes_are_filled_and_what_is_filled_in_is_not_read_again() {
        assert_eq!(filled("no holes } }} {"), "no holes } }} {");
        assert_eq!(filled("{{inputs.a}}{{  inputs.b-2\n}}"), "ab-2");
        assert_eq!(filled("[{{ steps.x.text }}]"), "[{{ inputs.secret }}]");
        assert_eq!(filled("{{ steps.x.ok }}{{ steps.x.error }}"), "true");
        assert_eq!(filled(r#"write {{ "{{" }} inputs.a }}"#), "write {{ inputs.a }}");
    }

    #[test]
    fn mistakes_name_their_line_and_what_to_write() {
        let says = |source: &str| Template::parse(source).unwrap_err().to_string();
        insta::assert_snapshot!(
            [
                "one\ntwo {{ inputs.a",
                "{{ }}",
                "{{ inputs }}",
                "{{ steps.a }}",
                "\n\n{{ steps.a.output }}",
                "{{ env.HOME }}",
                "{{ inputs.a | upper }}",
            ].map(says).join("\n"),
            @r#"
        line 2: a {{ is not closed; write }}, or {{ "{{" }} for the braces themselves
        line 1: '' can't be filled in; write inputs.NAME, or steps.NAME with .text, .ok or .error
        line 1: 'inputs' can't be filled in; write inputs.NAME, or steps.NAME with .text, .ok or .error
        line 1: 'steps.a' can't be filled in; write inputs.NAME, or steps.NAME with .text, .ok or .error
        line 3: steps.a has no 'output'; it has text, ok and error
        line 1: 'env.HOME' can't be filled in; write inputs.NAME, or steps.NAME with .text, .ok or .error
        line 1: 'inputs.a | upper' can't be filled in; write inputs.NAME, or steps.NAME with .text, .ok or .error
        "#
        );
    }

    #[test]
    fn what_would_be_too_long_is_never_made() {
        let template = Template::parse("{{ inputs.long }}{{ inputs.long }}").unwrap();
        assert_eq!(template.fill(7, value), Err(TooLong(8)));
        assert_eq!(template.fill(8, value).as_deref(), Ok("longlong"));
    }

    proptest! {
        #[test]
        fn whatever_is_filled_in_stands_there_as_it_is(before in "[^{]{0,9}", result in ".{0,40}", after in "[^{]{0,9}") {
            let template = Template::parse(&format!("{before}{{{{ steps.a.text }}}}{after}")).unwrap();
            let filled = template.fill(10_000, |_| result.as_str()).unwrap();
            prop_assert_eq!(filled, format!("{before}{result}{after}"));
        }

        #[test]
        fn any_text_is_read_or_refused(source in ".{0,80}") {
            if let Ok(template) = Template::parse(&source) {
                template.fill(10_000, |_| "").unwrap();
            }
        }
    }
}
