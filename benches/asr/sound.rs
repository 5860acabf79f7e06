//! The recordings that are measured with, and figures over many values.

use std::path::Path;

/// Speech and what is said in it.
pub(crate) struct Recording {
    pub(crate) samples: Vec<f32>,
    pub(crate) text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Reads a plain WAV file of 16-bit samples at 16 kHz.
fn read(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let (samples, _) = bytes[44..].as_chunks::<2>();
    samples.iter().map(|bytes| f32::from(i16::from_le_bytes(*bytes)) / 32_768.0).collect()
}

/// The commands, the strings of digits, and the long recording, with a second of silence after each.
pub(crate) fn recordings() -> Vec<Recording> {
    let fixtures = root().join("tests/fixtures/audio/command-en");
    let mut recordings = Vec::new();
    for (table, folder) in [
        (root().join("assets/demo/demo.tsv"), root().join("assets/demo")),
        (fixtures.join("digits.tsv"), fixtures.clone()),
    ] {
        let table = std::fs::read_to_string(table).unwrap();
        for line in table.lines().skip(1) {
            let mut columns = line.split('\t');
            let file = columns.next().unwrap();
            let text = columns.next_back().unwrap().to_owned();
            recordings.push(Recording { samples: read(&folder.join(file)), text });
        }
    }
    let said = std::fs::read_to_string(fixtures.join("long.tsv")).unwrap();
    let lines: Vec<&str> = said.lines().skip(1).filter_map(|line| line.rsplit('\t').next()).collect();
    recordings.push(Recording { samples: long(), text: lines.join(" ") });
    for recording in &mut recordings {
        recording.samples.extend(std::iter::repeat_n(0.0, 16_000));
    }
    recordings
}

/// Forty seconds of commands with pauses.
pub(crate) fn long() -> Vec<f32> {
    read(&root().join("tests/fixtures/audio/command-en/long.wav"))
}

/// A quantile of sorted values; not a number for none.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((last * q).round() as usize).copied().unwrap_or(f64::NAN)
}
