//! Codex (0.169.0): `codex exec --json`.
//!
//! It gives whole messages and no pieces, counts tokens over the whole thread, and names its threads itself. It waits
//! for the end of its standard input, so the prompt goes there and the pipe is closed.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{
    super::{
        Abilities, Access, Class, Credentials, Exit, Failure, Farewell, Input, Launch, Login, Outcome,
        Output, Place, Provider, Reader, Spawn, Step, Thread, Turn,
    },
    draft::{Draft, count, directory, object, strings, text},
};

/// Codex.
#[derive(Debug, Clone)]
pub struct Codex {
    /// A bare name is looked for on the search path.
    pub program: PathBuf,
}

impl Default for Codex {
    fn default() -> Self {
        Self { program: "codex".into() }
    }
}

impl Provider for Codex {
    fn name(&self) -> &'static str {
        "codex"
    }

    fn credentials(&self) -> Option<Credentials> {
        Some(Credentials {
            variables: strings(&["CODEX_API_KEY", "OPENAI_API_KEY"]),
            file: None,
            login: Some(Login { home: "CODEX_HOME", usual_home: ".codex", file: "auth.json" }),
        })
    }

    fn abilities(&self) -> Abilities {
        Abilities { resume: true, thinking: true, tools: true, ..Abilities::default() }
    }

    fn place(&self) -> Place<'_> {
        Place::Program(&self.program)
    }

    fn launch(&self, turn: &Turn) -> Result<Launch, Failure> {
        let directory = directory(turn, "codex")?;
        // Its flags come before `resume`, which has none of them.
        let mut arguments: Vec<String> =
            ["exec", "--json", "--skip-git-repo-check", "-C", directory].map(str::to_owned).to_vec();
        match turn.access {
            Access::Plan | Access::Default => arguments.extend(["-s", "read-only"].map(str::to_owned)),
            Access::Edit => arguments.extend(["-s", "workspace-write"].map(str::to_owned)),
            Access::Full => arguments.push("--dangerously-bypass-approvals-and-sandbox".to_owned()),
        }
        if let Some(model) = &turn.model {
            arguments.push(format!("--model={model}"));
        }
        if turn.ephemeral {
            arguments.push("--ephemeral".to_owned());
        }
        if let Thread::Resume(id) = &turn.thread {
            arguments.extend(["resume".to_owned(), id.to_string()]);
        }
        arguments.push("-".to_owned());
        Ok(Launch::Process(Spawn {
            program: self.program.clone(),
            setting: "agents.codex_program".to_owned(),
            arguments,
            environment: Vec::new(),
            passes: strings(&["CODEX_*", "OPENAI_*"]),
            input: Input::Whole(turn.prompt.clone().into_bytes()),
            farewell: Farewell::Interrupt,
        }))
    }

    fn reader(&self, turn: &Turn) -> Box<dyn Reader> {
        reader(turn)
    }
}

/// Reads what it prints.
pub(super) fn reader(turn: &Turn) -> Box<dyn Reader> {
    Box::new(CodexReader { draft: Draft::of_its_choice(turn) })
}

#[derive(Debug)]
struct CodexReader {
    draft: Draft,
}

impl Reader for CodexReader {
    fn line(&mut self, line: &[u8]) -> Step {
        let Some(event) = object(line) else { return Step::unread(line) };
        let mut step = Step::default();
        match text(&event, "/type") {
            "thread.started" => self.draft.started(text(&event, "/thread_id"), None, None, &mut step),
            "item.started" => self.item(&event["item"], false, &mut step),
            "item.completed" => self.item(&event["item"], true, &mut step),
            "turn.completed" if self.draft.said.is_none() => {
                let usage = &mut self.draft.usage;
                usage.input_tokens = count(&event, "/usage/input_tokens");
                usage.cached_tokens = count(&event, "/usage/cached_input_tokens");
                usage.output_tokens = count(&event, "/usage/output_tokens");
                usage.is_cumulative = true;
                step.outputs.push(Output::Usage(*usage));
                self.draft.end(Ok(()), &mut step);
            }
            "turn.failed" => {
                let failure = failure(text(&event, "/error/message"));
                self.draft.end(Err(failure), &mut step);
            }
            // Printed for what is tried again as well; only an end without `turn.completed` makes a failure of it.
            "error" => {
                let reason = text(&event, "/message").to_owned();
                self.draft.trouble = Some(failure(&reason));
                step.outputs.push(Output::Retrying { reason, delay: None });
            }
            _ => {}
        }
        step
    }

    fn end(&mut self, exit: &Exit) -> Outcome {
        self.draft.outcome(exit, |exit| {
            let said = |words: &str| exit.stderr.contains(words);
            if said("no rollout found") {
                let message = "codex has no such thread (any more); start a new session";
                return Some(Failure::new(Class::SessionNotFound, message));
            }
            let strange = said("not inside a trusted directory") || said("Not inside a trusted directory");
            strange.then(|| Failure::new(Class::UntrustedDir, "codex does not trust this directory"))
        })
    }
}

impl CodexReader {
    fn item(&mut self, item: &Value, is_completed: bool, step: &mut Step) {
        let id = text(item, "/id");
        let kind = text(item, "/type");
        match kind {
            "agent_message" if is_completed => {
                let message = text(item, "/text");
                self.draft.set_text(message);
                step.outputs.push(Output::Text { text: message.to_owned() });
            }
            "reasoning" if is_completed => {
                step.outputs.push(Output::Thinking { text: text(item, "/text").to_owned() });
            }
            "error" if is_completed => step.warn(text(item, "/message").to_owned()),
            "command_execution" | "file_change" | "mcp_tool_call" | "web_search" | "collab_tool_call" => {
                // Some are told of only when they are done.
                if !self.draft.tools.iter().any(|(known, _)| known == id) {
                    let (name, input) = tool(kind, item);
                    self.draft.tool_invoked(id, &name, input, step);
                }
                if is_completed {
                    let is_error = matches!(text(item, "/status"), "failed" | "declined");
                    self.draft.tool_completed(id, is_error, &tool_output(kind, item), step);
                }
            }
            _ => {}
        }
    }
}

/// What a tool is called, and what it was given.
fn tool(kind: &str, item: &Value) -> (String, Value) {
    match kind {
        "command_execution" => ("shell".to_owned(), json!({ "command": item["command"] })),
        "file_change" => ("edit".to_owned(), json!({ "changes": item["changes"] })),
        "mcp_tool_call" => {
            (format!("{}.{}", text(item, "/server"), text(item, "/tool")), item["arguments"].clone())
        }
        "web_search" => ("web_search".to_owned(), json!({ "query": item["query"] })),
        other => (other.to_owned(), Value::Null),
    }
}

fn tool_output(kind: &str, item: &Value) -> String {
    match kind {
        "command_execution" => text(item, "/aggregated_output").to_owned(),
        "mcp_tool_call" => match text(item, "/error/message") {
            "" => item
                .get("result")
                .filter(|result| !result.is_null())
                .map(Value::to_string)
                .unwrap_or_default(),
            error => error.to_owned(),
        },
        _ => String::new(),
    }
}

fn failure(message: &str) -> Failure {
    let message = if message.is_empty() { "codex failed and did not say why" } else { message };
    Failure::new(Class::of_message(message).unwrap_or(Class::Unknown), message)
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
    use crate::agents::Then;

    const STARTED: &str = r#"{"type":"thread.started","thread_id":"0199-a"}"#;

    fn turn() -> Turn {
        Turn::new("count the tests", "/w")
    }

    fn class(outcome: &Outcome) -> Class {
        outcome.verdict.as_ref().unwrap_err().class
    }

    #[test]
    fn its_flags_come_before_resume() {
        let resumed = Turn {
            thread: Thread::Resume(NativeId::parse("0199-a").unwrap()),
            access: Access::Edit,
            model: Some("gpt-5".to_owned()),
            ..turn()
        };
        assert_eq!(
            process(&Codex::default(), &resumed).arguments.join(" "),
            "exec --json --skip-git-repo-check -C /w -s workspace-write --model=gpt-5 resume 0199-a -"
        );
        assert_eq!(
            process(&Codex::default(), &turn()).arguments.join(" "),
            "exec --json --skip-git-repo-check -C /w -s read-only -"
        );
    }

    #[test]
    fn a_turn_with_tools_is_told_in_order() {
        let lines = format!(
            r#"
            {STARTED}
            {{"type":"turn.started"}}
            {{"type":"item.completed","item":{{"id":"i0","type":"reasoning","text":"hm"}}}}
            {{"type":"item.completed","item":{{"id":"i1","type":"agent_message","text":"I will count."}}}}
            {{"type":"item.started","item":{{"id":"i2","type":"command_execution","command":"ls","aggregated_output":"","status":"in_progress"}}}}
            {{"type":"item.completed","item":{{"id":"i2","type":"command_execution","command":"ls","aggregated_output":"a\nb\n","exit_code":0,"status":"completed"}}}}
            {{"type":"item.completed","item":{{"id":"i3","type":"file_change","changes":[{{"path":"n.txt","kind":"add"}}],"status":"completed"}}}}
            {{"type":"error","message":"Reconnecting... 1/5 (stream disconnected before completion)"}}
            {{"type":"item.completed","item":{{"id":"i4","type":"agent_message","text":"There are two."}}}}
            {{"type":"turn.completed","usage":{{"input_tokens":100,"cached_input_tokens":40,"output_tokens":7,"reasoning_output_tokens":3}}}}
            "#
        );
        let (outputs, outcome, thens) = read(&Codex::default(), &turn(), &lines, &code(0));
        insta::assert_snapshot!(json(&outputs));
        assert_eq!((outcome.text.as_str(), &outcome.verdict), ("There are two.", &Ok(())));
        assert_eq!((outcome.usage.input_tokens, outcome.usage.is_cumulative), (Some(100), true));
        assert_eq!(thens, [Then::Answered]);
    }

    #[test]
    fn what_went_wrong_last_is_the_reason_of_an_end_without_a_word() {
        let failed = r#"{"type":"turn.failed","error":{"message":"You've hit your usage limit."}}"#;
        let (_, outcome, _) = read(&Codex::default(), &turn(), &format!("{STARTED}\n{failed}"), &code(1));
        assert_eq!(class(&outcome), Class::Quota);
        let error = r#"{"type":"error","message":"stream disconnected before completion"}"#;
        let (_, outcome, _) = read(&Codex::default(), &turn(), &format!("{STARTED}\n{error}"), &code(1));
        assert_eq!(class(&outcome), Class::Network);
        let interrupted = Exit { stopped: Some(Class::Cancelled), ..code(1) };
        let (_, outcome, _) = read(&Codex::default(), &turn(), STARTED, &interrupted);
        assert_eq!(class(&outcome), Class::Cancelled);
        let (_, outcome, _) = read(&Codex::default(), &turn(), STARTED, &code(1));
        assert_eq!(class(&outcome), Class::ProcessFailed);
    }

    #[test]
    fn a_thread_that_silently_is_a_new_one_stops_the_turn() {
        let resumed = Turn { thread: Thread::Resume(NativeId::parse("0199-b").unwrap()), ..turn() };
        let (_, outcome, thens) = read(&Codex::default(), &resumed, STARTED, &code(0));
        assert_eq!((class(&outcome), thens), (Class::SessionMismatch, vec![Then::Stop]));
        let (_, outcome, _) =
            read(&Codex::default(), &resumed, "", &said(1, "Error: no rollout found for thread id 0199-b"));
        assert_eq!(class(&outcome), Class::SessionNotFound);
    }
}
