//! What the decoder reads before it writes: previous text, hotwords, language and task, and how much it may write.

use crate::asr::{DecodeOptions, tokenizer::Tokenizer};

/// Fewest tokens a window may take, however short its audio.
const LEAST_TOKENS: usize = 50;
/// Most tokens that a second of speech takes (the fastest talkers say about ten syllables).
const TOKENS_PER_SECOND: f64 = 22.5;

/// Tokens to feed, and where the transcript starts in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// All of them.
    pub tokens: Vec<u32>,
    /// Index of `<|startoftranscript|>`.
    pub start: usize,
    /// Tokens at the end that the transcript begins with.
    pub given: usize,
}

/// Whether the decoder is told to write timestamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamps {
    /// The prompt ends before `<|notimestamps|>`.
    Yes,
    /// The prompt ends with it.
    No,
}

/// `<|startoftranscript|>`, language, task and `<|notimestamps|>`, as far as the model knows them.
#[must_use]
pub fn transcript_start(
    tokenizer: &Tokenizer,
    options: &DecodeOptions,
    language: Option<u32>,
    stamps: Stamps,
) -> Vec<u32> {
    let specials = &tokenizer.specials;
    let mut tokens = vec![specials.start];
    if tokenizer.multilingual {
        tokens.extend(language);
        tokens.extend(tokenizer.task(options.task));
    }
    if stamps == Stamps::No {
        tokens.extend(specials.no_timestamps);
    }
    tokens
}

/// The whole prompt of a window. Previous text and hotwords together take at most half of the model's positions:
/// hotwords keep their beginning, the text its end.
#[must_use]
pub fn build(
    tokenizer: &Tokenizer,
    options: &DecodeOptions,
    language: Option<u32>,
    positions: usize,
) -> Prompt {
    let stamps = if options.timestamps { Stamps::Yes } else { Stamps::No };
    let head = transcript_start(tokenizer, options, language, stamps);
    let before = previous(tokenizer, options, (positions / 2).saturating_sub(1));
    let start = before.len();
    let given = prefix(tokenizer, options, positions / 2);
    Prompt { given: given.len(), tokens: [before, head, given].concat(), start }
}

/// What the transcript begins with. Nothing where timestamps are written (they would be missing in it), or where there
/// would be little room for more: the window is then decoded from its start.
fn prefix(tokenizer: &Tokenizer, options: &DecodeOptions, room: usize) -> Vec<u32> {
    let Some(text) = options.prefix.as_deref().map(str::trim).filter(|text| !text.is_empty()) else {
        return Vec::new();
    };
    let tokens = tokenizer.encode(&format!(" {text}"));
    if options.timestamps || tokens.len() > room { Vec::new() } else { tokens }
}

fn previous(tokenizer: &Tokenizer, options: &DecodeOptions, room: usize) -> Vec<u32> {
    let Some(mark) = tokenizer.specials.previous else { return Vec::new() };
    let encode = |text: &Option<String>| match text.as_deref().map(str::trim) {
        Some(text) if !text.is_empty() => tokenizer.encode(&format!(" {text}")),
        _ => Vec::new(),
    };
    let mut context = encode(&options.hotwords);
    context.truncate(room);
    let text = encode(&options.prompt);
    let keep = text.len().min(room - context.len());
    context.extend(text.iter().skip(text.len() - keep));
    if context.is_empty() { Vec::new() } else { [vec![mark], context].concat() }
}

/// New tokens that a window may take: what the caller allows, what the model has positions for, and what anybody
/// could say in that time.
#[must_use]
pub fn budget(options: &DecodeOptions, prompt: usize, positions: usize, seconds: f64) -> usize {
    let by_audio = LEAST_TOKENS.max((seconds * TOKENS_PER_SECOND) as usize);
    let by_model = positions.saturating_sub(prompt);
    by_audio.min(by_model).min(options.max_tokens.unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_bound_wins() {
        let mut options = DecodeOptions::default();
        assert_eq!(budget(&options, 4, 448, 30.0), 444);
        assert_eq!(budget(&options, 4, 448, 10.0), 225);
        assert_eq!(budget(&options, 4, 448, 0.5), 50);
        options.max_tokens = Some(7);
        assert_eq!(budget(&options, 4, 448, 30.0), 7);
        assert_eq!(budget(&options, 500, 448, 30.0), 0);
    }
}
