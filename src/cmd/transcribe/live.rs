//! Live captions: the microphone, or a recording at the pace of the clock, through the same stream as the server's.
//!
//! Ctrl-C closes the input, waits for the last words and ends with 0. On a terminal the words that may still change
//! are shown dim and redrawn; elsewhere each finished utterance is a line.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use tracing::warn;
use uuid::Uuid;

use super::command::{self, Args};
use crate::{
    asr::{
        captions::{self, Detail, Format, Transcript},
        engine::{Stream as AsrStream, StreamInput, StreamOutput},
        stream::{StreamEvent, Utterance, join},
        tap::{Spoken, Tap},
    },
    audio::{
        SAMPLE_RATE_HZ,
        capture::{self, Capture, CaptureEvent, CaptureOptions, DropCause},
        decode::Decoder,
        paced::{PacedFile, SystemClock},
    },
    cmd::{self, Context, Exit, Failure, Stdout, Threads, terminal_width},
};

/// Before the path of a recording that stands in for a microphone.
const FILE: &str = "file:";

/// Prints the inputs of this machine.
pub(super) fn list_inputs(args: &Args) -> anyhow::Result<()> {
    let inputs = capture::list_inputs()?;
    let mut out = Stdout::lock();
    if args.format.contains(&Format::Json) {
        let inputs: Vec<_> = inputs
            .iter()
            .map(|input| {
                serde_json::json!({
                    "name": input.name, "default": input.is_default, "channels": input.channels,
                    "min_rate_hz": input.rates_hz.0, "max_rate_hz": input.rates_hz.1,
                })
            })
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&inputs)?)?;
        return Ok(());
    }
    if inputs.is_empty() {
        bail!("this machine has no microphone that godctl can see; connect one, or use --input file:PATH");
    }
    for input in inputs {
        let mark = if input.is_default { "*" } else { " " };
        let (low, high) = input.rates_hz;
        writeln!(out, "{mark} {} ({} channels, {low} to {high} Hz)", input.name, input.channels)?;
    }
    Ok(())
}

/// Captions until the input ends or Ctrl-C.
pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let usage = |message: String| Err(Failure::new(Exit::Usage, anyhow::anyhow!(message)).into());
    let [format] = args.format.as_slice() else {
        return usage("live captions have one --format: txt or json".to_owned());
    };
    if !matches!(format, Format::Txt | Format::Json) {
        return usage(format!(
            "live captions are written as txt or json; {format} needs the whole recording: name the FILE instead"
        ));
    }
    let screen = Screen::new(*format, args.detail(), context);
    context.block_on(Threads::PerCore, async {
        let engine = cmd::engine::start_for_us(&context.config, &context.paths, &context.shutdown)?;
        engine.ready().await?;
        command::published(args, context, async |tap| {
            let AsrStream { input, output, model } = engine.open(args.stream_options(context))?;
            // Opened last, so that no word is spoken into a program that does not listen yet.
            let capture = tokio::select! {
                biased;
                () = context.shutdown.cancelled() => bail!("interrupted"),
                capture = open(context) => capture?,
            };
            if context.terminal.stderr.is_terminal {
                writeln!(io::stderr(), "listening to {} with {}; Ctrl-C ends", capture.name(), model.name)?;
            }
            let showing = show(output, screen, tap, &model.name);
            let (heard, shown) = tokio::join!(listen(capture, input, context), showing);
            heard?;
            shown
        })
        .await
    })
}

async fn open(context: &Context) -> anyhow::Result<Capture> {
    let device = context.config.audio.input.clone();
    if let Some(path) = device.as_deref().and_then(|input| input.strip_prefix(FILE)) {
        let (send, opened) = tokio::sync::oneshot::channel();
        let file = PathBuf::from(path);
        // A pipe may keep us waiting for its first byte.
        let body = move || drop(send.send(Decoder::open(&file)));
        context
            .shutdown
            .unjoined_thread("audio-open", body)
            .context("cannot start a thread for the input")?;
        let source = opened.await.context("the input's thread ended early")??;
        return Ok(capture::start_paced(
            &context.shutdown,
            path,
            PacedFile::new(source, SystemClock::default()),
        )?);
    }
    capture::start_microphone(&context.shutdown, CaptureOptions { device }).context(
        "cannot listen; godctl transcribe --list-inputs shows what there is, --input file:PATH needs none",
    )
}

/// Moves samples from the input into the stream until the input ends or the program is asked to.
async fn listen(mut capture: Capture, input: StreamInput, context: &Context) -> anyhow::Result<()> {
    let ended = loop {
        let event = tokio::select! {
            biased;
            () = context.shutdown.cancelled() => break Ok(()),
            event = capture.next() => event,
        };
        match event {
            None => break Ok(()),
            Some(CaptureEvent::Samples(samples)) => input.push(&samples).await?,
            Some(CaptureEvent::Dropped { samples, cause }) => {
                let seconds = seconds(samples);
                match cause {
                    DropCause::Overrun => warn!(seconds, "sound was lost: the machine is too busy to record"),
                    DropCause::SlowConsumer => {
                        warn!(seconds, "sound was lost: the model is slower than speech")
                    }
                }
                silence(&input, samples).await?;
            }
            Some(CaptureEvent::DeviceLost(error)) => warn!(%error, "the microphone is gone; waiting for it"),
            Some(CaptureEvent::DeviceBack { device }) => warn!(device, "the microphone is back"),
            Some(CaptureEvent::Ended(result)) => break result,
        }
    };
    input.end().await?;
    Ok(ended?)
}

/// Keeps the clock of the samples true where some are missing.
async fn silence(input: &StreamInput, mut samples: u64) -> anyhow::Result<()> {
    let second = vec![0.0; SAMPLE_RATE_HZ as usize];
    while samples > 0 {
        let part = samples.min(u64::from(SAMPLE_RATE_HZ));
        input.push(second.get(..usize::try_from(part)?).unwrap_or(&second)).await?;
        samples -= part;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "only for people to read")]
fn seconds(samples: u64) -> f64 {
    samples as f64 / f64::from(SAMPLE_RATE_HZ)
}

async fn show(
    mut output: StreamOutput,
    mut screen: Screen,
    tap: Option<&Tap>,
    model: &str,
) -> anyhow::Result<()> {
    let session = Uuid::now_v7().to_string();
    while let Some(event) = output.next().await {
        if let (Some(tap), StreamEvent::UtteranceEnded(utterance)) = (tap, &event) {
            tap.offer(Spoken::new(&session, model, utterance));
        }
        screen.take(event)?;
    }
    Ok(())
}

/// What the user sees.
struct Screen {
    format: Format,
    detail: Detail,
    /// Redraw the running line.
    redraw: bool,
    color: bool,
    /// Committed words of the running utterance.
    committed: String,
}

impl Screen {
    const fn new(format: Format, detail: Detail, context: &Context) -> Self {
        let stdout = context.terminal.stdout;
        let redraw = stdout.is_terminal && matches!(format, Format::Txt);
        Self { format, detail, redraw, color: stdout.color, committed: String::new() }
    }

    fn take(&mut self, event: StreamEvent) -> io::Result<()> {
        match event {
            StreamEvent::Hypothesis { committed, tail, .. } => {
                self.committed.extend(committed.iter().map(|word| word.text.as_str()));
                if self.redraw { self.draw(&join(&tail)) } else { Ok(()) }
            }
            StreamEvent::UtteranceEnded(utterance) => {
                self.committed.clear();
                self.finish(utterance)
            }
            StreamEvent::Failed { message, start, end } => {
                warn!(start, end, message, "a part of the audio could not be transcribed");
                Ok(())
            }
            StreamEvent::SpeechStarted { .. } | StreamEvent::Marker(_) | StreamEvent::Ended { .. } => Ok(()),
        }
    }

    /// The running line: what is final, then dim what may still change; its end, where it does not fit.
    fn draw(&self, tail: &str) -> io::Result<()> {
        let committed = self.committed.trim();
        let room = terminal_width().saturating_sub(1);
        let gap = if committed.is_empty() || tail.is_empty() { "" } else { " " };
        let tail_len = tail.chars().count().min(room);
        let committed_room = room.saturating_sub(tail_len + gap.len());
        let (committed, tail) = (last_chars(committed, committed_room), last_chars(tail, room));
        let (dim, plain) = if self.color { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        let mut out = Stdout::lock();
        write!(out, "\r\x1b[2K{committed}{gap}{dim}{tail}{plain}")?;
        out.flush()
    }

    fn finish(&self, utterance: Utterance) -> io::Result<()> {
        let mut out = Stdout::lock();
        if self.redraw {
            write!(out, "\r\x1b[2K")?;
        }
        if utterance.text.is_empty() {
            return out.flush();
        }
        match self.format {
            Format::Json => {
                let mut value = serde_json::to_value(&utterance)?;
                if let (Detail::Captions, Some(object)) = (self.detail, value.as_object_mut()) {
                    object.remove("words");
                }
                writeln!(out, "{value}")?;
            }
            format => {
                let transcript = Transcript {
                    source: String::new(),
                    model: String::new(),
                    language: None,
                    duration: utterance.end,
                    utterances: vec![utterance],
                };
                captions::write(&mut out, format, &transcript, self.detail)?;
            }
        }
        out.flush()
    }
}

/// The last characters of a text that has no room for all.
fn last_chars(text: &str, room: usize) -> String {
    let skip = text.chars().count().saturating_sub(room);
    text.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_keeps_its_end() {
        assert_eq!(last_chars("čeština", 4), "tina");
        assert_eq!(last_chars("ab", 4), "ab");
        assert_eq!(last_chars("ab", 0), "");
    }
}
