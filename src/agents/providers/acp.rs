//! Agents that speak the Agent Client Protocol, version 1: JSON-RPC, a message a line, over their standard input and
//! output.
//!
//! A turn is a short conversation: `initialize`, then `session/new` or one of the ways to go on with a session, then
//! `session/prompt`, during which the agent tells what it does (`session/update`) and asks what it may do
//! (`session/request_permission`). Nobody is there to be asked, so [`Access`] answers. We offer neither files nor
//! terminals: an agent has its own. What comes while a session is loaded is what was said before, and is not said again.

use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use super::{
    super::{
        Abilities, Access, Class, Exit, Failure, Farewell, Input, Launch, Outcome, Output, Place, Provider,
        Reader, Spawn, Step, Then, Thread, Turn,
    },
    draft::{Draft, count, object, text},
    template::fill,
};
use crate::config::AcpSettings;

/// The only version that is stable.
const VERSION: u64 = 1;
/// What the protocol means by "log in first".
const AUTH_REQUIRED: i64 = -32_000;
/// JSON-RPC's "there is no such method".
const NO_SUCH_METHOD: i64 = -32_601;

/// An agent from the configuration.
#[derive(Debug, Clone)]
pub struct Acp {
    name: String,
    settings: AcpSettings,
}

impl Acp {
    /// The agent of this name.
    #[must_use]
    pub fn new(name: &str, settings: &AcpSettings) -> Self {
        Self { name: name.to_owned(), settings: settings.clone() }
    }
}

impl Provider for Acp {
    fn name(&self) -> &str {
        &self.name
    }

    fn abilities(&self) -> Abilities {
        // Whether it does go on with a session it only says when it runs.
        Abilities { resume: true, deltas: true, thinking: true, tools: true, ..Abilities::default() }
    }

    fn place(&self) -> Place<'_> {
        Place::Program(&self.settings.program)
    }

    fn launch(&self, turn: &Turn) -> Result<Launch, Failure> {
        let AcpSettings { program, arguments, model, variables } = &self.settings;
        let initialize = json!({
            "protocolVersion": VERSION,
            "clientCapabilities": { "fs": { "readTextFile": false, "writeTextFile": false }, "terminal": false },
            "clientInfo": { "name": "godctl", "title": "godctl", "version": env!("CARGO_PKG_VERSION") },
        });
        Ok(Launch::Process(Spawn {
            program: program.clone(),
            setting: format!("program of agents.providers.{}", self.name),
            arguments: fill(&self.name, arguments, model.as_deref(), turn)?,
            environment: Vec::new(),
            passes: variables.clone(),
            input: Input::Dialogue(request(Call::Initialize, &initialize)),
            farewell: Farewell::Terminate,
        }))
    }

    fn reader(&self, turn: &Turn) -> Box<dyn Reader> {
        Box::new(AcpReader {
            draft: Draft::of_its_choice(turn),
            turn: turn.clone(),
            waits_for: Some(Call::Initialize),
            version: None,
            is_new_part: true,
            is_cancelled: false,
        })
    }
}

/// What we ask, in this order. The number is the id of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Initialize = 1,
    /// `session/new`, `session/load` or `session/resume`.
    Open = 2,
    Prompt = 3,
}

impl Call {
    const fn method(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Open => "session/new",
            Self::Prompt => "session/prompt",
        }
    }
}

fn request(call: Call, params: &Value) -> Vec<u8> {
    line(&json!({ "jsonrpc": "2.0", "id": call as u64, "method": call.method(), "params": params }))
}

fn line(message: &Value) -> Vec<u8> {
    let mut line = message.to_string().into_bytes();
    line.push(b'\n');
    line
}

#[derive(Debug)]
struct AcpReader {
    draft: Draft,
    turn: Turn,
    /// The request that was not answered yet.
    waits_for: Option<Call>,
    version: Option<String>,
    /// The next text begins a part of the answer: the first, or one after a tool was used.
    is_new_part: bool,
    /// It was asked to stop.
    is_cancelled: bool,
}

impl Reader for AcpReader {
    fn line(&mut self, line: &[u8]) -> Step {
        let Some(message) = object(line) else { return Step::unread(line) };
        let mut step = Step::default();
        match (message["method"].as_str(), message.get("id").filter(|id| !id.is_null())) {
            (Some("session/request_permission"), Some(id)) => {
                self.permission(id, &message["params"], &mut step)
            }
            (Some(method), Some(id)) => {
                let error = json!({ "code": NO_SUCH_METHOD, "message": format!("godctl has no {method}") });
                step.send = self::line(&json!({ "jsonrpc": "2.0", "id": id, "error": error }));
            }
            (Some("session/update"), None) if self.waits_for == Some(Call::Prompt) => {
                self.update(&message["params"]["update"], &mut step);
            }
            (Some(_), None) => {}
            (None, Some(id)) => self.answer(id, &message, &mut step),
            (None, None) => return Step::unread(line),
        }
        step
    }

    fn farewell(&mut self) -> Option<Vec<u8>> {
        let id = self.draft.native_id.as_ref().filter(|_| self.waits_for == Some(Call::Prompt))?;
        self.is_cancelled = true;
        let params = json!({ "sessionId": id });
        Some(line(&json!({ "jsonrpc": "2.0", "method": "session/cancel", "params": params })))
    }

    fn end(&mut self, exit: &Exit) -> Outcome {
        let is_cancelled = self.is_cancelled;
        self.draft.outcome(exit, |_| {
            is_cancelled.then(|| Failure::new(Class::Cancelled, "the agent says that the turn was cancelled"))
        })
    }
}

impl AcpReader {
    fn ask(&mut self, call: Call, method: &str, params: &Value, step: &mut Step) {
        self.waits_for = Some(call);
        step.send = line(&json!({ "jsonrpc": "2.0", "id": call as u64, "method": method, "params": params }));
    }

    /// The answer to a request of ours.
    fn answer(&mut self, id: &Value, message: &Value, step: &mut Step) {
        let Some(call) = self.waits_for.filter(|call| id.as_u64() == Some(*call as u64)) else {
            return step.warn(format!("the agent answered what nobody asked ({id})"));
        };
        if let Some(error) = message.get("error") {
            self.waits_for = None;
            return self.draft.end(Err(self.refusal(call, error)), step);
        }
        let result = &message["result"];
        match call {
            Call::Initialize => self.initialized(result, step),
            Call::Open => self.opened(result, step),
            Call::Prompt => self.finished(result, step),
        }
    }

    fn refusal(&self, call: Call, error: &Value) -> Failure {
        let said = match text(error, "/data/details") {
            "" => text(error, "/message"),
            details => details,
        };
        let class = match (error["code"].as_i64(), call) {
            (Some(AUTH_REQUIRED), _) => Class::Auth,
            (_, Call::Open) if matches!(self.turn.thread, Thread::Resume(_)) => {
                Class::of_message(said).unwrap_or(Class::SessionNotFound)
            }
            _ => Class::of_message(said).unwrap_or(Class::Unknown),
        };
        let said = if said.is_empty() { "it did not say why" } else { said };
        Failure::new(class, format!("the agent refused {}: {said}", call.method()))
    }

    fn initialized(&mut self, result: &Value, step: &mut Step) {
        if count(result, "/protocolVersion") != Some(VERSION) {
            let message = format!(
                "the agent speaks version {} of the protocol and godctl version {VERSION}",
                result["protocolVersion"]
            );
            return self.draft.end(Err(Failure::new(Class::BadRequest, message)), step);
        }
        self.version = result.pointer("/agentInfo/version").and_then(Value::as_str).map(str::to_owned);
        let directory = self.turn.directory.to_string_lossy();
        let mut params = json!({ "cwd": directory, "mcpServers": [] });
        let method = match &self.turn.thread {
            Thread::New(_) => "session/new",
            Thread::Resume(id) => {
                params["sessionId"] = json!(id);
                // Resuming does not say again what was said; loading does.
                if result
                    .pointer("/agentCapabilities/sessionCapabilities/resume")
                    .is_some_and(|c| !c.is_null())
                {
                    "session/resume"
                } else if result.pointer("/agentCapabilities/loadSession") == Some(&Value::Bool(true)) {
                    "session/load"
                } else {
                    let message = "the agent cannot go on with a session; start a new one";
                    return self.draft.end(Err(Failure::new(Class::BadRequest, message)), step);
                }
            }
        };
        self.ask(Call::Open, method, &params, step);
    }

    fn opened(&mut self, result: &Value, step: &mut Step) {
        let id = match &self.turn.thread {
            Thread::New(_) => text(result, "/sessionId").to_owned(),
            Thread::Resume(id) => id.to_string(),
        };
        let model = result.pointer("/models/currentModelId").and_then(Value::as_str).map(str::to_owned);
        self.draft.started(&id, model, self.version.take(), step);
        let Some(id) = &self.draft.native_id else {
            let failure =
                Failure::new(Class::ProcessFailed, "the agent opened a session and did not name it");
            return self.draft.end(Err(failure), step);
        };
        let prompt = json!([{ "type": "text", "text": self.turn.prompt }]);
        let params = json!({ "sessionId": id, "prompt": prompt });
        self.ask(Call::Prompt, Call::Prompt.method(), &params, step);
    }

    fn finished(&mut self, result: &Value, step: &mut Step) {
        self.waits_for = None;
        let usage = &mut self.draft.usage;
        // The protocol has no place for these yet; Gemini CLI has one of its own.
        let told = |name: &str, gemini: &str| {
            count(result, name).or_else(|| count(result, &format!("/_meta/quota/token_count/{gemini}")))
        };
        usage.input_tokens = told("/usage/inputTokens", "input_tokens");
        usage.output_tokens = told("/usage/outputTokens", "output_tokens");
        if usage.input_tokens.is_some() {
            step.outputs.push(Output::Usage(*usage));
        }
        let verdict = match text(result, "/stopReason") {
            "end_turn" => Ok(()),
            "max_tokens" => {
                step.warn("the answer is as long as the model lets it be, and may lack its end".to_owned());
                Ok(())
            }
            "max_turn_requests" => {
                Err(Failure::new(Class::TurnLimit, "the turn took more rounds than the agent allows"))
            }
            "refusal" => Err(Failure::new(Class::Denied, "the model refuses to answer")),
            // Why it was cancelled we know better.
            "cancelled" => {
                self.is_cancelled = true;
                step.then = Then::Answered;
                return;
            }
            other => Err(Failure::new(Class::Unknown, format!("the agent stopped for '{other}'"))),
        };
        self.draft.end(verdict, step);
    }

    fn update(&mut self, update: &Value, step: &mut Step) {
        match text(update, "/sessionUpdate") {
            "agent_message_chunk" => {
                let piece = text(update, "/content/text");
                // What was said before a tool was used was not the answer yet.
                if std::mem::take(&mut self.is_new_part) {
                    self.draft.set_text(piece);
                } else {
                    self.draft.add_text(piece);
                }
                step.outputs.push(Output::Text { text: piece.to_owned() });
            }
            "agent_thought_chunk" => {
                step.outputs.push(Output::Thinking { text: text(update, "/content/text").to_owned() });
            }
            "tool_call" => {
                self.is_new_part = true;
                let name = match (text(update, "/title"), text(update, "/kind")) {
                    ("", "") => "tool",
                    ("", kind) => kind,
                    (title, _) => title,
                };
                self.draft.tool_invoked(text(update, "/toolCallId"), name, update["rawInput"].clone(), step);
                self.tool_ended(update, step);
            }
            "tool_call_update" => self.tool_ended(update, step),
            "usage_update" => {
                let cost = update.pointer("/cost/amount").and_then(Value::as_f64);
                if text(update, "/cost/currency") == "USD" && cost.is_some() {
                    // Of the session, as the protocol has it.
                    self.draft.usage.cost_usd = cost;
                    self.draft.usage.is_cumulative = true;
                    step.outputs.push(Output::Usage(self.draft.usage));
                }
            }
            _ => {}
        }
    }

    fn tool_ended(&mut self, update: &Value, step: &mut Step) {
        let is_error = match text(update, "/status") {
            "completed" => false,
            "failed" => true,
            _ => return,
        };
        let parts = update["content"].as_array().into_iter().flatten();
        let said: Vec<_> =
            parts.map(|part| text(part, "/content/text")).filter(|text| !text.is_empty()).collect();
        let output = match (said.is_empty(), update.get("rawOutput")) {
            (true, Some(Value::String(raw))) => raw.clone(),
            (true, Some(raw)) if !raw.is_null() => raw.to_string(),
            _ => said.join("\n"),
        };
        self.draft.tool_completed(text(update, "/toolCallId"), is_error, &output, step);
    }

    /// Says yes or no. Once is enough: a lasting yes would outlive the turn that was allowed it.
    fn permission(&mut self, id: &Value, params: &Value, step: &mut Step) {
        let call = &params["toolCall"];
        let may = !self.is_cancelled && may(self.turn.access, call, &self.turn.directory);
        let wanted: &[&str] =
            if may { &["allow_once", "allow_always"] } else { &["reject_once", "reject_always"] };
        let options = params["options"].as_array().map(Vec::as_slice).unwrap_or_default();
        // A lasting yes is only said where anything is allowed.
        let wanted = if may && self.turn.access < Access::Full { &wanted[..1] } else { wanted };
        let chosen = wanted.iter().find_map(|kind| options.iter().find(|option| option["kind"] == **kind));
        let outcome = match chosen.filter(|_| !self.is_cancelled) {
            Some(option) => json!({ "outcome": "selected", "optionId": option["optionId"] }),
            None => json!({ "outcome": "cancelled" }),
        };
        if !may {
            let what = match text(call, "/title") {
                "" => "a tool",
                title => title,
            };
            step.warn(format!("denied: {what}"));
        }
        step.send = line(&json!({ "jsonrpc": "2.0", "id": id, "result": { "outcome": outcome } }));
    }
}

/// Whether an agent may do what it asks for. Kinds that are not told are the worst ones.
fn may(access: Access, call: &Value, directory: &Path) -> bool {
    let kind = text(call, "/kind");
    let reads = matches!(kind, "read" | "search" | "think");
    match access {
        Access::Plan => reads,
        // What it asks for is what its own settings do not allow.
        Access::Default => false,
        Access::Edit => reads || (matches!(kind, "edit" | "delete" | "move") && is_inside(call, directory)),
        Access::Full => true,
    }
}

/// Whether all that a tool would touch lies in the directory; what does not say is outside.
fn is_inside(call: &Value, directory: &Path) -> bool {
    let locations = call["locations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let within = |location: &Value| {
        let path = PathBuf::from(text(location, "/path"));
        path.starts_with(directory) && !path.components().any(|part| part == Component::ParentDir)
    };
    !locations.is_empty() && locations.iter().all(within)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::NativeId,
            testkit::{code, process},
        },
        *,
    };

    fn acp() -> Acp {
        let settings = "program = 'agent'\narguments = ['--acp', ['--model', '{model}']]";
        Acp::new("mine", &toml::from_str(settings).unwrap())
    }

    fn turn() -> Turn {
        Turn::new("count", "/w")
    }

    fn resumed() -> Turn {
        Turn { thread: Thread::Resume(NativeId::parse("s-1").unwrap()), ..turn() }
    }

    /// An agent of whom we say what it says; tells what it was sent.
    struct Talk(Box<dyn Reader>);

    #[allow(clippy::needless_pass_by_value, reason = "what is said is made where it is said")]
    impl Talk {
        fn new(turn: &Turn) -> Self {
            Self(acp().reader(turn))
        }

        fn says(&mut self, message: Value) -> (Value, Step) {
            let step = self.0.line(message.to_string().as_bytes());
            let sent = match step.send.is_empty() {
                true => Value::Null,
                false => serde_json::from_slice(&step.send).unwrap(),
            };
            (sent, step)
        }

        fn answers(&mut self, id: u64, result: Value) -> (Value, Step) {
            self.says(json!({ "jsonrpc": "2.0", "id": id, "result": result }))
        }

        fn tells(&mut self, update: Value) -> Vec<Output> {
            let params = json!({ "sessionId": "s-1", "update": update });
            self.says(json!({ "jsonrpc": "2.0", "method": "session/update", "params": params })).1.outputs
        }

        fn asks(&mut self, call: Value, kinds: &[&str]) -> Value {
            let options: Vec<_> =
                kinds.iter().map(|kind| json!({ "optionId": kind, "kind": kind, "name": kind })).collect();
            let params = json!({ "sessionId": "s-1", "toolCall": call, "options": options });
            let request = json!({ "jsonrpc": "2.0", "id": "p-7", "method": "session/request_permission", "params": params });
            let (sent, _) = self.says(request);
            assert_eq!(sent["id"], "p-7");
            sent["result"]["outcome"].clone()
        }

        /// As far as the prompt.
        fn prompted(turn: &Turn) -> Self {
            let mut talk = Self::new(turn);
            talk.answers(1, json!({ "protocolVersion": 1, "agentCapabilities": { "loadSession": true } }));
            talk.answers(2, json!({ "sessionId": "s-1" }));
            talk
        }

        fn ends(mut self, exit: &Exit) -> Outcome {
            self.0.end(exit)
        }
    }

    fn class(outcome: &Outcome) -> Class {
        outcome.verdict.as_ref().unwrap_err().class
    }

    const ALL: [&str; 4] = ["allow_once", "allow_always", "reject_once", "reject_always"];

    #[test]
    fn a_turn_is_a_conversation_of_three_requests() {
        let spawn = process(&acp(), &Turn { model: Some("m".to_owned()), ..turn() });
        assert_eq!(spawn.arguments, ["--acp", "--model", "m"]);
        let Input::Dialogue(first) = spawn.input else { panic!("{spawn:?}") };
        let first: Value = serde_json::from_slice(&first).unwrap();
        assert_eq!(
            (&first["method"], &first["params"]["protocolVersion"]),
            (&json!("initialize"), &json!(1))
        );
        assert_eq!(first["params"]["clientCapabilities"]["terminal"], false);

        let mut talk = Talk::new(&turn());
        let (sent, _) = talk.answers(1, json!({ "protocolVersion": 1, "agentInfo": { "version": "7" } }));
        assert_eq!(
            sent,
            json!({ "jsonrpc": "2.0", "id": 2, "method": "session/new", "params": { "cwd": "/w", "mcpServers": [] } })
        );
        let (sent, step) = talk.answers(2, json!({ "sessionId": "s-1" }));
        assert_eq!(
            sent["params"],
            json!({ "sessionId": "s-1", "prompt": [{ "type": "text", "text": "count" }] })
        );
        assert!(
            matches!(&step.outputs[..], [Output::Started { version: Some(version), .. }] if version == "7")
        );
        let mut outputs = talk.tells(
            json!({ "sessionUpdate": "agent_thought_chunk", "content": { "type": "text", "text": "hm" } }),
        );
        outputs.extend(talk.tells(json!({ "sessionUpdate": "agent_message_chunk", "content": { "type": "text", "text": "I look." } })));
        outputs.extend(talk.tells(json!({ "sessionUpdate": "tool_call", "toolCallId": "t", "title": "ls", "kind": "execute", "status": "pending", "rawInput": { "command": "ls" } })));
        outputs.extend(talk.tells(json!({ "sessionUpdate": "tool_call_update", "toolCallId": "t", "status": "completed", "content": [{ "type": "content", "content": { "type": "text", "text": "a b" } }] })));
        outputs.extend(talk.tells(
            json!({ "sessionUpdate": "agent_message_chunk", "content": { "type": "text", "text": "Two." } }),
        ));
        outputs.extend(talk.tells(json!({ "sessionUpdate": "from the future" })));
        insta::assert_snapshot!(super::super::testkit::json(&outputs));
        let (_, step) = talk.answers(
            3,
            json!({ "stopReason": "end_turn", "usage": { "inputTokens": 3, "outputTokens": 4 } }),
        );
        assert_eq!(step.then, Then::Answered);
        let outcome = talk.ends(&code(0));
        assert_eq!(
            (outcome.text.as_str(), &outcome.verdict, outcome.usage.output_tokens),
            ("Two.", &Ok(()), Some(4))
        );
    }

    #[test]
    fn a_session_is_gone_on_with_in_the_way_that_the_agent_knows() {
        let method = |capabilities: Value| {
            let mut talk = Talk::new(&resumed());
            let (sent, _) =
                talk.answers(1, json!({ "protocolVersion": 1, "agentCapabilities": capabilities }));
            assert!(sent.is_null() || sent["params"]["sessionId"] == "s-1");
            sent["method"].clone()
        };
        assert_eq!(
            method(json!({ "loadSession": true, "sessionCapabilities": { "resume": {} } })),
            "session/resume"
        );
        assert_eq!(method(json!({ "loadSession": true })), "session/load");
        assert_eq!(method(json!({})), Value::Null);
        let mut talk = Talk::new(&resumed());
        talk.answers(1, json!({ "protocolVersion": 1, "agentCapabilities": { "loadSession": true } }));
        let old =
            json!({ "sessionUpdate": "agent_message_chunk", "content": { "type": "text", "text": "old" } });
        assert_eq!(talk.tells(old.clone()), [], "what was said before is not said again");
        talk.answers(2, Value::Null);
        assert_eq!(talk.tells(old).len(), 1);
        let mut talk = Talk::new(&resumed());
        talk.answers(1, json!({ "protocolVersion": 1, "agentCapabilities": { "loadSession": true } }));
        talk.says(
            json!({ "jsonrpc": "2.0", "id": 2, "error": { "code": -32602, "message": "Invalid session" } }),
        );
        assert_eq!(class(&talk.ends(&code(0))), Class::SessionNotFound);
    }

    #[test]
    fn permissions_follow_the_access_of_the_turn() {
        let call = |kind: &str, path: &str| json!({ "toolCallId": "t", "title": "x", "kind": kind, "locations": [{ "path": path }] });
        let answer = |access, call: Value| {
            let outcome = Talk::prompted(&Turn { access, ..turn() }).asks(call, &ALL);
            outcome["optionId"].as_str().unwrap().to_owned()
        };
        let cases = [
            (Access::Plan, call("read", "/etc/hosts"), "allow_once"),
            (Access::Plan, call("edit", "/w/a"), "reject_once"),
            (Access::Default, call("read", "/w/a"), "reject_once"),
            (Access::Edit, call("edit", "/w/a"), "allow_once"),
            (Access::Edit, call("edit", "/w/../etc/a"), "reject_once"),
            (Access::Edit, call("edit", "/other/a"), "reject_once"),
            (Access::Edit, json!({ "kind": "edit" }), "reject_once"),
            (Access::Edit, call("execute", "/w/a"), "reject_once"),
            (Access::Edit, json!({ "title": "of no kind" }), "reject_once"),
            (Access::Full, call("execute", "/w/a"), "allow_once"),
        ];
        for (access, call, expected) in cases {
            assert_eq!(answer(access, call.clone()), expected, "{access:?} {call}");
        }
        let mut edit = Talk::prompted(&Turn { access: Access::Edit, ..turn() });
        let lasting = edit.asks(call("edit", "/w/a"), &["allow_always"]);
        assert_eq!(lasting, json!({ "outcome": "cancelled" }), "a lasting yes is not said for one turn");
        let mut full = Talk::prompted(&Turn { access: Access::Full, ..turn() });
        assert_eq!(full.asks(call("execute", "/"), &["allow_always"])["optionId"], "allow_always");
    }

    #[test]
    fn cancelling_is_said_in_the_protocol_and_answered_in_it() {
        assert_eq!(Talk::new(&turn()).0.farewell(), None, "there is no session to cancel yet");
        let mut talk = Talk::prompted(&turn());
        let said: Value = serde_json::from_slice(&talk.0.farewell().unwrap()).unwrap();
        assert_eq!(
            (&said["method"], &said["params"]["sessionId"]),
            (&json!("session/cancel"), &json!("s-1"))
        );
        let outcome = talk.asks(json!({ "kind": "read" }), &ALL);
        assert_eq!(
            outcome,
            json!({ "outcome": "cancelled" }),
            "what is asked meanwhile is cancelled as well"
        );
        let (_, step) = talk.answers(3, json!({ "stopReason": "cancelled" }));
        assert_eq!(step.then, Then::Answered);
        assert_eq!(class(&talk.ends(&Exit { stopped: Some(Class::Timeout), ..code(0) })), Class::Timeout);
    }

    #[test]
    fn what_goes_wrong_is_told_by_its_class() {
        let after = |message: Value| {
            let mut talk = Talk::prompted(&turn());
            talk.says(message);
            class(&talk.ends(&code(0)))
        };
        let stops = [
            ("refusal", Class::Denied),
            ("max_turn_requests", Class::TurnLimit),
            ("cancelled", Class::Cancelled),
            ("x", Class::Unknown),
        ];
        for (reason, class) in stops {
            assert_eq!(
                after(json!({ "jsonrpc": "2.0", "id": 3, "result": { "stopReason": reason } })),
                class
            );
        }
        let error = |code: i64, message: &str| json!({ "jsonrpc": "2.0", "id": 3, "error": { "code": code, "message": message } });
        assert_eq!(after(error(-32000, "Authentication required")), Class::Auth);
        assert_eq!(after(error(-32603, "429 Too Many Requests")), Class::RateLimited);
        assert_eq!(
            after(json!({ "jsonrpc": "2.0", "id": 9, "result": {} })),
            Class::NoResult,
            "nobody asked for 9"
        );
        let mut talk = Talk::new(&turn());
        let (sent, _) = talk.answers(1, json!({ "protocolVersion": 2 }));
        assert_eq!((sent, class(&talk.ends(&code(0)))), (Value::Null, Class::BadRequest));
    }

    #[test]
    fn what_we_do_not_offer_is_answered_with_no() {
        let mut talk = Talk::prompted(&turn());
        let (sent, _) = talk.says(json!({ "jsonrpc": "2.0", "id": 4, "method": "fs/read_text_file", "params": { "path": "/etc/shadow" } }));
        assert_eq!((&sent["id"], &sent["error"]["code"]), (&json!(4), &json!(NO_SUCH_METHOD)));
    }
}
