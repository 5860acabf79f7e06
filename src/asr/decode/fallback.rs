//! Is a result good enough, silence, or worth another try at a higher temperature?
//!
//! Pure functions; the thresholds and their meaning are those of `decode_with_fallback` in openai/whisper.

use super::Decoded;
use crate::asr::DecodeOptions;

/// zlib's default level, which the reference's thresholds were chosen with.
const ZLIB_LEVEL: u8 = 6;

/// What to do with a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Keep it.
    Accept,
    /// The window holds no speech: keep nothing.
    Silence,
    /// Try the next temperature.
    Retry(Reason),
}

/// Why a result is not good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The repetition guard stopped it.
    Loop,
    /// Its text compresses too well to be speech.
    Repetitive,
    /// The model was guessing.
    Unlikely,
}

/// Bytes of `text` over bytes of its zlib form; 0 for no text.
#[must_use]
pub fn compression_ratio(text: &str) -> f32 {
    let packed = miniz_oxide::deflate::compress_to_vec_zlib(text.as_bytes(), ZLIB_LEVEL);
    text.len() as f32 / packed.len() as f32
}

/// Judges a result whose text has this compression ratio.
#[must_use]
pub fn judge(options: &DecodeOptions, result: &Decoded, compression_ratio: f32) -> Verdict {
    let unlikely = options.log_prob_threshold.is_some_and(|least| result.avg_logprob() < least);
    let quiet = options.no_speech_threshold.is_some_and(|most| result.no_speech > most);
    // Without a log-probability threshold the no-speech probability decides alone.
    if quiet && (unlikely || options.log_prob_threshold.is_none()) {
        return Verdict::Silence;
    }
    if result.looped.is_some() {
        return Verdict::Retry(Reason::Loop);
    }
    if options.compression_ratio_threshold.is_some_and(|most| compression_ratio > most) {
        return Verdict::Retry(Reason::Repetitive);
    }
    if unlikely { Verdict::Retry(Reason::Unlikely) } else { Verdict::Accept }
}

/// When every temperature has failed: prefers results that are merely unlikely to repetitive ones, then likelier ones.
#[must_use]
pub fn rank(verdict: Verdict, result: &Decoded) -> (bool, f32) {
    let repetitive = matches!(verdict, Verdict::Retry(Reason::Loop | Reason::Repetitive));
    (!repetitive, result.avg_logprob())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asr::decode::guard::Loop;

    fn result(avg_logprob: f64, no_speech: f32) -> Decoded {
        Decoded { tokens: vec![1; 9], sum_logprob: avg_logprob * 10.0, ended: true, looped: None, no_speech }
    }

    #[test]
    fn good_results_pass() {
        assert_eq!(judge(&DecodeOptions::default(), &result(-0.3, 0.1), 1.2), Verdict::Accept);
    }

    #[test]
    fn each_threshold_trips_alone() {
        let options = DecodeOptions::default();
        assert_eq!(judge(&options, &result(-0.3, 0.1), 2.5), Verdict::Retry(Reason::Repetitive));
        assert_eq!(judge(&options, &result(-1.1, 0.1), 1.0), Verdict::Retry(Reason::Unlikely));
        assert_eq!(judge(&options, &result(-1.1, 0.7), 1.0), Verdict::Silence);
        let looped = Decoded { looped: Some(Loop { period: 1, repeats: 12 }), ..result(-0.1, 0.0) };
        assert_eq!(judge(&options, &looped, 1.0), Verdict::Retry(Reason::Loop));
    }

    #[test]
    fn a_confident_result_is_speech_whatever_the_no_speech_token_says() {
        assert_eq!(judge(&DecodeOptions::default(), &result(-0.3, 0.9), 1.0), Verdict::Accept);
        let alone = DecodeOptions { log_prob_threshold: None, ..DecodeOptions::default() };
        assert_eq!(judge(&alone, &result(-0.3, 0.9), 1.0), Verdict::Silence);
    }

    #[test]
    fn thresholds_that_are_off_never_trip() {
        let off = DecodeOptions {
            compression_ratio_threshold: None,
            log_prob_threshold: None,
            no_speech_threshold: None,
            ..DecodeOptions::default()
        };
        assert_eq!(judge(&off, &result(-9.0, 1.0), 50.0), Verdict::Accept);
    }

    #[test]
    fn repetition_compresses() {
        // zlib.compress of Python: 2.2 % and 0.93 for these.
        assert!(compression_ratio(&" thank you".repeat(30)) > 10.0);
        assert!(compression_ratio(" hello there, how are you today") < 1.2);
        assert!(compression_ratio("").abs() < f32::EPSILON);
    }

    #[test]
    fn the_least_bad_result_is_kept() {
        let (good, bad) = (result(-1.5, 0.0), result(-0.2, 0.0));
        assert!(
            rank(Verdict::Retry(Reason::Unlikely), &good) > rank(Verdict::Retry(Reason::Repetitive), &bad)
        );
        assert!(rank(Verdict::Retry(Reason::Unlikely), &bad) > rank(Verdict::Retry(Reason::Unlikely), &good));
    }
}
