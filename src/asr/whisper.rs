//! The real [`Transcriber`]: joins front end, network, decoding and alignment.
//!
//! Owned by one thread, which every call blocks; large products use all threads of rayon's pool (or of a pool of its
//! own when [`LoadOptions::threads`] says so). Dropping it frees weights and threads.

use std::{
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{Device, Tensor};

use super::{
    DecodeOptions, Hypothesis, ModelInfo, Segment, SttError, Task, Transcriber, Window, Word,
    align::{self, SECONDS_PER_POSITION},
    decode::{
        Decoded, beam, fallback, guard,
        prompt::{self, Stamps},
        rules::{Rules, TimestampRules},
        search,
    },
    kernels::softmax::softmax_in_place,
    mel::{FrontEnd, HOP},
    model::{
        ModelError, Whisper,
        cache::CrossCache,
        decoder::Row,
        device::{self, DeviceChoice},
        heads::{self, AlignmentHead, Family},
        load,
        source::Files,
    },
    tokenizer::{TOKENIZER_FILE, Tokenizer},
    weights::{ModelFiles, ModelSource},
};
use crate::audio::SAMPLE_RATE_HZ;

/// Most beams a request may ask for; each costs a cache and a row of every batch, and nothing improves beyond ten.
const MAX_BEAMS: usize = 64;

/// Memory for the cross-attention keys and values of windows that are decoded together: 34 windows of Whisper base,
/// one of large-v3 (490 MB).
const GROUP_BYTES: usize = 640 << 20;

/// Rounds of the self-test, of which the fastest counts.
const REHEARSALS: usize = 3;
/// Tokens in a second of ordinary speech (counted on English recordings).
const SPOKEN_TOKENS_PER_SECOND: f64 = 3.3;

/// How a model is loaded.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions {
    /// Where it runs.
    pub device: DeviceChoice,
    /// Threads for large products; `None` uses the process's pool, which has one a core.
    pub threads: Option<NonZeroUsize>,
}

/// Whisper, ready to transcribe.
#[derive(Debug)]
pub struct WhisperTranscriber {
    model: Arc<Whisper>,
    tokenizer: Arc<Tokenizer>,
    front_end: FrontEnd,
    heads: Vec<AlignmentHead>,
    device: Device,
    info: ModelInfo,
    pool: Option<rayon::ThreadPool>,
}

/// A window between encoding and text.
struct Heard<'a> {
    options: &'a DecodeOptions,
    audio: CrossCache,
    seconds: f64,
    /// ISO code, token and probability.
    language: Option<(String, u32, f32)>,
}

/// A result and how it was judged.
struct Attempt {
    decoded: Decoded,
    ratio: f32,
    verdict: fallback::Verdict,
    temperature: f32,
}

impl From<candle_core::Error> for SttError {
    fn from(error: candle_core::Error) -> Self {
        Self::Inference(error.to_string())
    }
}

impl From<ModelError> for SttError {
    fn from(error: ModelError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl WhisperTranscriber {
    /// Loads a model.
    ///
    /// # Errors
    /// A file is missing, damaged or contradicts another, or the device cannot be used.
    pub fn load(source: &ModelSource, options: LoadOptions) -> Result<Self, ModelError> {
        let device = options.device.open()?;
        let model = load::load(&source.files, &device)?;
        let files = Files::new(&source.files);
        let tokenizer = Tokenizer::read(&files.required(TOKENIZER_FILE)?, &model.config)?;
        let dims = &model.config.dims;
        let family = match (tokenizer.multilingual, dims.num_mel_bins) {
            (false, _) => Family::English,
            (true, 128) => Family::Multilingual128,
            (true, _) => Family::Multilingual,
        };
        let heads = model.config.alignment_heads.clone().unwrap_or_else(|| {
            heads::fallback(dims.decoder_layers, dims.decoder_attention_heads, dims.encoder_layers, family)
        });
        let languages = if tokenizer.multilingual {
            tokenizer.languages.iter().map(|(code, _)| code.clone()).collect()
        } else {
            vec!["en".into()]
        };
        let info = ModelInfo {
            name: source.name.clone(),
            window_s: dims.max_source_positions as f64 * SECONDS_PER_POSITION,
            multilingual: tokenizer.multilingual,
            languages,
            // Its card says so: the text before never appeared in its training.
            prompts: !matches!(source.files, ModelFiles::Embedded(_)),
            parameters: model.parameters,
            device: device::name(&device),
        };
        let pool = options.threads.map(|threads| {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(threads.get());
            builder.thread_name(|i| format!("whisper-{i}")).build()
        });
        let pool = pool
            .transpose()
            .map_err(|e| ModelError::Device { device: device::name(&device), reason: e.to_string() })?;
        Ok(Self {
            front_end: FrontEnd::new(dims.num_mel_bins),
            heads,
            device,
            info,
            pool,
            tokenizer: Arc::new(tokenizer),
            model: Arc::new(model),
        })
    }

    /// The network, to drive it step by step.
    #[must_use]
    pub fn model(&self) -> &Arc<Whisper> {
        &self.model
    }

    /// The tokens and their names.
    #[must_use]
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Heads whose attention follows the audio.
    #[must_use]
    pub fn alignment_heads(&self) -> &[AlignmentHead] {
        &self.heads
    }

    /// The encoder's states for a window: `[positions, width]`.
    ///
    /// # Errors
    /// The device failed.
    pub fn encode(&self, samples: &[f32]) -> candle_core::Result<Tensor> {
        let config = &self.model.config;
        let (frames, bins) = (config.frames(), config.dims.num_mel_bins);
        let mel = self.front_end.window(samples, frames);
        self.model.encoder.forward(&Tensor::from_vec(mel, (frames, bins), &self.device)?)
    }

    /// Probability of each language of the model, in its order, and of `<|nospeech|>`.
    ///
    /// # Errors
    /// The device failed.
    pub fn detect(&self, audio: &CrossCache) -> candle_core::Result<(Vec<f32>, f32)> {
        let specials = &self.tokenizer.specials;
        let mut cache = self.model.decoder.new_cache(1)?;
        let row = Row { cache: &mut cache, audio, tokens: &[specials.start], wanted: &[0] };
        let mut logits = self.model.decoder.forward(&mut [row], &[])?.logits.pop().unwrap_or_default();
        let mut languages: Vec<f32> = self
            .tokenizer
            .languages
            .iter()
            .map(|&(_, id)| logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY))
            .collect();
        softmax_in_place(&mut languages);
        softmax_in_place(&mut logits);
        let no_speech = specials.no_speech.and_then(|id| logits.get(id as usize).copied()).unwrap_or(0.0);
        Ok((languages, no_speech))
    }

    /// The encoder's states for several windows: together where that is faster.
    fn encode_all(&self, windows: &[&Window]) -> candle_core::Result<Vec<Tensor>> {
        let config = &self.model.config;
        let (frames, bins) = (config.frames(), config.dims.num_mel_bins);
        let mel = |window: &&Window| {
            Tensor::from_vec(self.front_end.window(&window.samples, frames), (frames, bins), &self.device)
        };
        let mels = windows.iter().map(mel).collect::<candle_core::Result<Vec<_>>>()?;
        self.model.encoder.forward_all(&mels)
    }

    /// Reads windows up to where the first token is written. One failure on the device is a failure of them all.
    fn hear_all<'a>(&self, windows: &'a [Window]) -> Vec<Result<Heard<'a>, SttError>> {
        let checked: Vec<Result<f64, SttError>> = windows.iter().map(|window| self.check(window)).collect();
        let good: Vec<&Window> = windows
            .iter()
            .zip(&checked)
            .filter(|(_, check)| check.is_ok())
            .map(|(window, _)| window)
            .collect();
        let states = self.encode_all(&good).map_err(SttError::from);
        let mut states = states.map(Vec::into_iter);
        let hear = |(window, checked): (&'a Window, Result<f64, SttError>)| {
            let seconds = checked?;
            let Some(states) = states.as_mut().map_err(|error| error.clone())?.next() else {
                return Err(SttError::Inference("the encoder gave no states".to_owned()));
            };
            let audio = self.model.decoder.prepare(&states)?;
            let language = self.language(&window.options, &audio)?;
            Ok(Heard { options: &window.options, audio, seconds, language })
        };
        windows.iter().zip(checked).map(hear).collect()
    }

    /// Whether a window can be decoded as asked for; its length in seconds.
    fn check(&self, window: &Window) -> Result<f64, SttError> {
        let options = &*window.options;
        let seconds = window.samples.len() as f64 / f64::from(SAMPLE_RATE_HZ);
        if window.samples.len() > self.model.config.frames() * HOP {
            return Err(SttError::BadRequest(format!(
                "{seconds:.1} s of audio in one window; {} takes at most {:.0} s",
                self.info.name, self.info.window_s
            )));
        }
        self.check_options(options)?;
        Ok(seconds)
    }

    fn check_options(&self, options: &DecodeOptions) -> Result<(), SttError> {
        let known = &self.info.languages;
        let asked = options.language.iter().chain(&options.allowed_languages);
        if let Some(unknown) = asked.into_iter().find(|code| !known.contains(code)) {
            return Err(SttError::BadRequest(format!(
                "{} does not know the language {unknown:?}; it knows {}",
                self.info.name,
                known.join(", ")
            )));
        }
        if options.task == Task::Translate && self.tokenizer.task(Task::Translate).is_none() {
            return Err(SttError::BadRequest(format!(
                "{} cannot translate; it only transcribes",
                self.info.name
            )));
        }
        if options.temperatures.iter().any(|t| !t.is_finite() || *t < 0.0)
            || !options.length_penalty.is_finite()
        {
            return Err(SttError::BadRequest(
                "a temperature must be a number from 0 up, a length penalty a number".into(),
            ));
        }
        if options.beam_size > MAX_BEAMS {
            return Err(SttError::BadRequest(format!(
                "{} beams; at most {MAX_BEAMS} are kept",
                options.beam_size
            )));
        }
        Ok(())
    }

    fn language(
        &self,
        options: &DecodeOptions,
        audio: &CrossCache,
    ) -> Result<Option<(String, u32, f32)>, SttError> {
        if !self.tokenizer.multilingual {
            return Ok(None);
        }
        if let Some(code) = &options.language {
            return Ok(self.tokenizer.language(code).map(|id| (code.clone(), id, 1.0)));
        }
        let allowed =
            |code: &String| options.allowed_languages.is_empty() || options.allowed_languages.contains(code);
        let candidates: Vec<_> =
            self.tokenizer.languages.iter().enumerate().filter(|(_, (c, _))| allowed(c)).collect();
        if let [(_, (code, id))] = candidates.as_slice() {
            return Ok(Some((code.clone(), *id, 1.0)));
        }
        let (probabilities, _) = self.detect(audio)?;
        let probability = |index: usize| probabilities.get(index).copied().unwrap_or(0.0);
        let total: f32 = candidates.iter().map(|&(index, _)| probability(index)).sum();
        let best = candidates.into_iter().max_by(|a, b| probability(a.0).total_cmp(&probability(b.0)));
        Ok(best.map(|(index, (code, id))| {
            (code.clone(), *id, probability(index) / total.max(f32::MIN_POSITIVE))
        }))
    }

    fn job<'a>(&self, heard: &'a Heard<'_>, temperature: f32) -> search::Job<'a> {
        let config = &self.model.config;
        let positions = config.dims.max_target_positions;
        let specials = &self.tokenizer.specials;
        let prompt =
            prompt::build(&self.tokenizer, heard.options, heard.language.as_ref().map(|l| l.1), positions);
        let timestamps = heard.options.timestamps.then_some(TimestampRules {
            end: specials.end,
            no_timestamps: specials.no_timestamps,
            first: specials.first_timestamp,
            max_initial_index: config.max_initial_timestamp_index,
        });
        search::Job {
            audio: &heard.audio,
            budget: prompt::budget(heard.options, prompt.tokens.len(), positions, heard.seconds),
            prompt,
            rules: Rules {
                suppress: config.suppress.clone(),
                begin_suppress: config.begin_suppress.clone(),
                timestamps,
            },
            temperature,
            // Another stream of draws at each temperature.
            seed: heard.options.seed.wrapping_add(u64::from(temperature.to_bits())),
        }
    }

    fn judge(&self, heard: &Heard<'_>, decoded: Decoded, temperature: f32) -> Attempt {
        let ratio = fallback::compression_ratio(self.tokenizer.decode(&decoded.tokens).trim());
        let verdict = fallback::judge(heard.options, &decoded, ratio);
        Attempt { decoded, ratio, verdict, temperature }
    }

    /// One try at each of these windows: the beams of one window by themselves, all others in one batch.
    fn attempt(&self, tries: &[(&Heard<'_>, f32)]) -> Vec<Result<Attempt, SttError>> {
        let alone =
            |&(heard, temperature): &(&Heard<'_>, f32)| heard.options.beam_size > 1 && temperature == 0.0;
        let jobs: Vec<search::Job<'_>> = tries
            .iter()
            .filter(|one| !alone(one))
            .map(|(heard, temperature)| self.job(heard, *temperature))
            .collect();
        // One failure on the device is a failure of the whole batch.
        let batch = search::run(&self.model.decoder, &self.tokenizer, &jobs).map_err(SttError::from);
        drop(jobs);
        let mut batch = batch.map(Vec::into_iter);
        let result = |one: &(&Heard<'_>, f32)| {
            let (heard, temperature) = *one;
            let decoded = if alone(one) {
                let beams = beam::Beams {
                    size: heard.options.beam_size,
                    length_penalty: heard.options.length_penalty,
                };
                beam::run(&self.model.decoder, &self.tokenizer, &self.job(heard, temperature), beams)?
            } else {
                batch.as_mut().map_err(|error| error.clone())?.next().unwrap_or_default()
            };
            Ok(self.judge(heard, decoded, temperature))
        };
        tries.iter().map(result).collect()
    }

    /// Tries one temperature after the other, each with all windows that no result has passed for yet; the least bad
    /// result of a window otherwise.
    fn settle(&self, heard: &[Result<Heard<'_>, SttError>]) -> Vec<Option<Result<Attempt, SttError>>> {
        let mut best: Vec<Option<Result<Attempt, SttError>>> = heard.iter().map(|_| None).collect();
        for round in 0.. {
            let mut open = Vec::new();
            let mut tries = Vec::new();
            for (i, (heard, best)) in heard.iter().zip(&best).enumerate() {
                let Ok(heard) = heard else { continue };
                let temperature = match (round, heard.options.temperatures.get(round)) {
                    (0, None) => 0.0,
                    (_, Some(temperature)) => *temperature,
                    (_, None) => continue,
                };
                let retry = match best {
                    None => true,
                    Some(Ok(attempt)) => matches!(attempt.verdict, fallback::Verdict::Retry(_)),
                    Some(Err(_)) => false,
                };
                if retry {
                    open.push(i);
                    tries.push((heard, temperature));
                }
            }
            if tries.is_empty() {
                break;
            }
            for (i, next) in open.into_iter().zip(self.attempt(&tries)) {
                let Some(best) = best.get_mut(i) else { continue };
                let keep = match (&*best, &next) {
                    (Some(Ok(best)), Ok(next)) => {
                        matches!(next.verdict, fallback::Verdict::Retry(_))
                            && fallback::rank(next.verdict, &next.decoded)
                                <= fallback::rank(best.verdict, &best.decoded)
                    }
                    _ => false,
                };
                if !keep {
                    *best = Some(next);
                }
            }
        }
        best
    }

    fn hypothesis(&self, heard: &Heard<'_>, attempt: Attempt) -> candle_core::Result<Hypothesis> {
        let Attempt { mut decoded, ratio, verdict, temperature } = attempt;
        let mut hypothesis = Hypothesis {
            language: match &heard.language {
                Some((code, _, _)) => Some(code.clone()),
                None => self.info.languages.first().cloned(),
            },
            language_probability: heard.language.as_ref().map_or(1.0, |l| l.2),
            avg_logprob: decoded.avg_logprob(),
            no_speech_prob: decoded.no_speech,
            compression_ratio: ratio,
            temperature,
            ..Hypothesis::default()
        };
        if verdict == fallback::Verdict::Silence {
            return Ok(hypothesis);
        }
        if let Some(found) = decoded.looped {
            guard::trim(&mut decoded.tokens, found, |t| self.tokenizer.is_text(t));
        }
        hypothesis.text = self.tokenizer.decode(&decoded.tokens).trim().to_owned();
        if heard.options.word_timestamps && !hypothesis.text.is_empty() {
            (hypothesis.words, hypothesis.attended) = self.words(heard, &decoded.tokens)?;
        }
        hypothesis.segments = self.segments(heard, &decoded.tokens, &hypothesis.words);
        hypothesis.tokens = decoded.tokens;
        Ok(hypothesis)
    }

    /// Times of words, and where the decoder looked for them: reads the text once more in one pass and follows the
    /// alignment heads.
    fn words(&self, heard: &Heard<'_>, tokens: &[u32]) -> candle_core::Result<(Vec<Word>, Vec<f64>)> {
        let text: Vec<u32> = tokens.iter().copied().filter(|&t| self.tokenizer.is_text(t)).collect();
        let language = heard.language.as_ref();
        let head =
            prompt::transcript_start(&self.tokenizer, heard.options, language.map(|l| l.1), Stamps::No);
        let (weights, logits) = self.forced(&heard.audio, &head, &text)?;
        // Frames that hold audio, two to a position.
        let used = (heard.seconds * f64::from(SAMPLE_RATE_HZ)) as usize;
        let used = used.div_ceil(HOP) / 2;
        let matrix = align::matrix(&weights, used, self.model.config.median_filter_width);
        let at = |positions: Vec<usize>| -> Vec<f64> {
            positions.into_iter().map(|p| p as f64 * SECONDS_PER_POSITION).collect()
        };
        let starts = at(align::warp(&matrix, used));
        let places = at(align::attended(&matrix, used));
        let end = self.tokenizer.specials.end as usize;
        let probabilities: Vec<f32> = logits
            .iter()
            .zip(&text)
            .map(|(logits, &token)| search::probability(logits.get(..end).unwrap_or(logits), Some(token)))
            .collect();
        let split = self.tokenizer.words(&text, language.map(|l| l.0.as_str()));
        Ok(align::words(split, &starts, &probabilities, &places, heard.seconds))
    }

    /// Reads `head` and `text` in one pass: the alignment heads' attention of the head's last token and of the text,
    /// and the logits that predicted each text token.
    ///
    /// # Errors
    /// Too many tokens for the model, or the device failed.
    pub fn forced(
        &self,
        audio: &CrossCache,
        head: &[u32],
        text: &[u32],
    ) -> candle_core::Result<(align::Weights, Vec<Vec<f32>>)> {
        let tokens = [head, text].concat();
        let first = head.len().saturating_sub(1);
        let wanted: Vec<usize> = (first..tokens.len().saturating_sub(1)).collect();
        let mut cache = self.model.decoder.new_cache(tokens.len())?;
        let row = Row { cache: &mut cache, audio, tokens: &tokens, wanted: &wanted };
        let output = self.model.decoder.forward(&mut [row], &self.heads)?;
        let mut weights = align::Weights::default();
        for head in output.attention.first().into_iter().flatten() {
            weights.positions = head.dim(1)?;
            weights.heads.push(head.narrow(0, first, tokens.len() - first)?.flatten_all()?.to_vec1()?);
        }
        Ok((weights, output.logits))
    }

    /// Text between timestamps; without them the whole text, from the first word to the last.
    fn segments(&self, heard: &Heard<'_>, tokens: &[u32], words: &[Word]) -> Vec<Segment> {
        let mut segments: Vec<Segment> = Vec::new();
        let mut pending: Vec<u32> = Vec::new();
        let mut start = words.first().map_or(0.0, |w| w.start);
        let mut close = |pending: &mut Vec<u32>, start: f64, end: f64| {
            let tokens = std::mem::take(pending);
            let text = self.tokenizer.decode(&tokens).trim().to_owned();
            if !text.is_empty() {
                segments.push(Segment { start, end: end.max(start), text, tokens });
            }
        };
        for &token in tokens {
            if self.tokenizer.is_timestamp(token) {
                let time = self.tokenizer.seconds(token).min(heard.seconds);
                if pending.iter().any(|token| self.tokenizer.is_text(*token)) {
                    pending.push(token);
                    close(&mut pending, start, time);
                } else {
                    pending = vec![token];
                }
                start = time;
            } else {
                pending.push(token);
            }
        }
        let end = words.last().map_or(heard.seconds, |w| w.end);
        close(&mut pending, start, end);
        segments
    }

    fn run(&self, windows: &[Window]) -> Vec<Result<Hypothesis, SttError>> {
        let heard = self.hear_all(windows);
        let settled = self.settle(&heard);
        let finish = |(heard, settled): (Result<Heard<'_>, SttError>, Option<Result<Attempt, SttError>>)| {
            let heard = heard?;
            let attempt =
                settled.unwrap_or_else(|| Err(SttError::Inference("nothing was decoded".to_owned())))?;
            self.hypothesis(&heard, attempt).map_err(SttError::from)
        };
        heard.into_iter().zip(settled).map(finish).collect()
    }

    /// What [`Transcriber::measure`] times: half a window of sound each, as many tokens as speech has, and its words
    /// aligned.
    fn rehearse(&self, windows: usize) -> Result<(), SttError> {
        let decoder = &self.model.decoder;
        let positions = self.model.config.dims.max_target_positions;
        let seconds = self.info.window_s / 2.0;
        let tone: Vec<f32> = (0..(seconds * f64::from(SAMPLE_RATE_HZ)) as usize)
            .map(|i| (i as f32 * 0.07).sin() * 0.1)
            .collect();
        let window = Window { samples: tone, options: Arc::default() };
        let text: Vec<u32> = (0..(seconds * SPOKEN_TOKENS_PER_SECOND) as u32).collect();
        let text = text.get(..text.len().min(positions / 2)).unwrap_or_default();
        let states = self.encode_all(&vec![&window; windows])?;
        let audio = states.iter().map(|s| decoder.prepare(s)).collect::<candle_core::Result<Vec<_>>>()?;
        let mut caches =
            audio.iter().map(|_| decoder.new_cache(text.len())).collect::<candle_core::Result<Vec<_>>>()?;
        for token in text {
            let tokens = [*token];
            let rows = caches.iter_mut().zip(&audio);
            let mut rows: Vec<Row<'_>> =
                rows.map(|(cache, audio)| Row { cache, audio, tokens: &tokens, wanted: &[0] }).collect();
            decoder.forward(&mut rows, &[])?;
        }
        for audio in &audio {
            self.forced(audio, &[self.tokenizer.specials.start], text)?;
        }
        Ok(())
    }

    /// Runs work on the threads that this model was given.
    fn on_own_threads<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

impl Transcriber for WhisperTranscriber {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn transcribe(&mut self, windows: &[Window]) -> Vec<Result<Hypothesis, SttError>> {
        // All windows of a group hold their keys and values at once.
        let dims = &self.model.config.dims;
        let window = 2 * dims.decoder_layers * dims.max_source_positions * dims.d_model * size_of::<f32>();
        let group = (GROUP_BYTES / window.max(1)).max(1);
        self.on_own_threads(|| windows.chunks(group).flat_map(|windows| self.run(windows)).collect())
    }

    fn measure(&mut self, windows: usize) -> Result<Duration, SttError> {
        let windows = windows.max(1);
        // The first time pays for memory and threads.
        self.on_own_threads(|| self.rehearse(1))?;
        let mut best = Duration::MAX;
        // Whatever else runs on the machine can only make a round longer.
        for _ in 0..REHEARSALS {
            let started = Instant::now();
            self.on_own_threads(|| self.rehearse(windows))?;
            best = best.min(started.elapsed());
        }
        Ok(best / u32::try_from(windows).unwrap_or(u32::MAX))
    }
}
