//! From a window's audio to tokens: prompts, the rules about which token may come next, search, and the decision
//! whether a result is good enough.
//!
//! Everything but [`search`] and [`beam`] is pure; those drive the network on the caller's thread and end when every
//! row has ended or spent its budget.

pub mod beam;
pub mod fallback;
pub mod guard;
pub mod prompt;
pub mod rules;
pub mod sample;
pub mod search;

/// One decoded row before it is turned into text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decoded {
    /// Generated tokens, without the end; the tokens that were given come first.
    pub tokens: Vec<u32>,
    /// How many of them were given and not generated.
    pub given: usize,
    /// Sum of their log-probabilities, and of the end's when it was reached.
    pub sum_logprob: f64,
    /// True when the row ended by itself, false when a limit stopped it.
    pub ended: bool,
    /// The repetition guard stopped it; `tokens` still holds the loop.
    pub looped: Option<guard::Loop>,
    /// Probability of `<|nospeech|>` where the transcript starts.
    pub no_speech: f32,
}

impl Decoded {
    /// Mean log-probability of the generated tokens, the end included.
    #[must_use]
    pub fn avg_logprob(&self) -> f32 {
        (self.sum_logprob / (self.tokens.len().saturating_sub(self.given) + 1) as f64) as f32
    }
}
