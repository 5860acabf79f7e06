//! What a request presents as its token, and the request without it. Pure.
//!
//! Clients put a token where their platform lets them: programs into `Authorization`, browsers (which can set no
//! header on a websocket) into the query or among the subprotocols. It is taken out of the request as it is found, so
//! that nothing behind this can log it or pass it on.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Uri, header, uri::PathAndQuery},
};

/// Schemes of `Authorization`; OpenAI's clients say the first, Deepgram's the second.
const SCHEMES: [&str; 2] = ["bearer", "token"];
/// Subprotocols after which the next one is the token: what Deepgram's clients in browsers offer.
const CARRIERS: [&str; 2] = ["token", "bearer"];
/// Subprotocols that hold the token behind this; the second is what OpenAI's clients in browsers offer.
const PREFIXES: [&str; 2] = ["bearer.", "openai-insecure-api-key."];
/// The parameter of the query.
const PARAMETER: &str = "token";

/// What a request presented.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Presented {
    /// Texts that may be tokens.
    pub(super) tokens: Vec<String>,
    /// The subprotocol that the answer to an upgrade must name, or browsers refuse it: never the token.
    pub(super) subprotocol: Option<HeaderValue>,
}

/// Finds the tokens that a request presents, and takes them out of it.
pub(super) fn take<B>(request: &mut Request<B>) -> Presented {
    let mut presented = Presented::default();
    from_authorization(request.headers_mut(), &mut presented);
    from_subprotocols(request.headers_mut(), &mut presented);
    if let Some(uri) = from_query(request.uri(), &mut presented) {
        *request.uri_mut() = uri;
    }
    presented
}

fn from_authorization(headers: &mut HeaderMap, presented: &mut Presented) {
    // Also what is of another scheme is a secret.
    let Some(value) = headers.remove(header::AUTHORIZATION) else { return };
    let Some((scheme, token)) = value.to_str().ok().and_then(|value| value.split_once(' ')) else { return };
    if SCHEMES.iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
        presented.tokens.push(token.trim().to_owned());
    }
}

fn from_subprotocols(headers: &mut HeaderMap, presented: &mut Presented) {
    const NAME: header::HeaderName = header::SEC_WEBSOCKET_PROTOCOL;
    let offered: Vec<String> = headers
        .get_all(NAME)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|offer| offer.trim().to_owned())
        .collect();
    let mut carrier = None;
    let mut others = Vec::new();
    let mut found = false;
    let mut offers = offered.iter().peekable();
    while let Some(offer) = offers.next() {
        let prefixed = PREFIXES.iter().find_map(|prefix| offer.strip_prefix(prefix));
        let carries = CARRIERS.iter().any(|known| known.eq_ignore_ascii_case(offer));
        if let Some(token) = prefixed {
            presented.tokens.push(token.to_owned());
            found = true;
        } else if carries && let Some(token) = offers.next_if(|_| carrier.is_none()) {
            presented.tokens.push(token.clone());
            carrier = Some(offer);
            found = true;
        } else {
            others.push(offer.as_str());
        }
    }
    if !found {
        return;
    }
    let answer = carrier.map(String::as_str).or_else(|| others.first().copied());
    presented.subprotocol = answer.and_then(|answer| HeaderValue::from_str(answer).ok());
    headers.remove(NAME);
    if let Ok(rest) = HeaderValue::from_str(&others.join(", "))
        && !others.is_empty()
    {
        headers.insert(NAME, rest);
    }
}

/// The address without the token, if there is one in it.
fn from_query(uri: &Uri, presented: &mut Presented) -> Option<Uri> {
    let query = uri.query()?;
    let mut kept = Vec::new();
    let mut found = false;
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decode(name) == PARAMETER {
            presented.tokens.push(decode(value));
            found = true;
        } else {
            kept.push(pair);
        }
    }
    if !found {
        return None;
    }
    let rest =
        if kept.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), kept.join("&")) };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(rest).ok()?);
    Uri::from_parts(parts).ok()
}

/// Undoes `application/x-www-form-urlencoded`; escapes that are none are taken literally.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = escaped.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let (byte, after) = match (first, escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => (byte, after.get(2..).unwrap_or_default()),
            (b'+', _) => (b' ', after),
            _ => (*first, after),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let builder = headers
            .iter()
            .fold(Request::builder().uri(uri), |builder, (name, value)| builder.header(*name, *value));
        builder.body(()).unwrap()
    }

    #[test]
    fn a_token_is_found_wherever_clients_put_it_and_is_gone_afterwards() {
        type Headers<'a> = &'a [(&'a str, &'a str)];
        let cases: &[(&str, Headers<'_>, &[&str], Option<&str>)] = &[
            ("/asr", &[], &[], None),
            ("/asr", &[("authorization", "Bearer marker")], &["marker"], None),
            ("/asr", &[("authorization", "token  marker ")], &["marker"], None),
            ("/asr", &[("authorization", "Basic marker")], &[], None),
            ("/asr?a=1&token=marker&b=2", &[], &["marker"], None),
            ("/asr?%74oken=mark%65r", &[], &["marker"], None),
            ("/asr?token=", &[], &[""], None),
            ("/asr", &[("sec-websocket-protocol", "token, marker")], &["marker"], Some("token")),
            ("/asr", &[("sec-websocket-protocol", "Bearer,marker,x")], &["marker"], Some("Bearer")),
            ("/asr", &[("sec-websocket-protocol", "realtime, bearer.marker")], &["marker"], Some("realtime")),
            (
                "/asr",
                &[("sec-websocket-protocol", "realtime, openai-insecure-api-key.marker, v1")],
                &["marker"],
                Some("realtime"),
            ),
            ("/asr", &[("sec-websocket-protocol", "bearer.marker")], &["marker"], None),
            (
                "/asr",
                &[("sec-websocket-protocol", "token"), ("sec-websocket-protocol", "marker")],
                &["marker"],
                Some("token"),
            ),
            // Nothing that looks like a token is offered here, so nothing is chosen here either.
            ("/asr", &[("sec-websocket-protocol", "graphql-ws")], &[], None),
            ("/asr", &[("sec-websocket-protocol", "token")], &[], None),
            (
                "/asr?token=marker1",
                &[("authorization", "Token marker2"), ("sec-websocket-protocol", "token, marker3")],
                &["marker2", "marker3", "marker1"],
                Some("token"),
            ),
        ];
        for (uri, headers, tokens, answer) in cases {
            let mut request = request(uri, headers);
            let presented = take(&mut request);
            assert_eq!(presented.tokens, *tokens, "{uri} {headers:?}");
            let answered = presented.subprotocol.as_ref().map(|value| value.to_str().unwrap());
            assert_eq!(answered, *answer, "{uri} {headers:?}");
            assert!(!format!("{request:?}").contains("mark"), "{request:?}");
        }
        let mut rest = request("/asr?a=1&token=x&b=%20", &[("sec-websocket-protocol", "a, token, x, b")]);
        take(&mut rest);
        assert_eq!(rest.uri(), "/asr?a=1&b=%20");
        assert_eq!(rest.headers()["sec-websocket-protocol"], "a, b");
    }

    proptest! {
        #[test]
        fn any_query_is_taken_apart_without_harm(query in "[!-~]{0,40}") {
            let Ok(uri) = format!("/asr?{query}").parse::<Uri>() else { return Ok(()) };
            let mut request = Request::builder().uri(uri).body(()).unwrap();
            take(&mut request);
            prop_assert_eq!(request.uri().path(), "/asr");
        }

        #[test]
        fn a_token_in_a_query_survives_its_encoding(token in "\\PC{0,20}") {
            let encoded: String = token.bytes().map(|b| format!("%{b:02X}")).collect();
            let mut request = Request::builder().uri(format!("/?x=1&token={encoded}")).body(()).unwrap();
            prop_assert_eq!(take(&mut request).tokens, [token]);
        }
    }
}
