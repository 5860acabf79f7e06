//! Puts results together. Pure.

use std::fmt::Write as _;

use serde_json::json;

use super::{
    news::End,
    plan::{Ending, Format, Plan},
};

/// Results put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Combined {
    /// The text; `None` if an agent was to make it and did not, or nothing was answered at all.
    pub text: Option<String>,
    /// Parts that failed or were skipped.
    pub failed: usize,
}

/// The results of a run, as its plan says. What failed is marked as such.
#[must_use]
pub fn combine(plan: &Plan, ends: &[End]) -> Combined {
    let answer =
        |at: usize| ends.get(at).and_then(End::settled).and_then(|settled| settled.answer.as_ref().ok());
    let failed = plan.parts.iter().filter(|at| answer(**at).is_none()).count();
    let text = match plan.ending {
        Ending::Step(at) => answer(at).cloned(),
        Ending::Format(_) if failed == plan.parts.len() => None,
        Ending::Format(Format::Markdown) => match plan.parts[..] {
            [one] => answer(one).cloned(),
            _ => Some(markdown(plan, ends)),
        },
        Ending::Format(Format::Json) => Some(object(plan, ends, failed)),
    };
    Combined { text, failed }
}

fn markdown(plan: &Plan, ends: &[End]) -> String {
    let mut text = String::new();
    for &at in &plan.parts {
        if !text.is_empty() {
            text.push('\n');
        }
        let body = match ends.get(at) {
            Some(End::Settled(settled)) => match &settled.answer {
                Ok(answer) => answer.trim_end().to_owned(),
                Err(failure) => format!("**failed** ({}): {}", failure.class, failure.message),
            },
            Some(End::Skipped(because)) => {
                format!("**skipped**, as {} failed", plan.name_of(*because))
            }
            Some(End::Open) | None => "**not done**".to_owned(),
        };
        writeln!(text, "## {}\n\n{body}", plan.name_of(at)).unwrap_or_default();
    }
    text
}

fn object(plan: &Plan, ends: &[End], failed: usize) -> String {
    let part = |&at: &usize| {
        let provider = plan.step(at).map(|step| step.provider.as_str());
        let mut part = json!({ "step": plan.name_of(at), "provider": provider, "success": false });
        match ends.get(at) {
            Some(End::Settled(settled)) => match &settled.answer {
                Ok(answer) => {
                    part["success"] = json!(true);
                    part["response"] = json!(answer);
                }
                Err(failure) => {
                    part["class"] = json!(failure.class);
                    part["error"] = json!(failure.message);
                }
            },
            Some(End::Skipped(because)) => {
                part["error"] = json!(format!("skipped, as {} failed", plan.name_of(*because)));
            }
            Some(End::Open) | None => part["error"] = json!("not done"),
        }
        part
    };
    let parts: Vec<_> = plan.parts.iter().map(part).collect();
    let whole = json!({ "flow": plan.name, "failed": failed, "parts": parts });
    serde_json::to_string_pretty(&whole).unwrap_or_default() + "\n"
}
