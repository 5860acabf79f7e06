//! Which events are shown. Pure.

use std::{collections::HashSet, fmt, time::Duration};

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    buffer::Buffer,
    row::{Kind, Row},
    search::{Finder, Search},
    types::Prefixes,
};
use crate::bus::Pattern;

/// How far back the events that are shown may lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::cmd::dash) enum Range {
    #[default]
    All,
    FiveMinutes,
    Quarter,
    Hour,
    SixHours,
    Day,
}

impl Range {
    pub(in crate::cmd::dash) const EACH: [Self; 6] =
        [Self::All, Self::FiveMinutes, Self::Quarter, Self::Hour, Self::SixHours, Self::Day];

    /// The word for it, as it is shown and written.
    pub(in crate::cmd::dash) const fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::FiveMinutes => "5min",
            Self::Quarter => "15min",
            Self::Hour => "1hr",
            Self::SixHours => "6hr",
            Self::Day => "24hr",
        }
    }

    const fn length(self) -> Option<Duration> {
        let minutes = match self {
            Self::All => return None,
            Self::FiveMinutes => 5,
            Self::Quarter => 15,
            Self::Hour => 60,
            Self::SixHours => 360,
            Self::Day => 1440,
        };
        Some(Duration::from_secs(minutes * 60))
    }

    /// What is older is not shown.
    fn since(self, now: Timestamp) -> Option<Timestamp> {
        self.length().map(|length| now.checked_sub(length).unwrap_or(Timestamp::MIN))
    }
}

impl std::str::FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::EACH.into_iter().find(|range| range.word() == text).ok_or_else(|| {
            format!("'{text}' is no time range; there are {}", Self::EACH.map(Self::word).join(", "))
        })
    }
}

/// Events that belong together: those that have an id of this set, their own or that of what led to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cmd::dash) struct Chain {
    /// The event that it was asked for.
    pub(in crate::cmd::dash) of: Uuid,
    ids: HashSet<Uuid>,
}

/// Ids that a chain may have; a chain as long as this is no chain that a person follows.
const MAX_CHAIN: usize = 50_000;

impl Chain {
    /// The chain of an event, as far as the buffer knows it.
    pub(in crate::cmd::dash) fn of(row: &Row, buffer: &Buffer) -> Self {
        let mut chain = Self { of: row.id, ids: HashSet::new() };
        chain.take(row);
        chain.complete(buffer);
        chain
    }

    fn take(&mut self, row: &Row) -> bool {
        let before = self.ids.len();
        if before < MAX_CHAIN {
            self.ids.insert(row.id);
            self.ids.extend(&row.correlations);
        }
        self.ids.len() > before
    }

    pub(in crate::cmd::dash) fn has(&self, row: &Row) -> bool {
        row.kind == Kind::Event
            && (self.ids.contains(&row.id) || row.correlations.iter().any(|id| self.ids.contains(id)))
    }

    /// Takes a row that has come, if it belongs here. True if the chain has ids now that earlier rows may have.
    pub(in crate::cmd::dash) fn follow(&mut self, row: &Row) -> bool {
        self.has(row) && {
            let known = row.correlations.iter().all(|id| self.ids.contains(id));
            self.take(row) && !known
        }
    }

    /// Takes what belongs to what was taken, until nothing more does.
    pub(in crate::cmd::dash) fn complete(&mut self, buffer: &Buffer) {
        loop {
            let before = self.ids.len();
            // What led to an event mostly came before it.
            for row in buffer.rows().rev() {
                if self.has(row) {
                    self.take(row);
                }
            }
            if self.ids.len() == before {
                break;
            }
        }
    }
}

/// Which events are shown: those that all of these let through.
#[derive(Debug, Clone, Default)]
pub(in crate::cmd::dash) struct Filter {
    pub(in crate::cmd::dash) domain: Option<String>,
    /// A type, or a pattern as in AMQP.
    pub(in crate::cmd::dash) event_type: Option<Pattern>,
    pub(in crate::cmd::dash) app: Option<String>,
    pub(in crate::cmd::dash) range: Range,
    pub(in crate::cmd::dash) session: Option<String>,
    pub(in crate::cmd::dash) errors: Errors,
    /// As it was typed.
    pub(in crate::cmd::dash) query: String,
    pub(in crate::cmd::dash) search: Search,
    pub(in crate::cmd::dash) chain: Option<Chain>,
    /// Which types are not listed, whatever else is asked for.
    pub(in crate::cmd::dash) listed: Prefixes,
}

/// Which events count as errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::cmd::dash) enum Errors {
    /// None is asked for: everything is shown.
    #[default]
    Any,
    /// Those whose type says so.
    ByType,
    /// Those too whose payload says so (`success` is false, or `status` is `error`).
    ByPayload,
}

impl Errors {
    pub(in crate::cmd::dash) const fn next(self) -> Self {
        match self {
            Self::Any => Self::ByType,
            Self::ByType => Self::ByPayload,
            Self::ByPayload => Self::Any,
        }
    }

    /// The word for it in the panel.
    pub(in crate::cmd::dash) const fn word(self) -> Option<&'static str> {
        match self {
            Self::Any => None,
            Self::ByType => Some("by type"),
            Self::ByPayload => Some("by type or payload"),
        }
    }

    pub(in crate::cmd::dash) const WORDS: [&'static str; 2] = ["by type", "by type or payload"];

    /// # Errors
    /// A word that is none of these.
    pub(in crate::cmd::dash) fn of(word: Option<&str>) -> Result<Self, String> {
        match word {
            None => Ok(Self::Any),
            Some("by type") => Ok(Self::ByType),
            Some("by type or payload") => Ok(Self::ByPayload),
            Some(word) => {
                Err(format!("'{word}' says nothing about errors; there are {}", Self::WORDS.join(", ")))
            }
        }
    }

    fn has(self, row: &Row) -> bool {
        match self {
            Self::Any => true,
            Self::ByType => row.is_error,
            Self::ByPayload => row.is_error || row.has_failed,
        }
    }
}

impl Filter {
    /// How many conditions there are.
    pub(in crate::cmd::dash) fn count(&self) -> usize {
        [
            self.domain.is_some(),
            self.event_type.is_some(),
            self.app.is_some(),
            self.range != Range::All,
            self.session.is_some(),
            self.errors != Errors::Any,
            !self.search.is_nothing(),
            self.chain.is_some(),
        ]
        .into_iter()
        .filter(|is_set| *is_set)
        .count()
    }

    /// Whether what lies outside the buffer's time has to be looked at again as time goes by.
    pub(in crate::cmd::dash) fn ages(&self) -> bool {
        self.range != Range::All
    }

    /// Chooses a domain; a type of another domain is chosen no more.
    pub(in crate::cmd::dash) fn set_domain(&mut self, domain: Option<String>) {
        if self.domain != domain {
            self.event_type = None;
        }
        self.domain = domain;
    }

    /// Everything is shown again; what is never listed stays so.
    pub(in crate::cmd::dash) fn clear(&mut self) {
        *self = Self { listed: std::mem::take(&mut self.listed), ..Self::default() };
    }

    /// Something that looks at rows one after another.
    pub(in crate::cmd::dash) fn sieve(&self, now: Timestamp) -> Sieve<'_> {
        Sieve { filter: self, since: self.range.since(now), finder: self.search.finder() }
    }
}

/// A filter at work.
#[derive(Debug)]
pub(in crate::cmd::dash) struct Sieve<'a> {
    filter: &'a Filter,
    since: Option<Timestamp>,
    finder: Finder<'a>,
}

impl Sieve<'_> {
    /// Whether the row is shown. Gaps always are: what is missing could have matched.
    pub(in crate::cmd::dash) fn lets_through(&mut self, row: &Row, buffer: &Buffer) -> bool {
        let filter = self.filter;
        if row.kind == Kind::Gap {
            return self.is_young(row);
        }
        let is =
            |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        is(&filter.domain, &row.domain)
            && is(&filter.app, &row.app)
            && is(&filter.session, &row.session)
            && filter.event_type.as_ref().is_none_or(|pattern| pattern.matches(&row.event_type))
            && filter.errors.has(row)
            && self.is_young(row)
            && filter.chain.as_ref().is_none_or(|chain| chain.has(row))
            && (filter.listed.is_empty() || filter.listed.says(&row.event_type).unwrap_or(true))
            && (filter.search.is_nothing() || self.finder.finds(row, buffer))
    }

    /// Whether the row is not too old for the filter.
    pub(in crate::cmd::dash) fn is_young(&self, row: &Row) -> bool {
        self.since.is_none_or(|since| row.taken >= since)
    }
}

impl fmt::Display for Filter {
    /// The conditions, as short as can be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let mut add =
            |name: &str, value: Option<&str>| parts.extend(value.map(|value| format!("{name}:{value}")));
        add("domain", self.domain.as_deref());
        add("type", self.event_type.as_ref().map(Pattern::as_str));
        add("source", self.app.as_deref());
        add("time", (self.range != Range::All).then(|| self.range.word()));
        add("session", self.session.as_deref());
        let short = self.chain.as_ref().map(|chain| chain.of.to_string().chars().take(8).collect::<String>());
        add("chain", short.as_deref());
        parts.extend(self.errors.word().map(|word| format!("errors:{word}")));
        parts.extend((!self.search.is_nothing()).then(|| self.query.trim().to_owned()));
        f.write_str(&parts.join(" "))
    }
}
