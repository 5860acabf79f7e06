//! Services that speak OpenAI's chat protocol: OpenAI, xAI, Ollama, vLLM and many more.
//!
//! These are models to talk with and no agents: they get no tools, so they read and change no files. They remember
//! nothing either; what was said before goes along with each prompt, the newest of it. An answer is complete when its
//! `finish_reason` or `[DONE]` has come, and broken off without.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::{
    super::{
        Abilities, Access, Class, Credentials, Exit, Failure, Key, Launch, Message, Outcome, Output,
        Patience, Place, Provider, Reader, Request, Role, Step, Then, Turn, refusal,
    },
    draft::{Draft, count, object, text},
};
use crate::config::Endpoint;

/// Bytes that a token is reckoned at: fewer than in English prose, so that code and other languages fit as well.
const BYTES_PER_TOKEN: usize = 3;
/// What xAI tells costs in: so many make a US dollar.
const TICKS_PER_USD: f64 = 1e10;
/// Tools that are remembered by name, of those that the model asked for in vain.
const MAX_TOOLS: usize = 16;
/// Longest name of a tool that is repeated, in characters.
const MAX_TOOL_NAME: usize = 64;

/// A service that speaks OpenAI's chat protocol.
#[derive(Debug, Clone)]
pub struct OpenAi {
    name: String,
    base_url: String,
    model: Option<String>,
    key: Key,
    history_bytes: usize,
    patience: Patience,
}

impl OpenAi {
    /// The service of this name, as it is configured.
    #[must_use]
    pub fn new(name: &str, endpoint: &Endpoint) -> Self {
        let preset = endpoint.preset_of(name);
        let base_url = endpoint.base_url.as_deref().or(preset.map(|preset| preset.base_url()));
        let variable = preset.and_then(|preset| preset.key_variable());
        let tokens = usize::try_from(endpoint.history_tokens).unwrap_or(usize::MAX);
        Self {
            name: name.to_owned(),
            base_url: base_url.unwrap_or_default().trim_end_matches('/').to_owned(),
            model: endpoint.model.clone(),
            key: Key {
                file: endpoint.key_file.clone(),
                variable: endpoint.key_variable.clone().or_else(|| variable.map(str::to_owned)),
            },
            history_bytes: tokens.saturating_mul(BYTES_PER_TOKEN),
            patience: Patience {
                connect: Duration::from_secs(endpoint.connect_s),
                first_byte: Duration::from_secs(endpoint.first_byte_s),
                idle: Duration::from_secs(endpoint.idle_s),
            },
        }
    }
}

impl Provider for OpenAi {
    fn name(&self) -> &str {
        &self.name
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            resume: true,
            chooses_id: true,
            deltas: true,
            thinking: true,
            needs_history: true,
            ..Abilities::default()
        }
    }

    fn credentials(&self) -> Option<Credentials> {
        (self.key != Key::default()).then(|| Credentials {
            variables: self.key.variable.iter().cloned().collect(),
            file: self.key.file.clone(),
            login: None,
        })
    }

    fn place(&self) -> Place<'_> {
        Place::Address(&self.base_url)
    }

    fn launch(&self, turn: &Turn) -> Result<Launch, Failure> {
        let refuse = |message: String| Err(Failure::new(Class::BadRequest, message));
        let name = &self.name;
        let Some(model) = turn.model.as_ref().or(self.model.as_ref()) else {
            return refuse(format!(
                "{name} has no model of its own choice; name one with --model, or in agents.providers.{name}"
            ));
        };
        if turn.access > Access::Default {
            return refuse(format!("{name} has no tools and changes no files; leave --access out"));
        }
        let said = fitting(&turn.history, self.history_bytes)
            .iter()
            .map(|Message { role, text }| json!({ "role": role, "content": text }));
        let prompt = json!({ "role": Role::User, "content": turn.prompt });
        let messages: Vec<_> = said.chain([prompt]).collect();
        Ok(Launch::Request(Request {
            url: format!("{}/chat/completions", self.base_url),
            body: json!({
                "model": model,
                "messages": messages,
                "stream": true,
                "stream_options": { "include_usage": true },
            }),
            key: self.key.clone(),
            patience: self.patience,
            setting: format!("base_url of agents.providers.{name}"),
        }))
    }

    fn reader(&self, turn: &Turn) -> Box<dyn Reader> {
        Box::new(ChatReader {
            draft: Draft::new(turn),
            tools: BTreeMap::new(),
            has_begun: false,
            has_choice: false,
        })
    }
}

/// The newest messages that fit, from one of the user's on.
fn fitting(history: &[Message], limit: usize) -> &[Message] {
    let mut bytes = 0_usize;
    let kept = history
        .iter()
        .rev()
        .take_while(|message| {
            bytes = bytes.saturating_add(message.text.len());
            bytes <= limit
        })
        .count();
    let newest = history.get(history.len() - kept..).unwrap_or_default();
    let first = newest.iter().position(|message| message.role == Role::User).unwrap_or(newest.len());
    newest.get(first..).unwrap_or_default()
}

#[derive(Debug)]
struct ChatReader {
    draft: Draft,
    /// Names of the tools that the model asked for, by their index.
    tools: BTreeMap<u64, String>,
    /// A piece has come, of whatever.
    has_begun: bool,
    /// Something of an answer has come, even if it was empty.
    has_choice: bool,
}

impl Reader for ChatReader {
    fn line(&mut self, line: &[u8]) -> Step {
        let mut step = Step::default();
        if line.trim_ascii() == b"[DONE]" {
            // Some services never tell a reason.
            if self.has_choice {
                self.finish("stop", &mut step);
            }
            step.then = Then::Stop;
            return step;
        }
        let Some(chunk) = object(line) else { return Step::unread(line) };
        if let Some(error) = refusal::error_in(&chunk) {
            self.draft.end(Err(refusal::of_error(error)), &mut step);
            return step;
        }
        self.begin(&chunk, &mut step);
        let choices = chunk["choices"].as_array().map(Vec::as_slice).unwrap_or_default();
        for choice in choices.iter().filter(|choice| choice["index"].as_u64().unwrap_or(0) == 0) {
            self.choice(choice, &mut step);
        }
        if chunk["usage"].is_object() {
            self.usage(&chunk);
            // Some tell it with every piece; the last one counts.
            if choices.is_empty() || self.draft.said.is_some() {
                step.outputs.push(Output::Usage(self.draft.usage));
            }
        }
        step
    }

    fn end(&mut self, exit: &Exit) -> Outcome {
        let has_choice = self.has_choice;
        self.draft.outcome(exit, |_| {
            Some(match has_choice {
                true => Failure::new(
                    Class::Network,
                    "the answer broke off: the connection was closed before its end",
                ),
                false => Failure::new(Class::NoResult, "the service ended without an answer"),
            })
        })
    }
}

impl ChatReader {
    /// The conversation is ours: the service is told no id, and its own is that of one answer.
    fn begin(&mut self, chunk: &Value, step: &mut Step) {
        if !std::mem::replace(&mut self.has_begun, true) {
            let id =
                self.draft.wanted.as_ref().map_or_else(|| text(chunk, "/id"), |id| id.as_str()).to_owned();
            let model = Some(text(chunk, "/model")).filter(|model| !model.is_empty()).map(str::to_owned);
            self.draft.started(&id, model, None, step);
        }
    }

    fn choice(&mut self, choice: &Value, step: &mut Step) {
        self.has_choice = true;
        // A service that does not stream has the whole in `message`.
        let part = choice.get("delta").filter(|delta| delta.is_object()).unwrap_or(&choice["message"]);
        for name in ["reasoning_content", "reasoning"] {
            if let Some(thought) = part[name].as_str().filter(|thought| !thought.is_empty()) {
                step.outputs.push(Output::Thinking { text: thought.to_owned() });
                break;
            }
        }
        for name in ["content", "refusal"] {
            if let Some(piece) = part[name].as_str().filter(|piece| !piece.is_empty()) {
                self.draft.add_text(piece);
                step.outputs.push(Output::Text { text: piece.to_owned() });
            }
        }
        for call in part["tool_calls"].as_array().into_iter().flatten() {
            let name = text(call, "/function/name");
            let index = call["index"].as_u64().unwrap_or(0);
            // The first fragment has the name, the others pieces of what the tool would be given.
            if !name.is_empty() && self.tools.len() < MAX_TOOLS {
                self.tools.entry(index).or_insert_with(|| name.chars().take(MAX_TOOL_NAME).collect());
            }
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.finish(reason, step);
        }
    }

    fn finish(&mut self, reason: &str, step: &mut Step) {
        if self.draft.said.is_some() {
            return;
        }
        let is_call = matches!(reason, "tool_calls" | "function_call");
        let verdict = match reason {
            "content_filter" => Err(Failure::new(
                Class::Denied,
                "the service's filter held the answer, or the rest of it, back",
            )),
            _ if is_call || (self.draft.text.is_empty() && !self.tools.is_empty()) => {
                let names: Vec<_> = self.tools.values().map(String::as_str).collect();
                let message = format!(
                    "the model wants to use a tool ({}) and gets none: over HTTP godctl only talks",
                    names.join(", ")
                );
                Err(Failure::new(Class::Denied, message))
            }
            "length" => {
                step.warn("the answer is as long as the service lets it be, and may lack its end".to_owned());
                Ok(())
            }
            _ => Ok(()),
        };
        self.draft.end(verdict, step);
    }

    fn usage(&mut self, chunk: &Value) {
        let usage = &mut self.draft.usage;
        usage.input_tokens = count(chunk, "/usage/prompt_tokens");
        usage.cached_tokens = count(chunk, "/usage/prompt_tokens_details/cached_tokens");
        // xAI leaves thoughts out of what it calls completion, and has them in the total.
        let total = count(chunk, "/usage/total_tokens").zip(usage.input_tokens);
        let written = total.and_then(|(total, input)| total.checked_sub(input));
        usage.output_tokens = count(chunk, "/usage/completion_tokens").max(written);
        let ticks = chunk.pointer("/usage/cost_in_usd_ticks").and_then(Value::as_f64);
        usage.cost_usd = ticks.map(|ticks| ticks / TICKS_PER_USD);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            NativeId, Thread,
            sse::{Event, Events},
        },
        *,
    };

    fn openai() -> OpenAi {
        OpenAi::new("openai", &Endpoint { model: Some("gpt-5".to_owned()), ..Endpoint::default() })
    }

    fn turn() -> Turn {
        let thread = Thread::New(Some(NativeId::parse("s-1").unwrap()));
        Turn { thread, ..Turn::new("and now?", "/w") }
    }

    fn request(provider: &OpenAi, turn: &Turn) -> Request {
        match provider.launch(turn).unwrap() {
            Launch::Request(request) => request,
            Launch::Process(spawn) => panic!("{spawn:?}"),
        }
    }

    /// What becomes of a stream that comes in these pieces.
    fn read(pieces: &[&[u8]]) -> (Vec<Output>, Outcome, Then) {
        let mut reader = openai().reader(&turn());
        let mut events = Events::new(4_096);
        let mut all: Vec<_> = pieces.iter().flat_map(|piece| events.push(piece)).collect();
        all.extend(events.finish());
        let (mut outputs, mut then) = (Vec::new(), Then::GoOn);
        for event in all {
            let Event::Data(data) = event else { panic!("{event:?}") };
            let step = reader.line(&data);
            outputs.extend(step.outputs);
            then = step.then;
        }
        (outputs, reader.end(&Exit::default()), then)
    }

    fn stream(lines: &[&str]) -> String {
        lines.iter().map(|line| format!("data: {line}\n\n")).collect()
    }

    fn class(outcome: &Outcome) -> Class {
        outcome.verdict.as_ref().unwrap_err().class
    }

    const OPENAI: &str = "\
: keep-alive

data: {\"id\":\"chatcmpl-1\",\"model\":\"gpt-5-2026\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}],\"usage\":null}\r
\r
data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"A river… \"}}]}

data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Die Müg\"}}]}

data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"litz 🏞\"}}]}

data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}

data: {\"id\":\"chatcmpl-1\",\"choices\":[],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":8,\"total_tokens\":28,\"prompt_tokens_details\":{\"cached_tokens\":4}}}

data: [DONE]

";

    #[test]
    fn an_answer_is_the_same_wherever_its_bytes_are_cut() {
        let whole = read(&[OPENAI.as_bytes()]);
        insta::assert_snapshot!(serde_json::to_string_pretty(&whole.0).unwrap());
        assert_eq!(
            (whole.1.text.as_str(), &whole.1.verdict, whole.2),
            ("Die Müglitz 🏞", &Ok(()), Then::Stop)
        );
        for cut in 0..=OPENAI.len() {
            let (before, after) = OPENAI.as_bytes().split_at(cut);
            assert_eq!(read(&[before, after]), whole, "cut at {cut}");
        }
        let bytes: Vec<_> = OPENAI.as_bytes().chunks(1).collect();
        assert_eq!(read(&bytes), whole);
    }

    #[test]
    fn an_answer_that_breaks_off_anywhere_before_its_end_is_none() {
        let end = OPENAI.find("\"finish_reason\":\"stop\"").unwrap();
        for cut in 0..end {
            let (_, outcome, _) = read(&[&OPENAI.as_bytes()[..cut]]);
            let class = class(&outcome);
            assert!(
                matches!(class, Class::Network | Class::NoResult) && class.is_retryable(),
                "cut at {cut}"
            );
        }
        let (_, outcome, _) = read(&[&OPENAI.as_bytes()[..end]]);
        assert_eq!(outcome.text, "Die Müglitz 🏞", "what there was of it is kept");
    }

    #[test]
    fn either_mark_is_an_end() {
        let said = r#"{"choices":[{"index":0,"delta":{"content":"Elbe"}}]}"#;
        let reason = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
        for end in [vec!["[DONE]"], vec![reason], vec![reason, "[DONE]"]] {
            let (_, outcome, _) = read(&[stream(&[&[said][..], &end].concat()).as_bytes()]);
            assert_eq!((outcome.text.as_str(), outcome.verdict), ("Elbe", Ok(())), "{end:?}");
        }
        let (_, outcome, _) = read(&[b"data: [DONE]\n\n"]);
        assert_eq!(class(&outcome), Class::NoResult, "nothing is no answer");
        let mut reader = openai().reader(&turn());
        reader.line(reason.as_bytes());
        let broken = Exit { refusal: Some(Failure::new(Class::Network, "broken")), ..Exit::default() };
        assert_eq!(reader.end(&broken).verdict, Ok(()), "what breaks after the end breaks nothing");
        let whole = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"Elbe"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
        let (outputs, outcome, _) = read(&[stream(&[whole]).as_bytes()]);
        assert_eq!((outcome.text.as_str(), outcome.verdict), ("Elbe", Ok(())), "not streamed at all");
        assert_eq!(outcome.usage.output_tokens, Some(2));
        assert!(matches!(outputs.last(), Some(Output::Usage(_))), "{outputs:?}");
    }

    #[test]
    fn what_xai_and_ollama_do_differently_is_read_too() {
        let xai = [
            r#"{"id":"a","choices":[{"index":0,"delta":{"content":"","role":"assistant"}}]}"#,
            r#"{"id":"a","choices":[{"index":0,"delta":{"content":"Elbe"},"finish_reason":"stop"}]}"#,
            r#"{"id":"a","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":19,"completion_tokens_details":{"reasoning_tokens":7},"cost_in_usd_ticks":25000000}}"#,
            "[DONE]",
        ];
        let (_, outcome, _) = read(&[stream(&xai).as_bytes()]);
        let usage = outcome.usage;
        assert_eq!(
            (usage.input_tokens, usage.output_tokens, usage.cost_usd),
            (Some(10), Some(9), Some(0.0025))
        );
        assert!(!usage.is_cumulative);
        let ollama = r#"{"id":"a","choices":[{"index":0,"delta":{"content":"","reasoning":"hm"}}]}"#;
        let (outputs, ..) = read(&[stream(&[ollama]).as_bytes()]);
        assert_eq!(outputs.last(), Some(&Output::Thinking { text: "hm".to_owned() }));
    }

    #[test]
    fn a_model_that_wants_a_tool_has_not_answered() {
        let whole = r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"ls","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}"#;
        let fragments = [
            r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"ls","arguments":""}}]}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}}]}"#,
            "[DONE]",
        ];
        for lines in [&[whole][..], &fragments] {
            let (_, outcome, _) = read(&[stream(lines).as_bytes()]);
            let failure = outcome.verdict.unwrap_err();
            assert_eq!((failure.class, failure.message.contains("(ls)")), (Class::Denied, true), "{failure}");
        }
    }

    #[test]
    fn an_answer_that_was_held_back_or_cut_says_so() {
        let ended = |reason: &str| {
            let line = format!(
                r#"{{"choices":[{{"index":0,"delta":{{"content":"El"}},"finish_reason":"{reason}"}}]}}"#
            );
            read(&[stream(&[&line]).as_bytes()])
        };
        let (outputs, outcome, _) = ended("length");
        assert_eq!(outcome.verdict, Ok(()));
        assert!(matches!(outputs.last(), Some(Output::Warning { .. })), "{outputs:?}");
        assert_eq!(class(&ended("content_filter").1), Class::Denied);
        let error = r#"{"error":{"message":"The server is overloaded","type":"server_error"}}"#;
        let said = r#"{"choices":[{"index":0,"delta":{"content":"El"}}]}"#;
        let (_, outcome, _) = read(&[stream(&[said, error, "[DONE]"]).as_bytes()]);
        assert_eq!((class(&outcome), outcome.text.as_str()), (Class::Overloaded, "El"));
    }

    #[test]
    fn what_was_said_before_goes_along_as_far_as_it_fits() {
        let message = |role, text: &str| Message { role, text: text.to_owned() };
        let history = vec![
            message(Role::User, "long ago"),
            message(Role::Assistant, "yes"),
            message(Role::User, "a river"),
            message(Role::Assistant, "the Elbe"),
        ];
        let turn = Turn { history, model: Some("m".to_owned()), ..turn() };
        let sent = |tokens| {
            let endpoint = Endpoint { history_tokens: tokens, ..Endpoint::default() };
            let body = request(&OpenAi::new("ollama", &endpoint), &turn).body;
            assert_eq!((&body["model"], &body["stream"]), (&json!("m"), &json!(true)));
            assert_eq!(body["stream_options"]["include_usage"], true);
            let texts = body["messages"].as_array().unwrap().iter();
            texts.map(|message| text(message, "/content").to_owned()).collect::<Vec<_>>().join("|")
        };
        assert_eq!(sent(100), "long ago|yes|a river|the Elbe|and now?");
        // The answer alone would fit as well, without what it answers.
        assert_eq!(sent(6), "a river|the Elbe|and now?");
        assert_eq!(sent(4), "and now?");
        assert_eq!(sent(0), "and now?");
    }

    #[test]
    fn what_it_cannot_do_is_refused_before_anything_is_sent() {
        let refusal = |provider: &OpenAi, turn: &Turn| provider.launch(turn).unwrap_err().message;
        let silent = OpenAi::new("xai", &Endpoint::default());
        assert!(refusal(&silent, &turn()).contains("--model"));
        let edit = Turn { access: Access::Edit, ..turn() };
        assert!(refusal(&openai(), &edit).contains("no tools"));
        let request = request(&openai(), &turn());
        assert_eq!(request.url, "https://api.openai.com/v1/chat/completions");
        assert_eq!(request.key.variable.as_deref(), Some("OPENAI_API_KEY"));
        assert!(!format!("{request:?}").contains("and now?"), "the user's text has no place in a log");
    }
}
