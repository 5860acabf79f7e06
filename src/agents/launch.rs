//! What a provider starts for a turn: a process, or a request over HTTP. Data only.

use std::{fmt, path::PathBuf, time::Duration};

use serde_json::Value;

/// What works on a turn.
#[derive(Debug, Clone, PartialEq)]
pub enum Launch {
    /// A process on this machine.
    Process(Spawn),
    /// A service that streams its answer over HTTP.
    Request(Request),
}

/// A process to start.
#[derive(Clone, PartialEq, Eq)]
pub struct Spawn {
    /// The program; a bare name is looked for on the search path.
    pub program: PathBuf,
    /// The setting that says where the program is, for who does not have it.
    pub setting: String,
    /// Its arguments, without the program.
    pub arguments: Vec<String>,
    /// Variables set for it, beside those that are passed on.
    pub environment: Vec<(String, String)>,
    /// Names of variables that are passed on if they are set; a `*` at the end stands for any rest.
    pub passes: Vec<String>,
    /// What it reads from standard input.
    pub input: Input,
    /// How it is asked to stop, before the group is told to.
    pub farewell: Farewell,
}

impl fmt::Debug for Spawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.environment.iter().map(|(name, _)| name).collect();
        f.debug_struct("Spawn")
            .field("program", &self.program)
            .field("arguments", &self.arguments)
            .field("environment", &names)
            .field("input", &self.input)
            .finish_non_exhaustive()
    }
}

/// What a process reads from standard input.
#[derive(Clone, PartialEq, Eq)]
pub enum Input {
    /// All there is; then the pipe is closed.
    Whole(Vec<u8>),
    /// The beginning of a conversation. What the reader has to say follows ([`Step::send`](super::Step::send)), and the
    /// pipe is closed when it has its answer.
    Dialogue(Vec<u8>),
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bytes) = match self {
            Self::Whole(bytes) => ("Whole", bytes),
            Self::Dialogue(bytes) => ("Dialogue", bytes),
        };
        write!(f, "{name}: {} bytes", bytes.len())
    }
}

/// The polite way to stop an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// SIGINT to the group.
    Interrupt,
    /// SIGTERM to the group.
    Terminate,
}

/// A request that is answered with a stream of server-sent events.
#[derive(Clone, PartialEq)]
pub struct Request {
    /// Where it is posted.
    pub url: String,
    /// What is sent, as JSON.
    pub body: Value,
    /// Where the key lies that it is sent with. No key, no header.
    pub key: Key,
    /// How long the service may take.
    pub patience: Patience,
    /// The setting that says where the service is, for who does not reach it.
    pub setting: String,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The body holds the user's text.
        f.debug_struct("Request").field("url", &self.url).field("key", &self.key).finish_non_exhaustive()
    }
}

/// Where a key lies. What it is is read only when it is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Key {
    /// A file that holds it, which comes first.
    pub file: Option<PathBuf>,
    /// The variable that holds it.
    pub variable: Option<String>,
}

/// How long a service may take. The turn's own limit holds as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until the connection stands.
    pub connect: Duration,
    /// From there to the first byte of the answer: some load a model first.
    pub first_byte: Duration,
    /// Between two pieces of it.
    pub idle: Duration,
}
