//! What is told of several agents at work on one task.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Payload;

/// A run of a flow began, or goes on after it was broken off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentFlowStarted {
    /// What the flow is called.
    #[schemars(length(min = 1))]
    pub flow: String,
    /// The run: the root of the correlations of all that comes of it.
    pub run_id: Uuid,
    /// The directory that it works in.
    pub working_directory: String,
    /// Whether it was begun earlier.
    pub resumed: bool,
    /// Its steps, in the order of the flow.
    pub steps: Vec<FlowStep>,
}

/// A step of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct FlowStep {
    /// Its name.
    #[schemars(length(min = 1))]
    pub step: String,
    /// Who works on it.
    #[schemars(length(min = 1))]
    pub provider: String,
    /// Steps that must be over before.
    #[serde(default)]
    pub needs: Vec<String>,
}

/// Where a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum StepState {
    /// It has answered.
    Done,
    /// It has failed.
    Failed,
    /// Something that it needs has failed.
    Skipped,
}

/// A step of a flow is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentFlowStepCompleted {
    /// What the flow is called.
    #[schemars(length(min = 1))]
    pub flow: String,
    /// The run.
    pub run_id: Uuid,
    /// The step.
    #[schemars(length(min = 1))]
    pub step: String,
    /// Who worked on it, or was to.
    #[schemars(length(min = 1))]
    pub provider: String,
    /// How it ended.
    pub state: StepState,
    /// Its conversation, as godctl knows it; missing if it was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// How often it was tried.
    pub attempts: u64,
    /// US dollars, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// What kind of failure it is, such as `rate_limited`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Steps of the run that are over, this one included.
    pub completed: u64,
    /// Steps of the run.
    pub total: u64,
}

/// The answers of several agents, put together: the end of a run of a flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentAggregateCompleted {
    /// What the flow is called.
    #[schemars(length(min = 1))]
    pub flow: String,
    /// The run.
    pub run_id: Uuid,
    /// Whether all that had to be answered was. A part that may fail can be missing all the same.
    pub success: bool,
    /// What was put together, in the order of the flow.
    pub parts: Vec<AggregatePart>,
    /// Parts that failed or were skipped.
    pub failed: u64,
    /// The parts put together; missing if nobody answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// Answers were cut short, as they were too long for one event. The sessions have all of them.
    #[serde(default)]
    pub is_shortened: bool,
    /// How long this run, or its going on, took, in milliseconds.
    pub duration_ms: u64,
    /// US dollars of all steps, as far as that is known; missing if nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// Ties it to what caused it: the run.
    pub correlation_id: String,
}

/// One of the answers that were put together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct AggregatePart {
    /// The step.
    #[schemars(length(min = 1))]
    pub step: String,
    /// Who answered, or was to.
    #[schemars(length(min = 1))]
    pub provider: String,
    /// Whether there is an answer.
    pub success: bool,
    /// The conversation, as godctl knows it; missing if it was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// What kind of failure it is, such as `rate_limited`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

const RUN: Uuid = Uuid::from_u128(0x019d_2b61_7c3e_7a51_9b2c_3d4e_5f60_7190);
const SESSION: &str = "5b0c2f6e-7d0a-5a51-9b2c-3d4e5f607184";
const FLOW: &str = "review";

impl Payload for AgentFlowStarted {
    const TYPE: &'static str = "agent.flow.started";

    fn example() -> Self {
        let step = |step: &str, provider: &str, needs: &[&str]| FlowStep {
            step: step.to_owned(),
            provider: provider.to_owned(),
            needs: needs.iter().map(|&need| need.to_owned()).collect(),
        };
        Self {
            flow: FLOW.to_owned(),
            run_id: RUN,
            working_directory: "/home/ada/engine".to_owned(),
            resumed: false,
            steps: vec![
                step("bugs", "claude", &[]),
                step("style", "gemini", &[]),
                step("aggregate", "codex", &["bugs", "style"]),
            ],
        }
    }
}

impl Payload for AgentFlowStepCompleted {
    const TYPE: &'static str = "agent.flow.step.completed";

    fn example() -> Self {
        Self {
            flow: FLOW.to_owned(),
            run_id: RUN,
            step: "bugs".to_owned(),
            provider: "claude".to_owned(),
            state: StepState::Done,
            session_id: Some(SESSION.to_owned()),
            duration_ms: 8_200,
            attempts: 1,
            cost_usd: Some(0.11),
            class: None,
            error: None,
            completed: 1,
            total: 3,
        }
    }
}

impl Payload for AgentAggregateCompleted {
    const TYPE: &'static str = "agent.aggregate.completed";

    fn example() -> Self {
        let part = |step: &str, provider: &str| AggregatePart {
            step: step.to_owned(),
            provider: provider.to_owned(),
            success: true,
            session_id: Some(SESSION.to_owned()),
            response: None,
            class: None,
            error: None,
        };
        Self {
            flow: FLOW.to_owned(),
            run_id: RUN,
            success: true,
            parts: vec![
                AggregatePart {
                    response: Some("It reads past the end.".to_owned()),
                    ..part("bugs", "claude")
                },
                AggregatePart {
                    success: false,
                    class: Some("rate_limited".to_owned()),
                    error: Some("too many requests".to_owned()),
                    ..part("style", "gemini")
                },
            ],
            failed: 1,
            response: Some("One bug: it reads past the end. Nobody looked at the style.".to_owned()),
            is_shortened: false,
            duration_ms: 21_000,
            cost_usd: Some(0.23),
            correlation_id: RUN.to_string(),
        }
    }
}
