//! Recordings into transcripts, one after another; nothing holds a whole recording.
//!
//! A file on disk is cut into windows that are decoded together, in `whole.rs`. What comes through a pipe, and what is to
//! be heard as the live server hears it, goes through a stream: a named thread decodes it, a bounded channel carries the
//! samples to the engine, and the events come back here.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;
use tracing::warn;
use uuid::Uuid;

use super::{
    command::{self, Args},
    output::Output,
    whole,
};
use crate::{
    asr::{
        captions::Transcript,
        engine::{Engine, Stream, StreamOptions},
        offline::majority,
        stream::{StreamEvent, Utterance, seconds},
        tap::{Spoken, Tap},
    },
    audio::{AudioError, AudioSource, AudioStats, decode::Decoder},
    cmd::{self, Context, Exit, Failure, Threads},
    shutdown::Shutdown,
};

/// Chunks of half a second between the decoder and the stream.
const CHUNKS: usize = 8;
/// How standard input is called.
const STDIN: &str = "-";

/// Transcribes every recording; one that can't be read fails alone.
pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let recordings = if args.stdin { vec![PathBuf::from(STDIN)] } else { args.files.clone() };
    let output = Output::new(&args.format, args.detail(), args.output_dir.as_deref(), &recordings)?;
    context.block_on(Threads::PerCore, async {
        let engine = cmd::engine::start_for_us(&context.config, &context.paths, &context.shutdown)?;
        let info = engine.ready().await?;
        let mut options = args.stream_options(context);
        options.tuning.hop = args.policy.hop(info.window_s).or(options.tuning.hop);
        command::published(args, context, async |tap| {
            let mut failed = 0;
            let offline = args.policy.is_offline(info.window_s);
            let work = Work { engine: &engine, options: &options, offline, context, tap };
            for recording in &recordings {
                let result = transcribe(recording, &work, &output).await;
                if context.shutdown.is_cancelled() {
                    bail!("interrupted at {}", recording.display());
                }
                if let Err(error) = result {
                    if recordings.len() == 1 || cmd::is_stdout_closed(&error) {
                        return Err(error);
                    }
                    failed += 1;
                    cmd::complain(&error);
                }
            }
            if failed > 0 {
                cmd::complain(&anyhow::anyhow!("{failed} of {} recordings failed", recordings.len()));
                return Err(Failure::reported(Exit::Failed).into());
            }
            Ok(())
        })
        .await
    })
}

/// What all recordings have in common.
pub(super) struct Work<'a> {
    pub(super) engine: &'a Engine,
    pub(super) options: &'a StreamOptions,
    /// Each utterance is decoded once.
    pub(super) offline: bool,
    pub(super) context: &'a Context,
    pub(super) tap: Option<&'a Tap>,
}

impl Work<'_> {
    /// Hands an utterance to who listens besides, and waits for room.
    pub(super) async fn tell(&self, session: &str, model: &str, utterance: &Utterance) {
        if let Some(tap) = self.tap {
            tap.put(Spoken::new(session, model, utterance)).await;
        }
    }
}

async fn transcribe(recording: &Path, work: &Work<'_>, output: &Output) -> anyhow::Result<()> {
    let name =
        if recording == Path::new(STDIN) { "standard input".into() } else { recording.to_string_lossy() };
    // Only a file can be read without waiting for whoever writes it.
    let on_disk = recording != Path::new(STDIN) && recording.is_file();
    let hearing = async {
        if on_disk && work.offline {
            whole::hear(recording, &name, work).await
        } else {
            hear(recording, &name, work).await
        }
    };
    let heard = tokio::select! {
        biased;
        () = work.context.shutdown.cancelled() => bail!("interrupted"),
        heard = hearing => heard?,
    };
    let Heard { model, utterances, failures, duration, broke_off } = heard;
    let stretches = utterances.iter().map(|said| (said.language.as_deref(), said.end - said.start));
    let language = majority(stretches).map(str::to_owned);
    let transcript = Transcript { source: name.clone().into_owned(), model, language, duration, utterances };
    // What was read before the file broke off is worth having; the exit code still tells.
    if broke_off.is_none() || !transcript.utterances.is_empty() {
        output.write(recording, &transcript)?;
    }
    if let Some(error) = broke_off {
        return Err(error).with_context(|| format!("cannot transcribe {name}"));
    }
    if let Some(failure) = failures.first() {
        bail!("{name} could not be transcribed whole: {failure}");
    }
    Ok(())
}

/// Hears a recording as the live server would, as fast as it can be decoded.
async fn hear(recording: &Path, name: &str, work: &Work<'_>) -> anyhow::Result<Heard> {
    // A pipe may keep us waiting for its first byte.
    let mut decoding = Decoding::start(recording, name, &work.context.shutdown).await?;
    let Stream { input, output: mut events, model } = work.engine.open(work.options.clone())?;
    let progress = Progress::new(name, decoding.duration, work.context);

    let sending = async {
        let mut ended = None;
        let mut sent = 0;
        while let Some(chunk) = decoding.chunks.recv().await {
            match chunk {
                Ok(chunk) => {
                    input.push(&chunk).await?;
                    sent += chunk.len() as u64;
                    progress.at(seconds(sent - input.queued().min(sent)));
                }
                Err(error) => ended = Some(error),
            }
        }
        input.end().await?;
        Ok::<_, anyhow::Error>(ended)
    };
    let listening = async {
        let mut heard = Heard::of(&model.name);
        let session = Uuid::now_v7().to_string();
        while let Some(event) = events.next().await {
            if let StreamEvent::UtteranceEnded(utterance) = &event {
                work.tell(&session, &model.name, utterance).await;
            }
            heard.take(event);
        }
        heard
    };
    let (broke_off, heard) = tokio::join!(sending, listening);
    progress.finish(heard.duration);
    let broke_off = broke_off.with_context(|| format!("cannot transcribe {name}"))?;
    if let Ok(stats) = decoding.stats.try_recv() {
        warn_of_repairs(name, stats);
    }
    Ok(Heard { broke_off, ..heard })
}

/// A recording that is being decoded on its own thread.
struct Decoding {
    chunks: mpsc::Receiver<Result<Vec<f32>, AudioError>>,
    stats: std::sync::mpsc::Receiver<AudioStats>,
    duration: Option<Duration>,
}

impl Decoding {
    async fn start(recording: &Path, name: &str, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let (opened, opening) = tokio::sync::oneshot::channel();
        let (send, chunks) = mpsc::channel(CHUNKS);
        let (send_stats, stats) = std::sync::mpsc::sync_channel(1);
        let (path, name) = (recording.to_owned(), name.to_owned());
        shutdown
            .unjoined_thread("audio-decode", move || {
                let source = if path == Path::new(STDIN) {
                    Decoder::from_reader(name, io::stdin())
                } else {
                    Decoder::open(&path)
                };
                let mut source = match source {
                    Ok(source) => source,
                    Err(error) => return drop(opened.send(Err(error))),
                };
                if opened.send(Ok(source.duration_hint())).is_err() {
                    return;
                }
                pump(&mut source, &send);
                // Nobody asks when the command was interrupted.
                send_stats.try_send(source.stats()).ok();
            })
            .context("cannot start a thread for decoding")?;
        let duration = opening.await.context("the decoder ended early")??;
        Ok(Self { chunks, stats, duration })
    }
}

pub(super) fn warn_of_repairs(name: &str, stats: AudioStats) {
    let AudioStats { nan_samples, damaged_packets, .. } = stats;
    if nan_samples > 0 || damaged_packets > 0 {
        warn!(file = name, nan_samples, damaged_packets, "repaired damaged audio with silence");
    }
}

/// Moves chunks until the end, an error, or nobody listens.
fn pump(source: &mut dyn AudioSource, send: &mpsc::Sender<Result<Vec<f32>, AudioError>>) {
    while let Some(chunk) = source.next_chunk().transpose() {
        if send.blocking_send(chunk).is_err() {
            return;
        }
    }
}

/// What was said in a recording.
#[derive(Default)]
pub(super) struct Heard {
    /// The model's name.
    pub(super) model: String,
    pub(super) utterances: Vec<Utterance>,
    /// What could not be transcribed, and why.
    pub(super) failures: Vec<String>,
    /// Seconds.
    pub(super) duration: f64,
    /// Why it could not be read to its end.
    pub(super) broke_off: Option<AudioError>,
}

impl Heard {
    pub(super) fn of(model: &str) -> Self {
        Self { model: model.to_owned(), ..Self::default() }
    }

    fn take(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::UtteranceEnded(utterance) => {
                if !utterance.text.is_empty() {
                    self.utterances.push(utterance);
                }
            }
            StreamEvent::Failed { message, start, end } => {
                self.failures.push(format!("{start:.1} s to {end:.1} s: {message}"));
            }
            StreamEvent::Ended { heard } => self.duration = heard,
            StreamEvent::SpeechStarted { .. } | StreamEvent::Hypothesis { .. } | StreamEvent::Marker(_) => {}
        }
    }
}

/// The bar on a terminal: how far, how fast (times real time), how long still.
pub(super) struct Progress {
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    pub(super) fn new(name: &str, duration: Option<Duration>, context: &Context) -> Self {
        let bar = match (context.terminal.stderr.is_terminal, duration) {
            (false, _) => ProgressBar::hidden(),
            (true, None) => ProgressBar::new_spinner(),
            (true, Some(duration)) => ProgressBar::new(millis(duration.as_secs_f64())),
        };
        let template = match duration {
            Some(_) => "{prefix} [{bar:30}] {percent:>3} % {msg}, {eta} left",
            None => "{prefix} {spinner} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(name.to_owned());
        Self { bar, started: Instant::now() }
    }

    pub(super) fn at(&self, heard: f64) {
        self.bar.set_position(millis(heard));
        let speed = heard / self.started.elapsed().as_secs_f64().max(0.001);
        self.bar.set_message(format!("{heard:.0} s, {speed:.1} x real time"));
    }

    pub(super) fn finish(&self, duration: f64) {
        self.at(duration);
        self.bar.finish_and_clear();
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float to int casts saturate")]
fn millis(seconds: f64) -> u64 {
    (seconds * 1_000.0) as u64
}
