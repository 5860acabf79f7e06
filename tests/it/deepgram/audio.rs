//! What may be sent: rates, channels, encodings, containers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use godctl::{
    asr::{
        protocols::deepgram::{ErrorKind, ServerMessage},
        server::ServerOptions,
        tap::{Spoken, Tap},
    },
    audio::{AudioSource as _, decode::Decoder, pipe::byte_pipe},
    shutdown::Shutdown,
};

use super::{PCM, Server};
use crate::{
    fake::{Model, pcm, silence, spoken, text_of},
    support::root,
};

/// [`spoken`] at another rate: every sample of its 16 kHz as often as it takes.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few seconds")]
fn spoken_at(rate_hz: u32, levels: &[u8]) -> Vec<f32> {
    let samples = spoken(levels);
    let count = samples.len() as f64 * f64::from(rate_hz) / 16_000.0;
    (0..count as usize).map(|i| samples[(i as f64 * 16_000.0 / f64::from(rate_hz)) as usize]).collect()
}

/// Interleaves channels of the same length.
pub(super) fn interleaved(channels: &[&[f32]]) -> Vec<f32> {
    (0..channels[0].len()).flat_map(|i| channels.iter().map(move |channel| channel[i])).collect()
}

/// The nearest code of G.711's mu-law.
fn mu_law(samples: &[f32]) -> Vec<u8> {
    let value = |code: u8| {
        let bits = !code;
        let magnitude = (((i32::from(bits & 15) << 3) + 0x84) << ((bits >> 4) & 7)) - 0x84;
        f64::from(if bits & 0x80 == 0 { magnitude } else { -magnitude }) / 32_768.0
    };
    let nearest = |sample: f32| {
        (0..=255_u8)
            .min_by(|a, b| {
                (value(*a) - f64::from(sample)).abs().total_cmp(&(value(*b) - f64::from(sample)).abs())
            })
            .unwrap()
    };
    let mut codes = std::collections::HashMap::new();
    samples.iter().map(|sample| *codes.entry(sample.to_bits()).or_insert_with(|| nearest(*sample))).collect()
}

const LEVELS: [u8; 4] = [10, 20, 30, 40];

#[tokio::test]
async fn linear16_at_any_rate_and_with_any_channels() {
    let server = Server::willing(1).await;
    for rate_hz in [8_000, 16_000, 22_050, 44_100, 48_000, 192_000] {
        for channels in [1, 2, 8] {
            let mono = spoken_at(rate_hz, &LEVELS);
            let audio = pcm(&interleaved(&vec![&mono[..]; channels]));
            let query = format!("encoding=linear16&sample_rate={rate_hz}&channels={channels}");
            let mut session = server.listen(&query).await;
            // Frames of sizes that cut samples in two.
            session.audio(&audio, 99_999).await;
            let heard = session.finish().await;
            assert_eq!((heard.text(0), heard.close), (text_of(&LEVELS), 1000), "{query}");
            assert_eq!((heard.summary().duration, heard.summary().channels), (0.9, 1), "{query}");
            server.active(0).await;
        }
    }
    server.done().await;
}

#[tokio::test]
async fn other_encodings_of_samples() {
    let server = Server::willing(1).await;
    let floats: Vec<u8> = spoken(&LEVELS).iter().flat_map(|sample| sample.to_le_bytes()).collect();
    for (query, bytes) in [
        // The codes are too coarse for louder levels.
        ("encoding=mulaw", mu_law(&spoken_at(8_000, &LEVELS[..3]))),
        ("encoding=mulaw&sample_rate=16000", mu_law(&spoken(&LEVELS[..3]))),
        ("encoding=linear32&sample_rate=16000", floats),
        // Nothing announced and no mark of a container: what /asr takes it for.
        ("", pcm(&spoken(&LEVELS))),
    ] {
        let levels = if query.contains("mulaw") { &LEVELS[..3] } else { &LEVELS };
        let mut session = server.listen(query).await;
        session.audio(&bytes, 1_001).await;
        assert_eq!(session.finish().await.text(0), text_of(levels), "{query}");
        server.active(0).await;
    }
    server.done().await;
}

#[tokio::test]
async fn every_channel_is_heard_by_itself() {
    let server = Server::willing(2).await;
    let (left, right) = (spoken(&[10, 20, 30]), [silence(0.3), spoken(&[40]), silence(0.2)].concat());
    let (left, right) = (&left[..12_800], &right[..12_800]);
    let query = format!("{PCM}&channels=2&multichannel=true&vad_events=true");
    let mut session = server.listen(&query).await;
    session.audio(&pcm(&interleaved(&[left, right])), 1_003).await;
    session.text(r#"{"type":"Finalize","channel":1}"#).await;
    let heard = session.finish().await;
    assert_eq!((heard.text(0), heard.text(1)), ("w10 w20 w30".to_owned(), "w40".to_owned()));
    assert_eq!(heard.summary().channels, 2);
    assert!(heard.results().all(|results| results.channel_index[1] == 2));
    let finalized: Vec<_> = heard.results().filter(|results| results.from_finalize).collect();
    assert_eq!(finalized.iter().map(|results| results.channel_index[0]).collect::<Vec<_>>(), [1]);
    let mut started: Vec<_> = heard
        .messages
        .iter()
        .filter_map(|message| match message {
            ServerMessage::SpeechStarted { channel, timestamp } => Some((*channel, *timestamp)),
            _ => None,
        })
        .collect();
    started.sort_by_key(|(channel, _)| *channel);
    assert_eq!(started, [([0, 2], 0.0), ([1, 2], 0.3)]);
    server.active(0).await;

    // The same as the mean of both.
    let mut session = server.listen(&format!("{PCM}&channels=2")).await;
    session.audio(&pcm(&interleaved(&[&spoken(&[20]), &spoken(&[40])])), 1_003).await;
    assert_eq!(session.finish().await.text(0), "w30");
    server.done().await;
}

/// Channels are speakers, and an utterance has a place of its own among those of all of them.
#[tokio::test]
async fn the_bus_is_told_which_channel_spoke() {
    let (tap, mut utterances) = Tap::new(9);
    let options = ServerOptions { tap: Some(tap), ..ServerOptions::default() };
    let server = Server::ready(2, Model::Willing, options).await;
    let speakers = [[spoken(&[10]), spoken(&[20])].concat(), [spoken(&[30]), spoken(&[40])].concat()];
    let mut session = server.listen(&format!("{PCM}&channels=2&multichannel=true")).await;
    session.audio(&pcm(&interleaved(&[&speakers[0], &speakers[1]])), 1_003).await;
    session.finish().await;
    let mut heard = Vec::new();
    while let Some(Spoken { speaker, utterance, .. }) = utterances.try_recv() {
        heard.push((utterance.index, speaker.unwrap(), utterance.text));
    }
    let indices: Vec<_> = heard.iter().map(|(index, ..)| *index).collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    for (channel, words) in [("channel 0", ["w10", "w20"]), ("channel 1", ["w30", "w40"])] {
        let said: Vec<_> =
            heard.iter().filter(|(_, speaker, _)| speaker == channel).map(|(.., text)| text).collect();
        assert_eq!(said, words, "{channel}");
    }
    server.done().await;
}

fn fixture(path: &str) -> Vec<u8> {
    std::fs::read(root().join(path)).unwrap()
}

/// A WAV file of 16 kHz s16le.
pub(super) fn wav(samples: &[f32], channels: u16) -> Vec<u8> {
    let data = pcm(samples);
    let len = u32::try_from(data.len()).unwrap();
    let mut bytes = [&b"RIFF"[..], &(36 + len).to_le_bytes(), b"WAVEfmt ", &16_u32.to_le_bytes()].concat();
    bytes.extend([1_u16, channels].iter().flat_map(|v| v.to_le_bytes()));
    bytes.extend([16_000_u32, 32_000 * u32::from(channels)].iter().flat_map(|v| v.to_le_bytes()));
    bytes.extend([2 * channels, 16].iter().flat_map(|v| v.to_le_bytes()));
    bytes.extend([&b"data"[..], &len.to_le_bytes(), &data].concat());
    bytes
}

#[tokio::test]
async fn containers_are_recognised_by_their_content() {
    let server = Server::willing(1).await;
    // Also where somebody says that a WAV file is raw samples: its header would be a click.
    for query in ["", "encoding=linear16&sample_rate=48000", "multichannel=true"] {
        let mut session = server.listen(query).await;
        session.audio(&wav(&spoken(&LEVELS), 1), 700).await;
        assert_eq!(session.finish().await.text(0), text_of(&LEVELS), "{query}");
        server.active(0).await;
    }
    for (format, query) in [
        ("ogg", "encoding=ogg-opus"),
        ("ogg", "encoding=opus"),
        ("webm", ""),
        ("flac", "encoding=flac"),
        ("mp3", ""),
    ] {
        let mut session = server.listen(query).await;
        session.audio(&fixture(&format!("tests/fixtures/audio/formats/demo1.{format}")), 1_000).await;
        let heard = session.finish().await;
        assert!(!heard.words(0).is_empty(), "{format}");
        let duration = heard.summary().duration;
        assert!((duration - 3.34).abs() < 0.1, "{format}: {duration}");
        server.active(0).await;
    }
    server.done().await;
}

#[tokio::test]
async fn the_channels_of_a_container_can_be_kept_apart() {
    let server = Server::willing(2).await;
    let file = wav(&interleaved(&[&spoken(&[10, 20]), &spoken(&[30, 40])]), 2);
    let mut session = server.listen("multichannel=true&channels=2").await;
    session.audio(&file, 1_000).await;
    let heard = session.finish().await;
    assert_eq!((heard.text(0), heard.text(1)), ("w10 w20".to_owned(), "w30 w40".to_owned()));
    server.active(0).await;
    // Announced otherwise.
    let mut session = server.listen("multichannel=true&channels=2").await;
    session.audio(&wav(&spoken(&[10]), 1), 1 << 20).await;
    let heard = session.finish().await;
    let (kind, description) = heard.last_error();
    assert_eq!((heard.close, kind), (1008, ErrorKind::BadAudio));
    assert!(description.contains("the audio has 1 channels, but 2 were announced"), "{description}");
    server.done().await;
}

/// The packets of an Ogg file with one stream, without the two of its head.
fn packets(ogg: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut packets, mut begun) = (ogg, Vec::new(), Vec::new());
    while let Some(count) = rest.get(26) {
        let table = &rest[27..27 + usize::from(*count)];
        let mut at = 27 + table.len();
        for lace in table {
            begun.extend_from_slice(&rest[at..at + usize::from(*lace)]);
            at += usize::from(*lace);
            if *lace < 255 {
                packets.push(std::mem::take(&mut begun));
            }
        }
        rest = &rest[at..];
    }
    packets.split_off(2)
}

#[tokio::test]
async fn bare_opus_packets_one_to_a_frame() {
    let server = Server::willing(1).await;
    let packets = packets(&fixture("tests/fixtures/audio/formats/demo1.ogg"));
    let mut session = server.listen("encoding=opus&sample_rate=48000").await;
    for packet in &packets {
        session.audio_frame(packet.clone()).await;
    }
    let heard = session.finish().await;
    assert!(!heard.words(0).is_empty());
    let duration = heard.summary().duration;
    assert!((duration - 0.02 * packets.len() as f64).abs() < 1e-6, "{duration}");
    server.active(0).await;

    let mut session = server.listen("encoding=opus&sample_rate=48000").await;
    session.audio_frame(vec![0xfb, 0x00]).await;
    let heard = session.rest().await;
    assert_eq!((heard.close, heard.last_error().0), (1008, ErrorKind::BadAudio));
    server.done().await;
}

#[tokio::test]
async fn what_is_no_audio_is_refused_and_harms_nobody() {
    let server = Server::willing(2).await;
    let mut healthy = server.listen(PCM).await;
    healthy.audio(&pcm(&spoken(&[10])), 1_000).await;
    for (query, bytes) in [
        ("encoding=flac", vec![0x5a; 3_000]),
        ("encoding=ogg-opus", b"this is text".to_vec()),
        ("", [b"fLaC".to_vec(), vec![0x5a; 20_000]].concat()),
    ] {
        let mut session = server.listen(query).await;
        session.audio(&bytes, 500).await;
        session.text(r#"{"type":"CloseStream"}"#).await;
        let heard = session.rest().await;
        let (kind, description) = heard.last_error();
        assert_eq!((heard.close, kind), (1008, ErrorKind::BadAudio), "{query}: {description}");
        assert!(heard.reason.contains("DATA-0000"));
        server.active(1).await;
    }
    healthy.audio(&pcm(&spoken(&[20])), 1_000).await;
    assert_eq!(healthy.finish().await.text(0), "w10 w20");
    server.done().await;
}

/// What a `Finalize` in the middle of a container can count on: see `protocols::deepgram::control`.
#[tokio::test]
async fn what_has_arrived_whole_is_heard_before_the_container_goes_on() {
    let shutdown = Shutdown::new();
    // A frame of MP3, AAC and FLAC is known to be whole when the next one begins.
    for (name, most_ms) in [
        ("demo1.webm", 100),
        ("demo1.ogg", 100),
        ("demo1-vorbis.ogg", 100),
        ("demo1.mp3", 200),
        ("demo1.aac", 200),
        ("demo1.flac", 400),
    ] {
        let (mut writer, reader) = byte_pipe(1 << 20);
        let heard = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&heard);
        let (ended, end) = tokio::sync::oneshot::channel();
        shutdown
            .thread("decoder", move || {
                let mut decoder = Decoder::from_reader("session", reader).unwrap();
                while let Ok(Some(chunk)) = decoder.next_chunk() {
                    counted.fetch_add(chunk.len(), Ordering::SeqCst);
                }
                assert!(ended.send(()).is_ok());
            })
            .unwrap();
        let bytes = std::fs::read(root().join("tests/fixtures/audio/formats").join(name)).unwrap();
        // In the middle of whatever is there.
        writer.write_all(&bytes[..bytes.len() * 3 / 5]).await.unwrap();
        writer.drained().await;
        let at_once = heard.load(Ordering::SeqCst);
        // Without any more bytes the end brings out what could have been heard.
        writer.finish();
        end.await.unwrap();
        let held_ms = (heard.load(Ordering::SeqCst) - at_once) / 16;
        assert!(
            at_once > 8_000 && held_ms <= most_ms,
            "{name}: {held_ms} ms held back, {at_once} samples heard"
        );
    }
    shutdown.finish(Duration::from_secs(5)).await.unwrap();
}
