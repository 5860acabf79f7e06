//! Beam search over one window, the way transformers does it: twice as many candidates as beams, finished ones kept
//! by their mean log-probability, no early stop while a running beam could still enter the list.
//!
//! The beams of a window share its audio; a beam's own cache moves to its first child and is copied only for others.

use candle_core::Result;

use super::{Decoded, guard, search};
use crate::asr::{
    kernels::softmax::log_sum_exp,
    model::{
        cache::RowCache,
        decoder::{Decoder, Row},
    },
    tokenizer::Tokenizer,
};

/// How wide and by what measure to search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beams {
    /// Hypotheses kept.
    pub size: usize,
    /// Exponent of the length that sums of log-probabilities are divided by.
    pub length_penalty: f32,
}

/// A hypothesis that goes on.
#[derive(Debug, Clone)]
struct Running {
    tokens: Vec<u32>,
    sum: f32,
    /// Index of the beam that it continues.
    parent: usize,
}

/// A hypothesis that has ended.
#[derive(Debug, Clone)]
struct Finished {
    tokens: Vec<u32>,
    sum: f32,
    score: f32,
    ended: bool,
}

/// One more token for one beam.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    parent: usize,
    token: u32,
    sum: f32,
}

/// The best `count` continuations of all beams, best first. `scores` holds one row of log-probabilities a beam.
fn best(beams: &[Running], scores: &[Vec<f32>], count: usize) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::with_capacity(count + 1);
    for (parent, (beam, scores)) in beams.iter().zip(scores).enumerate() {
        for (token, score) in (0u32..).zip(scores) {
            let sum = beam.sum + score;
            let enters = found.len() < count || found.last().is_some_and(|worst| sum > worst.sum);
            if enters && sum > f32::NEG_INFINITY {
                let at = found.partition_point(|other| other.sum >= sum);
                found.insert(at, Candidate { parent, token, sum });
                found.truncate(count);
            }
        }
    }
    found
}

/// Gives every new beam the cache of the beam that it continues.
fn inherit(
    decoder: &Decoder,
    caches: Vec<RowCache>,
    beams: &[Running],
    capacity: usize,
) -> Result<Vec<RowCache>> {
    let mut heir: Vec<Option<usize>> = vec![None; caches.len()];
    for (child, beam) in beams.iter().enumerate() {
        if let Some(heir @ None) = heir.get_mut(beam.parent) {
            *heir = Some(child);
        }
    }
    let mut slots: Vec<Option<RowCache>> = beams.iter().map(|_| None).collect();
    let mut spare = Vec::new();
    for (cache, heir) in caches.into_iter().zip(&heir) {
        match heir.and_then(|child| slots.get_mut(child)) {
            Some(slot) => *slot = Some(cache),
            None => spare.push(cache),
        }
    }
    for (child, beam) in beams.iter().enumerate() {
        if slots.get(child).is_some_and(Option::is_some) {
            continue;
        }
        let mut copy = spare.pop().map_or_else(|| decoder.new_cache(capacity), Ok)?;
        let source = heir.get(beam.parent).copied().flatten().and_then(|i| slots.get(i)?.as_ref());
        let Some(source) = source else { candle_core::bail!("a beam without a parent") };
        copy.copy_from(source)?;
        if let Some(slot) = slots.get_mut(child) {
            *slot = Some(copy);
        }
    }
    Ok(slots.into_iter().flatten().collect())
}

/// Decodes one window; the job's temperature and seed are not used.
///
/// # Errors
/// The device failed.
pub fn run(decoder: &Decoder, tokenizer: &Tokenizer, job: &search::Job<'_>, beams: Beams) -> Result<Decoded> {
    let size = beams.size.max(1);
    let Some((cache, logits, no_speech)) = search::prefill(decoder, tokenizer, &[job])?.pop() else {
        candle_core::bail!("a window without a prompt");
    };
    let given = search::given(job);
    let capacity = cache.capacity();
    let mut caches = vec![cache];
    let mut running = vec![Running { tokens: given.clone(), sum: 0.0, parent: 0 }];
    let mut finished: Vec<Finished> = Vec::new();
    let mut looping: Option<(Running, guard::Loop)> = None;
    let mut logits = vec![logits];
    for length in 1..=job.budget {
        for (beam, row) in running.iter().zip(&mut logits) {
            let norm = log_sum_exp(row);
            row.iter_mut().for_each(|value| *value -= norm);
            job.rules.apply(&beam.tokens, row);
        }
        let scale = (length as f32).powf(beams.length_penalty);
        let mut next: Vec<Running> = Vec::with_capacity(size);
        for (rank, candidate) in best(&running, &logits, 2 * size).into_iter().enumerate() {
            let Candidate { parent, token, sum } = candidate;
            let ended = token == tokenizer.specials.end;
            let mut tokens = running.get(parent).map(|beam| beam.tokens.clone()).unwrap_or_default();
            if !ended {
                tokens.push(token);
            }
            if ended || length == job.budget {
                if rank < size {
                    finished.push(Finished { tokens, sum, score: sum / scale, ended });
                }
                continue;
            }
            let text: Vec<u32> = tokens.iter().copied().filter(|&t| tokenizer.is_text(t)).collect();
            let beam = Running { tokens, sum, parent };
            match guard::find(&text) {
                Some(found) => looping = looping.or(Some((beam, found))),
                None if next.len() < size => next.push(beam),
                None => {}
            }
        }
        finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        finished.truncate(size);
        let hopeless = finished.len() == size
            && next.first().zip(finished.last()).is_some_and(|(best, worst)| best.sum / scale <= worst.score);
        if next.is_empty() || hopeless {
            break;
        }
        caches = inherit(decoder, caches, &next, capacity)?;
        running = next;
        let last: Vec<[u32; 1]> =
            running.iter().map(|b| [b.tokens.last().copied().unwrap_or_default()]).collect();
        let mut rows: Vec<Row<'_>> = caches
            .iter_mut()
            .zip(&last)
            .map(|(cache, tokens)| Row { cache, audio: job.audio, tokens, wanted: &[0] })
            .collect();
        logits = decoder.forward(&mut rows, &[])?.logits;
    }
    let result = match (finished.into_iter().next(), looping) {
        (Some(best), _) => Decoded {
            tokens: best.tokens,
            sum_logprob: f64::from(best.sum),
            ended: best.ended,
            ..Decoded::default()
        },
        (None, Some((beam, found))) => Decoded {
            tokens: beam.tokens,
            sum_logprob: f64::from(beam.sum),
            looped: Some(found),
            ..Decoded::default()
        },
        (None, None) => Decoded::default(),
    };
    Ok(Decoded { no_speech, given: given.len().min(result.tokens.len()), ..result })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn beam(sum: f32) -> Running {
        Running { tokens: Vec::new(), sum, parent: 0 }
    }

    #[test]
    fn candidates_come_from_all_beams_best_first() {
        let found =
            best(&[beam(0.0), beam(-1.0)], &[vec![-3.0, -2.0, f32::NEG_INFINITY], vec![-0.5, -9.0, -1.5]], 4);
        let picked: Vec<_> = found.iter().map(|c| (c.parent, c.token, c.sum)).collect();
        assert_eq!(picked, [(1, 0, -1.5), (0, 1, -2.0), (1, 2, -2.5), (0, 0, -3.0)]);
    }

    proptest! {
        #[test]
        fn candidates_are_the_largest_sums(scores in prop::collection::vec(prop::collection::vec(-9.0f32..0.0, 7), 1..4), count in 1usize..9) {
            let beams: Vec<_> = (0..scores.len()).map(|i| beam(-(i as f32))).collect();
            let mut all: Vec<f32> = beams.iter().zip(&scores).flat_map(|(b, s)| s.iter().map(move |v| b.sum + v)).collect();
            all.sort_by(|a, b| b.total_cmp(a));
            all.truncate(count);
            let found: Vec<f32> = best(&beams, &scores, count).iter().map(|c| c.sum).collect();
            prop_assert_eq!(found, all);
        }
    }
}
