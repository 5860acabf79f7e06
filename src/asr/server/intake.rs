//! From the binary frames of a session to the samples of its streams.
//!
//! The first bytes decide: what has the mark of a container is decoded on a thread of its own, everything else is what
//! the session said it would send. The thread ends with the container, with the session (which closes its pipe), or
//! with the engine's stream.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::{runtime::Handle, sync::oneshot};
use tracing::{debug, warn};

use super::live::LiveInput;
use crate::{
    asr::{SttError, engine::StreamOptions, stream::Samples},
    audio::{
        AudioError, AudioSource as _, SAMPLE_RATE_HZ,
        decode::Decoder,
        opus::{OPUS_RATE_HZ, OpusPackets},
        pcm::{PcmEncoding, PcmFormat, PcmReader},
        pipe::{PipeReader, PipeWriter, byte_pipe},
        sniff::{Container as Kind, Sniffed, sniff},
        split::{ChannelError, Mixing, Splitter},
    },
    shutdown::Shutdown,
};

/// Encoded bytes that wait for their decoder, then the sender waits: some seconds of what browsers send.
const PIPE_BYTES: usize = 64 << 10;
/// How the decoder calls a session's audio in its errors.
const NAME: &str = "the audio of this session";
/// Samples that are handed over at once: a large frame of a low rate must not become a much larger buffer.
const PIECE: usize = 1 << 16;

/// Why audio could not be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum IntakeError {
    /// The engine ended the stream.
    #[error(transparent)]
    Stream(#[from] SttError),
    /// The bytes are not the audio that they seemed to be. What came before was handed over.
    #[error(transparent)]
    Audio(#[from] AudioError),
    /// The audio has other channels than the session asked for.
    #[error(transparent)]
    Channels(#[from] ChannelError),
    /// The session promised something else.
    #[error("the bytes are not the audio that was announced: {0}")]
    NotAsAnnounced(&'static str),
    /// The decoder gave up in a way that it should not: a bug of ours, not the sender's.
    #[error("the decoder failed; send raw PCM instead (16 kHz mono s16le)")]
    Decoder,
}

/// What bytes without the mark of a container are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Raw {
    /// Samples.
    Pcm(PcmFormat),
    /// One Opus packet to a frame, decoded to so many channels.
    OpusPackets(usize),
    /// No audio: the session promised a container.
    Nothing,
}

/// Which marks of containers are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Containers {
    /// All.
    Any,
    /// WAV only: the session said that it sends samples, and nothing else begins like that by chance.
    Wav,
}

/// Marks on the clock of the audio.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClockMarks {
    /// One each time so much audio was handed over.
    pub(super) every: Samples,
    /// The name of the marker at a position.
    pub(super) name: fn(Samples) -> String,
}

/// How a session sends its audio.
#[derive(Debug, Clone, Copy)]
pub(super) struct Announced {
    pub(super) raw: Raw,
    pub(super) containers: Containers,
    pub(super) mixing: Mixing,
    pub(super) marks: Option<ClockMarks>,
}

impl Default for Announced {
    /// Any container, or 16 kHz mono s16le; one stream.
    fn default() -> Self {
        let format = PcmFormat { encoding: PcmEncoding::Linear16, rate_hz: SAMPLE_RATE_HZ, channels: 1 };
        Self { raw: Raw::Pcm(format), containers: Containers::Any, mixing: Mixing::Mean, marks: None }
    }
}

/// The way in of one session.
#[derive(Debug)]
pub(super) struct Intake {
    inputs: Arc<Vec<LiveInput>>,
    shutdown: Shutdown,
    announced: Announced,
    format: Format,
}

#[derive(Debug)]
enum Format {
    /// Too few bytes to tell.
    Unknown(Vec<u8>),
    Pcm(PcmReader, Feed),
    Opus(OpusPackets, Feed),
    Container(Container),
    /// The container has said its end; what follows it is no audio.
    Over,
}

/// A container that a thread decodes.
#[derive(Debug)]
struct Container {
    bytes: PipeWriter,
    /// The decoder's last word.
    verdict: oneshot::Receiver<Result<(), IntakeError>>,
}

impl Intake {
    /// One stream, of any container or of 16 kHz mono s16le.
    pub(super) fn new(input: LiveInput, shutdown: Shutdown) -> Self {
        Self::announced(vec![input], shutdown, Announced::default())
    }

    /// As the session announced it; one input for each stream that `announced.mixing` makes.
    pub(super) fn announced(inputs: Vec<LiveInput>, shutdown: Shutdown, announced: Announced) -> Self {
        Self { inputs: Arc::new(inputs), shutdown, announced, format: Format::Unknown(Vec::new()) }
    }

    /// Takes a frame; waits while the engine or the decoder has enough to do. Not cancel safe.
    pub(super) async fn push(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        let Format::Unknown(head) = &mut self.format else { return self.take(bytes).await };
        head.extend_from_slice(bytes);
        let container = match (sniff(head), self.announced.containers) {
            // A packet is a whole frame; it is not put together with the ones after it.
            (Sniffed::NeedMore, _) if !matches!(self.announced.raw, Raw::OpusPackets(_)) => return Ok(()),
            (Sniffed::Container(kind), Containers::Any) | (Sniffed::Container(kind @ Kind::Wav), _) => {
                Some(kind)
            }
            _ => None,
        };
        let head = std::mem::take(head);
        self.format = match (container, self.announced.raw) {
            (Some(kind), _) => {
                debug!(container = %kind, "the session sends a container");
                Format::Container(self.decode()?)
            }
            (None, raw) => self.raw(raw)?,
        };
        self.take(&head).await
    }

    fn raw(&self, raw: Raw) -> Result<Format, IntakeError> {
        let feed = Feed::new(Arc::clone(&self.inputs), &self.announced);
        match raw {
            Raw::Pcm(format) => Ok(Format::Pcm(PcmReader::new(format), feed)),
            Raw::OpusPackets(channels) => OpusPackets::new(channels)
                .map(|packets| Format::Opus(packets, feed))
                .ok_or(IntakeError::NotAsAnnounced("Opus has one or two channels")),
            Raw::Nothing => Err(IntakeError::NotAsAnnounced(
                "there is no mark of a container at their beginning; name the encoding of raw audio",
            )),
        }
    }

    async fn take(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        match &mut self.format {
            Format::Pcm(pcm, feed) => {
                let PcmFormat { rate_hz, channels, .. } = pcm.format();
                feed.push(rate_hz, channels, &pcm.decode(bytes)).await
            }
            Format::Opus(packets, feed) => {
                // A third party's parser over hostile bytes: its panic is this session's trouble only.
                let decoded = catch_unwind(AssertUnwindSafe(|| packets.decode(bytes).map(<[f32]>::to_vec)));
                let channels = match self.announced.raw {
                    Raw::OpusPackets(channels) => channels,
                    Raw::Pcm(_) | Raw::Nothing => 1,
                };
                match decoded {
                    Ok(Some(samples)) => feed.push(OPUS_RATE_HZ, channels, &samples).await,
                    Ok(None) | Err(_) => Err(IntakeError::NotAsAnnounced(
                        "a message is no Opus packet; send one packet in each",
                    )),
                }
            }
            Format::Container(container) => {
                if container.bytes.write_all(bytes).await.is_ok() {
                    return Ok(());
                }
                // The decoder has gone: at the end of the container, or because it cannot go on.
                let Format::Container(container) = std::mem::replace(&mut self.format, Format::Over) else {
                    return Ok(());
                };
                container.verdict.await.unwrap_or(Err(IntakeError::Decoder))
            }
            Format::Over | Format::Unknown(_) => Ok(()),
        }
    }

    /// As [`LiveInput::configure`], for all streams: only before the first audio.
    pub(super) async fn configure(&self, options: StreamOptions) -> Result<(), SttError> {
        for input in self.inputs.iter() {
            input.configure(options.clone()).await?;
        }
        Ok(())
    }

    /// Hands over what filters and decoders hold, so that a flush or a marker comes after everything that was taken. A
    /// piece of a container that has begun and not ended is not part of it.
    pub(super) async fn settle(&mut self) -> Result<(), SttError> {
        match &mut self.format {
            Format::Pcm(_, feed) | Format::Opus(_, feed) => feed.finish().await,
            Format::Container(container) => {
                container.bytes.drained().await;
                Ok(())
            }
            Format::Unknown(_) | Format::Over => Ok(()),
        }
    }

    /// Makes what was taken for a stream final, and marks that place.
    pub(super) async fn finalize(&mut self, stream: usize, name: String) -> Result<(), SttError> {
        self.settle().await?;
        let Some(input) = self.inputs.get(stream) else { return Ok(()) };
        input.flush().await?;
        input.marker(name).await
    }

    /// Makes what the engine has final; see [`Intake::settle`].
    pub(super) async fn flush(&self) -> Result<(), SttError> {
        for input in self.inputs.iter() {
            input.flush().await?;
        }
        Ok(())
    }

    /// Marks what the engine has so far; see [`Intake::settle`].
    pub(super) async fn marker(&self, name: String) -> Result<(), SttError> {
        for input in self.inputs.iter() {
            input.marker(name.clone()).await?;
        }
        Ok(())
    }

    /// Ends the audio: everything taken so far is handed over first, also before an error is given.
    pub(super) async fn end(mut self) -> Result<(), IntakeError> {
        let mut decoded = Ok(());
        if let Format::Unknown(head) = &mut self.format
            && !head.is_empty()
        {
            // Nothing followed that would make it a container.
            let head = std::mem::take(head);
            decoded = match self.raw(self.announced.raw) {
                Ok(format) => {
                    self.format = format;
                    self.take(&head).await
                }
                Err(error) => Err(error),
            };
        }
        let Self { inputs, format, shutdown: _, announced: _ } = self;
        match format {
            Format::Pcm(_, mut feed) | Format::Opus(_, mut feed) => {
                decoded = decoded.and(feed.finish().await.map_err(IntakeError::from));
            }
            Format::Unknown(_) | Format::Over => {}
            Format::Container(Container { bytes, verdict }) => {
                bytes.finish();
                decoded = verdict.await.unwrap_or(Err(IntakeError::Decoder));
            }
        }
        // The decoder let go of its half before it gave its verdict. If it died without one, its half is dropped with
        // it, which ends the streams as well.
        for input in Arc::into_inner(inputs).unwrap_or_default() {
            input.end().await?;
        }
        decoded
    }

    /// Starts the thread that decodes a container.
    fn decode(&self) -> Result<Container, IntakeError> {
        let (bytes, reader) = byte_pipe(PIPE_BYTES);
        let (tell, verdict) = oneshot::channel();
        let mut feed = Feed::new(Arc::clone(&self.inputs), &self.announced);
        let runtime = Handle::current();
        let body = move || {
            // A panic here is this session's trouble; without the catch it would end the server.
            let result = catch_unwind(AssertUnwindSafe(|| decode(reader, &mut feed, &runtime)));
            drop(feed);
            let result = result.unwrap_or_else(|_| {
                warn!("a decoder panicked");
                Err(IntakeError::Decoder)
            });
            // The session may be gone, and then nobody wants to know.
            drop(tell.send(result));
        };
        self.shutdown.thread("asr-decode", body).map_err(AudioError::Thread)?;
        Ok(Container { bytes, verdict })
    }
}

/// Hands over all samples of a container as they come. Runs on its own thread.
fn decode(bytes: PipeReader, feed: &mut Feed, runtime: &Handle) -> Result<(), IntakeError> {
    let mut decoder = Decoder::from_reader(NAME, bytes)?;
    // Only a queue is waited for here; neither a timer nor a socket needs the runtime to run.
    if feed.inputs.len() == 1 {
        while let Some(samples) = decoder.next_chunk()? {
            runtime.block_on(feed.push(SAMPLE_RATE_HZ, 1, &samples))?;
        }
        return Ok(());
    }
    let read = loop {
        match decoder.next_frames() {
            Ok(Some((frames, rate_hz, channels))) => {
                runtime.block_on(feed.push(rate_hz, channels, frames))?
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    runtime.block_on(feed.finish())?;
    Ok(read?)
}

/// From frames to the streams of the engine, with marks on the clock.
#[derive(Debug)]
struct Feed {
    inputs: Arc<Vec<LiveInput>>,
    splitter: Splitter,
    marks: Option<ClockMarks>,
    /// Samples handed over to each stream.
    handed: Samples,
    next_mark: Samples,
}

impl Feed {
    fn new(inputs: Arc<Vec<LiveInput>>, announced: &Announced) -> Self {
        let splitter = Splitter::new(announced.mixing);
        let next_mark = announced.marks.map_or(Samples::MAX, |marks| marks.every);
        Self { inputs, splitter, marks: announced.marks, handed: 0, next_mark }
    }

    async fn push(&mut self, rate_hz: u32, channels: usize, frames: &[f32]) -> Result<(), IntakeError> {
        let whole = (PIECE / channels.max(1)).max(1) * channels.max(1);
        for frames in frames.chunks(whole) {
            let streams = self.splitter.push(rate_hz, channels, frames)?;
            self.hand_over(streams).await?;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), SttError> {
        let streams = self.splitter.finish();
        self.hand_over(streams).await
    }

    /// The marks lie at fixed places on the clock, however the audio was cut.
    async fn hand_over(&mut self, streams: Vec<Vec<f32>>) -> Result<(), SttError> {
        let samples = streams.first().map_or(0, Vec::len);
        let mut from = 0;
        while from < samples {
            let room = usize::try_from(self.next_mark - self.handed).unwrap_or(usize::MAX);
            let to = samples.min(from.saturating_add(room));
            for (input, samples) in self.inputs.iter().zip(&streams) {
                input.push(samples.get(from..to).unwrap_or_default()).await?;
            }
            self.handed += (to - from) as Samples;
            from = to;
            if let Some(marks) = self.marks
                && self.handed == self.next_mark
            {
                self.next_mark += marks.every.max(1);
                for input in self.inputs.iter() {
                    input.marker((marks.name)(self.handed)).await?;
                }
            }
        }
        Ok(())
    }
}
