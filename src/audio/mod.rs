//! Audio: frames and formats, files and containers, resampling, voice activity, the microphone.
//!
//! Inside godctl audio is mono `f32` in [-1, 1] at [`SAMPLE_RATE_HZ`]; everything else is converted at the edge.
//! Nothing here owns a thread except [`capture`], whose threads are started through `Shutdown::thread` and end
//! when the root token is cancelled or when their consumer goes away.
//!
//! ```text
//! file ──> sniff ──> decode (wav | symphonia | opus) ──> mean of channels ──> resample ──> AudioSource
//! socket bytes ──> sniff ──> pipe ──> decode ──┘
//!              ──> pcm, opus packets ──> split (the mean of the channels, or each by itself, resampled)
//! microphone ──> ring ──> resample ──> CaptureEvent      file:PATH ──> decode ──> paced ──> CaptureEvent
//! any of them ──> vad (speech start, speech end, probability per frame)
//! ```

use std::{io, time::Duration};

pub mod capture;
pub mod decode;
mod demux;
pub mod opus;
pub mod paced;
pub mod pcm;
pub mod pipe;
pub mod resample;
pub mod scene;
pub mod sniff;
pub mod split;
pub mod vad;
mod vorbis;
mod wav;

/// The rate of all audio inside godctl, in Hz: what Whisper was trained on.
pub const SAMPLE_RATE_HZ: u32 = 16_000;

/// The most samples that one call of [`AudioSource::next_chunk`] gives: half a second.
pub const MAX_CHUNK_SAMPLES: usize = SAMPLE_RATE_HZ as usize / 2;

/// What godctl reads, in the words of its error messages.
pub const READABLE_FORMATS: &str =
    "WAV, AIFF, CAF, FLAC, MP3, AAC, M4A/MP4, Ogg (Opus, Vorbis, FLAC) and WebM/Matroska";

/// A stream of audio that is pulled: blocking, so it belongs on a thread of its own.
pub trait AudioSource: Send {
    /// The next samples: mono at [`SAMPLE_RATE_HZ`], in [-1, 1], at most [`MAX_CHUNK_SAMPLES`] and never empty.
    /// `None` is the end, and stays the end.
    ///
    /// # Errors
    /// Once, after which only `None` comes. Whatever was given before the error is good audio: see
    /// [`AudioError::is_partial`].
    fn next_chunk(&mut self) -> Result<Option<Vec<f32>>, AudioError>;

    /// How long the audio says it is, where it says so. A hint: a truncated file is shorter.
    fn duration_hint(&self) -> Option<Duration>;

    /// What had to be repaired so far.
    fn stats(&self) -> AudioStats;
}

/// What was repaired on the way in, so that a caller can warn about it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AudioStats {
    /// Samples that were not a number or infinite, and became silence (counted before the channels are mixed).
    pub nan_samples: u64,
    /// Mono samples outside [-1, 1] that were clamped.
    pub clipped_samples: u64,
    /// Damaged packets that were replaced by silence or by the codec's own concealment.
    pub damaged_packets: u64,
    /// Mono samples at [`SAMPLE_RATE_HZ`] given so far.
    pub samples: u64,
}

/// Why audio could not be had. Each variant is something else for the user to do.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// The bytes could not be had: missing, not permitted, a directory, a broken disk.
    #[error("cannot read {name}: {}", reading_hint(source))]
    Read {
        /// The file or stream.
        name: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// There is not one byte.
    #[error("{name} is empty: it holds no audio; check how it was made")]
    Empty {
        /// The file or stream.
        name: String,
    },
    /// The content is none of the formats that godctl reads.
    #[error("{name} is not audio that godctl can read: {found}; it reads {READABLE_FORMATS}")]
    UnknownFormat {
        /// The file or stream.
        name: String,
        /// What the content looked like, for example "this is text, not audio".
        found: &'static str,
    },
    /// The container is known, the codec in it is not.
    #[error("{name} holds {codec}, which godctl does not decode; convert it, for example to FLAC")]
    UnsupportedCodec {
        /// The file or stream.
        name: String,
        /// The codec's name, or what the decoder lacked.
        codec: String,
    },
    /// A container without a sound track.
    #[error("{name} has no audio track: it is a {container} file with other content; choose another file")]
    NoAudioTrack {
        /// The file or stream.
        name: String,
        /// The container.
        container: sniff::Container,
    },
    /// A container that can only be read with its end at hand came as a stream.
    #[error(
        "{name} keeps its index at the end and cannot be decoded while it arrives; \
         send the whole file, or write it with the index first (for MP4: faststart)"
    )]
    NotStreamable {
        /// The stream.
        name: String,
    },
    /// The audio ends before its container says it does. What came before was decoded.
    #[error(
        "{name} is truncated: it ends at {at_seconds:.2} s, inside the audio it promises; what came before was kept"
    )]
    Truncated {
        /// The file or stream.
        name: String,
        /// Where the audio ended, in seconds from its start.
        at_seconds: f64,
    },
    /// The bytes make no sense to the container's reader or to the codec. What came before was decoded.
    #[error(
        "{name} is damaged at {at_seconds:.2} s ({reason}); what came before was kept, make the file again"
    )]
    Corrupt {
        /// The file or stream.
        name: String,
        /// Where, in seconds from the start of the audio.
        at_seconds: f64,
        /// What the reader said.
        reason: String,
    },
    /// The sender of a stream went away without saying that it had finished.
    #[error("{name} was cut off by its sender at {at_seconds:.2} s")]
    Aborted {
        /// The stream.
        name: String,
        /// Where, in seconds from the start of the audio.
        at_seconds: f64,
    },
    /// No input device, or none of that name.
    #[error("{reason}")]
    NoDevice {
        /// What was looked for and what there is, with the fix.
        reason: String,
    },
    /// Another program holds the device.
    #[error(
        "microphone {device:?} is in use by another program; close that program, or choose another input"
    )]
    DeviceBusy {
        /// The device's name.
        device: String,
    },
    /// The operating system does not let this program record.
    #[error(
        "no permission to record from {device:?}; allow microphone access for this program \
         (on Linux: put the user in the audio group)"
    )]
    DeviceDenied {
        /// The device's name.
        device: String,
    },
    /// The device was there and is gone.
    #[error("microphone {device:?} is not there any more; plug it in again, or choose another input")]
    DeviceLost {
        /// The device's name.
        device: String,
    },
    /// The audio system itself failed.
    #[error("microphone {device:?} does not work: {reason}")]
    Device {
        /// The device's name.
        device: String,
        /// What the audio system said.
        reason: String,
    },
    /// The operating system refused a thread.
    #[error("cannot start the audio thread; free some resources and try again")]
    Thread(#[source] io::Error),
}

impl AudioError {
    /// True when the audio that came before the error is good and worth keeping.
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        matches!(self, Self::Truncated { .. } | Self::Corrupt { .. } | Self::Aborted { .. })
    }

    /// True when the same device may well work a moment later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::DeviceBusy { .. } | Self::DeviceLost { .. } | Self::Device { .. })
    }
}

fn reading_hint(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file; check the path".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied; make it readable for this user".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory; name the files in it".to_owned(),
        _ => error.to_string(),
    }
}
