//! Recordings into transcripts, one after another.
//!
//! A named thread decodes the file, a bounded channel carries the samples to the engine's stream, and the events come
//! back here: nothing holds the whole recording.

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
};
use crate::{
    asr::{
        captions::Transcript,
        engine::{Engine, Stream, StreamOptions},
        stream::{StreamEvent, Utterance, seconds},
        tap::Tap,
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
        let engine = cmd::engine::start(&context.config, &context.paths, &context.shutdown)?;
        let info = engine.ready().await?;
        let mut options = args.stream_options(context);
        options.tuning.hop = args.policy.hop(info.window_s).or(options.tuning.hop);
        command::published(args, context, async |tap| {
            let mut failed = 0;
            for recording in &recordings {
                let result = transcribe(recording, &engine, &options, context, &output, tap).await;
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

async fn transcribe(
    recording: &Path,
    engine: &Engine,
    options: &StreamOptions,
    context: &Context,
    output: &Output,
    tap: Option<&Tap>,
) -> anyhow::Result<()> {
    let name =
        if recording == Path::new(STDIN) { "standard input".into() } else { recording.to_string_lossy() };
    let mut decoding = tokio::select! {
        biased;
        () = context.shutdown.cancelled() => bail!("interrupted"),
        // A pipe may keep us waiting for its first byte.
        started = Decoding::start(recording, &name, &context.shutdown) => started?,
    };
    let Stream { input, output: mut events, model } = engine.open(options.clone())?;
    let progress = Progress::new(&name, decoding.duration, context.terminal.stderr.is_terminal);

    let sending = async {
        let mut ended = Ok(());
        let mut sent = 0;
        while let Some(chunk) = decoding.chunks.recv().await {
            match chunk {
                Ok(chunk) => {
                    input.push(&chunk).await?;
                    sent += chunk.len() as u64;
                    progress.at(seconds(sent - input.queued().min(sent)));
                }
                Err(error) => ended = Err(error),
            }
        }
        input.end().await?;
        Ok::<_, anyhow::Error>(ended)
    };
    let listening = async {
        let mut heard = Heard::default();
        let session = Uuid::now_v7().to_string();
        while let Some(event) = events.next().await {
            if let (Some(tap), StreamEvent::UtteranceEnded(utterance)) = (tap, &event) {
                tap.put(&session, &model.name, utterance).await;
            }
            heard.take(event);
        }
        heard
    };
    let (sent, heard) = tokio::select! {
        biased;
        () = context.shutdown.cancelled() => bail!("interrupted"),
        both = async { tokio::join!(sending, listening) } => both,
    };
    progress.finish(heard.duration);
    let read = sent.with_context(|| format!("cannot transcribe {name}"))?;
    decoding.warn_of_repairs(&name);

    let transcript = Transcript {
        source: name.into_owned(),
        model: model.name.clone(),
        language: heard.language(),
        duration: heard.duration,
        utterances: heard.utterances,
    };
    // What was read before the file broke off is worth having; the exit code still tells.
    if read.is_ok() || !transcript.utterances.is_empty() {
        output.write(recording, &transcript)?;
    }
    read?;
    if let Some(failure) = heard.failures.first() {
        bail!("{} of the audio could not be transcribed: {failure}", transcript.source);
    }
    Ok(())
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

    fn warn_of_repairs(&self, name: &str) {
        let Ok(stats) = self.stats.try_recv() else { return };
        let AudioStats { nan_samples, damaged_packets, .. } = stats;
        if nan_samples > 0 || damaged_packets > 0 {
            warn!(file = name, nan_samples, damaged_packets, "repaired damaged audio with silence");
        }
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

/// What a stream has said.
#[derive(Default)]
struct Heard {
    utterances: Vec<Utterance>,
    failures: Vec<String>,
    duration: f64,
}

impl Heard {
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

    /// The language of the most speech.
    fn language(&self) -> Option<String> {
        let mut seconds: Vec<(&String, f64)> = Vec::new();
        for utterance in &self.utterances {
            let Some(language) = &utterance.language else { continue };
            let length = utterance.end - utterance.start;
            match seconds.iter_mut().find(|(known, _)| *known == language) {
                Some((_, total)) => *total += length,
                None => seconds.push((language, length)),
            }
        }
        seconds.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(language, _)| language.clone())
    }
}

/// The bar on a terminal: how far, how fast (times real time), how long still.
struct Progress {
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    fn new(name: &str, duration: Option<Duration>, is_terminal: bool) -> Self {
        let bar = match (is_terminal, duration) {
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

    fn at(&self, heard: f64) {
        self.bar.set_position(millis(heard));
        let speed = heard / self.started.elapsed().as_secs_f64().max(0.001);
        self.bar.set_message(format!("{heard:.0} s, {speed:.1} x real time"));
    }

    fn finish(&self, duration: f64) {
        self.at(duration);
        self.bar.finish_and_clear();
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float to int casts saturate")]
fn millis(seconds: f64) -> u64 {
    (seconds * 1_000.0) as u64
}
