//! Gemini CLI (0.61.0): `gemini -p "" -o stream-json`.
//!
//! Its parent process hands the work to a child and takes no notice of signals, so only the group can be stopped. A
//! child that was told to end exits with 0, and a service that failed may do so as well: only a `result` with `success`
//! is one.

use std::{path::PathBuf, time::Duration};

use super::{
    super::{
        Abilities, Access, Class, Credentials, Exit, Failure, Farewell, Input, Launch, Login, Outcome,
        Output, Place, Provider, Reader, Spawn, Step, Thread, Turn,
    },
    draft::{Draft, count, last_line, object, strings, text},
};

/// Gemini CLI.
#[derive(Debug, Clone)]
pub struct Gemini {
    /// A bare name is looked for on the search path.
    pub program: PathBuf,
}

impl Default for Gemini {
    fn default() -> Self {
        Self { program: "gemini".into() }
    }
}

/// What it reads from standard input at most; the rest would be cut off without a word.
const MAX_INPUT: usize = 8 * 1024 * 1024;

impl Provider for Gemini {
    fn name(&self) -> &'static str {
        "gemini"
    }

    fn kind(&self) -> &'static str {
        "gemini-cli"
    }

    fn credentials(&self) -> Option<Credentials> {
        Some(Credentials {
            variables: strings(&["GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS"]),
            file: None,
            login: Some(Login { home: "GEMINI_CLI_HOME", usual_home: ".gemini", file: "oauth_creds.json" }),
        })
    }

    fn abilities(&self) -> Abilities {
        Abilities { resume: true, chooses_id: true, deltas: true, tools: true, ..Abilities::default() }
    }

    fn place(&self) -> Place<'_> {
        Place::Program(&self.program)
    }

    fn launch(&self, turn: &Turn) -> Result<Launch, Failure> {
        if turn.prompt.len() > MAX_INPUT {
            return Err(Failure::new(
                Class::BadRequest,
                format!(
                    "gemini reads a prompt of {MAX_INPUT} bytes at most; put the rest into a file and name it"
                ),
            ));
        }
        let mode = match turn.access {
            Access::Plan => "plan",
            Access::Default => "default",
            Access::Edit => "auto_edit",
            Access::Full => "yolo",
        };
        // Without --skip-trust it ends with 55 in a directory that it does not know.
        let mut arguments: Vec<String> =
            ["-p", "", "-o", "stream-json", "--approval-mode", mode, "--skip-trust"]
                .map(str::to_owned)
                .to_vec();
        match &turn.thread {
            Thread::New(Some(id)) => arguments.push(format!("--session-id={id}")),
            Thread::New(None) => {}
            Thread::Resume(id) => arguments.push(format!("--resume={id}")),
        }
        if let Some(model) = &turn.model {
            arguments.push(format!("--model={model}"));
        }
        Ok(Launch::Process(Spawn {
            program: self.program.clone(),
            setting: "agents.gemini_program".to_owned(),
            arguments,
            environment: vec![("GEMINI_CLI_NO_RELAUNCH".to_owned(), "1".to_owned())],
            passes: strings(&["GEMINI_*", "GOOGLE_*", "NODE_EXTRA_CA_CERTS"]),
            input: Input::Whole(turn.prompt.clone().into_bytes()),
            farewell: Farewell::Terminate,
        }))
    }

    fn reader(&self, turn: &Turn) -> Box<dyn Reader> {
        reader(turn)
    }
}

/// Reads what it prints.
pub(super) fn reader(turn: &Turn) -> Box<dyn Reader> {
    let resumes = matches!(turn.thread, Thread::Resume(_));
    Box::new(GeminiReader { draft: Draft::new(turn), resumes, is_new_part: true })
}

#[derive(Debug)]
struct GeminiReader {
    draft: Draft,
    resumes: bool,
    /// The next text begins a part of the answer: the first, or one after a tool was used.
    is_new_part: bool,
}

impl Reader for GeminiReader {
    fn line(&mut self, line: &[u8]) -> Step {
        let Some(event) = object(line) else { return Step::unread(line) };
        let mut step = Step::default();
        match text(&event, "/type") {
            "init" => {
                let model = Some(text(&event, "/model")).filter(|model| !model.is_empty()).map(str::to_owned);
                self.draft.started(text(&event, "/session_id"), model, None, &mut step);
            }
            // The prompt is echoed with the role of the user.
            "message" if text(&event, "/role") == "assistant" => {
                let piece = text(&event, "/content");
                // What was said before a tool was used was not the answer yet.
                if std::mem::take(&mut self.is_new_part) {
                    self.draft.set_text(piece);
                } else {
                    self.draft.add_text(piece);
                }
                step.outputs.push(Output::Text { text: piece.to_owned() });
            }
            "tool_use" => {
                self.is_new_part = true;
                let (id, name) = (text(&event, "/tool_id"), text(&event, "/tool_name"));
                self.draft.tool_invoked(id, name, event["parameters"].clone(), &mut step);
            }
            "tool_result" => {
                let is_error = text(&event, "/status") != "success";
                let output = match text(&event, "/output") {
                    "" => text(&event, "/error/message"),
                    output => output,
                };
                self.draft.tool_completed(text(&event, "/tool_id"), is_error, output, &mut step);
            }
            "error" => {
                let message = text(&event, "/message").to_owned();
                if text(&event, "/severity") == "warning" {
                    step.outputs.push(Output::Retrying { reason: message, delay: None });
                } else {
                    let class = Class::of_message(&message).unwrap_or(Class::Unknown);
                    self.draft.trouble = Some(Failure::new(class, message.clone()));
                    step.outputs.push(Output::Warning { message });
                }
            }
            "result" => self.result(&event, &mut step),
            _ => {}
        }
        step
    }

    fn end(&mut self, exit: &Exit) -> Outcome {
        let resumes = self.resumes;
        self.draft.outcome(exit, |exit| guess(exit, resumes))
    }
}

impl GeminiReader {
    fn result(&mut self, event: &serde_json::Value, step: &mut Step) {
        if self.draft.said.is_some() {
            return;
        }
        let usage = &mut self.draft.usage;
        usage.input_tokens = count(event, "/stats/input_tokens");
        usage.cached_tokens = count(event, "/stats/cached");
        usage.output_tokens = count(event, "/stats/output_tokens");
        step.outputs.push(Output::Usage(*usage));
        let verdict = if text(event, "/status") == "success" {
            Ok(())
        } else {
            let message = match text(event, "/error/message") {
                "" => "gemini failed and did not say why",
                message => message,
            };
            let trouble = self.draft.trouble.take().map(|failure| failure.class);
            Err(Failure::new(Class::of_message(message).or(trouble).unwrap_or(Class::Unknown), message))
        };
        self.draft.end(verdict, step);
    }
}

/// What its exit codes say. The status of a failed request is one of them too, cut to eight bits.
fn guess(exit: &Exit, resumes: bool) -> Option<Failure> {
    let class = match exit.code? {
        41 => Class::Auth,
        42 if resumes => Class::SessionNotFound,
        42 => Class::BadRequest,
        44 | 54 => Class::ProcessFailed,
        52 => Class::Denied,
        53 => Class::TurnLimit,
        55 => Class::UntrustedDir,
        130 => Class::Cancelled,
        144 => Class::InvalidRequest,
        145 | 147 => Class::Auth,
        148 => Class::ModelNotFound,
        173 => Class::RateLimited,
        244 => Class::ServerError,
        247 => Class::Overloaded,
        _ => return None,
    };
    let said = last_line(&exit.stderr).unwrap_or_else(|| "it did not say why".to_owned());
    let mut failure = Failure::new(class, format!("gemini ended with {}: {said}", exit.describe()));
    if class == Class::RateLimited {
        failure.retry_after = Some(Duration::from_secs(60));
    }
    Some(failure)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::NativeId,
            testkit::{code, json, process, read, said},
        },
        *,
    };

    const INIT: &str =
        r#"{"type":"init","timestamp":"2026-11-21T00:00:00Z","session_id":"s-1","model":"gemini-pro"}"#;

    fn turn() -> Turn {
        Turn::new("count the tests", "/w")
    }

    fn class(outcome: &Outcome) -> Class {
        outcome.verdict.as_ref().unwrap_err().class
    }

    #[test]
    fn the_flags_are_those_of_a_run_that_nobody_watches() {
        let resumed = Turn { thread: Thread::Resume(NativeId::parse("s-1").unwrap()), ..turn() };
        let launch = process(&Gemini::default(), &resumed);
        let expected =
            ["-p", "", "-o", "stream-json", "--approval-mode", "default", "--skip-trust", "--resume=s-1"];
        assert_eq!(launch.arguments, expected);
        assert_eq!(launch.input, Input::Whole(b"count the tests".to_vec()));
        let huge = Turn { prompt: "x".repeat(MAX_INPUT + 1), ..turn() };
        assert_eq!(Gemini::default().launch(&huge).unwrap_err().class, Class::BadRequest);
    }

    #[test]
    fn the_answer_is_what_was_said_after_the_last_tool_and_the_echo_of_the_prompt_is_not_in_it() {
        let lines = format!(
            r#"
            {INIT}
            {{"type":"message","role":"user","content":"count the tests"}}
            {{"type":"message","role":"assistant","content":"I will ","delta":true}}
            {{"type":"message","role":"assistant","content":"look.","delta":true}}
            {{"type":"tool_use","tool_name":"list_directory","tool_id":"t1","parameters":{{"path":"."}}}}
            {{"type":"tool_result","tool_id":"t1","status":"error","error":{{"type":"io","message":"no such directory"}}}}
            {{"type":"error","severity":"warning","message":"loop detected"}}
            {{"type":"message","role":"assistant","content":"There are ","delta":true}}
            {{"type":"message","role":"assistant","content":"two.","delta":true}}
            {{"type":"result","status":"success","stats":{{"total_tokens":30,"input_tokens":20,"output_tokens":10,"cached":4}}}}
            "#
        );
        let (outputs, outcome, _) = read(&Gemini::default(), &turn(), &lines, &code(0));
        insta::assert_snapshot!(json(&outputs));
        assert_eq!((outcome.text.as_str(), &outcome.verdict), ("There are two.", &Ok(())));
        assert_eq!((outcome.usage.input_tokens, outcome.usage.cost_usd), (Some(20), None));
    }

    #[test]
    fn an_end_that_looks_well_is_a_failure_without_a_success() {
        let failed =
            r#"{"type":"result","status":"error","error":{"type":"api","message":"RESOURCE_EXHAUSTED"}}"#;
        let (_, outcome, _) = read(&Gemini::default(), &turn(), &format!("{INIT}\n{failed}"), &code(0));
        assert_eq!(class(&outcome), Class::RateLimited);
        let (_, outcome, _) = read(&Gemini::default(), &turn(), INIT, &code(0));
        assert_eq!(class(&outcome), Class::NoResult);
    }

    #[test]
    fn its_exit_codes_tell_the_class() {
        let examples = [
            (173, Class::RateLimited),
            (41, Class::Auth),
            (55, Class::UntrustedDir),
            (53, Class::TurnLimit),
            (42, Class::BadRequest),
            (247, Class::Overloaded),
            (1, Class::ProcessFailed),
        ];
        for (code, class) in examples {
            let (_, outcome, _) = read(&Gemini::default(), &turn(), "", &said(code, "it says why\n"));
            let failure = outcome.verdict.unwrap_err();
            assert_eq!(failure.class, class, "{code}");
            assert!(failure.message.contains("it says why"), "{failure}");
        }
        let resumed = Turn { thread: Thread::Resume(NativeId::parse("s-9").unwrap()), ..turn() };
        let (_, outcome, _) = read(&Gemini::default(), &resumed, "", &code(42));
        assert_eq!(class(&outcome), Class::SessionNotFound);
    }
}
