//! A container in a file, as it was uploaded: what can seek takes other ways through the readers.

use std::io::Write as _;

use godctl::audio::decode::Decoder;

use super::heard::listen;

/// Of the extensions, those of frames without a mark open the most doors.
const SUFFIX: &str = ".mp3";

/// Holds: see [`listen`]; one channel alone is as long as the mean of all, and damaged in the same places; frames are
/// whole, and the same ending follows them.
pub fn hold(bytes: &[u8]) {
    let mut file = tempfile::Builder::new().prefix("godctl-fuzz-").suffix(SUFFIX).tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let open = || Decoder::open_as(file.path(), "upload".to_owned());

    let mean = match listen(open(), bytes.len()) {
        Ok(mean) => mean,
        Err(error) => {
            let again = open().err().map(|error| error.to_string());
            assert_eq!(again, Some(error.to_string()), "opened the second time");
            return;
        }
    };
    let first = listen(open().map(|decoder| decoder.only_channel(Some(0))), bytes.len()).unwrap();
    assert_eq!((mean.samples, &mean.ending), (first.samples, &first.ending));
    assert_eq!(mean.stats.damaged_packets, first.stats.damaged_packets);

    let mut decoder = open().unwrap();
    let failed = loop {
        match decoder.next_frames() {
            Ok(Some((frames, rate_hz, channels))) => {
                assert!(!frames.is_empty() && channels > 0 && frames.len() % channels == 0);
                // Beyond what is resampled the other ways end with an error; this one leaves it to its caller.
                assert!(rate_hz > 0 || mean.ending.is_some());
            }
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(!failed || mean.ending.is_some());
    assert_eq!(decoder.next_frames().ok(), Some(None), "the end does not stay the end");
}
