//! Claude Code (2.1.329): `claude -p --output-format stream-json`.

use std::{path::PathBuf, time::Duration};

use jiff::Timestamp;
use serde_json::Value;

use super::{
    super::{
        Abilities, Access, Class, Credentials, Exit, Failure, Farewell, Input, Launch, Login, Outcome,
        Output, Place, Provider, Reader, Spawn, Step, Thread, Turn,
    },
    draft::{Draft, count, object, strings, text},
};

/// Claude Code.
#[derive(Debug, Clone)]
pub struct Claude {
    /// A bare name is looked for on the search path.
    pub program: PathBuf,
}

impl Default for Claude {
    fn default() -> Self {
        Self { program: "claude".into() }
    }
}

impl Provider for Claude {
    fn name(&self) -> &'static str {
        "claude"
    }

    fn kind(&self) -> &'static str {
        "claude-code"
    }

    fn credentials(&self) -> Option<Credentials> {
        Some(Credentials {
            variables: strings(&["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"]),
            file: None,
            login: Some(Login {
                home: "CLAUDE_CONFIG_DIR",
                usual_home: ".claude",
                file: ".credentials.json",
            }),
        })
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            resume: true,
            chooses_id: true,
            deltas: true,
            thinking: true,
            cost: true,
            budget: true,
            tools: true,
            needs_history: false,
        }
    }

    fn place(&self) -> Place<'_> {
        Place::Program(&self.program)
    }

    fn launch(&self, turn: &Turn) -> Result<Launch, Failure> {
        let mode = match turn.access {
            Access::Plan => "plan",
            // What is not allowed by its settings is denied, since nobody can be asked.
            Access::Default => "dontAsk",
            Access::Edit => "acceptEdits",
            Access::Full => "bypassPermissions",
        };
        let mut arguments: Vec<String> = [
            "-p",
            "--output-format",
            "stream-json",
            "--verbose",
            "--include-partial-messages",
            "--permission-mode",
            mode,
        ]
        .map(str::to_owned)
        .to_vec();
        // A run that nobody watches would sit on a question for ever.
        arguments.push("--disallowedTools=AskUserQuestion".to_owned());
        match &turn.thread {
            Thread::New(Some(id)) if uuid::Uuid::parse_str(id.as_str()).is_ok() => {
                arguments.push(format!("--session-id={id}"));
            }
            Thread::New(Some(id)) => {
                return Err(Failure::new(
                    Class::BadRequest,
                    format!("claude takes UUIDs as ids of new sessions, and '{id}' is none"),
                ));
            }
            Thread::New(None) => {}
            Thread::Resume(id) => arguments.push(format!("--resume={id}")),
        }
        if let Some(model) = &turn.model {
            arguments.push(format!("--model={model}"));
        }
        if let Some(turns) = turn.max_turns {
            arguments.push(format!("--max-turns={turns}"));
        }
        if let Some(budget) = turn.budget_usd {
            arguments.push(format!("--max-budget-usd={budget}"));
        }
        if turn.ephemeral {
            arguments.push("--no-session-persistence".to_owned());
        }
        Ok(Launch::Process(Spawn {
            program: self.program.clone(),
            setting: "agents.claude_program".to_owned(),
            arguments,
            environment: vec![("DISABLE_AUTOUPDATER".to_owned(), "1".to_owned())],
            passes: strings(&[
                "ANTHROPIC_*",
                "CLAUDE_CODE_OAUTH_TOKEN",
                "CLAUDE_CODE_USE_*",
                "CLAUDE_CODE_MAX_RETRIES",
                "CLAUDE_STREAM_IDLE_TIMEOUT_MS",
                "CLAUDE_CONFIG_DIR",
                "AWS_*",
                "CLOUD_ML_REGION",
                "GOOGLE_APPLICATION_CREDENTIALS",
                "NODE_EXTRA_CA_CERTS",
            ]),
            input: Input::Whole(turn.prompt.clone().into_bytes()),
            // Told to end too early, it loses the last lines of its transcript; TERM makes it stop its tools first.
            farewell: Farewell::Terminate,
        }))
    }

    fn reader(&self, turn: &Turn) -> Box<dyn Reader> {
        reader(turn)
    }
}

/// Reads what it prints.
pub(super) fn reader(turn: &Turn) -> Box<dyn Reader> {
    Box::new(ClaudeReader { draft: Draft::new(turn), streamed: String::new(), streaming: String::new() })
}

#[derive(Debug)]
struct ClaudeReader {
    draft: Draft,
    /// The message that comes in pieces now.
    streaming: String,
    /// The last message of which pieces of text came.
    streamed: String,
}

impl Reader for ClaudeReader {
    fn line(&mut self, line: &[u8]) -> Step {
        let Some(event) = object(line) else { return Step::unread(line) };
        let mut step = Step::default();
        match text(&event, "/type") {
            "system" => self.system(&event, &mut step),
            "stream_event" if event["parent_tool_use_id"].is_null() => self.piece(&event["event"], &mut step),
            "assistant" => self.assistant(&event, &mut step),
            "user" => self.tool_results(&event, &mut step),
            "rate_limit_event" => rate_limit(&event, &mut step),
            "result" => self.result(&event, &mut step),
            _ => {}
        }
        step
    }

    fn end(&mut self, exit: &Exit) -> Outcome {
        self.draft.outcome(exit, |exit| of_session(&exit.stderr))
    }
}

impl ClaudeReader {
    fn system(&mut self, event: &Value, step: &mut Step) {
        match text(event, "/subtype") {
            "init" => {
                let field =
                    |pointer| Some(text(event, pointer)).filter(|text| !text.is_empty()).map(str::to_owned);
                self.draft.started(
                    text(event, "/session_id"),
                    field("/model"),
                    field("/claude_code_version"),
                    step,
                );
            }
            "api_retry" => {
                let status = event["error_status"].as_u64();
                let reason = match (status, text(event, "/error")) {
                    (Some(status), error) => format!("{error} (HTTP {status})").trim_start().to_owned(),
                    (None, error) => error.to_owned(),
                };
                let delay = event["retry_delay_ms"]
                    .as_f64()
                    .and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok());
                step.outputs.push(Output::Retrying { reason, delay });
            }
            _ => {}
        }
    }

    fn piece(&mut self, event: &Value, step: &mut Step) {
        match text(event, "/type") {
            "message_start" => text(event, "/message/id").clone_into(&mut self.streaming),
            "content_block_delta" => match text(event, "/delta/type") {
                "text_delta" => {
                    self.streamed.clone_from(&self.streaming);
                    let piece = text(event, "/delta/text").to_owned();
                    step.outputs.push(Output::Text { text: piece });
                }
                "thinking_delta" => {
                    self.streamed.clone_from(&self.streaming);
                    let piece = text(event, "/delta/thinking").to_owned();
                    step.outputs.push(Output::Thinking { text: piece });
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// One block of a message. What came in pieces is not said again.
    fn assistant(&mut self, event: &Value, step: &mut Step) {
        if let Some(error) = event["error"].as_str() {
            let class = match error {
                "authentication_failed" => Class::Auth,
                "billing_error" => Class::Quota,
                "rate_limit" => Class::RateLimited,
                "overloaded" => Class::Overloaded,
                "invalid_request" => Class::InvalidRequest,
                "model_not_found" => Class::ModelNotFound,
                "server_error" => Class::ServerError,
                _ => Class::Unknown,
            };
            let said = text(event, "/message/content/0/text");
            let message = if said.is_empty() { error.to_owned() } else { said.to_owned() };
            self.draft.trouble = Some(Failure::new(class, message));
        }
        let is_told = !event["parent_tool_use_id"].is_null();
        let id = text(event, "/message/id");
        let is_streamed = !id.is_empty() && id == self.streamed;
        for block in event.pointer("/message/content").and_then(Value::as_array).into_iter().flatten() {
            match text(block, "/type") {
                "text" if !is_told => {
                    self.draft.set_text(text(block, "/text"));
                    if !is_streamed {
                        step.outputs.push(Output::Text { text: text(block, "/text").to_owned() });
                    }
                }
                "thinking" if !is_told && !is_streamed => {
                    step.outputs.push(Output::Thinking { text: text(block, "/thinking").to_owned() });
                }
                "tool_use" => {
                    let (id, name) = (text(block, "/id"), text(block, "/name"));
                    self.draft.tool_invoked(id, name, block["input"].clone(), step);
                }
                _ => {}
            }
        }
    }

    fn tool_results(&mut self, event: &Value, step: &mut Step) {
        for block in event.pointer("/message/content").and_then(Value::as_array).into_iter().flatten() {
            if text(block, "/type") == "tool_result" {
                let is_error = block["is_error"].as_bool().unwrap_or_default();
                let output = match &block["content"] {
                    Value::String(output) => output.clone(),
                    Value::Array(parts) => {
                        parts.iter().map(|part| text(part, "/text")).collect::<Vec<_>>().join("\n")
                    }
                    _ => String::new(),
                };
                self.draft.tool_completed(text(block, "/tool_use_id"), is_error, &output, step);
            }
        }
    }

    /// The end. A service that failed is `subtype: "success"` with `is_error: true`, so neither says it alone.
    fn result(&mut self, event: &Value, step: &mut Step) {
        if self.draft.said.is_some() {
            return;
        }
        let sum = |name: &str| -> Option<u64> {
            let models = event["modelUsage"].as_object()?;
            Some(models.values().filter_map(|model| model[name].as_u64()).sum())
        };
        let usage = &mut self.draft.usage;
        let cached = sum("cacheReadInputTokens").or_else(|| count(event, "/usage/cache_read_input_tokens"));
        let written =
            sum("cacheCreationInputTokens").or_else(|| count(event, "/usage/cache_creation_input_tokens"));
        let fresh = sum("inputTokens").or_else(|| count(event, "/usage/input_tokens"));
        usage.input_tokens = fresh.map(|fresh| fresh + cached.unwrap_or(0) + written.unwrap_or(0));
        usage.cached_tokens = cached;
        usage.output_tokens = sum("outputTokens").or_else(|| count(event, "/usage/output_tokens"));
        usage.cost_usd = event["total_cost_usd"].as_f64();
        usage.is_cumulative = true;
        step.outputs.push(Output::Usage(*usage));

        let subtype = text(event, "/subtype");
        let is_error = event["is_error"].as_bool().unwrap_or(true);
        let verdict = if subtype == "success" && !is_error {
            if let Some(answer) = event["result"].as_str() {
                self.draft.set_text(answer);
            }
            Ok(())
        } else {
            Err(self.failure(event, subtype))
        };
        self.draft.end(verdict, step);
    }

    fn failure(&mut self, event: &Value, subtype: &str) -> Failure {
        let said = match text(event, "/result") {
            "" => text(event, "/errors/0"),
            said => said,
        };
        if let Some(failure) = of_session(said) {
            return failure;
        }
        let status = event["api_error_status"].as_u64().and_then(|status| u16::try_from(status).ok());
        let class = match (subtype, status) {
            ("error_max_turns", _) => Class::TurnLimit,
            ("error_max_budget_usd", _) => Class::Budget,
            (_, Some(status)) => match Class::of_message(said) {
                // A prompt that is too long is a 400 like any other.
                Some(Class::ContextOverflow) => Class::ContextOverflow,
                _ => Class::of_status(status),
            },
            (_, None) => match (self.draft.trouble.take(), Class::of_message(said)) {
                (Some(trouble), _) => trouble.class,
                (None, class) => class.unwrap_or(Class::Unknown),
            },
        };
        let message = match (said, class) {
            ("", Class::TurnLimit) => "the turn took more rounds than allowed (--max-turns)",
            ("", Class::Budget) => "the budget of the turn is used up (--budget-usd)",
            ("", _) => "claude failed and did not say why",
            (said, _) => said,
        };
        Failure::new(class, message)
    }
}

/// What is wrong with the session, if that is what was said: in a `result`, or only on standard error.
fn of_session(said: &str) -> Option<Failure> {
    if said.contains("No conversation found") {
        let message = "claude has no such session (any more) in this directory; start a new one";
        return Some(Failure::new(Class::SessionNotFound, message));
    }
    let is_busy = said.contains("is already in use");
    is_busy.then(|| Failure::new(Class::Busy, "claude says that the session is in use; wait, or resume it"))
}

fn rate_limit(event: &Value, step: &mut Step) {
    // The fields were once at the top, and are now in an object of their own.
    let info = event.get("rate_limit_info").unwrap_or(event);
    let status = text(info, "/status");
    let resets_at = info["resetsAt"].as_i64().and_then(|seconds| Timestamp::from_second(seconds).ok());
    if !status.is_empty() && status != "allowed" {
        step.outputs.push(Output::RateLimited { is_reached: status == "rejected", resets_at });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{
            super::NativeId,
            testkit::{code, json, process, read, said},
        },
        *,
    };
    use crate::agents::Then;

    const ID: &str = "0197a5e0-0000-7000-8000-000000000001";
    const INIT: &str = r#"{"subtype":"init","session_id":"0197a5e0-0000-7000-8000-000000000001","model":"claude-opus","claude_code_version":"2.1.329","cwd":"/w","tools":["Bash"],"type":"system"}"#;

    fn turn() -> Turn {
        Turn::new("count the tests", "/w")
    }

    fn resumed() -> Turn {
        Turn { thread: Thread::Resume(NativeId::parse(ID).unwrap()), ..turn() }
    }

    fn class(outcome: &Outcome) -> Class {
        outcome.verdict.as_ref().unwrap_err().class
    }

    #[test]
    fn the_prompt_goes_to_standard_input_and_not_into_the_process_list() {
        let turn = Turn {
            prompt: "-p /clear @secret".to_owned(),
            model: Some("opus".to_owned()),
            max_turns: Some(3),
            budget_usd: Some(0.5),
            access: Access::Edit,
            ..resumed()
        };
        let launch = process(&Claude::default(), &turn);
        assert_eq!(launch.input, Input::Whole(b"-p /clear @secret".to_vec()));
        assert_eq!(
            launch.arguments.join(" "),
            format!(
                "-p --output-format stream-json --verbose --include-partial-messages --permission-mode acceptEdits \
                 --disallowedTools=AskUserQuestion --resume={ID} --model=opus --max-turns=3 --max-budget-usd=0.5"
            )
        );
    }

    #[test]
    fn a_new_session_takes_a_uuid_and_nothing_else() {
        let with = |id: &str| Turn { thread: Thread::New(Some(NativeId::parse(id).unwrap())), ..turn() };
        assert!(process(&Claude::default(), &with(ID)).arguments.contains(&format!("--session-id={ID}")));
        assert_eq!(Claude::default().launch(&with("mine")).unwrap_err().class, Class::BadRequest);
    }

    #[test]
    fn a_turn_with_a_tool_is_told_in_order_and_nothing_twice() {
        let lines = format!(
            r#"
            starting sandbox
            {INIT}
            {{"type":"stream_event","event":{{"type":"message_start","message":{{"id":"m1"}}}},"parent_tool_use_id":null}}
            {{"type":"stream_event","event":{{"type":"content_block_delta","delta":{{"type":"thinking_delta","thinking":"hm"}}}},"parent_tool_use_id":null}}
            {{"type":"stream_event","event":{{"type":"content_block_delta","delta":{{"type":"text_delta","text":"I will "}}}},"parent_tool_use_id":null}}
            {{"type":"stream_event","event":{{"type":"content_block_delta","delta":{{"type":"text_delta","text":"count."}}}},"parent_tool_use_id":null}}
            {{"type":"assistant","message":{{"id":"m1","content":[{{"type":"text","text":"I will count."}}]}},"parent_tool_use_id":null}}
            {{"type":"assistant","message":{{"id":"m1","content":[{{"type":"tool_use","id":"t1","name":"Bash","input":{{"command":"ls"}}}}]}},"parent_tool_use_id":null}}
            {{"type":"user","message":{{"content":[{{"type":"tool_result","tool_use_id":"t1","content":[{{"type":"text","text":"a\nb"}}],"is_error":false}}]}},"parent_tool_use_id":null}}
            {{"type":"brand_new_thing","x":1}}
            {{"type":"assistant","message":{{"id":"m2","content":[{{"type":"text","text":"There are two."}}]}},"parent_tool_use_id":null}}
            {{"subtype":"success","is_error":false,"result":"There are two.","session_id":"{ID}","total_cost_usd":0.25,"usage":{{"input_tokens":1,"output_tokens":2}},"modelUsage":{{"opus":{{"inputTokens":10,"outputTokens":20,"cacheReadInputTokens":5,"cacheCreationInputTokens":1,"costUSD":0.2}},"haiku":{{"inputTokens":3,"outputTokens":4,"cacheReadInputTokens":0,"cacheCreationInputTokens":0,"costUSD":0.05}}}},"type":"result"}}
            {{"type":"result","subtype":"success","is_error":true,"result":"a task in the background"}}
            "#
        );
        let (outputs, outcome, thens) = read(&Claude::default(), &turn(), &lines, &code(0));
        insta::assert_snapshot!(json(&outputs));
        assert_eq!((outcome.text.as_str(), &outcome.verdict), ("There are two.", &Ok(())));
        assert_eq!(outcome.usage.input_tokens, Some(19));
        assert_eq!((outcome.usage.cached_tokens, outcome.usage.output_tokens), (Some(5), Some(24)));
        assert_eq!((outcome.usage.cost_usd, outcome.usage.is_cumulative), (Some(0.25), true));
        assert_eq!(thens, [Then::Answered]);
    }

    #[test]
    fn an_error_that_calls_itself_a_success_is_a_failure_whatever_the_exit_code() {
        let result = |status: u16, text: &str| {
            let event = json!({"type": "result", "subtype": "success", "is_error": true, "result": text, "api_error_status": status});
            read(&Claude::default(), &turn(), &format!("{INIT}\n{event}"), &code(0)).1
        };
        assert_eq!(class(&result(429, "slow down")), Class::RateLimited);
        assert_eq!(class(&result(529, "busy")), Class::Overloaded);
        assert_eq!(class(&result(400, "Prompt is too long")), Class::ContextOverflow);
        assert_eq!(class(&result(400, "bad image")), Class::InvalidRequest);
    }

    #[test]
    fn a_good_result_stays_one_when_the_process_fails_afterwards() {
        let result = json!({"type": "result", "subtype": "success", "is_error": false, "result": "done"});
        let (_, outcome, _) = read(&Claude::default(), &turn(), &format!("{INIT}\n{result}"), &code(1));
        assert_eq!(outcome.verdict, Ok(()));
        assert!(outcome.warning.unwrap().contains("exit code 1"));
    }

    #[test]
    fn an_end_without_a_result_is_a_failure() {
        let (_, outcome, _) = read(&Claude::default(), &turn(), INIT, &code(0));
        assert_eq!(class(&outcome), Class::NoResult);
        let (_, outcome, _) =
            read(&Claude::default(), &turn(), "", &said(1, "Error: Not logged in · Please run /login\n"));
        assert_eq!(class(&outcome), Class::Auth);
        let stopped = Exit { signal: Some(15), stopped: Some(Class::Timeout), ..Exit::default() };
        let (_, outcome, _) = read(&Claude::default(), &turn(), INIT, &stopped);
        assert_eq!(class(&outcome), Class::Timeout);
        let limit = json!({"type": "result", "subtype": "error_max_turns", "is_error": true});
        let (_, outcome, _) = read(&Claude::default(), &turn(), &limit.to_string(), &code(1));
        assert_eq!(class(&outcome), Class::TurnLimit);
    }

    #[test]
    fn another_session_than_the_one_asked_for_stops_the_turn() {
        let other = INIT.replace("000001", "000002");
        let (outputs, outcome, thens) = read(&Claude::default(), &resumed(), &other, &code(0));
        assert_eq!((outputs, thens), (Vec::new(), vec![Then::Stop]));
        assert_eq!(class(&outcome), Class::SessionMismatch);
        let (_, outcome, _) = read(
            &Claude::default(),
            &resumed(),
            "",
            &said(1, &format!("No conversation found with session ID: {ID}")),
        );
        assert_eq!(class(&outcome), Class::SessionNotFound);
        // As 2.1.197 prints it: an end like any other.
        let lost = r#"{"type":"result","subtype":"error_during_execution","is_error":true,"num_turns":0,"total_cost_usd":0,"errors":["No conversation found with session ID: x"]}"#;
        let (_, outcome, _) = read(&Claude::default(), &resumed(), lost, &code(1));
        assert_eq!(class(&outcome), Class::SessionNotFound);
        let (_, outcome, _) = read(
            &Claude::default(),
            &turn(),
            "",
            &said(1, &format!("Error: Session ID {ID} is already in use.")),
        );
        assert_eq!(class(&outcome), Class::Busy);
    }

    #[test]
    fn retries_and_limits_are_told() {
        let lines = r#"
            {"type":"system","subtype":"api_retry","attempt":1,"max_retries":10,"retry_delay_ms":512.5,"error_status":529,"error":"overloaded"}
            {"type":"rate_limit_event","rate_limit_info":{"status":"allowed","resetsAt":1790000000}}
            {"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":1790000000,"rateLimitType":"five_hour"}}
            {"type":"rate_limit_event","status":"allowed_warning","resetsAt":1790000000}
        "#;
        let (outputs, ..) = read(&Claude::default(), &turn(), lines, &code(1));
        insta::assert_snapshot!(json(&outputs));
    }
}
