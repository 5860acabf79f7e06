//! The real programs, as their makers ship them (`make deps-test` installs them below `target/`): each flag that we pass is
//! in their own help, and whole turns go through our drivers, with a model of our own making behind them.
//!
//! The programs get a home of their own, keys that open nothing, and an address on this machine in the place of their
//! services. They reach nobody else's.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use godctl::agents::{
    Access, Class, Groups, Launch, Limits, NativeId, Outcome, Output, Provider, Spawn, Surroundings, Thread,
    Turn, driver,
    providers::{acp::Acp, claude::Claude, codex::Codex, gemini::Gemini},
};
use godctl::config::{AcpSettings, Argument};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::{
    support::{Home, read},
    tools,
};

const SESSION: &str = "0197a5e0-0000-7000-8000-000000000001";
/// A conversation that nobody has.
const UNKNOWN: &str = "0197a5e0-0000-7000-8000-00000000dead";
const KEY: &str = "key-that-opens-nothing";
const ANSWER: &str = "There are two.";

fn program(name: &str) -> Option<PathBuf> {
    Some(tools::agents()?.join(name))
}

/// What a program prints about itself, without a login and without a home.
fn printed(program: &Path, args: &[&str]) -> String {
    let home = Home::new();
    let mut command = home.command(program.to_str().unwrap());
    let output = command.args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program:?} {args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn turn() -> Turn {
    Turn::new("count the tests", "/")
}

fn id(text: &str) -> NativeId {
    NativeId::parse(text).unwrap()
}

/// Turns with everything that can be asked for.
fn turns() -> Vec<Turn> {
    let full = Turn {
        model: Some("m".to_owned()),
        max_turns: Some(3),
        budget_usd: Some(0.5),
        ephemeral: true,
        ..turn()
    };
    let threads = [Thread::New(Some(id(SESSION))), Thread::Resume(id(SESSION))];
    let levels = [Access::Plan, Access::Default, Access::Edit, Access::Full];
    let each = |thread: &Thread| levels.map(|access| Turn { thread: thread.clone(), access, ..full.clone() });
    threads.iter().flat_map(each).collect()
}

fn arguments(provider: &dyn Provider, turn: &Turn) -> Vec<String> {
    match provider.launch(turn).unwrap() {
        Launch::Process(Spawn { arguments, .. }) => arguments,
        Launch::Request(request) => panic!("{request:?}"),
    }
}

/// The flags that we pass, and the values of those that take one of a few words.
fn words(provider: &dyn Provider, choices: &[&str]) -> Vec<String> {
    let mut words = Vec::new();
    for turn in turns() {
        let arguments = arguments(provider, &turn);
        for (at, argument) in arguments.iter().enumerate() {
            let (flag, value) =
                argument.split_once('=').map_or((argument.as_str(), None), |(f, v)| (f, Some(v)));
            if flag.len() > 1 && flag.starts_with('-') {
                words.push(flag.to_owned());
                if choices.contains(&flag) {
                    words.push(value.map_or_else(|| arguments[at + 1].clone(), str::to_owned));
                }
            }
        }
    }
    words.sort();
    words.dedup();
    words
}

/// Whether a word stands there, and not as a part of another one.
fn stands_in(help: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    let parts: Vec<&str> = help.split(word).collect();
    parts.windows(2).any(|pair| !pair[0].ends_with(is_part) && !pair[1].starts_with(is_part))
}

#[test]
fn every_flag_of_ours_stands_in_their_own_help() {
    let Some(claude) = program("claude") else { return };
    let help = printed(&claude, &["--help"]);
    let provider = Claude::default();
    for word in words(&provider, &["--permission-mode", "--output-format"]) {
        // Taken, and not told of: the turns below pass it.
        assert!(word == "--max-turns" || stands_in(&help, &word), "claude: {word}\n{help}");
    }

    let gemini = program("gemini").unwrap();
    let help = printed(&gemini, &["--help"]);
    for word in words(&Gemini::default(), &["--approval-mode", "-o"]) {
        assert!(stands_in(&help, &word), "gemini: {word}\n{help}");
    }

    let codex = program("codex").unwrap();
    let help = printed(&codex, &["exec", "--help"]);
    for word in words(&Codex::default(), &["-s"]) {
        assert!(stands_in(&help, &word), "codex: {word}\n{help}");
    }
    assert!(stands_in(&help, "resume"), "{help}");
}

#[test]
fn a_flag_that_is_not_theirs_would_be_noticed() {
    let help = "  -s, --sandbox <MODE>\n  --skip-trust-now\n  [possible values: read-only]";
    assert!(stands_in(help, "-s") && stands_in(help, "--sandbox") && stands_in(help, "read-only"));
    assert!(!stands_in(help, "--skip-trust") && !stands_in(help, "--sand") && !stands_in(help, "only"));
    let words = words(&Codex::default(), &["-s"]);
    for word in ["-s", "read-only", "workspace-write", "--json", "--model", "-C"] {
        assert!(words.iter().any(|known| known == word), "{word} of {words:?}");
    }
}

#[test]
fn their_versions_are_read() {
    let Some(bin) = tools::agents() else { return };
    let home = Home::new();
    let at = |name: &str| format!("agents.{name}_program={}", bin.join(name).display());
    let (claude, gemini, codex) = (at("claude"), at("gemini"), at("codex"));
    let ran = home.godctl(&["-c", &claude, "-c", &gemini, "-c", &codex, "agent", "providers", "--json"]);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    let wanted: Value = serde_json::from_str(&read("tests/sdk/agents/package.json")).unwrap();
    let packages = ["@anthropic-ai/claude-code", "@google/gemini-cli", "@openai/codex"];
    for (one, package) in found.as_array().unwrap().iter().zip(packages) {
        let (version, wanted) =
            (one["version"].as_str().unwrap(), wanted["dependencies"][package].as_str().unwrap());
        assert!(stands_in(version, wanted), "{one}, wanted {wanted}");
    }
}

/// A model that always says the same, in the words of all three services.
struct Model {
    address: SocketAddr,
    inner: Arc<Inner>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Inner {
    /// Every key is wrong.
    refuses: bool,
    /// What was asked, as JSON.
    asked: Mutex<Vec<String>>,
}

impl Model {
    fn new(refuses: bool) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner { refuses, ..Inner::default() });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&inner));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
        Self { address, inner, _runtime: runtime }
    }

    /// Everything that goes into the prompts of the last turn and those before it.
    fn was_asked(&self, text: &str) -> bool {
        self.inner.asked.lock().iter().any(|body| body.contains(text))
    }
}

async fn answer(State(inner): State<Arc<Inner>>, method: Method, uri: Uri, body: Bytes) -> Response {
    let path = uri.path();
    let events: Vec<Value> = match () {
        () if method == Method::POST && path.ends_with("/messages") => vec![
            json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant",
                "model": "m", "content": [], "stop_reason": null, "usage": {"input_tokens": 3, "output_tokens": 1}}}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": ANSWER}}),
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}),
            json!({"type": "message_stop"}),
        ],
        () if method == Method::POST && path.ends_with("/responses") => vec![
            json!({"type": "response.created", "response": {"id": "r1"}}),
            json!({"type": "response.output_item.done", "output_index": 0, "item": {"type": "message", "id": "i1",
                "role": "assistant", "content": [{"type": "output_text", "text": ANSWER}]}}),
            json!({"type": "response.completed", "response": {"id": "r1", "usage": {"input_tokens": 3,
                "input_tokens_details": {"cached_tokens": 1}, "output_tokens": 5,
                "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 8}}}),
        ],
        () if path.ends_with(":streamGenerateContent") => vec![json!({
            "candidates": [{"content": {"role": "model", "parts": [{"text": ANSWER}]}, "finishReason": "STOP", "index": 0}],
            "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 5, "totalTokenCount": 8},
        })],
        // Codex asks for a websocket first, and takes this for a no.
        () if path.ends_with("/responses") => return StatusCode::UPGRADE_REQUIRED.into_response(),
        () => return axum::Json(json!({})).into_response(),
    };
    inner.asked.lock().push(String::from_utf8_lossy(&body).into_owned());
    if inner.refuses {
        let error = json!({"error": {"type": "authentication_error", "code": 401, "status": "UNAUTHENTICATED",
            "message": "API key not valid: unauthorized"}});
        return (StatusCode::UNAUTHORIZED, axum::Json(error)).into_response();
    }
    let text: String = events
        .iter()
        .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or("message")))
        .collect();
    // Gemini's events have no names.
    let text = text.replace("event: message\n", "");
    ([(CONTENT_TYPE, "text/event-stream")], text).into_response()
}

/// A home in which the programs find the model in the place of their services.
fn home(model: &Model) -> (Home, BTreeMap<String, String>) {
    let home = Home::new();
    let url = format!("http://{}", model.address);
    home.write(".codex/config.toml", &format!("openai_base_url = \"{url}/v1\"\n"));
    home.write(".gemini/settings.json", r#"{"security": {"auth": {"selectedType": "gemini-api-key"}}}"#);
    std::fs::create_dir(home.path().join("work")).unwrap();
    let variables = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", home.path().to_str().unwrap()),
        ("ANTHROPIC_API_KEY", KEY),
        ("ANTHROPIC_BASE_URL", &url),
        // It tries a key that is not taken ten times, for minutes.
        ("CLAUDE_CODE_MAX_RETRIES", "1"),
        ("GEMINI_API_KEY", KEY),
        ("GOOGLE_GEMINI_BASE_URL", &url),
        ("CODEX_API_KEY", KEY),
        // Nothing leaves this machine, whatever the programs would like to tell or to ask.
        ("HTTPS_PROXY", "http://127.0.0.1:1"),
        ("NO_PROXY", "127.0.0.1"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    (home, variables)
}

fn work(
    provider: &dyn Provider,
    turn: &Turn,
    variables: &BTreeMap<String, String>,
) -> (Vec<Output>, Outcome) {
    let groups = Groups::default();
    // They start a whole runtime each, on a machine that may be busy.
    let patient = Duration::from_secs(240);
    let limits = Limits { start: patient, idle: patient, total: patient, ..Limits::default() };
    let around = Surroundings { groups: &groups, variables, limits, mark: None };
    let mut outputs = Vec::new();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let stop = CancellationToken::new();
    let outcome = runtime.block_on(driver::run(provider, turn, around, &stop, |output| outputs.push(output)));
    (outputs, outcome)
}

/// A turn, another one in the same conversation, one in a conversation that is not there, and one with a wrong key.
fn converse(provider: &dyn Provider, model_name: &str) {
    let model = Model::new(false);
    let (home, variables) = home(&model);
    let thread = Thread::New(provider.abilities().chooses_id.then(|| id(SESSION)));
    let directory = home.path().join("work");
    let first =
        Turn { thread, model: Some(model_name.to_owned()), ..Turn::new("count the tests", &directory) };
    let (outputs, outcome) = work(provider, &first, &variables);
    assert_eq!((outcome.text.as_str(), &outcome.verdict), (ANSWER, &Ok(())), "{outputs:?}");
    assert_eq!(outcome.warning, None);
    assert!(outcome.usage.input_tokens.is_some() && outcome.usage.output_tokens.is_some(), "{outputs:?}");
    let native = outcome.native_id.unwrap();
    if provider.abilities().chooses_id {
        assert_eq!(native, id(SESSION));
    }

    let again = Turn { thread: Thread::Resume(native.clone()), prompt: "and in words".to_owned(), ..first };
    let (outputs, outcome) = work(provider, &again, &variables);
    assert_eq!((outcome.text.as_str(), &outcome.verdict), (ANSWER, &Ok(())), "{outputs:?}");
    assert_eq!(outcome.native_id, Some(native));
    assert!(model.was_asked("and in words"));

    let lost = Turn { thread: Thread::Resume(id(UNKNOWN)), ..again };
    let (outputs, outcome) = work(provider, &lost, &variables);
    match outcome.verdict {
        Ok(()) => assert_eq!(outcome.text, ANSWER, "{outputs:?}"),
        Err(failure) => assert_eq!(failure.class, Class::SessionNotFound, "{outputs:?}"),
    }
}

fn is_refused(provider: &dyn Provider, model_name: &str) {
    let model = Model::new(true);
    let (home, variables) = home(&model);
    let turn = Turn { model: Some(model_name.to_owned()), ..Turn::new("count", home.path().join("work")) };
    let (outputs, outcome) = work(provider, &turn, &variables);
    let failure = outcome.verdict.unwrap_err();
    assert_eq!(failure.class, Class::Auth, "{failure} {outputs:?}");
    assert!(!format!("{failure} {outputs:?}").contains(KEY), "{failure} {outputs:?}");
}

#[test]
fn the_real_claude_goes_through_our_driver() {
    let Some(program) = program("claude") else { return };
    let claude = Claude { program };
    converse(&claude, "opus");
    is_refused(&claude, "opus");
}

#[test]
fn the_real_gemini_goes_through_our_driver() {
    let Some(program) = program("gemini") else { return };
    let gemini = Gemini { program };
    converse(&gemini, "gemini-2.5-pro");
    is_refused(&gemini, "gemini-2.5-pro");
}

#[test]
fn the_real_gemini_speaks_the_agent_client_protocol() {
    let Some(program) = program("gemini") else { return };
    let model = Model::new(false);
    let (home, variables) = home(&model);
    let settings = AcpSettings {
        program,
        arguments: ["--acp", "--skip-trust", "--model={model}"]
            .map(|text| Argument::One(text.to_owned()))
            .to_vec(),
        // Left to itself it asks a model which model to ask.
        model: Some("gemini-2.5-pro".to_owned()),
        variables: vec!["GEMINI_*".to_owned(), "GOOGLE_*".to_owned()],
    };
    let gemini = Acp::new("gemini-acp", &settings);
    let first = Turn::new("count the tests", home.path().join("work"));
    let (outputs, outcome) = work(&gemini, &first, &variables);
    assert_eq!((outcome.text.as_str(), &outcome.verdict), (ANSWER, &Ok(())), "{outputs:?}");
    assert_eq!((outcome.usage.input_tokens, outcome.usage.output_tokens), (Some(3), Some(5)));
    let native = outcome.native_id.unwrap();
    // 0.61.0 seldom finds what it has kept of a session that was opened over the protocol; where it does not, it says so.
    let again = Turn { thread: Thread::Resume(native), ..first };
    let (outputs, outcome) = work(&gemini, &again, &variables);
    assert_eq!(outcome.verdict.unwrap_err().class, Class::SessionNotFound, "{outputs:?}");
}

#[test]
fn the_real_codex_goes_through_our_driver() {
    let Some(program) = program("codex") else { return };
    let codex = Codex { program };
    converse(&codex, "gpt-5");
    is_refused(&codex, "gpt-5");
}
