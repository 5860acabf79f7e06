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

/// What a job has read before it writes: its cache, the logits of its first token, and the no-speech probability.
pub(super) type Prefilled = (RowCache, Vec<f32>, f32);

/// Reads the prompts of all jobs into fresh caches, in one batch.
pub(super) fn prefill(decoder: &Decoder, tokenizer: &Tokenizer, jobs: &[&Job<'_>]) -> Result<Vec<Prefilled>> {
    let mut caches = Vec::with_capacity(jobs.len());
    let mut wanted = Vec::with_capacity(jobs.len());
    for job in jobs {
        caches.push(decoder.new_cache(job.prompt.tokens.len() + job.budget)?);
        let last = job.prompt.tokens.len().saturating_sub(1);
        wanted.push(if job.prompt.start == last { vec![last] } else { vec![job.prompt.start, last] });
    }
    let mut rows: Vec<Row<'_>> = jobs
        .iter()
        .zip(&mut caches)
        .zip(&wanted)
        .map(|((job, cache), wanted)| Row { cache, audio: job.audio, tokens: &job.prompt.tokens, wanted })
        .collect();
    let mut logits = decoder.forward(&mut rows, &[])?.logits.into_iter();
    let mut read = Vec::with_capacity(jobs.len());
    for (cache, wanted) in caches.into_iter().zip(&wanted) {
        let own: Vec<Vec<f32>> = logits.by_ref().take(wanted.len()).collect();
        let no_speech = own.first().map_or(0.0, |l| probability(l, tokenizer.specials.no_speech));
        let Some(next) = own.into_iter().next_back() else { candle_core::bail!("a prompt without tokens") };
        read.push((cache, next, no_speech));
    }
    Ok(read)
}

/// Tokens that a job's transcript begins with.
pub(super) fn given(job: &Job<'_>) -> Vec<u32> {
    let tokens = &job.prompt.tokens;
    tokens.get(tokens.len().saturating_sub(job.prompt.given)..).unwrap_or_default().to_vec()
}

/// Decodes every job to its end; the results are in the order of the jobs.
///
/// # Errors
/// The device failed.
pub fn run(decoder: &Decoder, tokenizer: &Tokenizer, jobs: &[Job<'_>]) -> Result<Vec<Decoded>> {
    let mut results: Vec<Decoded> = Vec::with_capacity(jobs.len());
    let mut active = Vec::with_capacity(jobs.len());
    let read = prefill(decoder, tokenizer, &jobs.iter().collect::<Vec<_>>())?;
    for (index, (job, (cache, mut logits, no_speech))) in jobs.iter().zip(read).enumerate() {
        let tokens = given(job);
        let mut result = Decoded { given: tokens.len(), tokens, no_speech, ..Decoded::default() };
        let mut row = Active { job, index, cache, random: Random::new(job.seed), next: 0 };
        if advance(&mut row, &mut result, tokenizer, &mut logits) {
            active.push(row);
        }
        results.push(result);
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
    let most = result.given + row.job.budget;
    if result.tokens.len() >= most {
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
    result.looped.is_none() && result.tokens.len() < most && row.cache.len() < row.cache.capacity()
}
