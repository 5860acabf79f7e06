//! Services that speak OpenAI's chat protocol, in the shape of a server of our own on this machine.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Response, Uri},
    routing::post,
};
use futures_util::{StreamExt as _, stream};
use godctl::{
    agents::{
        Class, Groups, Limits, Message, NativeId, Outcome, Output, Role, Surroundings, Thread, Turn, driver,
        providers::openai::OpenAi,
    },
    config::Endpoint,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::{Desk, PATIENCE};

/// A key that must be seen by the service alone.
const KEY: &str = "sk-marker-of-a-key";
/// A part of what the service answers.
#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    /// Nothing more, but the connection stays.
    Silence,
    /// The connection breaks.
    Break,
}

#[derive(Debug, Clone)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    pieces: Vec<Piece>,
    /// It does not even begin.
    is_silent: bool,
}

impl Answer {
    /// An answer as a stream.
    fn stream(pieces: Vec<Piece>) -> Self {
        let headers = vec![("content-type", "text/event-stream; charset=utf-8".to_owned())];
        Self { status: 200, headers, pieces, is_silent: false }
    }

    fn refusal(status: u16, error: &Value) -> Self {
        let body = json!({ "error": error }).to_string();
        let headers = vec![("content-type", "application/json".to_owned())];
        Self { status, headers, pieces: vec![Piece::Text(body)], is_silent: false }
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
struct Seen {
    path: String,
    authorization: Option<String>,
    body: Value,
}

#[derive(Debug)]
struct Inner {
    answer: Answer,
    seen: Mutex<Vec<Seen>>,
    /// The client went away in the middle of an answer.
    is_dropped: AtomicBool,
}

/// Stops with the test.
struct Service {
    address: SocketAddr,
    inner: Arc<Inner>,
    _runtime: Runtime,
}

impl Service {
    fn new(answer: Answer) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner { answer, seen: Mutex::default(), is_dropped: AtomicBool::default() });
        let router = Router::new().route("/v1/chat/completions", post(chat)).with_state(Arc::clone(&inner));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
        Self { address, inner, _runtime: runtime }
    }

    fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            base_url: Some(self.url()),
            model: Some("m".to_owned()),
            key_variable: Some("ACME_KEY".to_owned()),
            ..Endpoint::default()
        }
    }

    fn seen(&self) -> Seen {
        self.inner.seen.lock().last().cloned().unwrap()
    }
}

/// Notes that an answer was not taken to its end.
struct Watch(Arc<Inner>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.is_dropped.store(true, Ordering::SeqCst);
    }
}

async fn chat(
    State(inner): State<Arc<Inner>>,
    uri: Uri,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response<Body> {
    let authorization = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    inner.seen.lock().push(Seen { path: uri.path().to_owned(), authorization, body });
    let answer = inner.answer.clone();
    let watch = Watch(Arc::clone(&inner));
    if answer.is_silent {
        std::future::pending::<()>().await;
    }
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    let pieces = stream::iter(answer.pieces).then(move |piece| {
        let _watch = &watch;
        async move {
            match piece {
                Piece::Text(text) => Ok(Bytes::from(text)),
                Piece::Silence => std::future::pending().await,
                Piece::Break => Err(std::io::Error::other("broken on purpose")),
            }
        }
    });
    response.body(Body::from_stream(pieces)).unwrap()
}

fn chunk(content: &str) -> Piece {
    let object =
        json!({"id": "c-1", "model": "m-1", "choices": [{"index": 0, "delta": {"content": content}}]});
    Piece::Text(format!("data: {object}\n\n"))
}

fn finish() -> Piece {
    let object = json!({"id": "c-1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    Piece::Text(format!("data: {object}\r\n\r\n"))
}

fn usage() -> Piece {
    let object =
        json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}});
    Piece::Text(format!(": keep-alive\n\ndata: {object}\n\n"))
}

fn done() -> Piece {
    Piece::Text("data: [DONE]\n\n".to_owned())
}

fn good() -> Answer {
    Answer::stream(vec![chunk("The "), chunk("Müglitz."), finish(), usage(), done()])
}

/// Gives a turn to a service; tells what it said.
fn ask_with(
    endpoint: &Endpoint,
    turn: &Turn,
    limits: Limits,
    stop: &CancellationToken,
    mut say: impl FnMut(&Output),
) -> (Vec<Output>, Outcome) {
    let provider = OpenAi::new("acme", endpoint);
    let variables = BTreeMap::from([("ACME_KEY".to_owned(), KEY.to_owned())]);
    let groups = Groups::default();
    let around = Surroundings { groups: &groups, variables: &variables, limits, mark: None };
    let mut outputs = Vec::new();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(driver::run(&provider, turn, around, stop, |output| {
        say(&output);
        outputs.push(output);
    }));
    (outputs, outcome)
}

fn turn() -> Turn {
    let thread = Thread::New(Some(NativeId::parse("s-1").unwrap()));
    Turn { thread, ..Turn::new("name a river", "/") }
}

fn ask(endpoint: &Endpoint) -> (Vec<Output>, Outcome) {
    ask_with(endpoint, &turn(), Limits::default(), &CancellationToken::new(), |_| {})
}

fn class(outcome: &Outcome) -> Class {
    outcome.verdict.as_ref().unwrap_err().class
}

#[test]
fn a_service_is_asked_in_its_own_protocol() {
    let service = Service::new(good());
    let history = vec![
        Message { role: Role::User, text: "hello".to_owned() },
        Message { role: Role::Assistant, text: "good day".to_owned() },
    ];
    let turn = Turn { history, ..turn() };
    let (outputs, outcome) =
        ask_with(&service.endpoint(), &turn, Limits::default(), &CancellationToken::new(), |_| {});
    assert_eq!((outcome.text.as_str(), &outcome.verdict), ("The Müglitz.", &Ok(())), "{outputs:?}");
    assert_eq!((outcome.usage.input_tokens, outcome.usage.output_tokens), (Some(3), Some(4)));
    assert_eq!(outcome.native_id, Some(NativeId::parse("s-1").unwrap()), "the conversation is ours");
    let seen = service.seen();
    assert_eq!(seen.path, "/v1/chat/completions");
    assert_eq!(seen.authorization, Some(format!("Bearer {KEY}")));
    let messages = json!([
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "good day"},
        {"role": "user", "content": "name a river"},
    ]);
    let body = json!({
        "model": "m", "messages": messages, "stream": true, "stream_options": {"include_usage": true},
    });
    assert_eq!(seen.body, body);
}

#[test]
fn without_a_key_there_is_no_header_and_a_refusal_says_what_to_set() {
    let service = Service::new(good());
    let endpoint = Endpoint { key_variable: Some("NOT_SET".to_owned()), ..service.endpoint() };
    assert_eq!(ask(&endpoint).1.verdict, Ok(()));
    assert_eq!(service.seen().authorization, None);

    let service = Service::new(Answer::refusal(401, &json!({"message": "You didn't provide an API key."})));
    let endpoint = Endpoint { key_variable: Some("NOT_SET".to_owned()), ..service.endpoint() };
    let failure = ask(&endpoint).1.verdict.unwrap_err();
    assert_eq!(failure.class, Class::Auth);
    assert!(failure.message.contains("set NOT_SET"), "{failure}");
}

#[test]
fn a_key_comes_from_a_file_and_is_never_repeated() {
    let error = json!({"message": format!("Incorrect API key provided: {KEY}."), "code": "invalid_api_key"});
    let service = Service::new(Answer::refusal(401, &error));
    let home = crate::support::Home::new();
    let file = home.write("key", &format!("{KEY}\n"));
    let endpoint = Endpoint { key_file: Some(file), key_variable: None, ..service.endpoint() };
    let failure = ask(&endpoint).1.verdict.unwrap_err();
    assert_eq!(service.seen().authorization, Some(format!("Bearer {KEY}")));
    assert_eq!(failure.class, Class::Auth);
    assert!(!failure.message.contains(KEY) && failure.message.contains("[secret]"), "{failure}");

    let endpoint = Endpoint { key_file: Some(home.path().join("none")), ..service.endpoint() };
    let failure = ask(&endpoint).1.verdict.unwrap_err();
    assert!(failure.class == Class::Auth && failure.message.contains("key_file"), "{failure}");
}

#[test]
fn any_chunking_of_the_same_bytes_is_the_same_answer() {
    let whole: String = good()
        .pieces
        .into_iter()
        .map(|piece| match piece {
            Piece::Text(text) => text,
            Piece::Silence | Piece::Break => unreachable!("it is good"),
        })
        .collect();
    let expected = ask(&Service::new(good()).endpoint());
    // Bodies are bytes, but pieces are text: letters of two bytes are cut by the unit tests.
    let letters = whole.chars().map(|c| Piece::Text(c.to_string())).collect();
    assert_eq!(ask(&Service::new(Answer::stream(letters)).endpoint()), expected);
    assert_eq!(ask(&Service::new(Answer::stream(vec![Piece::Text(whole)])).endpoint()), expected);
}

#[test]
fn an_answer_needs_an_end_of_its_own() {
    let cases = [
        (vec![chunk("Elbe"), done()], Ok("Elbe")),
        (vec![chunk("Elbe"), finish()], Ok("Elbe")),
        (vec![chunk("El")], Err(Class::Network)),
        (vec![chunk("El"), Piece::Break], Err(Class::Network)),
        (vec![], Err(Class::NoResult)),
        (vec![Piece::Text("<html>hello</html>".to_owned())], Err(Class::NoResult)),
    ];
    for (pieces, expected) in cases {
        let service = Service::new(Answer::stream(pieces.clone()));
        let (_, outcome) = ask(&service.endpoint());
        match expected {
            Ok(text) => assert_eq!((outcome.text.as_str(), &outcome.verdict), (text, &Ok(())), "{pieces:?}"),
            Err(expected) => {
                assert_eq!(class(&outcome), expected, "{pieces:?}");
                assert!(expected.is_retryable());
            }
        }
    }
    let error =
        Piece::Text("data: {\"error\":{\"message\":\"boom\",\"type\":\"server_error\"}}\n\n".to_owned());
    let (_, outcome) = ask(&Service::new(Answer::stream(vec![chunk("El"), error, done()])).endpoint());
    assert_eq!((class(&outcome), outcome.text.as_str()), (Class::ServerError, "El"));
}

#[test]
fn an_end_is_an_end_although_the_connection_stays() {
    let service =
        Service::new(Answer::stream(vec![chunk("Elbe"), finish(), usage(), done(), Piece::Silence]));
    assert_eq!(ask(&service.endpoint()).1.verdict, Ok(()));
    // Without [DONE] it is waited for what may still come, but not for ever.
    let service = Service::new(Answer::stream(vec![chunk("Elbe"), finish(), Piece::Silence]));
    let limits = Limits { after_answer: Duration::from_millis(200), ..Limits::default() };
    let (_, outcome) = ask_with(&service.endpoint(), &turn(), limits, &CancellationToken::new(), |_| {});
    assert_eq!(outcome.verdict, Ok(()));
}

#[test]
fn a_service_that_answers_in_one_piece_is_read_too() {
    let body = json!({
        "id": "c-1", "model": "m-1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Elbe"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    });
    let mut answer = Answer::refusal(200, &Value::Null);
    answer.pieces = vec![Piece::Text(body.to_string())];
    let (_, outcome) = ask(&Service::new(answer).endpoint());
    assert_eq!((outcome.text.as_str(), outcome.usage.output_tokens), ("Elbe", Some(1)));
}

#[test]
fn refusals_tell_their_class_and_when_to_come_back() {
    let cases = [
        (Answer::refusal(404, &json!({"message": "model 'x' not found"})), Class::ModelNotFound, None),
        (Answer::refusal(400, &json!({"message": "bad"})), Class::InvalidRequest, None),
        (
            Answer::refusal(400, &json!({"message": "long", "code": "context_length_exceeded"})),
            Class::ContextOverflow,
            None,
        ),
        (
            Answer::refusal(429, &json!({"message": "slow"})).header("retry-after", "7"),
            Class::RateLimited,
            Some(7),
        ),
        (
            Answer::refusal(503, &json!({"message": "busy"}))
                .header("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"),
            Class::Overloaded,
            Some(0),
        ),
        (Answer::refusal(500, &json!({"message": "boom"})), Class::ServerError, None),
    ];
    for (answer, class, wait) in cases {
        let failure = ask(&Service::new(answer).endpoint()).1.verdict.unwrap_err();
        assert_eq!(
            (failure.class, failure.retry_after.map(|wait| wait.as_secs())),
            (class, wait),
            "{failure}"
        );
    }
    let moved = Answer::refusal(307, &Value::Null).header("location", "http://127.0.0.1:1/v1");
    let failure = ask(&Service::new(moved).endpoint()).1.verdict.unwrap_err();
    assert!(failure.message.contains("not followed"), "{failure}");
    let service = Service::new(good());
    let endpoint =
        Endpoint { base_url: Some(format!("http://{}/v2", service.address)), ..service.endpoint() };
    let failure = ask(&endpoint).1.verdict.unwrap_err();
    assert!(
        failure.class == Class::InvalidRequest && failure.message.contains("check base_url"),
        "{failure}"
    );
}

#[test]
fn nobody_there_and_nobody_who_speaks_are_told_apart() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = Endpoint {
        base_url: Some(format!("http://{free}/v1")),
        model: Some("m".to_owned()),
        ..Endpoint::default()
    };
    let failure = ask(&endpoint).1.verdict.unwrap_err();
    assert_eq!(failure.class, Class::Network);
    assert!(failure.message.contains("does the service run?"), "{failure}");

    let silent = Service::new(Answer { is_silent: true, ..good() });
    let endpoint = Endpoint { connect_s: 1, first_byte_s: 1, ..silent.endpoint() };
    let failure = ask(&endpoint).1.verdict.unwrap_err();
    assert!(failure.class == Class::Stalled && failure.message.contains("first_byte_s"), "{failure}");

    let stalled = Service::new(Answer::stream(vec![chunk("El"), Piece::Silence]));
    let (_, outcome) = ask(&Endpoint { idle_s: 1, ..stalled.endpoint() });
    assert_eq!((class(&outcome), outcome.text.as_str()), (Class::Stalled, "El"));

    let limits = Limits { total: Duration::from_millis(300), ..Limits::default() };
    let (_, outcome) = ask_with(&stalled.endpoint(), &turn(), limits, &CancellationToken::new(), |_| {});
    assert_eq!(class(&outcome), Class::Timeout);
}

#[test]
fn cancelling_drops_the_connection() {
    let service = Service::new(Answer::stream(vec![chunk("El"), Piece::Silence]));
    let stop = CancellationToken::new();
    let (_, outcome) = ask_with(&service.endpoint(), &turn(), Limits::default(), &stop, |output| {
        if matches!(output, Output::Text { .. }) {
            stop.cancel();
        }
    });
    assert_eq!((class(&outcome), outcome.text.as_str()), (Class::Cancelled, "El"));
    let deadline = Instant::now() + PATIENCE;
    while !service.inner.is_dropped.load(Ordering::SeqCst) {
        assert!(Instant::now() < deadline, "the connection is still there");
        std::thread::yield_now();
    }
}

#[test]
fn start_takes_a_configured_service_and_keeps_its_key_to_itself() {
    let service = Service::new(good());
    let desk = Desk::new();
    let config = format!(
        "[agents.providers.acme]\nkind = \"openai\"\nbase_url = \"{}\"\nkey_variable = \"OPENAI_API_KEY\"\n",
        service.url()
    );
    desk.home.write(".config/godctl/config.toml", &config);
    let ran = desk.start(&["acme", "--model", "big", "-p", "name a river"], b"");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "The Müglitz.\n"), "{}", ran.stderr);
    let seen = service.seen();
    assert_eq!(seen.authorization.as_deref(), Some("Bearer another-marker"));
    assert_eq!(seen.body["model"], "big");

    let ran = desk.start(&["acme", "--model", "big", "-p", "name a river", "--json"], b"");
    let events: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let types: Vec<_> = events.iter().map(|event| event["event_type"].as_str().unwrap()).collect();
    assert_eq!(types, ["agent.session.started", "agent.response.completed", "agent.session.ended"]);
    assert_eq!(events[1]["payload"]["response"], "The Müglitz.");
    assert!(!format!("{ran:?}").contains("another-marker"));

    let ran = desk.start(&["acme", "-p", "name a river"], b"");
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("--model"), "{}", ran.stderr);
    let ran = desk.home.godctl(&["agent", "providers"]);
    let line = format!("acme     -                          {}  (no key found)", service.url());
    assert!(ran.stdout.contains(&line), "{}", ran.stdout);
}

/// A service remembers nothing, so the session does; what was never answered is not part of it.
#[test]
fn a_service_is_told_again_what_was_said_in_the_session() {
    let (service, broken) =
        (Service::new(good()), Service::new(Answer::stream(vec![chunk("El"), Piece::Break])));
    let desk = Desk::new();
    let say = |service: &Service, prompt: &str| {
        let acme = format!(
            "agents.providers={{ acme = {{ kind = \"openai\", base_url = \"{}\" }} }}",
            service.url()
        );
        desk.start(&["acme", "-c", &acme, "--model", "big", "--session-id", "rivers", "-p", prompt], b"").code
    };
    assert_eq!(say(&service, "name a river"), Some(0));
    assert_ne!(say(&broken, "and its length?"), Some(0));
    assert_eq!(say(&service, "and a lake?"), Some(0));
    let message = |role: &str, content: &str| json!({ "role": role, "content": content });
    let told = service.seen().body["messages"].clone();
    let expected = json!([
        message("user", "name a river"),
        message("assistant", "The Müglitz."),
        message("user", "and a lake?")
    ]);
    assert_eq!(told, expected);
}

#[test]
fn start_ends_with_try_later_when_the_service_says_so() {
    let service = Service::new(Answer::refusal(429, &json!({"message": "slow down"})));
    let desk = Desk::new();
    let config =
        format!("agents.providers={{ xai = {{ kind = \"openai\", base_url = \"{}\" }} }}", service.url());
    let ran = desk.start(&["xai", "-c", &config, "--model", "m", "-p", "x"], b"");
    assert_eq!(ran.code, Some(75), "{}", ran.stderr);
    assert!(ran.stderr.contains("HTTP 429: slow down"), "{}", ran.stderr);
}
