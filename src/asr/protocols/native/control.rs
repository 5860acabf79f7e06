//! What a client says in text frames. Pure; nothing said here ends a session except the end itself.

use serde::Deserialize;
use serde_json::Value;

use super::super::parameter::quote;

/// Longer names of markers are refused: they are echoed, and must not become a way to fill memory.
const MAX_NAME: usize = 256;
/// Options of one message.
const MAX_OPTIONS: usize = 64;

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
    /// `{"type":"config","language":"fr",…}`: the parameters of the URL by their names, to be set anew. Values are
    /// strings, numbers, booleans, or a list of languages; null and what is left out stays as it is.
    Config(Vec<(String, String)>),
}

/// Why a text frame was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Not a JSON object with a `type`.
    #[error("text frames are control messages such as {{\"type\":\"eos\"}}; audio goes into binary frames")]
    Malformed,
    /// A `type` that nobody knows.
    #[error("unknown control message '{0}'; this server knows config, eos, flush, keepalive and marker")]
    Unknown(String),
    /// An option whose value is no string, number, boolean or list of strings.
    #[error(
        "the option '{0}' has no plain value; write it as in the URL, such as {{\"type\":\"config\",\"language\":\"en\"}}"
    )]
    Option(String),
    /// Far more options than there are.
    #[error("a config message may have {MAX_OPTIONS} options at most")]
    Options,
    /// A marker without a usable name.
    #[error(
        "a marker needs a name of 1 to {MAX_NAME} bytes, such as {{\"type\":\"marker\",\"name\":\"m1\"}}"
    )]
    Name,
}

#[derive(Deserialize)]
struct Wire {
    r#type: String,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
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
            "marker" => match wire.rest.get("name") {
                Some(Value::String(name)) if (1..=MAX_NAME).contains(&name.len()) => {
                    Ok(Self::Marker(name.clone()))
                }
                _ => Err(ControlError::Name),
            },
            "config" if wire.rest.len() > MAX_OPTIONS => Err(ControlError::Options),
            "config" => wire.rest.into_iter().map(option).collect::<Result<_, _>>().map(Self::Config),
            _ => Err(ControlError::Unknown(quote(&wire.r#type))),
        }
    }
}

/// An option as it would stand in the URL.
fn option((name, value): (String, Value)) -> Result<(String, String), ControlError> {
    let plain = |value: Value| match value {
        Value::Null => Some(String::new()),
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Array(_) | Value::Object(_) => None,
    };
    let text = match value {
        Value::Array(values) => {
            values.into_iter().map(plain).collect::<Option<Vec<_>>>().map(|values| values.join(","))
        }
        value => plain(value),
    };
    match text {
        Some(text) => Ok((name, text)),
        None => Err(ControlError::Option(quote(&name))),
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
        let pairs = |pairs: &[(&str, &str)]| {
            Control::Config(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
        };
        assert_eq!(
            said(r#"{"type":"config","hop":250,"language":["en","de"],"prompt":null,"words":true}"#),
            Ok(pairs(&[("hop", "250"), ("language", "en,de"), ("prompt", ""), ("words", "true")]))
        );
        assert_eq!(said(r#"{"type":"config"}"#), Ok(pairs(&[])));
        for value in ["{}", "[[]]", "[{}]"] {
            let refused = Err(ControlError::Option("language".to_owned()));
            assert_eq!(said(&format!(r#"{{"type":"config","language":{value}}}"#)), refused);
        }
        let many: String = (0..65).map(|i| format!(r#","o{i}":1"#)).collect();
        assert_eq!(said(&format!(r#"{{"type":"config"{many}}}"#)), Err(ControlError::Options));
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
        let option = r#"{"type":"config","language":{}}"#;
        let texts = [Control::parse("hello"), Control::parse(&long), Control::parse(option)]
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
