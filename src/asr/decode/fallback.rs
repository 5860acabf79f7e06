//! Is a result good enough, silence, or worth another try at a higher temperature?
//!
//! Pure functions; the thresholds and their meaning are those of `decode_with_fallback` in openai/whisper.

use miniz_oxide::deflate::core::{
    CompressionStrategy, CompressorOxide, TDEFLFlush, compress_to_output, create_comp_flags_from_zip_params,
};

use super::Decoded;
use crate::asr::DecodeOptions;

/// zlib's default level, which the reference's thresholds were chosen with.
const ZLIB_LEVEL: i32 = 6;

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
    // zlib writes each block with a code of its own or with the fixed one, whichever is shorter; this encoder has to
    // be told. The difference is large for the short texts of one window.
    let packed = packed(text, CompressionStrategy::Default).min(packed(text, CompressionStrategy::Fixed));
    text.len() as f32 / packed as f32
}

/// Bytes of the zlib form of `text`, written with one kind of code.
fn packed(text: &str, strategy: CompressionStrategy) -> usize {
    const ZLIB_HEADER: i32 = 1;
    let flags = create_comp_flags_from_zip_params(ZLIB_LEVEL, ZLIB_HEADER, strategy as i32);
    let mut compressor = CompressorOxide::new(flags);
    let mut size = 0;
    // Counts instead of keeping; refusing output is the only way to fail.
    let (_, _) = compress_to_output(&mut compressor, text.as_bytes(), TDEFLFlush::Finish, |bytes| {
        size += bytes.len();
        true
    });
    size
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
        let tokens = vec![1; 9];
        Decoded { tokens, sum_logprob: avg_logprob * 10.0, ended: true, no_speech, ..Decoded::default() }
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
        // Beside them what Python's zlib says, which the thresholds were chosen with.
        for (text, zlib) in [
            (" thank you".repeat(30), 13.04),
            (" I am going to the store".repeat(5), 3.43),
            (" yes".repeat(12), 3.2),
            (
                " so we went to the house and then we went to the house and then we went to the garden"
                    .into(),
                1.79,
            ),
            (" hello there, how are you today".into(), 0.795),
        ] {
            let ratio = compression_ratio(&text);
            assert!((ratio / zlib - 1.0).abs() < 0.08, "{text}: {ratio}, zlib {zlib}");
        }
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
