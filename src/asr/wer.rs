//! Word error rate: how far a transcript is from what was said. Pure.

/// The edits that turn a reference into a hypothesis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct WordErrors {
    /// Words in the reference.
    pub words: usize,
    /// Words heard as another word.
    pub substitutions: usize,
    /// Words not heard.
    pub deletions: usize,
    /// Words heard that nobody said.
    pub insertions: usize,
}

impl WordErrors {
    /// Compares two texts after [`normalize`].
    #[must_use]
    pub fn between(reference: &str, hypothesis: &str) -> Self {
        align(&normalize(reference), &normalize(hypothesis))
    }

    /// All edits.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.substitutions + self.deletions + self.insertions
    }

    /// Edits for each word of the reference: 0 is perfect, and more than 1 is possible. Without a reference it is 0
    /// when nothing was heard, else 1.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "counts of words are far below 2^52")]
    pub fn rate(&self) -> f64 {
        match (self.words, self.total()) {
            (0, 0) => 0.0,
            (0, _) => 1.0,
            (words, errors) => errors as f64 / words as f64,
        }
    }
}

impl std::ops::AddAssign for WordErrors {
    fn add_assign(&mut self, other: Self) {
        self.words += other.words;
        self.substitutions += other.substitutions;
        self.deletions += other.deletions;
        self.insertions += other.insertions;
    }
}

/// The words of a text as they are compared: lower case, apostrophes taken out (`don't` is `dont`), every other
/// character that is neither letter, digit nor combining mark taken for a space (`forty-two` is two words).
#[must_use]
pub fn normalize(text: &str) -> Vec<String> {
    let plain: String = text
        .chars()
        .filter(|c| !matches!(c, '\'' | '\u{2019}'))
        .map(|c| if c.is_alphanumeric() || is_mark(c) { c } else { ' ' })
        .collect();
    plain.to_lowercase().split_whitespace().map(str::to_owned).collect()
}

/// Combining marks that belong to a letter but are no letter: the general block, and those of Devanagari to Thai,
/// without which the words of these scripts fall apart.
const fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{900}'..='\u{dff}' | '\u{e31}'..='\u{e4e}')
        && !matches!(c, '\u{964}' | '\u{965}')
}

/// Levenshtein's distance with the kinds of the edits; of equal ways the one with most substitutions.
fn align(reference: &[String], hypothesis: &[String]) -> WordErrors {
    // One row of the table: the best way to turn the reference so far into each prefix of the hypothesis.
    let mut row: Vec<WordErrors> =
        (0..=hypothesis.len()).map(|insertions| WordErrors { insertions, ..WordErrors::default() }).collect();
    for said in reference {
        let mut diagonal = row[0];
        row[0].deletions += 1;
        for (i, heard) in hypothesis.iter().enumerate() {
            let mut matched = diagonal;
            matched.substitutions += usize::from(said != heard);
            let mut deleted = row[i + 1];
            deleted.deletions += 1;
            let mut inserted = row[i];
            inserted.insertions += 1;
            diagonal = row[i + 1];
            row[i + 1] = [deleted, inserted]
                .into_iter()
                .fold(matched, |best, way| if way.total() < best.total() { way } else { best });
        }
    }
    let mut errors = row.pop().unwrap_or_default();
    errors.words = reference.len();
    errors
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(reference: &str, hypothesis: &str) -> (usize, usize, usize) {
        let errors = WordErrors::between(reference, hypothesis);
        (errors.substitutions, errors.deletions, errors.insertions)
    }

    #[test]
    fn edits_are_told_apart() {
        assert_eq!(counts("open the door", "open the door"), (0, 0, 0));
        assert_eq!(counts("open the door", "open a door"), (1, 0, 0));
        assert_eq!(counts("open the door", "open door"), (0, 1, 0));
        assert_eq!(counts("open the door", "please open the door"), (0, 0, 1));
        assert_eq!(counts("a b c", ""), (0, 3, 0));
        assert_eq!(counts("", "a b"), (0, 0, 2));
        assert!((WordErrors::between("a b c d", "a x d e").rate() - 0.75).abs() < 1e-9);
        assert!((WordErrors::between("", "a").rate() - 1.0).abs() < 1e-9);
        assert!(WordErrors::between("", "").rate().abs() < 1e-9);
    }

    #[test]
    fn case_and_punctuation_do_not_count() {
        assert_eq!(counts("Don't stop; forty-two!", "don\u{2019}t STOP forty two"), (0, 0, 0));
        assert_eq!(normalize("  ÉCOLE, straße…\u{a0}10 %"), ["école", "straße", "10"]);
        assert_eq!(normalize("नमस्ते दुनिया।"), ["नमस्ते", "दुनिया"]);
        assert!(normalize(" -- … ").is_empty());
    }

    #[test]
    fn errors_add_up_over_recordings() {
        let mut sum = WordErrors::between("a b", "a");
        sum += WordErrors::between("c d", "c d e");
        assert_eq!((sum.words, sum.total()), (4, 2));
    }

    fn sentence() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("[abc]", 0..12)
    }

    proptest! {
        #[test]
        fn the_laws_of_a_distance(a in sentence(), b in sentence(), c in sentence()) {
            let distance = |x: &[String], y: &[String]| align(x, y).total();
            prop_assert_eq!(distance(&a, &a), 0);
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert!(distance(&a, &c) <= distance(&a, &b) + distance(&b, &c));
            let errors = align(&a, &b);
            prop_assert_eq!(a.len() + errors.insertions, b.len() + errors.deletions);
        }
    }
}
