//! A container that arrives: sniffing, the readers of all formats, resampling.

use std::io::Cursor;

use godctl::audio::{
    AudioError,
    decode::Decoder,
    sniff::{self, Container, MAX_SNIFF_BYTES, Sniffed},
};

use super::{
    heard::listen,
    pieces::{Pieces, cut},
};

/// A sample of one byte becomes sixteen at 1 kHz; rounding adds one.
const MAX_WAV_SAMPLES_PER_BYTE: u64 = 16;
/// The format tags of ADPCM, where the beginning of a block stands for all of it.
const ADPCM: [u8; 2] = [2, 0x11];

/// Holds: see [`listen`]; pieces of any size give the same audio and the same ending.
pub fn hold(bytes: &[u8]) {
    let verdict = verdicts(bytes);
    let name = "stream";
    let whole = listen(Decoder::from_reader(name, Cursor::new(bytes.to_vec())), bytes.len());
    let pieces = listen(Decoder::from_reader(name, Pieces::new(bytes)), bytes.len());
    match (&whole, &pieces) {
        (Ok(whole), Ok(pieces)) => {
            assert_eq!(whole, pieces);
            let Sniffed::Container(container) = verdict else { panic!("decoded what was not recognised") };
            if container == Container::Wav && bytes.get(20).is_none_or(|tag| !ADPCM.contains(tag)) {
                assert!(whole.samples <= bytes.len() as u64 * MAX_WAV_SAMPLES_PER_BYTE + 1);
            }
        }
        // What rubbish looks like may hang on how much of it was seen.
        (Err(AudioError::UnknownFormat { .. }), Err(AudioError::UnknownFormat { .. })) => {
            assert!(!matches!(verdict, Sniffed::Container(_)));
        }
        (Err(whole), Err(pieces)) => assert_eq!(whole.to_string(), pieces.to_string()),
        _ => panic!("{whole:?}, and in pieces {pieces:?}"),
    }
}

/// What the first bytes are said to be, once enough of them are there. Holds: a verdict stays.
fn verdicts(bytes: &[u8]) -> Sniffed {
    let mut before = Sniffed::NeedMore;
    let mut seen = 0;
    for piece in cut(bytes) {
        seen += piece.len();
        let now = sniff::sniff(&bytes[..seen]);
        assert!(before == Sniffed::NeedMore || before == now, "{before:?} became {now:?}");
        before = now;
        if seen >= MAX_SNIFF_BYTES {
            assert_ne!(now, Sniffed::NeedMore, "undecided after {seen} bytes");
            break;
        }
    }
    assert!(!sniff::describe(bytes).is_empty());
    before
}
