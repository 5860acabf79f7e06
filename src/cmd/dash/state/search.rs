//! Looking for words in events: as they are, roughly, or by a pattern. Pure.
//!
//! Plain text and patterns are looked for in the type and in the payload's JSON as it stands in the envelope, which
//! costs no parsing; rough (fuzzy) search looks at what a row shows: type, program, session and gist. Who types eight or
//! more characters of an id finds the events that have it.

use nucleo_matcher::{
    Config, Matcher, Utf32Str,
    pattern::{CaseMatching, Normalization, Pattern as FuzzyPattern},
};
use regex::bytes::{Regex, RegexBuilder};

use super::{buffer::Buffer, row::Row};

/// Characters of an id that are taken for one.
const ID: usize = 8;

/// A compiled pattern may not be larger than this, in bytes: what is typed must not fill the memory.
const MAX_PATTERN: usize = 1 << 20;

/// What to look for.
#[derive(Debug, Clone, Default)]
pub(in crate::cmd::dash) enum Search {
    /// Everything is found.
    #[default]
    Nothing,
    /// Text, without regard to case; perhaps the beginning of an id.
    Text { regex: Regex, id: Option<String> },
    /// A regular expression, without regard to case.
    Pattern(Regex),
    /// The letters in this order, with others between.
    Fuzzy(FuzzyPattern),
}

/// Why a search can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(in crate::cmd::dash) struct SearchError(String);

impl Search {
    /// `words`, `~fuzzy` or `/pattern/` (the last slash may be missing).
    ///
    /// # Errors
    /// A pattern that is none.
    pub(in crate::cmd::dash) fn parse(query: &str) -> Result<Self, SearchError> {
        let query = query.trim();
        if query.is_empty() {
            return Ok(Self::Nothing);
        }
        if let Some(rough) = query.strip_prefix('~') {
            let rough = rough.trim();
            let pattern = FuzzyPattern::parse(rough, CaseMatching::Ignore, Normalization::Smart);
            return Ok(if rough.is_empty() { Self::Nothing } else { Self::Fuzzy(pattern) });
        }
        if let Some(pattern) = query.strip_prefix('/') {
            let pattern = pattern.strip_suffix('/').unwrap_or(pattern);
            return match pattern {
                "" => Ok(Self::Nothing),
                pattern => compile(pattern).map(Self::Pattern),
            };
        }
        // As it stands in JSON, without the quotes around it.
        let quoted = serde_json::to_string(query).unwrap_or_default();
        let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(query);
        let is_id = query.len() >= ID && query.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        let id = is_id.then(|| query.to_ascii_lowercase());
        Ok(Self::Text { regex: compile(&regex::escape(inner))?, id })
    }

    pub(in crate::cmd::dash) const fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    /// Something that looks at rows one after another.
    pub(in crate::cmd::dash) fn finder(&self) -> Finder<'_> {
        let fuzzy = matches!(self, Self::Fuzzy(_)).then(|| Rough {
            matcher: Matcher::new(Config::DEFAULT),
            text: String::new(),
            chars: Vec::new(),
        });
        Finder { search: self, fuzzy }
    }
}

fn compile(pattern: &str) -> Result<Regex, SearchError> {
    let built = RegexBuilder::new(pattern).case_insensitive(true).size_limit(MAX_PATTERN).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            SearchError("the pattern is too large; use a shorter one".to_owned())
        }
        error => {
            // The last line says what is wrong; those before it draw where.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            SearchError(format!("no such pattern: {last}"))
        }
    })
}

/// A search at work; what it needs is made once.
#[derive(Debug)]
pub(in crate::cmd::dash) struct Finder<'a> {
    search: &'a Search,
    fuzzy: Option<Rough>,
}

#[derive(Debug)]
struct Rough {
    matcher: Matcher,
    text: String,
    chars: Vec<char>,
}

impl Finder<'_> {
    pub(in crate::cmd::dash) fn finds(&mut self, row: &Row, buffer: &Buffer) -> bool {
        match (self.search, &mut self.fuzzy) {
            (Search::Text { regex, id }, _) => {
                regex.is_match(row.event_type.as_bytes())
                    || regex.is_match(buffer.payload(row))
                    || id.as_deref().is_some_and(|id| has_id(row, id))
            }
            (Search::Pattern(regex), _) => {
                regex.is_match(row.event_type.as_bytes()) || regex.is_match(buffer.payload(row))
            }
            (Search::Fuzzy(pattern), Some(Rough { matcher, text, chars })) => {
                text.clear();
                for part in [&*row.event_type, " ", &row.app, " ", &row.session, " ", &row.summary] {
                    text.push_str(part);
                }
                pattern.score(Utf32Str::new(text, chars), matcher).is_some()
            }
            (Search::Nothing | Search::Fuzzy(_), _) => true,
        }
    }
}

fn has_id(row: &Row, start: &str) -> bool {
    let starts = |id: &uuid::Uuid| {
        let mut buffer = uuid::Uuid::encode_buffer();
        id.hyphenated().encode_lower(&mut buffer).starts_with(start)
    };
    starts(&row.id)
        || row.correlations.iter().any(starts)
        || row.session.to_ascii_lowercase().starts_with(start)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::testing::*, *};

    fn found(query: &str, buffer: &Buffer) -> Vec<u64> {
        let search = Search::parse(query).unwrap();
        let mut finder = search.finder();
        buffer.rows().filter(|row| finder.finds(row, buffer)).map(|row| row.seq).collect()
    }

    #[test]
    fn words_roughly_and_by_pattern() {
        let buffer = buffer_of([
            event("voice.transcription.completed", json!({ "text": "Open the DOOR, please" })),
            event(
                "agent.tool.invoked",
                json!({ "tool": "Bash", "said": "a \"quoted\" word", "ort": "Größe" }),
            ),
            event("agent.error", json!({ "code": 429 })),
        ]);
        for (query, expected) in [
            ("door", &[0][..]),
            ("AGENT.", &[1, 2]),
            ("a \"quoted\" word", &[1]),
            ("GRÖSSE", &[]),
            ("größe", &[1]),
            ("429", &[2]),
            ("correlation_ids", &[]),
            ("~vtcmp", &[0]),
            ("~agnt inv", &[1]),
            ("/^agent/", &[1, 2]),
            ("/\"code\":4\\d\\d/", &[2]),
            ("/door", &[0]),
            ("", &[0, 1, 2]),
            ("~", &[0, 1, 2]),
            ("/", &[0, 1, 2]),
        ] {
            assert_eq!(found(query, &buffer), expected, "{query}");
        }
        let error = Search::parse("/(/").unwrap_err().to_string();
        assert!(error.starts_with("no such pattern: ") && error.contains("group"), "{error}");
        let large = Search::parse("/(\\w{1000}){1000}/").unwrap_err().to_string();
        assert!(large.contains("too large"), "{large}");
    }

    #[test]
    fn an_event_is_found_by_its_id_and_by_those_that_led_to_it() {
        let first = event("a.b", json!({}));
        let then = after(&first, event("c.d", json!({})));
        let (id, session) = (first.event_id.to_string(), "0197c2f0-aaaa-7000-8000-000000000001");
        let mut third = event("e.f", json!({ "n": 3 }));
        third.payload = json!({ "session_id": session });
        let buffer = buffer_of([first, then, third]);
        assert_eq!(found(&id.get(..18).unwrap().to_uppercase(), &buffer), [0, 1]);
        assert_eq!(found(session.get(..13).unwrap(), &buffer), [2]);
        assert_eq!(found(id.get(..7).unwrap(), &buffer), [] as [u64; 0], "too short for an id");
    }
}
