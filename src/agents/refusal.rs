//! What services say when they refuse: statuses, error objects, and when to come back. Pure.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822};
use serde_json::Value;

use super::{Class, Failure, lines::shortened};

/// How much of a service's own words is passed on, in characters.
const MAX_SAID: usize = 500;

/// The failure that an answer with this status means.
pub(super) fn of_response(status: u16, body: &[u8]) -> Failure {
    let object = serde_json::from_slice::<Value>(body).ok();
    let error = object.as_ref().and_then(error_in);
    let class = match &error {
        Some(error) => class(Some(status), error),
        // A service that knows the path answers with an object, also where it lacks the model.
        None if status == 404 => Class::InvalidRequest,
        None => Class::of_status(status),
    };
    let said = match (&error, &object) {
        (Some(error), _) => message(error),
        // Some frameworks have their own shapes.
        (None, Some(object)) => ["message", "detail"]
            .into_iter()
            .find_map(|name| object[name].as_str())
            .unwrap_or("it did not say why")
            .to_owned(),
        (None, None) => {
            let text = String::from_utf8_lossy(body);
            let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('<'));
            line.unwrap_or("it did not say why").to_owned()
        }
    };
    let what = match status {
        300..=399 => "it wants to send us elsewhere, which is not followed".to_owned(),
        _ => shortened(&said, MAX_SAID),
    };
    Failure::new(class, format!("the service refused with HTTP {status}: {what}"))
}

/// The failure that an error object in the middle of an answer means.
pub(super) fn of_error(error: &Value) -> Failure {
    Failure::new(class(None, error), shortened(&message(error), MAX_SAID))
}

/// The error object of an answer, if it is one.
pub(super) fn error_in(object: &Value) -> Option<&Value> {
    object.get("error").filter(|error| !error.is_null())
}

fn message(error: &Value) -> String {
    let said = error.as_str().or_else(|| error["message"].as_str()).filter(|said| !said.trim().is_empty());
    said.unwrap_or("it did not say why").to_owned()
}

/// Codes come first, because a status means several things: 429 is a limit, or an account with nothing left.
fn class(status: Option<u16>, error: &Value) -> Class {
    let named = ["code", "type"].into_iter().filter_map(|name| error[name].as_str()).find_map(|code| {
        Some(match code {
            "insufficient_quota" | "billing_hard_limit_reached" => Class::Quota,
            "context_length_exceeded" => Class::ContextOverflow,
            "rate_limit_exceeded" => Class::RateLimited,
            "model_not_found" => Class::ModelNotFound,
            "invalid_api_key" => Class::Auth,
            "overloaded_error" | "engine_overloaded" => Class::Overloaded,
            _ => return None,
        })
    });
    // vLLM has the status as the code.
    let status = status.or_else(|| error["code"].as_u64().and_then(|code| u16::try_from(code).ok()));
    let said = Class::of_message(&message(error));
    match (named, status, said) {
        (Some(class), _, _) => class,
        (None, Some(400 | 413 | 422), Some(Class::ContextOverflow)) => Class::ContextOverflow,
        (None, Some(403 | 429), Some(Class::Quota)) => Class::Quota,
        (None, Some(status), _) => Class::of_status(status),
        (None, None, Some(class)) => class,
        // It had begun to answer, so it is not the request.
        (None, None, None) => Class::ServerError,
    }
}

/// How long to wait, from a `Retry-After` in either of its forms: seconds, or a date.
pub(super) fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = rfc2822::parse(value).ok()?.timestamp();
    // A date that has passed means now.
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        let object = |error: Value| json!({ "error": error }).to_string();
        let examples = [
            (
                401,
                object(json!({"message": "Incorrect API key provided", "code": "invalid_api_key"})),
                Class::Auth,
            ),
            (403, object(json!({"message": "no access"})), Class::Auth),
            (
                404,
                object(json!({"message": "model \"x\" not found", "type": "not_found_error"})),
                Class::ModelNotFound,
            ),
            (404, "404 page not found".to_owned(), Class::InvalidRequest),
            (
                400,
                object(json!({"message": "too long", "code": "context_length_exceeded"})),
                Class::ContextOverflow,
            ),
            (
                400,
                object(json!({"message": "This model's maximum context length is 4096 tokens", "code": 400})),
                Class::ContextOverflow,
            ),
            (400, object(json!("bad request")), Class::InvalidRequest),
            (408, String::new(), Class::Network),
            (409, String::new(), Class::Network),
            (425, String::new(), Class::Network),
            (429, object(json!({"message": "slow down", "code": "rate_limit_exceeded"})), Class::RateLimited),
            (429, object(json!({"message": "pay first", "type": "insufficient_quota"})), Class::Quota),
            (500, "<html>\n".to_owned(), Class::ServerError),
            (503, json!({"detail": "loading"}).to_string(), Class::Overloaded),
        ];
        for (status, body, class) in examples {
            let failure = of_response(status, body.as_bytes());
            assert_eq!(failure.class, class, "{status} {body}: {failure}");
            assert!(failure.message.contains(&status.to_string()), "{failure}");
        }
        assert!(of_response(503, br#"{"detail":"loading"}"#).message.ends_with("loading"));
        assert!(of_response(500, b"<html>").message.ends_with("did not say why"));
        assert!(of_response(302, b"").message.contains("elsewhere"));
    }

    #[test]
    fn an_error_after_the_beginning_is_the_services_own() {
        assert_eq!(of_error(&json!({"message": "boom"})).class, Class::ServerError);
        assert_eq!(of_error(&json!({"message": "boom", "code": 429})).class, Class::RateLimited);
        assert_eq!(of_error(&json!("The server is overloaded")).class, Class::Overloaded);
        assert_eq!(of_error(&json!({"message": "x", "type": "insufficient_quota"})).class, Class::Quota);
    }

    #[test]
    fn both_forms_of_retry_after_are_read() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        let read = |value| retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(read(" 120 "), Some(120));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(37));
        assert_eq!(read("Sun, 06 Nov 1994 08:48:00 GMT"), Some(0));
        assert_eq!((read("soon"), read("-1"), read("")), (None, None, None));
    }
}
