//! One recording on its way through the engine. A named thread for each channel reads, decodes and cuts the file; the
//! windows are decoded some at a time, driven by whoever calls [`Job::next`]. Dropping the job ends all of it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, try_join_all},
    stream::FuturesOrdered,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::{debug, warn};

use super::{
    OfflineError, Passage, SHORT_WINDOW_S, believes,
    cut::{Cut, CutConfig, Cutter},
};
use crate::{
    asr::{
        DecodeOptions, Hypothesis, ModelInfo, Segment, SttError, Window,
        engine::{Engine, Place},
        stream::{Samples, StreamConfig, Tuning, VoiceGate, samples_of_ms, seconds},
    },
    audio::{AudioError, AudioSource, AudioStats, decode::Decoder},
    shutdown::Shutdown,
};

/// Windows of one recording that are handed to the engine at once: as many as it decodes in one batch.
const IN_FLIGHT: usize = 4;
/// Silence up to this long is decoded with the speech around it where the model's window has room.
const JOIN: Samples = samples_of_ms(3_000);

/// How a recording is transcribed.
#[derive(Debug, Clone, Default)]
pub struct JobOptions {
    /// Language, task, prompt, search. `timestamps` follows from the model; `word_timestamps` as asked.
    pub decode: DecodeOptions,
    /// Where speech ends, if not where the voice activity detector was set to.
    pub tuning: Tuning,
    /// The channels to be heard each by itself; none hears the mean of all.
    pub channels: Vec<usize>,
}

/// What is known of a recording when all of it has been heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// Its length in seconds.
    pub duration: f64,
    /// What was wrong with it, where it broke off before its end. What came before has been transcribed.
    pub damage: Option<AudioError>,
    /// What was repaired.
    pub stats: AudioStats,
}

/// A recording that is being transcribed.
pub struct Job {
    lanes: Vec<Lane>,
    shared: Arc<Shared>,
    duration_hint: Option<Duration>,
    _turn: OwnedSemaphorePermit,
    _place: Place,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("lanes", &self.lanes.len()).finish_non_exhaustive()
    }
}

/// What the windows of a job have in common.
struct Shared {
    engine: Engine,
    decode: Arc<DecodeOptions>,
    model: Arc<ModelInfo>,
}

/// One channel of a recording.
struct Lane {
    channel: Option<usize>,
    cuts: mpsc::Receiver<Message>,
    /// Windows at the engine, in the order of the recording.
    decoding: FuturesOrdered<BoxFuture<'static, Result<Passage, OfflineError>>>,
    in_flight: usize,
    /// The next passage of this channel, until it is its turn among the channels.
    head: Option<Passage>,
    end: Option<Heard>,
}

enum Message {
    Cut(Cut),
    End(Result<Heard, AudioError>),
}

impl Job {
    /// Waits for the recording's turn, opens the file and starts to decode it. The file may be deleted afterwards where
    /// the system lets open files be deleted.
    ///
    /// `name` is what error messages call the recording.
    ///
    /// # Errors
    /// What the model can't do, and a file that can't be opened as audio.
    pub async fn start(
        engine: &Engine,
        shutdown: &Shutdown,
        place: Place,
        file: Source,
        options: JobOptions,
    ) -> Result<Self, OfflineError> {
        let JobOptions { mut decode, tuning, channels } = options;
        let model = engine.check(&decode)?;
        let turn = place.turn().await?;
        let long = model.window_s > SHORT_WINDOW_S;
        // A model with long windows divides them into segments; for the others a window is one, timed by its words.
        decode.timestamps = long;
        decode.word_timestamps |= !long;
        let stream = StreamConfig::for_window(model.window_s);
        let config = CutConfig {
            window: stream.window,
            join: if long { JOIN } else { 0 },
            post_roll: stream.post_roll,
            min_speech: stream.min_utterance,
        };
        let wanted: Vec<Option<usize>> =
            if channels.is_empty() { vec![None] } else { channels.into_iter().map(Some).collect() };
        let in_flight = (IN_FLIGHT / wanted.len()).max(1);
        let mut lanes = Vec::with_capacity(wanted.len());
        let mut duration_hint = None;
        for channel in wanted {
            let cutter = Cutter::new(engine.gate(tuning), config);
            let (opened, opening) = oneshot::channel();
            let (send, cuts) = mpsc::channel(1);
            let file = file.clone();
            let body = move || {
                // A panic here is this recording's trouble; without the catch it would end the program.
                let work = AssertUnwindSafe(|| read(&file, channel, cutter, opened, &send));
                if catch_unwind(work).is_err() {
                    warn!("a decoder panicked");
                }
            };
            shutdown.thread("asr-recording", body).map_err(AudioError::Thread)?;
            duration_hint = opening.await.map_err(|_panicked| OfflineError::Decoder)??;
            let decoding = FuturesOrdered::new();
            lanes.push(Lane { channel, cuts, decoding, in_flight, head: None, end: None });
        }
        let shared = Arc::new(Shared { engine: engine.clone(), decode: Arc::new(decode), model });
        Ok(Self { lanes, shared, duration_hint, _turn: turn, _place: place })
    }

    /// How long the recording says it is, in seconds, if it does.
    #[must_use]
    pub fn duration_hint(&self) -> Option<f64> {
        self.duration_hint.map(|hint| hint.as_secs_f64())
    }

    /// The model that is at work.
    #[must_use]
    pub fn model(&self) -> &Arc<ModelInfo> {
        &self.shared.model
    }

    /// The next passage, in the order in which they start; `None` when all of the recording has been heard. Cancel safe.
    ///
    /// # Errors
    /// The file could not be read on, or the model failed on a window: nothing is left out silently. After
    /// [`OfflineError::Window`] the passages after that window can be had, after all others nothing.
    pub async fn next(&mut self) -> Result<Option<Passage>, OfflineError> {
        try_join_all(self.lanes.iter_mut().map(|lane| lane.fill(&self.shared))).await?;
        let start = |lane: &Lane| lane.head.as_ref().map(|passage| passage.start);
        let earliest = self
            .lanes
            .iter_mut()
            .filter(|lane| lane.head.is_some())
            .min_by(|a, b| start(a).unwrap_or(0.0).total_cmp(&start(b).unwrap_or(0.0)));
        Ok(earliest.and_then(|lane| lane.head.take()))
    }

    /// What is known of the recording once [`Job::next`] has given `None`.
    #[must_use]
    pub fn heard(self) -> Heard {
        // Every channel is as long as the others.
        self.lanes.into_iter().find_map(|lane| lane.end).unwrap_or_default()
    }
}

impl Lane {
    /// Works until the next passage of this channel is there, or its end. Cancel safe.
    async fn fill(&mut self, shared: &Arc<Shared>) -> Result<(), OfflineError> {
        while self.head.is_none() {
            let more = self.end.is_none() && self.decoding.len() < self.in_flight;
            tokio::select! {
                biased;
                Some(passage) = self.decoding.next(), if !self.decoding.is_empty() => self.head = Some(passage?),
                message = self.cuts.recv(), if more => match message {
                    Some(Message::Cut(cut)) => {
                        self.decoding.push_back(decode(Arc::clone(shared), self.channel, cut).boxed());
                    }
                    Some(Message::End(heard)) => self.end = Some(heard?),
                    None => return Err(OfflineError::Decoder),
                },
                else => return Ok(()),
            }
        }
        Ok(())
    }
}

async fn decode(shared: Arc<Shared>, channel: Option<usize>, cut: Cut) -> Result<Passage, OfflineError> {
    let Cut { start, samples } = cut;
    let end = start + samples.len() as Samples;
    let window = Window { samples, options: Arc::clone(&shared.decode) };
    let hypothesis = shared.engine.decode(window).await.map_err(|error| match error {
        SttError::Inference(_) => OfflineError::Window { start: seconds(start), end: seconds(end), error },
        error => error.into(),
    })?;
    Ok(passage(channel, start, end, hypothesis, shared.model.window_s))
}

/// Moves a hypothesis onto the clock of the recording, without the text if that is not to be believed.
fn passage(
    channel: Option<usize>,
    start: Samples,
    end: Samples,
    mut hypothesis: Hypothesis,
    window_s: f64,
) -> Passage {
    let (from, to) = (seconds(start), seconds(end));
    if !believes(window_s, &hypothesis) {
        debug!(from, to, "what was heard is no speech");
        hypothesis.text.clear();
        hypothesis.words.clear();
        hypothesis.segments.clear();
        hypothesis.tokens.clear();
    }
    let on_clock = |time: f64| to_millisecond((time + from).clamp(from, to));
    for word in &mut hypothesis.words {
        (word.start, word.end) = (on_clock(word.start), on_clock(word.end));
    }
    for segment in &mut hypothesis.segments {
        (segment.start, segment.end) = (on_clock(segment.start), on_clock(segment.end));
    }
    if hypothesis.segments.is_empty() && !hypothesis.text.is_empty() {
        let start = hypothesis.words.first().map_or(from, |word| word.start);
        let end = hypothesis.words.last().map_or(to, |word| word.end);
        let (text, tokens) = (hypothesis.text.clone(), hypothesis.tokens.clone());
        hypothesis.segments.push(Segment { start, end, text, tokens });
    }
    Passage { channel, start: to_millisecond(from), end: to_millisecond(to), hypothesis }
}

/// To the millisecond, which is finer than any word is timed.
fn to_millisecond(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}

/// A recording on disk.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where it is. The extension matters to formats that can begin with rubbish (MP3, AAC).
    pub path: PathBuf,
    /// What error messages call it.
    pub name: String,
}

/// Reads a file to its end, or until nobody listens. Runs on its own thread.
fn read(
    file: &Source,
    channel: Option<usize>,
    mut cutter: Cutter<Box<dyn VoiceGate>>,
    opened: oneshot::Sender<Result<Option<Duration>, AudioError>>,
    send: &mpsc::Sender<Message>,
) {
    let mut source = match Decoder::open_as(&file.path, file.name.clone()) {
        Ok(source) => source.only_channel(channel),
        Err(error) => return drop(opened.send(Err(error))),
    };
    if opened.send(Ok(source.duration_hint())).is_err() {
        return;
    }
    let mut damage = None;
    loop {
        match source.next_chunk() {
            Ok(Some(chunk)) => cutter.push(&chunk),
            Ok(None) => break,
            Err(error) if error.is_partial() && cutter.heard() > 0 => {
                damage = Some(error);
                break;
            }
            Err(error) => return drop(send.blocking_send(Message::End(Err(error)))),
        }
        if !hand_over(&mut cutter, send) {
            return;
        }
    }
    cutter.finish();
    if hand_over(&mut cutter, send) {
        let heard = Heard { duration: seconds(cutter.heard()), damage, stats: source.stats() };
        // The receiver may be gone, and then nobody wants to know.
        send.blocking_send(Message::End(Ok(heard))).ok();
    }
}

/// Hands over what is cut, waiting for room; false when nobody listens any more.
fn hand_over(cutter: &mut Cutter<Box<dyn VoiceGate>>, send: &mpsc::Sender<Message>) -> bool {
    while let Some(cut) = cutter.pop() {
        if send.blocking_send(Message::Cut(cut)).is_err() {
            return false;
        }
    }
    !send.is_closed()
}
