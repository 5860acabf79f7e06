//! What a client says in text frames. Pure; nothing said here ends a session except the end itself.

use serde::Deserialize;

/// Longer names of markers are refused: they are echoed, and must not become a way to fill memory.
const MAX_NAME: usize = 256;
/// How much of an unknown type is quoted back.
const MAX_QUOTE: usize = 40;

/// A control message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// `{"type":"eos"}`: no more audio comes; the same as an empty binary frame.
    End,
    /// `{"type":"flush"}`: make everything sent so far final without waiting for a pause.
    Flush,
    /// `{"type":"keepalive"}`: I am still here; nothing is answered.
    KeepAlive,
    /// `{"type":"marker","name":"…"}`: tell me when everything sent before has been dealt with.
    Marker(String),
}

/// Why a text frame was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Not a JSON object with a `type`.
    #[error("text frames are control messages such as {{\"type\":\"eos\"}}; audio goes into binary frames")]
    Malformed,
    /// A `type` that nobody knows.
    #[error("unknown control message '{0}'; this server knows eos, flush, keepalive and marker")]
    Unknown(String),
    /// Options arrive too late.
    #[error("options are fixed when a session opens; put them into the URL and connect again")]
    Fixed,
    /// A marker without a usable name.
    #[error(
        "a marker needs a name of 1 to {MAX_NAME} bytes, such as {{\"type\":\"marker\",\"name\":\"m1\"}}"
    )]
    Name,
}

#[derive(Deserialize)]
struct Wire {
    r#type: String,
    name: Option<serde_json::Value>,
}

impl Control {
    /// Reads a text frame.
    ///
    /// # Errors
    /// Says what to send instead.
    pub fn parse(text: &str) -> Result<Self, ControlError> {
        let wire: Wire = serde_json::from_str(text).map_err(|_malformed| ControlError::Malformed)?;
        match wire.r#type.to_ascii_lowercase().as_str() {
            "eos" => Ok(Self::End),
            "flush" => Ok(Self::Flush),
            "keepalive" => Ok(Self::KeepAlive),
            "marker" => match wire.name {
                Some(serde_json::Value::String(name)) if (1..=MAX_NAME).contains(&name.len()) => {
                    Ok(Self::Marker(name))
                }
                _ => Err(ControlError::Name),
            },
            "config" => Err(ControlError::Fixed),
            _ => Err(ControlError::Unknown(wire.r#type.chars().take(MAX_QUOTE).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_client_may_say() {
        let said = |text: &str| Control::parse(text);
        assert_eq!(said(r#"{"type":"eos"}"#), Ok(Control::End));
        assert_eq!(said(r#"{"type":"flush","extra":1}"#), Ok(Control::Flush));
        assert_eq!(said(r#"{"type":"KeepAlive"}"#), Ok(Control::KeepAlive));
        assert_eq!(said(r#"{"type":"marker","name":"m"}"#), Ok(Control::Marker("m".to_owned())));
        assert_eq!(said(r#"{"type":"config","language":"fr"}"#), Err(ControlError::Fixed));
        for name in ["", r#","name":"""#, r#","name":7"#, &format!(r#","name":"{}""#, "x".repeat(257))] {
            assert_eq!(said(&format!(r#"{{"type":"marker"{name}}}"#)), Err(ControlError::Name), "{name}");
        }
        for text in ["", "hello", "[]", "7", "null", "{}", r#"{"type":null}"#, r#"{"type":"eos""#] {
            assert_eq!(said(text), Err(ControlError::Malformed), "{text}");
        }
    }

    #[test]
    fn refusals_say_what_to_send_and_quote_little() {
        let long = format!(r#"{{"type":"{}"}}"#, "é".repeat(10_000));
        let texts = [Control::parse("hello"), Control::parse(&long), Control::parse(r#"{"type":"config"}"#)]
            .map(|refused| refused.unwrap_err().to_string());
        assert!(texts.iter().all(|text| text.len() < 200));
        insta::assert_snapshot!(texts.join("\n"));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,200}") {
            drop(Control::parse(&text));
            drop(Control::parse(&format!(r#"{{"type":"{text}"}}"#)));
        }
    }
}
