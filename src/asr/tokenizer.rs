//! Tokens and words: `tokenizer.json`, Whisper's special tokens found by name, and text split into words.
//!
//! Immutable after loading; pure functions of ids and text.

use std::collections::HashSet;

use super::{
    Task,
    model::{ModelError, config::ModelConfig},
};

/// The file's name, for messages.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// What a decoder writes for bytes that are no character (yet).
const REPLACEMENT: char = '\u{fffd}';
/// Languages written without spaces: a word is the smallest run of tokens that is whole characters.
const UNSPACED: [&str; 6] = ["zh", "ja", "th", "lo", "my", "yue"];
/// Punctuation that joins the word after it, and the word before it (`timing.py` of openai/whisper).
const OPENING: &str = "\"'“¿([{-";
/// See [`OPENING`].
const CLOSING: &str = "\"'.。,，!！?？:：”)]}、";

/// Whisper's special tokens. The optional ones are missing in English-only or unusual vocabularies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Specials {
    /// `<|endoftext|>`
    pub end: u32,
    /// `<|startoftranscript|>`
    pub start: u32,
    /// `<|transcribe|>`
    pub transcribe: Option<u32>,
    /// `<|translate|>`
    pub translate: Option<u32>,
    /// `<|startofprev|>`
    pub previous: Option<u32>,
    /// `<|nospeech|>`, in older vocabularies `<|nocaptions|>`
    pub no_speech: Option<u32>,
    /// `<|notimestamps|>`
    pub no_timestamps: Option<u32>,
    /// `<|0.00|>`; every id from here on is a timestamp.
    pub first_timestamp: u32,
}

/// The text side of a model.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// By name.
    pub specials: Specials,
    /// ISO code and token, in the order of the tokens.
    pub languages: Vec<(String, u32)>,
    /// False for English-only models, whose prompt names neither language nor task.
    pub multilingual: bool,
    /// Ids that are not text.
    added: HashSet<u32>,
}

/// A run of tokens that makes one word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenWord {
    /// With the space before it, where the language has one.
    pub text: String,
    /// How many tokens it has.
    pub tokens: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// The file does not parse, lacks a token that every Whisper has, or has more tokens than the model.
    pub fn read(bytes: &[u8], config: &ModelConfig) -> Result<Self, ModelError> {
        let inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|e| ModelError::Damaged { file: TOKENIZER_FILE.into(), reason: e.to_string() })?;
        let wrong = |reason: String| ModelError::Config { file: TOKENIZER_FILE.into(), reason };
        let added: HashSet<u32> = inner.get_added_tokens_decoder().into_keys().collect();
        let find = |name: &str| inner.token_to_id(name);
        let need = |name: &str| find(name).ok_or_else(|| wrong(format!("it has no token {name}")));
        let no_timestamps = find("<|notimestamps|>");
        let first_timestamp = match (find("<|0.00|>"), no_timestamps) {
            (Some(id), _) => id,
            // Older conversions leave the timestamps out of the file; they follow the last special token.
            (None, Some(id)) => id + 1,
            (None, None) => config.dims.vocab_size as u32,
        };
        let specials = Specials {
            end: need("<|endoftext|>")?,
            start: need("<|startoftranscript|>")?,
            transcribe: find("<|transcribe|>"),
            translate: find("<|translate|>"),
            previous: find("<|startofprev|>"),
            no_speech: find("<|nospeech|>").or_else(|| find("<|nocaptions|>")),
            no_timestamps,
            first_timestamp,
        };
        let known =
            [specials.transcribe, specials.translate, specials.previous, specials.no_speech, no_timestamps];
        let highest =
            known.into_iter().flatten().chain([specials.end, specials.start]).max().unwrap_or_default();
        if highest as usize >= config.dims.vocab_size {
            let size = config.dims.vocab_size;
            return Err(wrong(format!("token {highest} is outside the model's vocabulary of {size}")));
        }
        let languages = languages(&inner, &added, config.dims.vocab_size);
        // tiny.en and its kind have 51,864 tokens and no file that says so in older conversions.
        let multilingual =
            config.multilingual.unwrap_or(specials.transcribe.is_some() && config.dims.vocab_size != 51_864)
                && !languages.is_empty();
        Ok(Self { inner, specials, languages, multilingual, added })
    }

    /// The ids of a text; special tokens in it are read as plain text's would be.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<u32> {
        // Fails only for normalisers that Whisper does not have; a prompt that cannot be read is left out.
        let ids = self.inner.encode_fast(text, false).map(|e| e.get_ids().to_vec()).unwrap_or_default();
        ids.into_iter().filter(|&id| self.is_text(id)).collect()
    }

    /// The text of the text tokens among `ids`; broken characters become U+FFFD.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        let text: Vec<u32> = ids.iter().copied().filter(|&id| self.is_text(id)).collect();
        self.inner.decode(&text, true).unwrap_or_default()
    }

    /// True for ordinary text: neither special nor a timestamp nor the end.
    #[must_use]
    pub fn is_text(&self, id: u32) -> bool {
        !self.is_timestamp(id) && !self.added.contains(&id)
    }

    /// True for timestamp tokens.
    #[must_use]
    pub const fn is_timestamp(&self, id: u32) -> bool {
        id >= self.specials.first_timestamp
    }

    /// Seconds that a timestamp token stands for.
    #[must_use]
    pub fn seconds(&self, id: u32) -> f64 {
        f64::from(id.saturating_sub(self.specials.first_timestamp)) * super::align::SECONDS_PER_POSITION
    }

    /// The token of a language by ISO code.
    #[must_use]
    pub fn language(&self, code: &str) -> Option<u32> {
        self.languages.iter().find(|(known, _)| known == code).map(|&(_, id)| id)
    }

    /// The token of a task; none in English-only models.
    #[must_use]
    pub const fn task(&self, task: Task) -> Option<u32> {
        match task {
            Task::Transcribe => self.specials.transcribe,
            Task::Translate => self.specials.translate,
        }
    }

    /// Splits text tokens into words as Whisper does: at spaces, or at whole characters where a language has none.
    /// The words' texts join to the text of the tokens, and their token counts add up.
    #[must_use]
    pub fn words(&self, tokens: &[u32], language: Option<&str>) -> Vec<TokenWord> {
        let pieces = self.characters(tokens);
        if language.is_some_and(|code| UNSPACED.contains(&code)) {
            return pieces;
        }
        let mut words: Vec<TokenWord> = Vec::new();
        for piece in pieces {
            let punctuation =
                !piece.text.trim().is_empty() && piece.text.trim().chars().all(|c| c.is_ascii_punctuation());
            match words.last_mut() {
                Some(last) if !piece.text.starts_with(' ') && !punctuation => {
                    last.text.push_str(&piece.text);
                    last.tokens += piece.tokens;
                }
                _ => words.push(piece),
            }
        }
        words
    }

    /// Splits tokens at the points where whole characters end.
    fn characters(&self, tokens: &[u32]) -> Vec<TokenWord> {
        let whole = self.decode(tokens);
        let mut pieces = Vec::new();
        let (mut start, mut offset) = (0, 0);
        for end in 1..=tokens.len() {
            let text = self.decode(tokens.get(start..end).unwrap_or_default());
            // A replacement character is final only if the whole text has one in the same place.
            let broken = text.find(REPLACEMENT).is_some_and(|at| {
                !whole.get(offset + at..).is_some_and(|rest| rest.starts_with(REPLACEMENT))
            });
            if !broken || end == tokens.len() {
                offset += text.len();
                pieces.push(TokenWord { text, tokens: end - start });
                start = end;
            }
        }
        pieces
    }
}

/// All `<|xx|>` and `<|xxx|>` of the vocabulary: nothing else in it has that form.
fn languages(inner: &tokenizers::Tokenizer, added: &HashSet<u32>, vocabulary: usize) -> Vec<(String, u32)> {
    let mut found: Vec<(String, u32)> = added
        .iter()
        .filter(|&&id| (id as usize) < vocabulary)
        .filter_map(|&id| {
            let token = inner.id_to_token(id)?;
            let code = token.strip_prefix("<|")?.strip_suffix("|>")?;
            let form = (2..=3).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_lowercase());
            form.then(|| (code.to_owned(), id))
        })
        .collect();
    found.sort_unstable_by_key(|&(_, id)| id);
    found
}

/// Attaches punctuation to the word that it belongs to. `merge(into, from)` must move everything of `from`;
/// what is left with an empty text is removed.
pub fn attach_punctuation<T>(words: &mut Vec<T>, text: fn(&T) -> &str, merge: fn(&mut T, &mut T, Side)) {
    let only = |text: &str, set: &str| {
        let text = text.trim();
        !text.is_empty() && text.chars().all(|c| set.contains(c))
    };
    // Opening punctuation, from the back: it stands alone after a space and joins what follows.
    for i in (0..words.len().saturating_sub(1)).rev() {
        let (left, right) = words.split_at_mut(i + 1);
        if let (Some(mark), Some(word)) = (left.last_mut(), right.iter_mut().find(|w| !text(w).is_empty()))
            && text(mark).starts_with(' ')
            && only(text(mark), OPENING)
        {
            merge(word, mark, Side::Before);
        }
    }
    words.retain(|w| !text(w).is_empty());
    // Closing punctuation joins what precedes it, unless a space does.
    for i in 1..words.len() {
        let before = (0..i).rev().find(|&j| words.get(j).is_some_and(|w| !text(w).is_empty()));
        let (left, right) = words.split_at_mut(i);
        if let (Some(word), Some(mark)) = (before.and_then(|j| left.get_mut(j)), right.first_mut())
            && !text(word).ends_with(' ')
            && !text(mark).starts_with(' ')
            && only(text(mark), CLOSING)
        {
            merge(word, mark, Side::After);
        }
    }
    words.retain(|w| !text(w).is_empty());
}

/// Where merged punctuation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// In front of the word.
    Before,
    /// Behind it.
    After,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(words: &[&str]) -> Vec<String> {
        let mut words: Vec<String> = words.iter().map(|&w| w.to_owned()).collect();
        attach_punctuation(
            &mut words,
            |w| w,
            |into, from, side| {
                let from = std::mem::take(from);
                *into = match side {
                    Side::Before => from + into,
                    Side::After => std::mem::take(into) + &from,
                };
            },
        );
        words
    }

    #[test]
    fn punctuation_joins_its_word() {
        assert_eq!(attached(&[" Hello", ",", " \"", "world", "!", "?"]), [" Hello,", " \"world!?"]);
        assert_eq!(attached(&[".", " a"]), [".", " a"]);
        assert_eq!(attached(&[" (", "yes", ")", "."]), [" (yes)."]);
        assert_eq!(attached(&[" a", " -"]), [" a", " -"]);
        assert_eq!(attached(&[]), Vec::<String>::new());
    }
}
