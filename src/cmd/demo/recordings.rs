//! The recordings that ship inside the binary, and their place on the clock of one session.

use std::io::Cursor;

use anyhow::Context as _;

use crate::{
    asr::stream::{Samples, samples_of_ms, seconds},
    audio::{AudioSource as _, decode::Decoder},
};

/// What was said in each, and by whom.
const TEXTS: &str = include_str!("../../../assets/demo/demo.tsv");

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../../assets/demo/", $name)) as &[u8])),*]
    };
}

const FILES: &[(&str, &[u8])] = embedded![
    "demo1.wav",
    "demo2.wav",
    "demo3.wav",
    "demo4.wav",
    "demo5.wav",
    "demo6.wav",
    "demo7.wav",
    "demo8.wav",
];

/// Silence after each recording: what people leave between two commands, and long enough to end an utterance.
const GAP: Samples = samples_of_ms(1_000);

/// One recording.
#[derive(Debug)]
pub(super) struct Recording {
    /// Its file, without the ending.
    pub(super) name: &'static str,
    /// Who speaks.
    pub(super) voice: &'static str,
    /// What is said.
    pub(super) text: &'static str,
    /// Where it begins on the session's clock.
    pub(super) start: Samples,
    /// Its sound: 16 kHz mono.
    pub(super) samples: Vec<f32>,
}

impl Recording {
    /// Where it ends on the session's clock.
    pub(super) fn end(&self) -> Samples {
        self.start + self.samples.len() as Samples
    }

    /// True for a word whose middle lies nearer to this recording than to its neighbours.
    pub(super) fn owns(&self, word_start: f64, word_end: f64) -> bool {
        let middle = f64::midpoint(word_start, word_end);
        (seconds(self.start.saturating_sub(GAP / 2))..seconds(self.end() + GAP / 2)).contains(&middle)
    }
}

/// All recordings, one after another with a gap after each.
pub(super) fn load() -> anyhow::Result<Vec<Recording>> {
    let mut start = 0;
    FILES
        .iter()
        .map(|(file, wav)| {
            let line = TEXTS.lines().find(|line| line.split('\t').next() == Some(file));
            let mut columns = line.with_context(|| format!("no text for {file}"))?.split('\t').skip(2);
            let (Some(voice), Some(text)) = (columns.next(), columns.next()) else {
                anyhow::bail!("the text of {file} has no voice or no words");
            };
            let samples = samples_of(file, wav)?;
            let name = file.strip_suffix(".wav").unwrap_or(file);
            let recording = Recording { name, voice, text, start, samples };
            start = recording.end() + GAP;
            Ok(recording)
        })
        .collect()
}

/// The session's audio from first to last, gaps included.
pub(super) fn soundtrack(recordings: &[Recording]) -> Vec<f32> {
    let gap = vec![0.0; usize::try_from(GAP).unwrap_or_default()];
    recordings.iter().flat_map(|recording| recording.samples.iter().chain(&gap).copied()).collect()
}

fn samples_of(name: &'static str, wav: &'static [u8]) -> anyhow::Result<Vec<f32>> {
    let mut decoder = Decoder::from_reader(name, Cursor::new(wav))?;
    let mut samples = Vec::new();
    while let Some(chunk) = decoder.next_chunk()? {
        samples.extend(chunk);
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_follow_each_other_with_gaps_and_share_no_word() {
        let recordings = load().unwrap();
        assert_eq!(recordings.len(), 8);
        assert_eq!(recordings[0].text, "hey tonny start a new claude session");
        let total = seconds(soundtrack(&recordings).len() as Samples);
        assert!((30.0..45.0).contains(&total), "{total} s at real time");
        for pair in recordings.windows(2) {
            assert_eq!(pair[0].end() + GAP, pair[1].start);
            for at in [pair[0].end(), pair[0].end() + GAP / 4, pair[1].start] {
                let owners =
                    pair.iter().filter(|recording| recording.owns(seconds(at), seconds(at) + 0.01)).count();
                assert_eq!(owners, 1);
            }
        }
    }
}
