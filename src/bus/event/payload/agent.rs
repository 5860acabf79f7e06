//! What is told of an agent at work.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Payload;

/// An agent began to work on a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentSessionStarted {
    /// Who works, such as `claude`.
    #[schemars(length(min = 1))]
    pub agent_name: String,
    /// The conversation, as the agent knows it.
    #[schemars(length(min = 1))]
    pub session_key: String,
    /// The conversation, as godctl knows it.
    #[schemars(length(min = 1))]
    pub session_id: String,
    /// The same as `agent_name`.
    #[schemars(length(min = 1))]
    pub provider: String,
    /// The model that answers, if the agent tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The directory that it works in.
    pub working_directory: String,
}

/// An agent has ended its work on a prompt, well or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentSessionEnded {
    /// Who worked, such as `claude`.
    #[schemars(length(min = 1))]
    pub agent_name: String,
    /// The conversation, as the agent knows it; missing if it never told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_key: Option<String>,
    /// The conversation, as godctl knows it.
    #[schemars(length(min = 1))]
    pub session_id: String,
    /// The same as `agent_name`.
    #[schemars(length(min = 1))]
    pub provider: String,
    /// The directory that it worked in.
    pub working_directory: String,
    /// Whether it answered.
    pub success: bool,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// What it did to the files of a worktree of its own; missing if it had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<AgentWorkspace>,
    /// How many events about what it did were left out, because it did more than could be stored; missing if none were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_left_out: Option<u64>,
}

/// What an agent did in a worktree of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentWorkspace {
    /// The branch that its commits are on.
    #[schemars(length(min = 1))]
    pub branch: String,
    /// Where it is, if it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Files that are not as they were, committed or not, from the top of the repository.
    pub files_changed: Vec<String>,
    /// Hashes of the commits that it made, oldest first.
    pub commits: Vec<String>,
}

/// An agent uses a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentToolInvoked {
    /// The conversation, as godctl knows it.
    #[schemars(length(min = 1))]
    pub session_id: String,
    /// Who uses it.
    #[schemars(length(min = 1))]
    pub provider: String,
    /// Ties this to `agent.tool.completed`.
    pub tool_id: String,
    /// What it is called, such as `Bash`.
    pub tool_name: String,
    /// What it was given.
    #[serde(default)]
    pub input: Value,
}

/// A tool of an agent is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentToolCompleted {
    /// The conversation, as godctl knows it.
    #[schemars(length(min = 1))]
    pub session_id: String,
    /// Who used it.
    #[schemars(length(min = 1))]
    pub provider: String,
    /// As in `agent.tool.invoked`.
    pub tool_id: String,
    /// As in `agent.tool.invoked`, if that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_name: Option<String>,
    /// Whether it did what it was to do.
    pub success: bool,
    /// What came out, shortened if it is long.
    #[serde(default)]
    pub output: String,
}

/// What an agent thinks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentThinking {
    /// The conversation, as godctl knows it.
    #[schemars(length(min = 1))]
    pub session_id: String,
    /// Who thinks.
    #[schemars(length(min = 1))]
    pub provider: String,
    /// What.
    pub text: String,
}

/// An agent has answered a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentResponse {
    /// The conversation, as godctl knows it.
    #[schemars(length(min = 1))]
    pub session_id: String,
    /// Who answered.
    #[schemars(length(min = 1))]
    pub provider: String,
    /// The model, if the agent told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What was asked.
    pub prompt: String,
    /// The answer.
    pub response: String,
    /// Always true; a failure is an `agent.error`.
    pub success: bool,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Tokens read and written, if the agent told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_used: Option<u64>,
    /// US dollars, if the agent told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// How often it was tried.
    pub attempts: u32,
    /// Ties the answer to the question.
    pub correlation_id: String,
    /// What is odd about it all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// An agent has failed to answer a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentError {
    /// The conversation, as godctl knows it.
    #[schemars(length(min = 1))]
    pub session_id: String,
    /// Who failed.
    #[schemars(length(min = 1))]
    pub provider: String,
    /// What kind of failure it is, such as `rate_limited`.
    #[schemars(length(min = 1))]
    pub class: String,
    /// What happened.
    pub error: String,
    /// Whether it may be tried again as it is.
    pub retryable: bool,
    /// How often it was tried.
    pub attempts: u32,
    /// When it failed.
    pub failed_at: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// What there was of an answer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub partial_response: String,
    /// Ties the failure to the question.
    pub correlation_id: String,
}

/// Something was said to agents that is not worked on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VoiceRefused {
    /// What was said, its first 500 characters.
    pub text: String,
    /// The utterance, as who transcribed it calls it.
    pub utterance_id: String,
    /// Why, and what to say instead.
    #[schemars(length(min = 1))]
    pub reason: String,
}

/// A prompt was given up. On its way through the queue it becomes a dead letter; put back from there, it is worked on
/// again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentPromptFailed {
    /// The queue that it came from.
    #[schemars(length(min = 1))]
    pub queue: String,
    /// What tells the same prompt from others.
    #[schemars(length(min = 1))]
    pub key: String,
    /// The conversation, as godctl knows it.
    #[schemars(length(min = 1))]
    pub session_id: String,
    /// Who was to work on it.
    #[schemars(length(min = 1))]
    pub provider: String,
    /// What kind of failure the last one was.
    #[schemars(length(min = 1))]
    pub class: String,
    /// What happened then.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
    /// What happened each time, oldest first.
    #[serde(default)]
    pub history: Vec<FailedAttempt>,
    /// The event that brought the prompt.
    #[serde(default)]
    pub event: Value,
}

/// An attempt at a prompt that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct FailedAttempt {
    /// When.
    pub at: Timestamp,
    /// What kind of failure it was.
    pub class: String,
    /// What happened.
    pub error: String,
}

const SESSION: &str = "019d2b61-7c3e-7a51-9b2c-3d4e5f607184";
const CORRELATION: &str = "019d2b61-7c3e-7a51-9b2c-3d4e5f607183";
const CLAUDE: &str = "claude";
const DIRECTORY: &str = "/home/ada/engine";

impl Payload for AgentSessionStarted {
    const TYPE: &'static str = "agent.session.started";

    fn example() -> Self {
        Self {
            agent_name: CLAUDE.to_owned(),
            session_key: SESSION.to_owned(),
            session_id: SESSION.to_owned(),
            provider: CLAUDE.to_owned(),
            model: Some("claude-opus".to_owned()),
            working_directory: DIRECTORY.to_owned(),
        }
    }
}

impl Payload for AgentSessionEnded {
    const TYPE: &'static str = "agent.session.ended";

    fn example() -> Self {
        Self {
            agent_name: CLAUDE.to_owned(),
            session_key: Some(SESSION.to_owned()),
            session_id: SESSION.to_owned(),
            provider: CLAUDE.to_owned(),
            working_directory: DIRECTORY.to_owned(),
            success: true,
            duration_ms: 8_200,
            workspace: Some(AgentWorkspace {
                branch: "godctl/0197a5e0-0000-7000-8000-000000000001".to_owned(),
                path: None,
                files_changed: vec!["src/main.rs".to_owned()],
                commits: Vec::new(),
            }),
            events_left_out: None,
        }
    }
}

impl Payload for AgentToolInvoked {
    const TYPE: &'static str = "agent.tool.invoked";

    fn example() -> Self {
        Self {
            session_id: SESSION.to_owned(),
            provider: CLAUDE.to_owned(),
            tool_id: "toolu_01".to_owned(),
            tool_name: "Bash".to_owned(),
            input: json!({ "command": "cargo test" }),
        }
    }
}

impl Payload for AgentToolCompleted {
    const TYPE: &'static str = "agent.tool.completed";

    fn example() -> Self {
        Self {
            session_id: SESSION.to_owned(),
            provider: CLAUDE.to_owned(),
            tool_id: "toolu_01".to_owned(),
            tool_name: Some("Bash".to_owned()),
            success: true,
            output: "test result: ok. 12 passed".to_owned(),
        }
    }
}

impl Payload for AgentThinking {
    const TYPE: &'static str = "agent.thinking";

    fn example() -> Self {
        let text = "The test fails because the clock is not passed in.".to_owned();
        Self { session_id: SESSION.to_owned(), provider: CLAUDE.to_owned(), text }
    }
}

impl Payload for AgentResponse {
    const TYPE: &'static str = "agent.response.completed";

    fn example() -> Self {
        Self {
            session_id: SESSION.to_owned(),
            provider: CLAUDE.to_owned(),
            model: Some("claude-opus".to_owned()),
            prompt: "why does the test fail?".to_owned(),
            response: "It reads the system's clock.".to_owned(),
            success: true,
            duration_ms: 8_200,
            tokens_used: Some(12_840),
            cost_usd: Some(0.11),
            attempts: 1,
            correlation_id: CORRELATION.to_owned(),
            warning: None,
        }
    }
}

impl Payload for AgentError {
    const TYPE: &'static str = "agent.error";

    fn example() -> Self {
        Self {
            session_id: SESSION.to_owned(),
            provider: CLAUDE.to_owned(),
            class: "rate_limited".to_owned(),
            error: "too many requests".to_owned(),
            retryable: true,
            attempts: 1,
            failed_at: Timestamp::from_second(1_795_255_200).unwrap_or_default(),
            duration_ms: 900,
            partial_response: String::new(),
            correlation_id: CORRELATION.to_owned(),
        }
    }
}

impl Payload for AgentPromptFailed {
    const TYPE: &'static str = "agent.prompt.failed";

    fn example() -> Self {
        let at = Timestamp::from_second(1_795_255_200).unwrap_or_default();
        let failed = || FailedAttempt {
            at,
            class: "overloaded".to_owned(),
            error: "the service has too much to do".to_owned(),
        };
        Self {
            queue: "agent.prompt".to_owned(),
            key: format!("event:{CORRELATION}"),
            session_id: SESSION.to_owned(),
            provider: CLAUDE.to_owned(),
            class: "overloaded".to_owned(),
            error: "the service has too much to do".to_owned(),
            attempts: 3,
            history: vec![failed(), failed(), failed()],
            event: json!({ "event_type": "agent.prompt", "payload": { "provider": CLAUDE, "prompt": "count the tests" } }),
        }
    }
}

impl Payload for VoiceRefused {
    const TYPE: &'static str = "agent.voice.refused";

    fn example() -> Self {
        Self {
            text: "ask claude with full access to clean up".to_owned(),
            utterance_id: "019d2b61-7c3e-7a51-9b2c-3d4e5f607182/1".to_owned(),
            reason: "asks for full access; end with \"confirm full access\" if that is meant".to_owned(),
        }
    }
}
