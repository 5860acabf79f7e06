//! Finds sessions by what was said in them: decrypts and looks. Good for thousands, as there is no index of what is
//! encrypted.

use super::{Filter, SessionStore, StoreError, Stored};
use crate::agents::session::TurnRecord;

/// Turns that are read in one go.
const PAGE: usize = 50;

/// A session in which something was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The session.
    pub stored: Stored,
    /// The number of the turn; `None` if it was found in the list of files.
    pub turn: Option<u64>,
    /// What stands around it, on one line.
    pub excerpt: String,
}

/// Characters of the text on both sides of what was found.
const AROUND: usize = 40;

/// Sessions that fit the filter and hold this text, in any case of letters; latest first, each once.
///
/// # Errors
/// As [`SessionStore::list`].
pub async fn search(
    store: &dyn SessionStore,
    text: &str,
    filter: &Filter,
    limit: usize,
) -> Result<Vec<Found>, StoreError> {
    let wanted = text.to_lowercase();
    let mut found = Vec::new();
    for stored in store.list(filter).await? {
        if found.len() == limit {
            break;
        }
        let (mut next, mut hit) = (0, None);
        while hit.is_none() {
            let turns = store.turns(&stored.session.id, next, PAGE).await?;
            let Some(last) = turns.last() else { break };
            next = last.number + 1;
            hit = turns.iter().find_map(|turn| in_turn(turn, &wanted));
        }
        let files = || stored.session.words.files.iter().find_map(|file| excerpt(file, &wanted));
        let (turn, excerpt) = match hit {
            Some((number, excerpt)) => (Some(number), excerpt),
            None => match files() {
                Some(excerpt) => (None, excerpt),
                None => continue,
            },
        };
        found.push(Found { stored, turn, excerpt });
    }
    Ok(found)
}

fn in_turn(turn: &TurnRecord, wanted: &str) -> Option<(u64, String)> {
    let words = &turn.words;
    let texts = [Some(&words.prompt), Some(&words.response), words.failure.as_ref()];
    let excerpt = texts.into_iter().flatten().find_map(|text| excerpt(text, wanted))?;
    Some((turn.number, excerpt))
}

/// What stands around the first place where a text holds another one (in small letters), if it does.
fn excerpt(text: &str, wanted: &str) -> Option<String> {
    let lower = text.to_lowercase();
    let at = lower.find(wanted)?;
    // Small letters may be longer or shorter; counting them is near enough for an excerpt.
    let before = lower.get(..at)?.chars().count();
    let start = before.saturating_sub(AROUND);
    let length = before - start + wanted.chars().count() + AROUND;
    let piece: String =
        text.chars().skip(start).take(length).map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    let (head, tail) =
        (if start > 0 { "…" } else { "" }, if start + length < text.chars().count() { "…" } else { "" });
    Some(format!("{head}{}{tail}", piece.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_shows_what_was_found_in_one_line() {
        assert_eq!(
            excerpt("why does\nthe BUILD fail?", "build").as_deref(),
            Some("why does the BUILD fail?")
        );
        assert_eq!(excerpt("nothing", "build"), None);
        let long = format!("{} needle {}", "x".repeat(500), "y".repeat(500));
        let found = excerpt(&long, "needle").unwrap();
        assert!(found.starts_with("…x") && found.contains(" needle ") && found.ends_with("y…"), "{found}");
        assert!(found.chars().count() < 100);
    }
}
