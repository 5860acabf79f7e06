//! Opus packets to PCM, in pure Rust: runs on the decoder's thread, or where the packets arrive.
//!
//! The demuxer hands over packets and the `OpusHead` of RFC 7845; this file skips the encoder's delay, applies
//! the output gain and conceals packets that do not decode, so that the clock stays right. [`OpusPackets`] takes
//! packets that come one by one without any container.

use opus_decoder::OpusDecoder;

/// Opus is always decoded at this rate: pre-skip and trims count in it.
pub const OPUS_RATE_HZ: u32 = 48_000;

const HEAD_MAGIC: &[u8] = b"OpusHead";
const MIN_HEAD_BYTES: usize = 19;

/// Bare packets, as a telephone or a WebRTC track has them: one to a call, with nothing around them.
pub struct OpusPackets {
    decoder: Box<OpusDecoder>,
    channels: usize,
    buffer: Vec<f32>,
}

impl std::fmt::Debug for OpusPackets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpusPackets").field("channels", &self.channels).finish_non_exhaustive()
    }
}

impl OpusPackets {
    /// A decoder that gives this many channels, 1 or 2; `None` for any other number.
    #[must_use]
    pub fn new(channels: usize) -> Option<Self> {
        let decoder =
            (1..=2).contains(&channels).then(|| OpusDecoder::new(OPUS_RATE_HZ, channels).ok())??;
        let buffer = vec![0.0; OpusDecoder::MAX_FRAME_SIZE_48K * channels];
        Some(Self { decoder: Box::new(decoder), channels, buffer })
    }

    /// The samples of a packet at [`OPUS_RATE_HZ`], interleaved; `None` when it is no Opus packet.
    pub fn decode(&mut self, packet: &[u8]) -> Option<&[f32]> {
        // An empty packet asks the decoder to make sound up.
        if packet.is_empty() {
            return None;
        }
        let frames = self.decoder.decode_float(packet, &mut self.buffer, false).ok()?;
        self.buffer.get(..frames * self.channels)
    }
}

/// The head cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadOpusHead(pub(super) &'static str);

/// One Opus track.
pub(super) struct OpusTrack {
    decoder: Box<OpusDecoder>,
    channels: usize,
    gain: f32,
    /// Frames still to drop: the encoder's look-ahead.
    skip_frames: usize,
    buffer: Vec<f32>,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpusPacket {
    Decoded,
    /// It did not decode, and the gap was filled from what came before.
    Concealed,
}

impl OpusTrack {
    /// A decoder for the track with this `OpusHead`.
    pub(super) fn new(head: &[u8]) -> Result<Self, BadOpusHead> {
        if head.len() < MIN_HEAD_BYTES || !head.starts_with(HEAD_MAGIC) {
            return Err(BadOpusHead("its head is missing or too short"));
        }
        let channels = usize::from(head[9]);
        let skip_frames = usize::from(u16::from_le_bytes([head[10], head[11]]));
        let gain_db = f32::from(i16::from_le_bytes([head[16], head[17]])) / 256.0;
        // Mapping family 0. The others are surround sound; opus-decoder 0.1.1 takes their packets apart in the wrong
        // place (it looks for the length of RFC 6716, appendix B, before the first byte instead of after it).
        if head[18] != 0 && channels > 2 {
            return Err(BadOpusHead("it has more than two channels"));
        }
        let decoder = OpusDecoder::new(OPUS_RATE_HZ, channels)
            .map_err(|_| BadOpusHead("it has no or too many channels"))?;
        let buffer = vec![0.0; OpusDecoder::MAX_FRAME_SIZE_48K * channels];
        Ok(Self {
            decoder: Box::new(decoder),
            channels,
            gain: 10_f32.powf(gain_db / 20.0),
            skip_frames,
            buffer,
        })
    }

    /// Samples per frame.
    pub(super) const fn channels(&self) -> usize {
        self.channels
    }

    /// Decodes one packet, leaves out its last `trim_end` frames, and appends the rest to `out`, interleaved.
    pub(super) fn decode(&mut self, packet: &[u8], trim_end: usize, out: &mut Vec<f32>) -> OpusPacket {
        let (frames, outcome) = match self.run(packet) {
            Some(frames) => (frames, OpusPacket::Decoded),
            None => (self.run(&[]).unwrap_or(0), OpusPacket::Concealed),
        };
        let frames = frames.saturating_sub(trim_end);
        let skip = self.skip_frames.min(frames);
        self.skip_frames -= skip;
        let kept = &self.buffer[skip * self.channels..frames * self.channels];
        out.extend(kept.iter().map(|sample| sample * self.gain));
        outcome
    }

    fn run(&mut self, packet: &[u8]) -> Option<usize> {
        self.decoder.decode_float(packet, &mut self.buffer, false).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(channels: u8, pre_skip: u16, gain: i16, family: u8) -> Vec<u8> {
        let mut head = b"OpusHead\x01".to_vec();
        head.push(channels);
        head.extend(pre_skip.to_le_bytes());
        head.extend(48_000_u32.to_le_bytes());
        head.extend(gain.to_le_bytes());
        head.push(family);
        head
    }

    #[test]
    fn a_bad_head_is_refused() {
        assert!(OpusTrack::new(b"OpusTags").is_err());
        assert!(OpusTrack::new(&head(3, 0, 0, 0)).is_err(), "family 0 has one or two channels");
        assert!(OpusTrack::new(&head(6, 0, 0, 1)).is_err(), "surround sound");
        assert!(OpusTrack::new(&head(2, 312, 0, 0)).is_ok());
    }

    #[test]
    fn bare_packets_give_sound_and_rubbish_gives_none() {
        let mut packets = OpusPackets::new(2).unwrap();
        assert_eq!(packets.decode(&[0xf8, 0xff, 0xfe]).map(<[f32]>::len), Some(2 * 960));
        assert_eq!(packets.decode(&[0xfb, 0x00]), None, "code 3 with zero frames");
        assert_eq!(packets.decode(&[]), None);
        assert!(OpusPackets::new(0).is_none() && OpusPackets::new(3).is_none());
    }

    #[test]
    fn the_delay_is_skipped_once_and_rubbish_is_concealed() {
        let mut track = OpusTrack::new(&head(1, 312, 0, 0)).unwrap();
        // A CELT full-band 20 ms frame of one byte: silence.
        let silence = [0xf8, 0xff, 0xfe];
        let mut out = Vec::new();
        assert_eq!(track.decode(&silence, 0, &mut out), OpusPacket::Decoded);
        assert_eq!(out.len(), 960 - 312);
        assert_eq!(track.decode(&silence, 100, &mut out), OpusPacket::Decoded);
        assert_eq!(out.len(), 960 - 312 + 860);
        // Code 3 with zero frames is invalid.
        assert_eq!(track.decode(&[0xfb, 0x00], 0, &mut out), OpusPacket::Concealed);
        assert_eq!(out.len(), 960 - 312 + 860 + 960, "the gap keeps the clock");
    }
}
