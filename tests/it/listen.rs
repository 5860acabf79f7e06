//! `godctl agent listen` as a process, over the bus in a file and over RabbitMQ.

mod figures;
mod limits;
mod losses;
mod outages;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use lapin::options::BasicGetOptions;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    agent::Desk,
    broker::{Broker, on_a_channel},
    redis_node::RedisNode,
    support::{Ran, Running, until},
};

/// A desk whose commands use one bus.
struct Office {
    desk: Desk,
    at: Vec<String>,
}

impl Office {
    fn new(at: &[&str]) -> Self {
        let at = at.iter().flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()]).collect();
        Self { desk: Desk::new(), at }
    }

    fn run(&self, args: &[&str]) -> Ran {
        let ran: Ran = self.desk.command().args(&self.at).args(args).output().unwrap().into();
        assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.stderr);
        ran
    }

    fn listen(&self, args: &[&str]) -> Running {
        let root = self.desk.home.path().to_str().unwrap();
        let mut command = self.desk.command();
        command.args(&self.at).args(["agent", "listen", "--root", root]).args(args);
        let log = fs::File::options().create(true).append(true).open(self.log()).unwrap();
        Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// What listeners say, for a test that fails.
    fn log(&self) -> PathBuf {
        self.desk.home.path().join("listeners.log")
    }

    /// Makes the queue, so that nothing is published before anybody is bound.
    fn open(&self) {
        let bound = ["--bind", "agent.prompt", "--bind", "agent.prompt.failed"];
        self.run(&[&["bus", "work", "agent.prompt", "--lines"], &bound[..]].concat());
    }

    fn publish(&self, payload: &Value) {
        self.run(&["bus", "publish", "agent.prompt", &payload.to_string()]);
    }

    fn told(&self, event_type: &str) -> Vec<Value> {
        let ran = self.run(&["bus", "export", "--bind", event_type]);
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn until_told(&self, event_type: &str, count: usize) -> Vec<Value> {
        until(&format!("{count} of {event_type}"), || {
            let told = self.told(event_type);
            (told.len() >= count).then_some(told)
        })
    }

    /// Makes a queue that takes events of these types from now on.
    fn collect(&self, queue: &str, types: &[&str]) {
        let bound: Vec<&str> = types.iter().flat_map(|name| ["--bind", *name]).collect();
        self.run(&[&["bus", "work", queue, "--lines"], &bound[..]].concat());
    }

    /// The figures of a queue, once the broker answers.
    fn queue(&self, name: &str) -> Value {
        until("the broker tells of its queues", || {
            let mut command = self.desk.command();
            let ran: Ran = command.args(&self.at).args(["bus", "queues", "--json"]).output().unwrap().into();
            let queues: Vec<Value> = serde_json::from_str(&ran.stdout).ok()?;
            queues.into_iter().find(|queue| queue["name"] == name)
        })
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.run(&["agent", "status", "--json"]).stdout).unwrap()
    }

    /// How often the agents of this desk were started, as they note it themselves.
    fn runs(&self) -> usize {
        fs::read_to_string(self.path("runs")).unwrap_or_default().lines().count()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.desk.home.path().join(name)
    }

    /// What agents wait for that were made with [`WAITS`].
    fn go(&self) {
        fs::write(self.path("go"), "").unwrap();
    }

    /// A claude that does `body` between its first and its last line.
    fn claude(&self, body: &str) {
        let home = self.desk.home.path().display().to_string();
        let body =
            format!("echo $$ >> {home}/runs\n{}", ANSWER.replace("WAIT", &body.replace("HOME", &home)));
        self.desk.agent("claude", &body);
    }

    /// The same, unless somebody writes for so long that there is nothing to be seen now.
    fn glance(&self) -> Option<Value> {
        let mut command = self.desk.command();
        let ran: Ran = command.args(&self.at).args(["agent", "status", "--json"]).output().unwrap().into();
        (ran.code == Some(0)).then(|| serde_json::from_str(&ran.stdout).unwrap())
    }

    fn sessions(&self) -> Vec<Value> {
        let ran = self.run(&["agent", "sessions", "list", "--json"]);
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", fs::read_to_string(self.log()).unwrap_or_default());
        }
    }
}

/// What an agent does that waits for a file.
const WAITS: &str = "while [ ! -e HOME/go ]; do sleep 0.05; done";

fn lives(pid: &Value) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z")
}

/// The most memory that a process ever had, in MB.
fn peak_mb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_024
}

fn ends_in_order(mut listener: Running) {
    let pid = Pid::from_raw(i32::try_from(listener.0.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(listener.0.wait().unwrap().code(), Some(0));
}

/// Takes what has come into a queue, as it is there: what was published twice is there twice.
fn collected(broker: &Broker, queue: &str) -> Vec<Value> {
    on_a_channel(&broker.url(), async |channel| {
        let mut events = Vec::new();
        let options = BasicGetOptions { no_ack: true };
        while let Some(message) = channel.basic_get(queue.into(), options).await.unwrap() {
            events.push(serde_json::from_slice(&message.data).unwrap());
        }
        events
    })
}

const ANSWER: &str = r#"echo '{"type":"system","subtype":"init","session_id":"SESSION","model":"claude-opus"}'
WAIT
echo '{"type":"result","subtype":"success","is_error":false,"result":"two","total_cost_usd":0.5}'"#;

#[test]
fn kill_9_in_the_middle_of_a_turn_leaves_nothing_running_and_one_answer() {
    let office = Office::new(&[]);
    let desk = &office.desk;
    desk.agent("claude", &ANSWER.replace("WAIT", "while true; do sleep 0.05; done"));
    office.open();
    let mut first = office.listen(&["--workers", "2"]);
    office.publish(&json!({"provider": "claude", "prompt": "count the files", "session_id": "mine"}));
    let session = until("it runs", || {
        let session = office.sessions().into_iter().next()?;
        let is_known = !session["native_id"].is_null() && !session["run"]["leader"].is_null();
        is_known.then_some(session)
    });
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    let leader = session["run"]["leader"]["pid"].as_i64().unwrap();
    assert!(Path::new(&format!("/proc/{leader}")).exists(), "its agent was left behind");

    desk.agent("claude", &ANSWER.replace("WAIT", ""));
    let second = office.listen(&[]);
    let answers = office.until_told("agent.response.completed", 1);
    ends_in_order(second);
    let stat = fs::read_to_string(format!("/proc/{leader}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z"), "{stat}");
    let native = session["native_id"].as_str().unwrap();
    assert!(desk.seen("arguments").contains(&format!("--resume={native}\n")));
    assert!(desk.seen("input").starts_with("You were interrupted."), "{}", desk.seen("input"));
    let payload = &answers[0]["payload"];
    assert_eq!((&payload["response"], &payload["prompt"]), (&json!("two"), &json!("count the files")));
    assert_eq!(office.told("agent.response.completed").len(), 1);
    assert_eq!(office.told("agent.error"), Vec::<Value>::new());
    assert_eq!(office.sessions()[0]["state"], "idle");
}

#[test]
fn prompts_over_rabbitmq_are_answered_once_and_what_is_no_prompt_dies_with_its_reason() {
    let Some(broker) = Broker::start() else { return };
    let office = Office::new(&[&format!("bus.url={}", broker.url()), "bus.history=true"]);
    office.open();
    // Nobody listens yet: the queue keeps them.
    for number in 0..6 {
        let prompt = format!("prompt {number}");
        office.publish(
            &json!({"provider": "echo", "prompt": prompt, "session_id": format!("s-{}", number % 2)}),
        );
    }
    office.publish(&json!({"provider": "echo", "prompt": "x", "cwd": "/etc"}));
    office.run(&["bus", "publish", "agent.prompt", "{}"]);
    let listeners = [office.listen(&["--workers", "2"]), office.listen(&["--workers", "2"])];
    let answers = office.until_told("agent.response.completed", 6);
    let mut dead = until("two are dead", || {
        let ran = office.run(&["bus", "dead", "list", "agent.prompt", "--json"]);
        let dead: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (dead.len() == 2).then_some(dead)
    });
    listeners.into_iter().for_each(ends_in_order);
    for session in ["s-0", "s-1"] {
        let of = answers.iter().filter(|event| event["payload"]["session_id"] == session);
        let each: BTreeSet<_> = of.map(|event| event["payload"]["response"].as_str().unwrap()).collect();
        assert_eq!(each.len(), 3, "each once: {each:?}");
    }
    dead.sort_by_key(|dead| dead["reason"].as_str().map(str::to_owned));
    let reason = |at: usize| dead[at]["reason"].as_str().unwrap();
    assert!(reason(0).contains("bad_request: ") && reason(1).contains("denied: "), "{dead:?}");
    assert_eq!(office.told("agent.response.completed").len(), 6);
}

/// What somebody said, as its payload.
fn said(number: u32, text: &str) -> Value {
    json!({
        "text": text,
        "timestamp": "2026-11-21T10:00:00Z",
        "source": "godctl-asr",
        "session_id": "019d2b61-7c3e-7a51-9b2c-3d4e5f607182",
        "is_final": true,
        "utterance_id": format!("mic/{number}"),
        "audio_metadata": {"duration_seconds": 1.5, "sample_rate": 16000, "channels": 1, "format": "pcm", "model": "tiny"},
        "context": {"device_type": "desktop", "tags": []},
    })
}

#[test]
fn whole_utterances_are_prompts_for_who_is_named_and_fragments_and_telemetry_are_not() {
    let office = Office::new(&[]);
    let desk = &office.desk;
    desk.agent("claude", &ANSWER.replace("WAIT", ""));
    let voice = "voice.transcription.completed";
    // A first round makes the queues, so that nothing is said before anybody listens.
    let flags = ["--voice", "--voice-provider", "echo", "--idle", "0s"];
    assert_eq!(office.listen(&flags).0.wait().unwrap().code(), Some(0));
    let speak =
        |event_type: &str, payload: &Value| office.run(&["bus", "publish", event_type, &payload.to_string()]);
    speak(voice, &said(1, "Computer, what is new?"));
    speak("transcription.voice.completed", &said(1, "Computer, what is new?"));
    speak(voice, &said(2, "ask Claude to count the files"));
    let mut fragment = said(3, "delete every");
    fragment["is_final"] = json!(false);
    speak(voice, &fragment);
    speak("agent.thread.prompt", &json!({"prompt": "typed elsewhere", "provider": "echo"}));
    speak(voice, &said(4, "ask echo with full access to clean up"));
    let mut for_others = said(5, "turn on the light");
    for_others["target"] = json!("kitchen");
    speak(voice, &for_others);
    let listener = office.listen(&["--voice", "--voice-provider", "echo"]);
    let answers = office.until_told("agent.response.completed", 2);
    let refused = office.until_told("agent.voice.refused", 1);
    ends_in_order(listener);
    assert_eq!(office.told("agent.response.completed").len(), 2, "each once");
    let of = |provider: &str| answers.iter().find(|event| event["payload"]["provider"] == provider).unwrap();
    assert_eq!(of("echo")["payload"]["response"], "what is new?");
    assert_eq!(of("claude")["payload"]["prompt"], "count the files");
    let heard = office.told(voice);
    assert_eq!(of("claude")["correlation_ids"][0], heard[1]["event_id"]);
    let reason = refused[0]["payload"]["reason"].as_str().unwrap();
    assert!(reason.contains("end with \"confirm full access\""), "{reason}");
    // What one microphone hears is one conversation with each agent.
    assert_eq!(office.sessions().len(), 2);
}

/// Pattern 1: from a recording to the answer of an agent, over a real broker, with sessions in a real Redis.
#[test]
fn what_is_said_in_a_recording_is_answered_by_an_agent_on_the_same_correlation() {
    let (Some(broker), Some(redis)) = (Broker::start(), RedisNode::start()) else { return };
    let store = format!("store.url={}", redis.url());
    let office = Office::new(&[&format!("bus.url={}", broker.url()), "bus.history=true", &store]);
    office.desk.agent("claude", &ANSWER.replace("WAIT", ""));
    let flags = ["--voice=prefix", "--workers", "2"];
    // A first round makes the queues, so that nothing is said before anybody listens.
    let first = office.listen(&[&flags[..], &["--idle", "0s"]].concat()).0.wait().unwrap();
    assert_eq!(first.code(), Some(0));
    let listener = office.listen(&flags);
    for recording in ["assets/demo/demo4.wav", "assets/demo/demo3.wav"] {
        office.run(&["transcribe", "--publish", "--model", "command-en", recording]);
    }
    let answers = office.until_told("agent.response.completed", 1);
    let started = office.until_told("agent.session.started", 1);
    ends_in_order(listener);
    let heard = office.told("voice.transcription.completed");
    let command = heard
        .iter()
        .find(|event| event["payload"]["text"].as_str().unwrap().starts_with("computer "))
        .unwrap_or_else(|| panic!("{heard:?}"));
    let said = command["payload"]["text"].as_str().unwrap().trim_start_matches("computer ");
    let answer = &answers[0];
    assert_eq!(
        (answer["payload"]["prompt"].as_str(), &answer["payload"]["response"]),
        (Some(said), &json!("two"))
    );
    assert_eq!(answer["correlation_ids"][0], command["event_id"]);
    assert_eq!(started[0]["correlation_ids"], answer["correlation_ids"]);
    assert_eq!(answers.len(), 1, "the other recording calls nobody");
    // The dashboard shows the chain, from what was said to what came of it.
    let flags = ["dash", "--type", "agent.response.completed", "--frame", "160x30", "--keys", "4"];
    let frame = office.run(&flags).stdout;
    let line = |event_type: &str| {
        let found = frame.lines().position(|line| line.contains(event_type));
        found.unwrap_or_else(|| panic!("{event_type}: {frame}"))
    };
    let chain =
        ["voice.transcription.completed", "agent.session.started", "agent.response.completed"].map(line);
    assert!(chain.is_sorted() && chain[0] > 1, "{frame}");
    assert!(frame.contains(said) && frame.contains("● connected"), "{frame}");
    assert_eq!(office.sessions()[0]["state"], "idle");
}

#[test]
fn a_broker_that_comes_later_is_waited_for_and_one_that_restarts_is_found_again() {
    let Some(mut broker) = Broker::start() else { return };
    let office = Office::new(&[&format!("bus.url={}", broker.url())]);
    office.open();
    office.run(&["bus", "work", "answers", "--lines", "--bind", "agent.response.completed"]);
    let prompt =
        |text: &str| json!({"provider": "echo", "prompt": text, "session_id": "s", "access": "plan"});
    office.publish(&prompt("first"));
    broker.kill();
    let listener = office.listen(&["--workers", "1"]);
    until("it waits", || fs::read_to_string(office.log()).ok()?.contains("trying again").then_some(()));
    broker.restart();
    let until_asked = |count: u64| {
        until(&format!("{count} were answered"), || {
            let session = office.sessions().into_iter().next()?;
            (session["prompt_count"] == count && session["state"] == "idle").then_some(())
        });
    };
    until_asked(1);
    broker.kill();
    broker.restart();
    // A node that has just started talks before it has all its queues.
    until("the node is whole again", || {
        let mut command = office.desk.command();
        let ran: Ran = command.args(&office.at).args(["bus", "queues"]).output().unwrap().into();
        (ran.code == Some(0)).then_some(())
    });
    office.publish(&prompt("second"));
    until_asked(2);
    ends_in_order(listener);
    let file = office.desk.home.path().join("answers");
    let note = format!("cat >> {0}; echo >> {0}", file.display());
    let expected = BTreeSet::from(["first".to_owned(), "second".to_owned()]);
    // What a listener publishes once the broker is back may still be on its way.
    until("both answers are in the queue", || {
        office.run(&["bus", "work", "answers", "--idle", "1s", "--", "sh", "-c", &note]);
        let lines = fs::read_to_string(&file).unwrap_or_default();
        let responses = lines.lines().filter(|line| !line.trim().is_empty()).map(|line| {
            let event: Value = serde_json::from_str(line).unwrap();
            event["payload"]["response"].as_str().unwrap().to_owned()
        });
        (responses.collect::<BTreeSet<_>>() == expected).then_some(())
    });
}

#[test]
fn a_pattern_that_would_take_what_agents_say_is_refused() {
    let office = Office::new(&[]);
    for pattern in ["#", "agent.#", "agent.thread.prompt", "*.response.completed"] {
        let ran: Ran =
            office.desk.command().args(["agent", "listen", "--bind", pattern]).output().unwrap().into();
        assert_eq!(ran.code, Some(2), "{pattern}: {}", ran.stderr);
        assert!(ran.stderr.contains("bind something narrower"), "{}", ran.stderr);
    }
}
