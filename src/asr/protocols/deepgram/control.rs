//! What a client says in text frames. Pure.

use serde_json::Value;

/// How much of an unreadable message is quoted back.
const MAX_QUOTE: usize = 120;

/// A control message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// I am still here; nothing is answered.
    KeepAlive,
    /// No more audio comes: say everything, then close.
    CloseStream,
    /// Make everything sent so far final, on one channel or on all.
    ///
    /// Of raw samples that is all of them. In a container it is what has arrived whole: a block of WebM and a page of Ogg
    /// is heard without waiting for the end of its cluster or its stream, but no half of one, and no frame of MP3, AAC or
    /// FLAC before the next one begins. Less than 0.1 s of what was decoded stays behind in the decoder's resampler as well,
    /// and is heard with the audio that follows, or at the end. The decoder reads from a pipe and can't be asked to stop in
    /// between, so a client that wants each `Finalize` exact sends raw samples or Opus packets.
    Finalize {
        /// From 0.
        channel: Option<usize>,
    },
    /// Change the session while it runs.
    Configure {
        /// It has keyterms.
        keyterms: bool,
    },
    /// A type that nobody knows; it is ignored.
    Unknown(String),
}

/// Why a text frame was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ControlError {
    /// What to send instead.
    pub reason: String,
    /// The beginning of what was sent.
    pub quote: String,
}

impl Control {
    /// Reads a text frame for a session of so many channels.
    ///
    /// # Errors
    /// When it is no JSON object with a `type`, or names a channel that does not exist.
    pub fn parse(text: &str, channels: usize) -> Result<Self, ControlError> {
        let refuse = |reason: String| {
            let quote = text.chars().take(MAX_QUOTE).collect();
            Err(ControlError { reason, quote })
        };
        let message: Value = match serde_json::from_str(text) {
            Ok(message) => message,
            Err(_) => {
                return refuse(
                    "a text frame is a JSON message such as {\"type\":\"CloseStream\"}; audio goes into binary frames"
                        .to_owned(),
                );
            }
        };
        let Some(kind) = message.get("type").and_then(Value::as_str) else {
            return refuse(
                "a message is a JSON object with a type, such as {\"type\":\"KeepAlive\"}".to_owned(),
            );
        };
        Ok(match kind {
            "KeepAlive" => Self::KeepAlive,
            "CloseStream" => Self::CloseStream,
            "Finalize" => match message.get("channel") {
                None | Some(Value::Null) => Self::Finalize { channel: None },
                Some(channel) => match channel.as_u64().and_then(|channel| usize::try_from(channel).ok()) {
                    Some(channel) if channel < channels => Self::Finalize { channel: Some(channel) },
                    _ => {
                        let last = channels.saturating_sub(1);
                        return refuse(format!(
                            "there is no such channel; channels are 0 to {last}, or leave it out"
                        ));
                    }
                },
            },
            "Configure" => {
                Self::Configure { keyterms: message.get("keyterms").is_some_and(|terms| !terms.is_null()) }
            }
            unknown => Self::Unknown(unknown.chars().take(MAX_QUOTE).collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_client_may_say() {
        let said = |text: &str| Control::parse(text, 2).unwrap();
        assert_eq!(said(r#"{"type":"KeepAlive"}"#), Control::KeepAlive);
        assert_eq!(said(r#"{"type":"CloseStream","x":1}"#), Control::CloseStream);
        assert_eq!(said(r#"{"type":"Finalize"}"#), Control::Finalize { channel: None });
        assert_eq!(said(r#"{"type":"Finalize","channel":null}"#), Control::Finalize { channel: None });
        assert_eq!(said(r#"{"type":"Finalize","channel":1}"#), Control::Finalize { channel: Some(1) });
        assert_eq!(said(r#"{"type":"Configure","keyterms":[]}"#), Control::Configure { keyterms: true });
        assert_eq!(said(r#"{"type":"Configure","features":{}}"#), Control::Configure { keyterms: false });
        assert_eq!(said(r#"{"type":"Sing"}"#), Control::Unknown("Sing".to_owned()));
    }

    #[test]
    fn refusals_say_what_to_send_and_quote_little() {
        let long = "é".repeat(10_000);
        let texts = ["hello", "[]", "{}", r#"{"type":7}"#, r#"{"type":"Finalize","channel":2}"#, &long];
        let said: Vec<String> = texts
            .iter()
            .map(|text| {
                let refused = Control::parse(text, 2).unwrap_err();
                assert!(refused.quote.chars().count() <= MAX_QUOTE);
                refused.to_string()
            })
            .collect();
        insta::assert_snapshot!(said.join("\n"));
        for channel in ["-1", "1.5", "\"0\"", "99999999999999999999"] {
            assert!(Control::parse(&format!(r#"{{"type":"Finalize","channel":{channel}}}"#), 2).is_err());
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,200}", channels in 0_usize..9) {
            drop(Control::parse(&text, channels));
            drop(Control::parse(&format!(r#"{{"type":"{text}"}}"#), channels));
            drop(Control::parse(&format!(r#"{{"type":"Finalize","channel":{text}}}"#), channels));
        }
    }
}
