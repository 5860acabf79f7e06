//! Events from the bus, in every shape.

use godctl::bus::{
    Event,
    event::{self, Unparsed, check, registry},
};
use jiff::Timestamp;

/// A limit that some inputs reach.
const MAX_BYTES: usize = 4_096;
/// What the transport says.
const KEYS: [Option<&str>; 2] = [None, Some("x.y")];

/// Holds: bytes are an event, or are kept with a reason; an event is written once in a way that reads as the same event,
/// whatever the transport says then; no key is written twice.
pub fn hold(bytes: &[u8]) {
    for key in KEYS {
        match read(bytes, key) {
            Ok(event) => event_holds(&event),
            Err(unparsed) => {
                assert_eq!(unparsed.raw, bytes);
                assert!(!unparsed.reason.is_empty());
            }
        }
    }
    assert!(registry::validate(bytes).iter().all(|problem| !problem.message.is_empty()));
}

fn read(bytes: &[u8], key: Option<&str>) -> Result<Event, Unparsed> {
    event::read(bytes, key, Timestamp::UNIX_EPOCH, MAX_BYTES)
}

fn event_holds(event: &Event) {
    // What readers look for in it is there or not; no shape of it may end them.
    let _found = (event.domain(), event.is_error(), event.session_id(), event.text());
    // What wraps a payload may nest it deeper than can be read; that is refused when it is to be published.
    let Ok(written) = check(event, usize::MAX) else { return };
    assert_eq!(written, event.to_json());
    let again = event::read(&written, Some("other.key"), Timestamp::MAX, usize::MAX).unwrap();
    assert_eq!(&again, event);
    let value: serde_json::Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(value.to_string().len(), written.len(), "a key is there twice");
    assert!(check(event, written.len() - 1).is_err(), "larger than the limit");
}
