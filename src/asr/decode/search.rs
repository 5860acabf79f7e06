//! Greedy and sampled decoding of many windows in one batch.
//!
//! Rows have their own prompts, positions and temperatures; a row that ends leaves the batch, the others go on.

use candle_core::Result;

use super::{
    Decoded, guard,
    prompt::Prompt,
    rules::Rules,
    sample::{Random, draw, likeliest},
};
use crate::asr::{
    kernels::softmax::softmax_in_place,
    model::{
        cache::{CrossCache, RowCache},
        decoder::{Decoder, Row},
    },
    tokenizer::Tokenizer,
};

/// One window to decode.
#[derive(Debug)]
pub struct Job<'a> {
    /// Its audio.
    pub audio: &'a CrossCache,
    /// What is read first.
    pub prompt: Prompt,
    /// Which tokens may come.
    pub rules: Rules,
    /// Most tokens to write, the end included.
    pub budget: usize,
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// Of the draws at other temperatures.
    pub seed: u64,
}

struct Active<'a, 'b> {
    job: &'b Job<'a>,
    index: usize,
    cache: RowCache,
    random: Random,
    next: u32,
}

/// Probability of one token in a row of logits; 0 for none.
#[must_use]
pub fn probability(logits: &[f32], token: Option<u32>) -> f32 {
    let mut weights = logits.to_vec();
    softmax_in_place(&mut weights);
    token.and_then(|t| weights.get(t as usize).copied()).unwrap_or(0.0)
}

/// Reads a job's prompt into a fresh cache; the logits that follow it, and the no-speech probability.
pub(super) fn prefill(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    job: &Job<'_>,
) -> Result<(RowCache, Vec<f32>, f32)> {
    let mut cache = decoder.new_cache(job.prompt.tokens.len() + job.budget)?;
    let last = job.prompt.tokens.len().saturating_sub(1);
    let wanted = if job.prompt.start == last { vec![last] } else { vec![job.prompt.start, last] };
    let row = Row { cache: &mut cache, audio: job.audio, tokens: &job.prompt.tokens, wanted: &wanted };
    let mut logits = decoder.forward(&mut [row], &[])?.logits;
    let no_speech = logits.first().map_or(0.0, |l| probability(l, tokenizer.specials.no_speech));
    let Some(next) = logits.pop() else { candle_core::bail!("a prompt without tokens") };
    Ok((cache, next, no_speech))
}

/// Decodes every job to its end; the results are in the order of the jobs.
///
/// # Errors
/// The device failed.
pub fn run(decoder: &Decoder, tokenizer: &Tokenizer, jobs: &[Job<'_>]) -> Result<Vec<Decoded>> {
    let mut results: Vec<Decoded> = jobs.iter().map(|_| Decoded::default()).collect();
    let mut active = Vec::with_capacity(jobs.len());
    for (index, (job, result)) in jobs.iter().zip(&mut results).enumerate() {
        let (cache, mut logits, no_speech) = prefill(decoder, tokenizer, job)?;
        result.no_speech = no_speech;
        let mut row = Active { job, index, cache, random: Random::new(job.seed), next: 0 };
        if advance(&mut row, result, tokenizer, &mut logits) {
            active.push(row);
        }
    }
    while !active.is_empty() {
        let tokens: Vec<[u32; 1]> = active.iter().map(|row| [row.next]).collect();
        let mut rows: Vec<Row<'_>> = active
            .iter_mut()
            .zip(&tokens)
            .map(|(row, token)| Row {
                cache: &mut row.cache,
                audio: row.job.audio,
                tokens: token,
                wanted: &[0],
            })
            .collect();
        let mut logits = decoder.forward(&mut rows, &[])?.logits.into_iter();
        active.retain_mut(|row| match (results.get_mut(row.index), logits.next()) {
            (Some(result), Some(mut logits)) => advance(row, result, tokenizer, &mut logits),
            _ => false,
        });
    }
    Ok(results)
}

/// Takes the next token of a row from its logits; false when the row has ended.
fn advance(
    row: &mut Active<'_, '_>,
    result: &mut Decoded,
    tokenizer: &Tokenizer,
    logits: &mut [f32],
) -> bool {
    if result.tokens.len() >= row.job.budget {
        return false;
    }
    row.job.rules.apply(&result.tokens, logits);
    let choice = if row.job.temperature > 0.0 {
        draw(logits, row.job.temperature, &mut row.random)
    } else {
        likeliest(logits)
    };
    // Nothing is left to say when every token is ruled out.
    let Some((token, logprob)) = choice else { return false };
    result.sum_logprob += f64::from(logprob);
    if token == tokenizer.specials.end {
        result.ended = true;
        return false;
    }
    result.tokens.push(token);
    row.next = token;
    let text: Vec<u32> = result.tokens.iter().copied().filter(|&t| tokenizer.is_text(t)).collect();
    result.looped = guard::find(&text);
    result.looped.is_none() && result.tokens.len() < row.job.budget && row.cache.len() < row.cache.capacity()
}
