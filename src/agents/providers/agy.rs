//! Antigravity CLI (1.2.14): `agy --input-format=stream-json --output-format=stream-json`, which follows on Gemini CLI.
//!
//! It is closed, and needs a login to print more than an error: what is said here of its flags and stream is from its
//! makers' documentation and from streams that others have published, and no turn of it was run. Values of its flags
//! stand behind `=`, since it refuses some of them as words of their own. It works only in directories that it is given.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{
    super::{
        Abilities, Access, Class, Credentials, Exit, Failure, Farewell, Input, Launch, Login, Outcome,
        Output, Place, Provider, Reader, Spawn, Step, Thread, Turn,
    },
    draft::{Draft, count, directory, object, strings, text},
};

/// Antigravity CLI.
#[derive(Debug, Clone)]
pub struct Agy {
    /// A bare name is looked for on the search path.
    pub program: PathBuf,
}

impl Default for Agy {
    fn default() -> Self {
        Self { program: "agy".into() }
    }
}

impl Provider for Agy {
    fn name(&self) -> &'static str {
        "agy"
    }

    fn credentials(&self) -> Option<Credentials> {
        // Its login is in the keychain, where nobody looks without asking; what it keeps beside it tells of one.
        Some(Credentials {
            variables: strings(&["ANTIGRAVITY_API_KEY"]),
            file: None,
            login: Some(Login {
                home: "GEMINI_CLI_HOME",
                usual_home: ".gemini",
                file: "antigravity-cli/settings.json",
            }),
        })
    }

    fn abilities(&self) -> Abilities {
        Abilities { resume: true, deltas: true, tools: true, ..Abilities::default() }
    }

    fn place(&self) -> Place<'_> {
        Place::Program(&self.program)
    }

    fn launch(&self, turn: &Turn) -> Result<Launch, Failure> {
        let directory = directory(turn, "agy")?;
        // Its own limit is five minutes; ours holds.
        let mut arguments =
            strings(&["--input-format=stream-json", "--output-format=stream-json", "--print-timeout=168h"]);
        arguments.push(format!("--add-dir={directory}"));
        match turn.access {
            Access::Plan => arguments.push("--mode=plan".to_owned()),
            // What it would ask for is denied.
            Access::Default => {}
            Access::Edit => arguments.push("--mode=accept-edits".to_owned()),
            Access::Full => arguments.push("--dangerously-skip-permissions".to_owned()),
        }
        if let Some(model) = &turn.model {
            arguments.push(format!("--model={model}"));
        }
        if let Thread::Resume(id) = &turn.thread {
            arguments.push(format!("--conversation={id}"));
        }
        let mut input =
            json!({ "event": "user", "message": { "content": turn.prompt } }).to_string().into_bytes();
        input.push(b'\n');
        Ok(Launch::Process(Spawn {
            program: self.program.clone(),
            setting: "agents.agy_program".to_owned(),
            arguments,
            environment: Vec::new(),
            // The keychain is reached over the session's bus.
            passes: strings(&["ANTIGRAVITY_*", "GOOGLE_*", "GEMINI_CLI_HOME", "DBUS_SESSION_BUS_ADDRESS"]),
            input: Input::Whole(input),
            farewell: Farewell::Terminate,
        }))
    }

    fn reader(&self, turn: &Turn) -> Box<dyn Reader> {
        reader(turn)
    }
}

/// Reads what it prints.
pub(super) fn reader(turn: &Turn) -> Box<dyn Reader> {
    Box::new(AgyReader { draft: Draft::of_its_choice(turn) })
}

#[derive(Debug)]
struct AgyReader {
    draft: Draft,
}

impl Reader for AgyReader {
    fn line(&mut self, line: &[u8]) -> Step {
        let Some(event) = object(line) else { return Step::unread(line) };
        let mut step = Step::default();
        match text(&event, "/event") {
            "init" => {
                let model = Some(text(&event, "/init/model")).filter(|model| !model.is_empty());
                self.draft.started(
                    text(&event, "/conversation_id"),
                    model.map(str::to_owned),
                    None,
                    &mut step,
                );
            }
            "step_update" => self.update(&event["step_update"], &mut step),
            "result" => self.result(&event["result"], &mut step),
            _ => {}
        }
        step
    }

    fn end(&mut self, exit: &Exit) -> Outcome {
        self.draft.outcome(exit, |_| None)
    }
}

impl AgyReader {
    fn update(&mut self, update: &Value, step: &mut Step) {
        match text(update, "/step_type") {
            "agent_response" => {
                let piece = text(update, "/text_delta");
                if !piece.is_empty() {
                    self.draft.add_text(piece);
                    step.outputs.push(Output::Text { text: piece.to_owned() });
                }
            }
            "tool" => {
                let id = update["step_index"].to_string();
                // Some are told of only when they are done, and some several times while they work.
                if !self.draft.tools.iter().any(|(known, _)| *known == id) {
                    let input = update["tool_info"]["parameters"].clone();
                    self.draft.tool_invoked(&id, text(update, "/tool_name"), input, step);
                }
                let state = text(update, "/state");
                if matches!(state, "DONE" | "ERROR") {
                    let output = match text(update, "/tool_info/error/message") {
                        "" => text(update, "/tool_info/output"),
                        error => error,
                    };
                    self.draft.tool_completed(&id, state == "ERROR", output, step);
                }
            }
            _ => {}
        }
    }

    fn result(&mut self, result: &Value, step: &mut Step) {
        if self.draft.said.is_some() {
            return;
        }
        let usage = &mut self.draft.usage;
        usage.input_tokens = count(result, "/usage/input_tokens");
        usage.cached_tokens = count(result, "/usage/cache_read_tokens");
        usage.output_tokens = count(result, "/usage/output_tokens");
        step.outputs.push(Output::Usage(*usage));
        for denied in result["denied_actions"].as_array().into_iter().flatten() {
            step.warn(format!("it was denied: {}", text(denied, "/display_name")));
        }
        // It may fail after it has answered, and says so only here.
        let verdict = match text(result, "/status") {
            "SUCCESS" => {
                if let Some(answer) = result["response"].as_str() {
                    self.draft.set_text(answer);
                }
                Ok(())
            }
            status => {
                let said = match text(result, "/error") {
                    "" => text(result, "/error/message"),
                    said => said,
                };
                let class = match status {
                    "CANCELED" | "CANCELLED" | "INTERRUPTED" => Class::Cancelled,
                    _ => Class::of_message(said).unwrap_or(Class::Unknown),
                };
                let why = if said.is_empty() { "it did not say why" } else { said };
                Err(Failure::new(class, format!("agy ended with {status}: {why}")))
            }
        };
        self.draft.end(verdict, step);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::NativeId,
            testkit::{code, json, process, read},
        },
        *,
    };
    use crate::agents::Then;

    const ID: &str = "21f0f78b-95b7-4aa5-a438-85a5078eac48";

    fn turn() -> Turn {
        Turn::new("count the tests", "/w")
    }

    fn resumed() -> Turn {
        Turn { thread: Thread::Resume(NativeId::parse(ID).unwrap()), ..turn() }
    }

    fn init() -> String {
        format!(
            r#"{{"event":"init","conversation_id":"{ID}","init":{{"cwd":"/w","model":"m","permission_mode":"request-review"}}}}"#
        )
    }

    #[test]
    fn the_prompt_is_an_event_on_standard_input() {
        let spawn = process(
            &Agy::default(),
            &Turn { access: Access::Edit, model: Some("m".to_owned()), ..resumed() },
        );
        assert_eq!(
            spawn.arguments.join(" "),
            format!(
                "--input-format=stream-json --output-format=stream-json --print-timeout=168h --add-dir=/w \
                 --mode=accept-edits --model=m --conversation={ID}"
            )
        );
        assert_eq!(
            spawn.input,
            Input::Whole(b"{\"event\":\"user\",\"message\":{\"content\":\"count the tests\"}}\n".to_vec())
        );
    }

    #[test]
    fn a_turn_with_tools_is_told_in_order() {
        let lines = format!(
            r#"
            {}
            {{"event":"step_update","step_update":{{"step_index":0,"state":"DONE","step_type":"user_input"}}}}
            {{"event":"step_update","step_update":{{"step_index":1,"state":"ACTIVE","step_type":"tool","tool_name":"run_command","tool_info":{{"name":"run_command","parameters":{{"CommandLine":"ls"}}}}}}}}
            {{"event":"step_update","step_update":{{"step_index":1,"state":"DONE","step_type":"tool","tool_name":"run_command","tool_info":{{"name":"run_command","parameters":{{"CommandLine":"ls"}},"output":"a b"}}}}}}
            {{"event":"step_update","step_update":{{"step_index":2,"state":"ERROR","step_type":"tool","tool_name":"list_dir","tool_info":{{"parameters":{{}},"error":{{"type":"TOOL_ERROR","message":"denied"}}}}}}}}
            {{"event":"step_update","step_update":{{"step_index":3,"state":"ACTIVE","step_type":"agent_response","text_delta":"There are "}}}}
            {{"event":"step_update","step_update":{{"step_index":3,"state":"DONE","step_type":"agent_response","text_delta":"two.\n","usage":{{"input_tokens":3}}}}}}
            {{"event":"result","result":{{"conversation_id":"{ID}","status":"SUCCESS","response":"There are two.\n","num_turns":1,"usage":{{"input_tokens":13,"output_tokens":2,"thinking_tokens":1,"cache_read_tokens":4,"total_tokens":15}},"denied_actions":[{{"action":"command","display_name":"RunCommand"}}]}}}}
            "#,
            init()
        );
        let (outputs, outcome, thens) = read(&Agy::default(), &turn(), &lines, &code(0));
        insta::assert_snapshot!(json(&outputs));
        assert_eq!((outcome.text.as_str(), &outcome.verdict), ("There are two.\n", &Ok(())));
        assert_eq!((outcome.usage.output_tokens, thens), (Some(2), vec![Then::Answered]));
    }

    #[test]
    fn only_its_success_is_one() {
        let class = |lines: &str, turn: &Turn| {
            read(&Agy::default(), turn, lines, &code(0)).1.verdict.unwrap_err().class
        };
        // Early versions print nothing where nobody watches, and end with 0.
        assert_eq!(class("", &turn()), Class::NoResult);
        let login = r#"{"event":"result","result":{"conversation_id":"","status":"ERROR","response":"","error":"authentication failed or timed out"}}"#;
        assert_eq!(class(login, &turn()), Class::Auth);
        let result = |status: &str| {
            format!(r#"{{"event":"result","result":{{"status":"{status}","response":"two"}}}}"#)
        };
        assert_eq!(class(&result("RUNNING"), &turn()), Class::Unknown);
        assert_eq!(class(&result("CANCELED"), &turn()), Class::Cancelled);
        let other = init().replace("21f0", "31f0");
        assert_eq!(class(&other, &resumed()), Class::SessionMismatch);
    }
}
