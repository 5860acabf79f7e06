//! Files and byte streams to 16 kHz mono: the [`AudioSource`] of everything that is not a microphone.
//!
//! Blocking and incremental: it runs on its caller's thread and holds one packet, one resampler block and one
//! chunk, however long the recording. It ends with its bytes; dropping it closes the file or the pipe.
//!
//! Channels become one by their mean. That is not the ITU's weighting, and need not be: speech sits in all
//! channels or in one, and a recogniser does not care about 3 dB.

use std::{
    any::Any,
    collections::VecDeque,
    fs::File,
    io::{self, Read, Seek},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};

use symphonia::core::errors::Error as SymphoniaError;
use tracing::debug;

use super::{
    AudioError, AudioSource, AudioStats, MAX_CHUNK_SAMPLES, SAMPLE_RATE_HZ,
    demux::{Bytes, Demuxer, OpenError, Source, SourceError, Step},
    resample::{RateOutOfRange, Resampler},
    sniff::{self, Container, MAX_SNIFF_BYTES, Sniffed},
    wav::{WavError, WavRead, WavReader},
};

/// Extensions under which a file may begin with rubbish before its first MPEG or AAC frame.
const FRAME_EXTENSIONS: [&str; 3] = ["mp3", "aac", "adts"];

/// With so many samples ready a chunk is given: 50 ms, so that live streams do not wait for more.
const ENOUGH_SAMPLES: usize = SAMPLE_RATE_HZ as usize / 20;

/// Where the format tag ends when the format is the first chunk.
const WAV_TAG_END: usize = 22;

/// The format tags of WAV that go to the demuxer crate: Microsoft's and IMA's ADPCM.
const WAV_ADPCM_TAGS: [u16; 2] = [2, 0x11];

/// A recording being decoded.
pub struct Decoder {
    name: String,
    container: Container,
    frames: Frames,
    /// Set by the bytes when they fail, whatever the demuxer makes of it.
    source_failed: SourceError,
    duration_hint: Option<Duration>,
    /// Which channel is heard; `None` for the mean of all.
    channel: Option<usize>,
    resampler: Option<Resampler>,
    /// Interleaved frames of one step, kept for its allocation.
    interleaved: Vec<f32>,
    mono: Vec<f32>,
    ready: VecDeque<f32>,
    stats: AudioStats,
    state: State,
}

enum Frames {
    Wav(Box<WavReader>),
    Demuxed(Box<Demuxer>),
}

enum State {
    Decoding,
    /// The decoder is done; what is ready is still given, then this.
    Draining(Option<AudioError>),
    Done,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("name", &self.name)
            .field("container", &self.container)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl Decoder {
    /// Opens a file.
    ///
    /// # Errors
    /// [`AudioError::Read`], [`AudioError::Empty`], [`AudioError::UnknownFormat`],
    /// [`AudioError::UnsupportedCodec`], [`AudioError::NoAudioTrack`], or a header that is cut or damaged.
    pub fn open(path: &Path) -> Result<Self, AudioError> {
        Self::open_as(path, path.display().to_string())
    }

    /// Opens a file that error messages call `name`, for whoever must not see where it lies.
    ///
    /// # Errors
    /// As for [`Decoder::open`].
    pub fn open_as(path: &Path, name: String) -> Result<Self, AudioError> {
        let read_error = |source| AudioError::Read { name: name.clone(), source };
        let mut file = File::open(path).map_err(read_error)?;
        let meta = file.metadata().map_err(read_error)?;
        if meta.is_dir() {
            return Err(read_error(io::ErrorKind::IsADirectory.into()));
        }
        if !meta.is_file() {
            return Self::from_reader(name, file);
        }
        let head = read_head(&mut file).map_err(read_error)?;
        file.rewind().map_err(read_error)?;
        let by_frames = path.extension().and_then(|extension| extension.to_str()).is_some_and(|extension| {
            FRAME_EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
        });
        let head = Head { bytes: head, streamed: false, by_frames };
        if sniff::sniff(&head.bytes) == Sniffed::Container(Container::Mp4) {
            return Self::open_mp4(name, path, Bytes::File(file, meta.len()), &head);
        }
        Self::build(name, Bytes::File(file, meta.len()), &head)
    }

    /// The demuxer looks for the end of an MP4 that can seek, and gives nothing when that was cut off. With the
    /// index first the file is read as a stream, so that a cut one keeps its beginning.
    fn open_mp4(name: String, path: &Path, bytes: Bytes, head: &Head) -> Result<Self, AudioError> {
        let again = File::open(path).map_err(|source| AudioError::Read { name: name.clone(), source })?;
        match Self::from_reader(name, again) {
            Err(AudioError::NotStreamable { name }) => match Self::build(name, bytes, head) {
                // No index at the front and none at the end: the recorder never wrote it.
                Err(AudioError::Corrupt { name, at_seconds, .. }) => {
                    Err(AudioError::Truncated { name, at_seconds })
                }
                other => other,
            },
            other => other,
        }
    }

    /// Decodes a container as it arrives, for example from [`super::pipe::byte_pipe`].
    ///
    /// `name` is used in error messages. Blocks until the header has arrived.
    ///
    /// # Errors
    /// As for [`Decoder::open`], and [`AudioError::NotStreamable`] and [`AudioError::Aborted`].
    pub fn from_reader<R>(name: impl Into<String>, mut reader: R) -> Result<Self, AudioError>
    where
        R: Read + Send + Sync + 'static,
    {
        let name = name.into();
        let head = read_head(&mut reader).map_err(|source| source_error(&name, source, 0.0))?;
        let bytes = Bytes::Stream(Box::new(io::Cursor::new(head.clone()).chain(reader)));
        Self::build(name, bytes, &Head { bytes: head, streamed: true, by_frames: false })
    }

    /// Only this channel is heard, the first being 0, instead of the mean of all; silence where there is none.
    #[must_use]
    pub const fn only_channel(mut self, channel: Option<usize>) -> Self {
        self.channel = channel;
        self
    }

    /// The container that the bytes are in.
    #[must_use]
    pub const fn container(&self) -> Container {
        self.container
    }

    fn build(name: String, bytes: Bytes, head: &Head) -> Result<Self, AudioError> {
        if head.bytes.is_empty() {
            return Err(AudioError::Empty { name });
        }
        let container = match sniff::sniff(&head.bytes) {
            Sniffed::Container(container) => container,
            Sniffed::NeedMore | Sniffed::RawPcm => {
                let found = sniff::describe(&head.bytes);
                if !head.by_frames || found.starts_with("this is") {
                    return Err(AudioError::UnknownFormat { name, found });
                }
                Container::Mp3
            }
        };
        let (source, source_failed) = Source::new(bytes);
        let opened = guarded(|| open_frames(source, container, &head.bytes));
        let frames = match opened.unwrap_or(Err(OpenFailure::Panicked)) {
            Ok(frames) => frames,
            Err(failure) => {
                let failed = source_failed.lock().take();
                return Err(open_error(name, container, head, failure, failed));
            }
        };
        let duration_hint = frames.duration_hint();
        Ok(Self {
            name,
            container,
            frames,
            source_failed,
            duration_hint,
            channel: None,
            resampler: None,
            interleaved: Vec::new(),
            mono: Vec::new(),
            ready: VecDeque::new(),
            stats: AudioStats::default(),
            state: State::Decoding,
        })
    }

    /// The next frames as they are in the recording, with their rate in Hz and how many channels they interleave; for
    /// who wants the channels instead of hearing the recording. On one decoder call either this or
    /// [`AudioSource::next_chunk`].
    ///
    /// # Errors
    /// As for [`AudioSource::next_chunk`].
    #[allow(clippy::type_complexity, reason = "said in the first sentence; a name would say less")]
    pub fn next_frames(&mut self) -> Result<Option<(&[f32], u32, usize)>, AudioError> {
        while matches!(self.state, State::Decoding) {
            match self.step() {
                Ok(_) if self.interleaved.is_empty() => {}
                Ok((rate_hz, channels)) => {
                    let frames = (self.interleaved.len() / channels.max(1)) as u64;
                    self.stats.samples += frames * u64::from(SAMPLE_RATE_HZ) / u64::from(rate_hz.max(1));
                    return Ok(Some((&self.interleaved, rate_hz, channels)));
                }
                Err(ending) => {
                    let error = self.ended(ending);
                    self.state = State::Done;
                    return error.map_or(Ok(None), Err);
                }
            }
        }
        Ok(None)
    }

    fn at_seconds(&self) -> f64 {
        (self.stats.samples + self.ready.len() as u64) as f64 / f64::from(SAMPLE_RATE_HZ)
    }

    /// One step of decoding: appends to `ready`, or begins to drain.
    fn advance(&mut self) {
        let ending = match self.step() {
            Ok((rate_hz, channels)) => match self.accept(rate_hz, channels) {
                Ok(()) => return,
                Err(error) => Ending::Corrupt(error.to_string()),
            },
            Err(ending) => ending,
        };
        self.flush();
        let error = self.ended(ending);
        self.state = State::Draining(error);
    }

    /// Decodes the next frames into `interleaved`; gives their shape.
    fn step(&mut self) -> Result<(u32, usize), Ending> {
        self.interleaved.clear();
        let (frames, interleaved) = (&mut self.frames, &mut self.interleaved);
        let step = guarded(|| frames.step(interleaved));
        if let Frames::Demuxed(demuxer) = &self.frames {
            self.stats.damaged_packets = demuxer.damaged_packets;
        }
        match step {
            Ok(Step::Frames { rate_hz, channels }) => Ok((rate_hz, channels)),
            Ok(Step::End) => Err(Ending::Clean),
            Ok(Step::Short) => Err(Ending::Truncated),
            Ok(Step::Failed(error)) => Err(ending_of(error)),
            Err(reason) => Err(Ending::Corrupt(reason)),
        }
    }

    /// The error of an ending, if it is one.
    fn ended(&self, ending: Ending) -> Option<AudioError> {
        let (at_seconds, name) = (self.at_seconds(), self.name.clone());
        match (self.source_failed.lock().take(), ending) {
            (Some(failed), _) => Some(source_error(&name, failed, at_seconds)),
            (None, Ending::Clean) => None,
            (None, Ending::Truncated) => Some(AudioError::Truncated { name, at_seconds }),
            (None, Ending::Corrupt(reason)) => Some(AudioError::Corrupt { name, at_seconds, reason }),
        }
    }

    /// Mixes and resamples what one step gave.
    fn accept(&mut self, rate_hz: u32, channels: usize) -> Result<(), RateOutOfRange> {
        if self.resampler.as_ref().is_none_or(|resampler| resampler.rate_hz() != rate_hz) {
            self.flush();
            self.resampler = Some(Resampler::new(rate_hz)?);
        }
        self.mono.clear();
        match self.channel {
            None => mix_to_mono(&self.interleaved, channels, &mut self.stats, &mut self.mono),
            Some(channel) => {
                let frames = self.interleaved.chunks_exact(channels.max(1));
                let one: Vec<f32> = frames.map(|frame| frame.get(channel).copied().unwrap_or(0.0)).collect();
                mix_to_mono(&one, 1, &mut self.stats, &mut self.mono);
            }
        }
        if let Some(resampler) = &mut self.resampler {
            let mut out = Vec::new();
            resampler.push(&self.mono, &mut out);
            self.ready.extend(out.into_iter().map(|sample| sample.clamp(-1.0, 1.0)));
        }
        Ok(())
    }

    fn flush(&mut self) {
        if let Some(mut resampler) = self.resampler.take() {
            let mut out = Vec::new();
            resampler.finish(&mut out);
            self.ready.extend(out.into_iter().map(|sample| sample.clamp(-1.0, 1.0)));
        }
    }
}

impl AudioSource for Decoder {
    fn next_chunk(&mut self) -> Result<Option<Vec<f32>>, AudioError> {
        while matches!(self.state, State::Decoding) && self.ready.len() < ENOUGH_SAMPLES {
            self.advance();
        }
        if !self.ready.is_empty() {
            let chunk: Vec<f32> = self.ready.drain(..self.ready.len().min(MAX_CHUNK_SAMPLES)).collect();
            self.stats.samples += chunk.len() as u64;
            return Ok(Some(chunk));
        }
        match std::mem::replace(&mut self.state, State::Done) {
            State::Draining(Some(error)) => Err(error),
            State::Decoding | State::Draining(None) | State::Done => {
                debug!(name = self.name, stats = ?self.stats, "decoded");
                Ok(None)
            }
        }
    }

    fn duration_hint(&self) -> Option<Duration> {
        self.duration_hint
    }

    fn stats(&self) -> AudioStats {
        self.stats
    }
}

/// The mean of the channels, with what is no number made silence and what is too loud clamped; both are counted.
pub(super) fn mix_to_mono(interleaved: &[f32], channels: usize, stats: &mut AudioStats, out: &mut Vec<f32>) {
    let channels = channels.max(1);
    let scale = 1.0 / channels as f32;
    for frame in interleaved.chunks_exact(channels) {
        let mut sum = 0.0;
        for sample in frame {
            if sample.is_finite() {
                // Floats near their largest value must not add up to infinity.
                sum += sample.clamp(-1e6, 1e6);
            } else {
                stats.nan_samples += 1;
            }
        }
        let mono = sum * scale;
        if mono.abs() > 1.0 {
            stats.clipped_samples += 1;
        }
        out.push(mono.clamp(-1.0, 1.0));
    }
}

/// The first bytes, and what is known of where they come from.
struct Head {
    bytes: Vec<u8>,
    /// They cannot be had again.
    streamed: bool,
    /// The name promises MPEG or AAC frames, which may begin late.
    by_frames: bool,
}

fn read_head(reader: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut buffer = [0; 1_024];
    let enough = |head: &[u8]| match sniff::sniff(head) {
        Sniffed::NeedMore => head.len() >= MAX_SNIFF_BYTES,
        // Up to the format tag.
        Sniffed::Container(Container::Wav) => head.len() >= WAV_TAG_END,
        Sniffed::Container(_) => true,
        // Enough to tell a person what it is.
        Sniffed::RawPcm => head.len() >= 256,
    };
    while !enough(&head) {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => head.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(head)
}

enum OpenFailure {
    Wav(WavError),
    Demux(OpenError),
    Panicked,
}

fn open_frames(source: Source, container: Container, head: &[u8]) -> Result<Frames, OpenFailure> {
    if container == Container::Wav && !wav_tag(head).is_some_and(|tag| WAV_ADPCM_TAGS.contains(&tag)) {
        return WavReader::open(Box::new(source))
            .map(|wav| Frames::Wav(Box::new(wav)))
            .map_err(OpenFailure::Wav);
    }
    Demuxer::open(source).map(|demuxer| Frames::Demuxed(Box::new(demuxer))).map_err(OpenFailure::Demux)
}

/// The format tag, when the format is the first chunk, as it is in all compressed WAV files met so far.
fn wav_tag(head: &[u8]) -> Option<u16> {
    (head.get(12..16)? == b"fmt ")
        .then(|| head.get(20..WAV_TAG_END)?.try_into().ok().map(u16::from_le_bytes))?
}

fn open_error(
    name: String,
    container: Container,
    head: &Head,
    failure: OpenFailure,
    failed: Option<io::Error>,
) -> AudioError {
    if let Some(failed) = failed {
        return source_error(&name, failed, 0.0);
    }
    let at_seconds = 0.0;
    match failure {
        OpenFailure::Panicked => AudioError::Corrupt { name, at_seconds, reason: DECODER_GAVE_UP.to_owned() },
        OpenFailure::Wav(WavError::Io(source)) => AudioError::Read { name, source },
        OpenFailure::Wav(WavError::Truncated) => AudioError::Truncated { name, at_seconds },
        OpenFailure::Wav(WavError::Malformed(reason)) => {
            AudioError::Corrupt { name, at_seconds, reason: reason.to_owned() }
        }
        OpenFailure::Wav(WavError::OtherCodec(tag)) => {
            let codec = match tag {
                0x50 | 0x55 => "MPEG audio inside WAV".to_owned(),
                0x31 => "GSM 6.10".to_owned(),
                0x160..=0x163 => "Windows Media Audio".to_owned(),
                _ => format!("WAV format tag {tag:#06x}"),
            };
            AudioError::UnsupportedCodec { name, codec }
        }
        OpenFailure::Demux(OpenError::NoAudioTrack) => AudioError::NoAudioTrack { name, container },
        OpenFailure::Demux(OpenError::Codec(codec)) => AudioError::UnsupportedCodec { name, codec },
        OpenFailure::Demux(OpenError::Reader(_)) if head.by_frames && container == Container::Mp3 => {
            AudioError::UnknownFormat { name, found: sniff::describe(&head.bytes) }
        }
        OpenFailure::Demux(OpenError::Reader(error)) => match (ending_of(error), container) {
            (Ending::Corrupt(reason), Container::Mp4) if head.streamed && reason.contains("missing moov") => {
                debug!(reason, "an MP4 whose index comes last");
                AudioError::NotStreamable { name }
            }
            (Ending::Corrupt(reason), _) => AudioError::Corrupt { name, at_seconds, reason },
            (Ending::Clean | Ending::Truncated, _) => AudioError::Truncated { name, at_seconds },
        },
    }
}

fn source_error(name: &str, source: io::Error, at_seconds: f64) -> AudioError {
    let name = name.to_owned();
    if source.kind() == io::ErrorKind::ConnectionAborted {
        AudioError::Aborted { name, at_seconds }
    } else {
        AudioError::Read { name, source }
    }
}

enum Ending {
    Clean,
    Truncated,
    Corrupt(String),
}

fn ending_of(error: SymphoniaError) -> Ending {
    match error {
        // The bytes' own failures were remembered by the source; what is left is the end where more was due.
        SymphoniaError::IoError(_) => Ending::Truncated,
        other => Ending::Corrupt(other.to_string()),
    }
}

const DECODER_GAVE_UP: &str = "the decoder gave up on it";

/// Runs a third party's parser: its panic over hostile bytes must end one recording, not the process.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic: Box<dyn Any + Send>| {
        debug!(panic = panic.downcast_ref::<String>(), "a decoder panicked");
        DECODER_GAVE_UP.to_owned()
    })
}

impl Frames {
    fn step(&mut self, out: &mut Vec<f32>) -> Step {
        match self {
            Self::Demuxed(demuxer) => demuxer.step(out),
            Self::Wav(wav) => match wav.read_frames(out) {
                Ok(WavRead::Frames) => Step::Frames { rate_hz: wav.rate_hz, channels: wav.channels },
                Ok(WavRead::End) => Step::End,
                Ok(WavRead::Truncated) => Step::Short,
                Err(error) => Step::Failed(SymphoniaError::IoError(error)),
            },
        }
    }

    fn duration_hint(&self) -> Option<Duration> {
        let (frames, rate_hz) = match self {
            Self::Wav(wav) => (wav.frames_left()?, wav.rate_hz),
            Self::Demuxed(demuxer) => (demuxer.frames?, demuxer.rate_hint_hz()?),
        };
        Duration::try_from_secs_f64(frames as f64 / f64::from(rate_hz.max(1))).ok()
    }
}
