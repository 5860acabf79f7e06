//! Containers and codecs through symphonia, and Opus through our own track: runs on the decoder's thread.
//!
//! Gives interleaved frames at the track's own rate. Knows nothing of resampling.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    sync::Arc,
};

use parking_lot::Mutex;
use symphonia::core::{
    codecs::{
        CodecParameters,
        audio::{AudioCodecId, AudioCodecParameters, AudioDecoder, AudioDecoderOptions, well_known as codec},
    },
    errors::Error,
    formats::{
        FormatOptions, FormatReader, Track, TrackType,
        probe::Hint,
        well_known::{FORMAT_ID_ISOMP4, FORMAT_ID_MKV},
    },
    io::{MediaSource, MediaSourceStream, MediaSourceStreamOptions},
    meta::MetadataOptions,
    packet::Packet,
    units::{Duration, TimeBase},
};

use super::{
    opus::{OPUS_RATE_HZ, OpusPacket, OpusTrack},
    vorbis,
};

/// So many damaged packets in a row, and the rest of the file is given up.
const MAX_DAMAGED_RUN: u32 = 64;
/// Samples of one packet, all channels together, at most: what FLAC and ALAC can have (eight channels of 65,536). Decoders
/// allocate this before the first packet, so the word of a header cannot be taken for it.
const MAX_PACKET_SAMPLES: u64 = 1 << 19;
/// So much may be missing at the end against the container's own count before the file counts as truncated.
const END_SLACK_SECONDS: f64 = 0.25;

/// Where the bytes come from.
pub(super) enum Bytes {
    /// A regular file: can seek.
    File(File, u64),
    /// Anything else.
    Stream(Box<dyn Read + Send + Sync>),
}

/// The error of the bytes themselves, which the demuxer may have hidden behind one of its own.
pub(super) type SourceError = Arc<Mutex<Option<io::Error>>>;

/// The byte source as symphonia wants it, remembering its own error.
pub(super) struct Source {
    bytes: Bytes,
    failed: SourceError,
}

impl Source {
    pub(super) fn new(bytes: Bytes) -> (Self, SourceError) {
        let failed = SourceError::default();
        (Self { bytes, failed: failed.clone() }, failed)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = match &mut self.bytes {
            Bytes::File(file, _) => file.read(buffer),
            Bytes::Stream(stream) => stream.read(buffer),
        };
        if let Err(error) = &result
            && error.kind() != io::ErrorKind::Interrupted
        {
            // An io::Error cannot be cloned: keep its kind, which is what is acted upon, and its words.
            *self.failed.lock() = Some(io::Error::new(error.kind(), error.to_string()));
        }
        result
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match &mut self.bytes {
            Bytes::File(file, _) => file.seek(to),
            Bytes::Stream(_) => Err(io::ErrorKind::NotSeekable.into()),
        }
    }
}

impl MediaSource for Source {
    fn is_seekable(&self) -> bool {
        matches!(self.bytes, Bytes::File(..))
    }

    fn byte_len(&self) -> Option<u64> {
        match &self.bytes {
            Bytes::File(_, len) => Some(*len),
            Bytes::Stream(_) => None,
        }
    }
}

/// Why a container could not be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    NoAudioTrack,
    Codec(String),
    Reader(Error),
}

/// What one step gave.
#[derive(Debug)]
pub(super) enum Step {
    /// Frames were appended, in this shape.
    Frames { rate_hz: u32, channels: usize },
    /// The track is over.
    End,
    /// The track stops before its own count of frames.
    Short,
    /// Nothing more can be had.
    Failed(Error),
}

enum Codec {
    Symphonia(Box<dyn AudioDecoder>),
    Opus(Box<OpusTrack>),
}

/// One audio track of one container.
pub(super) struct Demuxer {
    format: Box<dyn FormatReader>,
    codec: Codec,
    track_id: u32,
    rate_hz: u32,
    channels: usize,
    /// A live recording: it has no length and stops wherever its sender stopped.
    live: bool,
    /// Frames that the container counts, without encoder delay and padding.
    pub(super) frames: Option<u64>,
    /// Frames still to drop: an encoder's delay that only the container knows.
    skip_frames: usize,
    decoded_frames: u64,
    damaged_run: u32,
    /// Packets that had to be replaced.
    pub(super) damaged_packets: u64,
}

impl Demuxer {
    /// Finds the format and the first audio track that has a known codec.
    pub(super) fn open(source: Source) -> Result<Self, OpenError> {
        let stream = MediaSourceStream::new(Box::new(source), MediaSourceStreamOptions::default());
        let format = symphonia::default::get_probe()
            .probe(&Hint::new(), stream, FormatOptions::default(), MetadataOptions::default())
            .map_err(OpenError::Reader)?;
        let Selected { track_id, codec, frames, skip_frames } = select(format.as_ref())?;
        let live = format.format_info().format == FORMAT_ID_MKV && format.media_info().duration.is_none();
        Ok(Self {
            live,
            skip_frames,
            format,
            codec,
            track_id,
            rate_hz: OPUS_RATE_HZ,
            channels: 1,
            frames,
            decoded_frames: 0,
            damaged_run: 0,
            damaged_packets: 0,
        })
    }

    /// The rate at which [`Demuxer::frames`] counts.
    pub(super) fn rate_hint_hz(&self) -> Option<u32> {
        match &self.codec {
            Codec::Opus(_) => Some(OPUS_RATE_HZ),
            Codec::Symphonia(decoder) => decoder.codec_params().sample_rate,
        }
    }

    /// Decodes up to the next frames of the track and appends them to `out`, interleaved.
    pub(super) fn step(&mut self, out: &mut Vec<f32>) -> Step {
        loop {
            let packet = match self.format.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => return self.end(),
                // A chained Ogg stream: another recording follows in the same file.
                Err(Error::ResetRequired) => match select(self.format.as_ref()) {
                    Ok(next) => {
                        (self.track_id, self.codec, self.frames) = (next.track_id, next.codec, None);
                        continue;
                    }
                    Err(OpenError::Reader(error)) => return Step::Failed(error),
                    Err(_) => {
                        return Step::Failed(Error::Unsupported(
                            "a later part of the file has no usable track",
                        ));
                    }
                },
                // What cannot seek ends where its bytes end; whether that was too early, the count of frames tells.
                Err(Error::IoError(_)) if self.live || self.frames.is_some() => return self.end(),
                Err(error) => return Step::Failed(error),
            };
            // Tags that arrive on the way are of no interest, but would pile up.
            while self.format.metadata().pop().is_some() {}
            if packet.track_id != self.track_id {
                continue;
            }
            let before = out.len();
            if let Err(error) = self.decode(&packet, out) {
                return Step::Failed(error);
            }
            let frames = (out.len() - before) / self.channels;
            let skip = frames.min(self.skip_frames);
            self.skip_frames -= skip;
            out.drain(before..before + skip * self.channels);
            self.decoded_frames += (frames - skip) as u64;
            if frames > skip {
                return Step::Frames { rate_hz: self.rate_hz, channels: self.channels };
            }
        }
    }

    fn decode(&mut self, packet: &Packet, out: &mut Vec<f32>) -> Result<(), Error> {
        let damaged = match &mut self.codec {
            Codec::Opus(track) => {
                (self.rate_hz, self.channels) = (OPUS_RATE_HZ, track.channels());
                let trim_end = usize::try_from(packet.trim_end.get()).unwrap_or(usize::MAX);
                track.decode(&packet.data, trim_end, out) == OpusPacket::Concealed
            }
            Codec::Symphonia(decoder) => match decoder.decode(packet) {
                Ok(buffer) => {
                    let channels = buffer.spec().channels().count();
                    if channels > 0 && !buffer.is_empty() {
                        (self.rate_hz, self.channels) = (buffer.spec().rate(), channels);
                        let at = out.len();
                        out.resize(at + buffer.samples_interleaved(), 0.0);
                        buffer.copy_to_slice_interleaved(&mut out[at..]);
                    }
                    false
                }
                Err(Error::DecodeError(_) | Error::IoError(_)) => {
                    // Silence of the packet's length keeps the clock right, once the shape is known.
                    if self.decoded_frames > 0
                        && let Some(frames) = decoder.codec_params().max_frames_per_packet
                    {
                        let frames = packet.dur.get().min(frames) as usize;
                        out.resize(out.len() + frames * self.channels, 0.0);
                    }
                    true
                }
                Err(error) => return Err(error),
            },
        };
        if damaged {
            self.damaged_packets += 1;
            self.damaged_run += 1;
            if self.damaged_run >= MAX_DAMAGED_RUN {
                return Err(Error::DecodeError("nothing but damaged packets"));
            }
        } else {
            self.damaged_run = 0;
        }
        Ok(())
    }

    fn end(&self) -> Step {
        let slack = (f64::from(self.rate_hz) * END_SLACK_SECONDS) as u64;
        match self.frames {
            Some(frames) if self.decoded_frames + slack < frames => Step::Short,
            _ => Step::End,
        }
    }
}

struct Selected {
    track_id: u32,
    codec: Codec,
    /// Frames to expect, after the delay.
    frames: Option<u64>,
    skip_frames: usize,
}

fn select(format: &dyn FormatReader) -> Result<Selected, OpenError> {
    let track = format
        .first_track_known_codec(TrackType::Audio)
        .or_else(|| format.first_track(TrackType::Audio))
        .ok_or(OpenError::NoAudioTrack)?;
    let Some(CodecParameters::Audio(parameters)) = &track.codec_params else {
        return Err(OpenError::NoAudioTrack);
    };
    let container = format.format_info().format;
    let rate_hz =
        if parameters.codec == codec::CODEC_ID_OPUS { Some(OPUS_RATE_HZ) } else { parameters.sample_rate };
    let media = format.media_info();
    let media_frames =
        rate_hz.zip(seconds(media.time_base, media.duration)).map(|(rate, s)| (s * f64::from(rate)) as u64);
    let skip_frames = match (container, parameters.codec, rate_hz) {
        (FORMAT_ID_ISOMP4, codec::CODEC_ID_AAC, Some(rate)) => aac_delay(track, media_frames, rate),
        _ => 0,
    };
    let frames = match container {
        // Their tracks count ticks, and the movie counts without the delay.
        FORMAT_ID_MKV | FORMAT_ID_ISOMP4 => media_frames,
        _ => track.num_frames,
    };
    let codec = make_codec(parameters, container == FORMAT_ID_ISOMP4)?;
    Ok(Selected { track_id: track.id, codec, frames, skip_frames })
}

fn seconds(time_base: Option<TimeBase>, duration: Option<Duration>) -> Option<f64> {
    let (base, duration) = (time_base?, duration?);
    Some(duration.get() as f64 * f64::from(base.numer.get()) / f64::from(base.denom.get()))
}

/// The delay of an AAC encoder in an MP4: symphonia does not apply edit lists, but one that hides the delay also
/// makes the movie shorter than its track. Encoders have one of a few delays, so the nearest below is taken: what
/// is beyond it is padding at the end.
fn aac_delay(track: &Track, media_frames: Option<u64>, rate_hz: u32) -> usize {
    const DELAYS: [u64; 3] = [2_112, 2_048, 1_024];
    let track_frames = seconds(track.time_base, track.duration).map(|s| (s * f64::from(rate_hz)) as u64);
    let (Some(track_frames), Some(media_frames)) = (track_frames, media_frames) else { return 0 };
    // Movies often count milliseconds.
    let hidden = track_frames.saturating_sub(media_frames) + u64::from(rate_hz).div_ceil(1_000);
    DELAYS.into_iter().find(|delay| *delay <= hidden).unwrap_or(0) as usize
}

fn make_codec(parameters: &AudioCodecParameters, big_endian_head: bool) -> Result<Codec, OpenError> {
    if parameters.codec == codec::CODEC_ID_OPUS {
        let mut head = parameters.extra_data.as_deref().unwrap_or_default().to_vec();
        if big_endian_head && head.len() >= 18 {
            // The `dOps` box of MP4 has the fields of RFC 7845 the other way round: pre-skip, rate, gain.
            head[10..12].reverse();
            head[12..16].reverse();
            head[16..18].reverse();
        }
        let track = OpusTrack::new(&head).map_err(|bad| OpenError::Codec(format!("Opus, but {}", bad.0)))?;
        return Ok(Codec::Opus(Box::new(track)));
    }
    let channels = parameters.channels.as_ref().map_or(1, |channels| channels.count() as u64);
    let packet_samples = parameters.max_frames_per_packet.unwrap_or(0).saturating_mul(channels);
    if packet_samples > MAX_PACKET_SAMPLES {
        return Err(OpenError::Codec(format!("packets of {packet_samples} samples")));
    }
    if parameters.codec == codec::CODEC_ID_VORBIS
        && parameters.extra_data.as_deref().is_some_and(vorbis::is_oversized)
    {
        return Err(OpenError::Codec("Vorbis with larger codebooks than encoders make".to_owned()));
    }
    symphonia::default::get_codecs()
        .make_audio_decoder(parameters, &AudioDecoderOptions::default())
        .map(Codec::Symphonia)
        .map_err(|error| match (codec_name(parameters.codec), error) {
            (Some(name), _) => OpenError::Codec(name.to_owned()),
            (None, Error::Unsupported(what)) => {
                OpenError::Codec(format!("a codec or a feature of one ({what})"))
            }
            (None, error) => OpenError::Reader(error),
        })
}

/// Codecs that people meet and that godctl does not decode.
fn codec_name(id: AudioCodecId) -> Option<&'static str> {
    const NAMES: &[(AudioCodecId, &str)] = &[
        (codec::CODEC_ID_AC3, "Dolby Digital (AC-3)"),
        (codec::CODEC_ID_EAC3, "Dolby Digital Plus (E-AC-3)"),
        (codec::CODEC_ID_TRUEHD, "Dolby TrueHD"),
        (codec::CODEC_ID_DCA, "DTS"),
        (codec::CODEC_ID_MP1, "MPEG layer I"),
        (codec::CODEC_ID_MP2, "MPEG layer II"),
        (codec::CODEC_ID_WAVPACK, "WavPack"),
        (codec::CODEC_ID_TTA, "TTA"),
        (codec::CODEC_ID_MUSEPACK, "Musepack"),
        (codec::CODEC_ID_SPEEX, "Speex"),
    ];
    NAMES.iter().find(|(known, _)| *known == id).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Apple's container with IMA ADPCM, up to its first packet.
    fn caf(packet_bytes: u32, packet_frames: u32, channels: u32) -> Vec<u8> {
        let mut bytes = b"caff\0\x01\0\0desc".to_vec();
        bytes.extend(32_u64.to_be_bytes());
        bytes.extend(16_000_f64.to_be_bytes());
        bytes.extend(b"ima4");
        for word in [0, packet_bytes, packet_frames, channels, 0] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(b"data");
        bytes.extend(38_u64.to_be_bytes());
        bytes.extend([0; 4 + 34]);
        bytes
    }

    /// From a file: this container says behind the sound what it is.
    fn open(bytes: &[u8]) -> Result<Demuxer, OpenError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        Demuxer::open(Source::new(Bytes::File(file, bytes.len() as u64)).0)
    }

    #[test]
    fn packets_longer_than_any_encoder_makes_are_refused_before_memory_is_asked_for() {
        assert!(open(&caf(34, 64, 1)).is_ok());
        for (frames, channels) in [(u32::MAX, 1), (1 << 20, 1), (1 << 19, 2)] {
            let refused = open(&caf(34, frames, channels)).map(|_| ()).unwrap_err();
            assert!(matches!(&refused, OpenError::Codec(what) if what.contains("packets of")), "{refused:?}");
        }
    }
}
