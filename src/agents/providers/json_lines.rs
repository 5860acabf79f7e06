//! Programs that speak our own words, an object a line: a few lines of any language make an agent of anything.
//!
//! | `kind` | what goes with it |
//! |---|---|
//! | `started` | `session_id`, `model`, `version` |
//! | `text`, `thinking` | `text`: a piece, put behind the piece before |
//! | `tool_invoked` | `id`, `name`, `input` (anything) |
//! | `tool_completed` | `id`, `is_error`, `output` |
//! | `usage` | `input_tokens`, `cached_tokens`, `output_tokens`, `cost_usd`: of this turn |
//! | `warning` | `message` |
//! | `completed` | `text`, in place of the pieces before; without it those are the answer |
//! | `failed` | `class` (one of [`Class::name`]), `message` |
//!
//! The turn has succeeded if `completed` came. Everything but `kind` may be left out.

use serde_json::Value;

use super::{
    super::{Class, Exit, Failure, Outcome, Output, Reader, Step, Turn},
    draft::{Draft, count, object, text},
};

/// Reads what such a program prints.
pub(super) fn reader(turn: &Turn) -> Box<dyn Reader> {
    Box::new(JsonLines { draft: Draft::new(turn) })
}

#[derive(Debug)]
struct JsonLines {
    draft: Draft,
}

impl Reader for JsonLines {
    fn line(&mut self, line: &[u8]) -> Step {
        let Some(event) = object(line) else { return Step::unread(line) };
        let mut step = Step::default();
        let draft = &mut self.draft;
        let field = |name: &str| event[name].as_str().map(str::to_owned);
        match text(&event, "/kind") {
            "started" => {
                draft.started(text(&event, "/session_id"), field("model"), field("version"), &mut step)
            }
            "text" => {
                draft.add_text(text(&event, "/text"));
                step.outputs.push(Output::Text { text: text(&event, "/text").to_owned() });
            }
            "thinking" => step.outputs.push(Output::Thinking { text: text(&event, "/text").to_owned() }),
            "tool_invoked" => {
                draft.tool_invoked(
                    text(&event, "/id"),
                    text(&event, "/name"),
                    event["input"].clone(),
                    &mut step,
                );
            }
            "tool_completed" => {
                let is_error = event["is_error"].as_bool().unwrap_or_default();
                draft.tool_completed(text(&event, "/id"), is_error, text(&event, "/output"), &mut step);
            }
            "usage" => {
                draft.usage.input_tokens = count(&event, "/input_tokens");
                draft.usage.cached_tokens = count(&event, "/cached_tokens");
                draft.usage.output_tokens = count(&event, "/output_tokens");
                draft.usage.cost_usd = event["cost_usd"].as_f64();
                step.outputs.push(Output::Usage(draft.usage));
            }
            "warning" => step.warn(text(&event, "/message").to_owned()),
            "completed" => {
                if let Some(answer) = event["text"].as_str().filter(|_| draft.said.is_none()) {
                    draft.set_text(answer);
                }
                draft.end(Ok(()), &mut step);
            }
            "failed" => draft.end(Err(failure(&event)), &mut step),
            _ => {}
        }
        step
    }

    fn end(&mut self, exit: &Exit) -> Outcome {
        self.draft.outcome(exit, |_| None)
    }
}

fn failure(event: &Value) -> Failure {
    let message = match text(event, "/message") {
        "" => "it failed and did not say why",
        message => message,
    };
    let named = text(event, "/class");
    let class = Class::ALL.into_iter().find(|class| class.name() == named);
    Failure::new(class.or_else(|| Class::of_message(message)).unwrap_or(Class::Unknown), message)
}

#[cfg(test)]
mod tests {
    use super::{
        super::testkit::{code, json},
        *,
    };

    fn read(lines: &str) -> (Vec<Output>, Outcome) {
        let mut reader = reader(&Turn::new("count", "/w"));
        let outputs = lines.lines().flat_map(|line| reader.line(line.trim().as_bytes()).outputs).collect();
        (outputs, reader.end(&code(0)))
    }

    #[test]
    fn a_turn_is_told_in_our_own_words() {
        let (outputs, outcome) = read(
            r#"{"kind":"started","session_id":"s-1","model":"m","version":"1"}
            {"kind":"thinking","text":"hm"}
            {"kind":"tool_invoked","id":"t","name":"ls","input":{"path":"."}}
            {"kind":"tool_completed","id":"t","output":"a b"}
            {"kind":"text","text":"There are "}
            {"kind":"text","text":"two."}
            {"kind":"usage","input_tokens":3,"output_tokens":4,"cost_usd":0.5}
            {"kind":"warning","message":"slow"}
            {"kind":"from the future"}
            {"kind":"completed"}"#,
        );
        insta::assert_snapshot!(json(&outputs));
        assert_eq!((outcome.text.as_str(), outcome.verdict), ("There are two.", Ok(())));
    }

    #[test]
    fn it_needs_a_word_of_success_and_tells_failures_by_class() {
        let class = |lines: &str| read(lines).1.verdict.unwrap_err().class;
        assert_eq!(class(r#"{"kind":"text","text":"two"}"#), Class::NoResult);
        assert_eq!(class(r#"{"kind":"failed","class":"rate_limited","message":"x"}"#), Class::RateLimited);
        assert_eq!(class(r#"{"kind":"failed","message":"not logged in"}"#), Class::Auth);
        assert_eq!(class(r#"{"kind":"failed"}"#), Class::Unknown);
        let (_, outcome) =
            read("{\"kind\":\"completed\",\"text\":\"a\"}\n{\"kind\":\"completed\",\"text\":\"b\"}");
        assert_eq!(outcome.text, "a", "only the first end counts");
    }
}
