//! Prompts over a bus in memory, worked on by shells in the place of agents; the journal is a real file.

mod cancel;

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::{
    agents::{
        Access, Thread,
        limits::{Gate, Shut},
        orchestrator::Holder,
        session::{Begin, Input, Session, SessionId, State},
        store::{
            SharedStore,
            journal::{Accepted, Counts, Doorkeeper, Message, NewJob},
            redis::{RedisOptions, RedisStore, testing::Server},
            sqlite::{SqliteOptions, SqliteStore},
            testkit,
            vault::Vault,
        },
        testing::Shell,
    },
    bus::{
        Body, Clock, Event, Lane, Pattern, Publish, Query, QueueSpec, Selection, SystemClock,
        event::{Stamp, registry},
        memory::{MemoryBus, MemoryOptions},
    },
};

mod limits;

/// All gates are open.
struct Open;

impl Doorkeeper for Open {
    fn ask(&self, _: &str, _: &mut Gate, _: usize) -> (Result<(), Shut>, Option<Event>) {
        (Ok(()), None)
    }
}

/// `sh ./agent THREAD` with the prompt on standard input.
fn shell() -> Shell {
    Shell::new(|turn| {
        let thread = match &turn.thread {
            Thread::Resume(id) => id.to_string(),
            Thread::New(_) => "new".to_owned(),
        };
        (vec!["./agent".to_owned(), thread], turn.prompt.clone().into_bytes())
    })
}

/// Notes each run in `ran`, tells its conversation, and then does `$body`.
const AGENT: &str = r#"prompt=$(cat); echo "$1 $prompt" >> ran
    thread=$1; if [ "$1" = new ]; then thread=t-1; fi
    echo "{\"type\":\"thread.started\",\"thread_id\":\"$thread\"}"
    answer() { echo "{\"type\":\"item.completed\",\"item\":{\"type\":\"agent_message\",\"text\":\"$1\"}}"
        echo '{"type":"turn.completed","usage":{"input_tokens":5,"output_tokens":2}}'; }
"#;

struct Bench {
    folder: tempfile::TempDir,
    listener: Listener,
    store: SharedStore,
}

async fn file(folder: &Path) -> Arc<SqliteStore> {
    file_with(folder, Arc::new(SystemClock)).await
}

async fn file_with(folder: &Path, clock: Arc<dyn Clock>) -> Arc<SqliteStore> {
    let options =
        SqliteOptions { path: folder.join("sessions.db"), patience: Duration::from_secs(60), clock };
    Arc::new(SqliteStore::open(options, Vault::new(testkit::ring())).await.unwrap())
}

impl Bench {
    async fn new(body: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path()).await;
        Self::with(folder, body, (file.clone(), Journal::beside_sessions(file)))
    }

    fn with(folder: tempfile::TempDir, body: &str, (store, journal): (SharedStore, Journal)) -> Self {
        let root = folder.path().canonicalize().unwrap();
        fs::write(root.join("agent"), format!("{AGENT}{body}\n")).unwrap();
        let path = ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned());
        let listener = Listener {
            bus: Arc::new(MemoryBus::new(MemoryOptions::default())),
            journal,
            orchestrator: Orchestrator {
                store: Arc::clone(&store),
                clock: Arc::new(SystemClock),
                lease: Duration::from_secs(3600),
                patience: Duration::from_secs(60),
                holder: Holder::here(),
            },
            agents: Roster::of(vec![Box::new(shell())]),
            customs: Customs::default(),
            variables: BTreeMap::from([path]),
            groups: Groups::default(),
            limits: Limits { grace: Duration::from_millis(100), ..Limits::default() },
            source: Source::new("desk", "godctl", "agent"),
            settings: Settings {
                queue: "agent.prompt".to_owned(),
                rules: Rules {
                    agents: vec!["shell".to_owned()],
                    roots: vec![root],
                    // Agents that may not write share their directory.
                    access: Access::Edit,
                    timeout_s: 600,
                },
                workers: 3,
                voice: None,
                bounds: BTreeMap::new(),
                attempts: NonZeroU32::new(3).unwrap(),
                backoff: Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(5) },
                on_orphan: OnOrphan::Resume,
                drain: Duration::from_secs(60),
                shares_directory: false,
                idle: None,
            },
        };
        Self { folder, listener, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ran(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("ran")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn publish(&self, payload: Value) -> Event {
        let stamp = Stamp::now();
        let event =
            Event::new(stamp, "agent.prompt".parse().unwrap(), Source::new("h", "a", "service"), payload);
        self.listener.bus.publish(std::slice::from_ref(&event), Publish::default()).await.unwrap();
        event
    }

    /// Listens while `work` goes on.
    async fn listening<T>(&self, work: impl Future<Output = T>) -> T {
        let patterns = ["agent.prompt", "agent.prompt.failed"].map(|name| name.parse::<Pattern>().unwrap());
        let queue = self.listener.bus.queue(QueueSpec::new("agent.prompt", patterns.to_vec())).await.unwrap();
        let stop = CancellationToken::new();
        let listening = Box::pin(listen(&self.listener, Queues { prompts: &*queue, voice: None }, &stop));
        let (result, done) = tokio::join!(listening, async {
            let done = work.await;
            stop.cancel();
            done
        });
        result.unwrap();
        done
    }

    /// What was published, of one type.
    async fn told(&self, name: &str) -> Vec<Event> {
        let query = Query { patterns: vec![name.parse().unwrap()], before: None, since: None, limit: 10_000 };
        let received = self.listener.bus.page(query).await.unwrap();
        received
            .into_iter()
            .filter_map(|received| match received.body {
                Body::Event(event) => Some(event),
                Body::Unparsed(_) => None,
            })
            .collect()
    }

    async fn until_told(&self, name: &str, count: usize) -> Vec<Event> {
        until(&format!("{count} of {name}"), async || {
            let told = self.told(name).await;
            (told.len() >= count).then_some(told)
        })
        .await
    }

    async fn dead(&self) -> Vec<String> {
        let held = self.listener.bus.peek("agent.prompt", Lane::Dead, 100).await.unwrap();
        held.into_iter().map(|held| held.reason.unwrap_or_default()).collect()
    }

    async fn counts(&self) -> Counts {
        self.listener.journal.counts().await.unwrap()
    }
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A prompt that needs no directory of its own.
fn prompt(text: &str) -> Value {
    json!({ "provider": "shell", "prompt": text, "access": "plan" })
}

#[tokio::test]
async fn a_prompt_is_answered_on_the_bus_with_its_correlation_and_kept_in_a_session() {
    let bench = Bench::new("answer two").await;
    let correlation = Uuid::now_v7();
    let mut payload = prompt("count");
    payload["correlation_id"] = json!(correlation.to_string());
    payload["tags"] = json!(["release"]);
    let (asked, answers) = bench
        .listening(async {
            let asked = bench.publish(payload).await;
            bench.until_told("agent.session.ended", 1).await;
            (asked, bench.told("agent.response.completed").await)
        })
        .await;
    assert_eq!(answers[0].payload["response"], "two");
    assert_eq!(answers[0].correlation_ids, [correlation, asked.event_id]);
    for event in bench.told("#").await {
        assert_eq!(registry::validate(&event.to_json()), [], "{}", event.event_type);
    }
    let started = bench.told("agent.session.started").await;
    assert_eq!(started[0].correlation_ids, answers[0].correlation_ids);
    let id = SessionId::parse(answers[0].payload["session_id"].as_str().unwrap()).unwrap();
    let session = bench.store.get(&id).await.unwrap().unwrap().session;
    assert_eq!((session.state, session.prompt_count), (State::Idle, 1));
    assert!(session.tags.contains("release"));
    assert_eq!(bench.counts().await, Counts { done: 1, ..Counts::default() });
    assert_eq!(bench.dead().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_same_key_is_worked_on_once_and_another_prompt_under_it_is_refused() {
    let bench = Bench::new("answer two").await;
    let mut payload = prompt("count");
    payload["idempotency_key"] = json!("k");
    bench
        .listening(async {
            bench.publish(payload.clone()).await;
            let first = bench.until_told("agent.response.completed", 1).await;
            until("it is over", async || (bench.counts().await.unsent == 0).then_some(())).await;
            bench.publish(payload.clone()).await;
            // The bus knows the event's id, so the same result is there once; the journal has sent it again.
            until("it is sent again", async || {
                let counts = bench.counts().await;
                let waits = bench.listener.bus.peek("agent.prompt", Lane::Ready, 10).await.unwrap().len();
                (counts.unsent == 0 && waits == 0).then_some(())
            })
            .await;
            payload["prompt"] = json!("something else");
            bench.publish(payload.clone()).await;
            until("it is refused", async || (!bench.dead().await.is_empty()).then_some(())).await;
            assert_eq!(bench.told("agent.response.completed").await[0].event_id, first[0].event_id);
        })
        .await;
    assert_eq!(bench.ran(), ["new count"]);
    let dead = bench.dead().await;
    assert!(dead[0].starts_with("bad_request: another prompt has come under the key"), "{dead:?}");
}

#[tokio::test]
async fn hostile_messages_become_dead_letters_and_run_nothing() {
    let bench = Bench::new("answer two").await;
    let with = |name: &str, value: Value| {
        let mut payload = prompt("x");
        payload[name] = value;
        payload
    };
    let hostile = [
        with("cwd", json!("/etc")),
        with("access", json!("full")),
        with("permission_mode", json!("bypassPermissions")),
        with("args", json!(["--yolo"])),
        with("hooks", json!([{"name": "exec", "config": {"command": "touch ran"}}])),
        with("provider", json!("siri")),
        json!({"nothing": "of it"}),
    ];
    bench
        .listening(async {
            for payload in &hostile {
                bench.publish(payload.clone()).await;
            }
            until("all are refused", async || (bench.dead().await.len() == hostile.len()).then_some(()))
                .await;
        })
        .await;
    assert_eq!(bench.ran(), Vec::<String>::new());
    let dead = bench.dead().await;
    assert!(dead[..5].iter().all(|reason| reason.starts_with("denied: ")), "{dead:?}");
    assert!(dead[5..].iter().all(|reason| reason.starts_with("bad_request: ")), "{dead:?}");
    assert_eq!(bench.counts().await, Counts::default());
}

#[tokio::test]
async fn prompts_of_a_session_run_in_order_and_one_at_a_time_while_others_run_beside_them() {
    // Two of one session at once would find the other one's file.
    let body = "case $prompt in
        wait) while [ ! -e go ]; do sleep 0.02; done;;
        *) if [ -e busy ]; then echo twice >> ran; fi; touch busy; sleep 0.02; rm busy;;
        esac; answer \"$prompt\"";
    let bench = Bench::new(body).await;
    let of = |session: &str, text: &str| {
        let mut payload = prompt(text);
        payload["session_id"] = json!(session);
        payload
    };
    bench
        .listening(async {
            bench.publish(of("slow", "wait")).await;
            for number in 0..5 {
                bench.publish(of("quick", &number.to_string())).await;
            }
            bench.until_told("agent.response.completed", 5).await;
            fs::write(bench.path("go"), "").unwrap();
            bench.until_told("agent.response.completed", 6).await;
        })
        .await;
    let ran: Vec<_> = bench.ran().into_iter().filter(|line| !line.ends_with("wait")).collect();
    assert_eq!(ran, ["new 0", "t-1 1", "t-1 2", "t-1 3", "t-1 4"]);
    let answers = bench.told("agent.response.completed").await;
    let last = answers.last().unwrap();
    assert_eq!(last.payload["session_id"], "slow", "nobody waited for it");
}

#[tokio::test]
async fn what_time_may_mend_is_tried_again_and_what_it_cannot_is_told_with_the_whole_story() {
    let body = "case $prompt in
        flaky) if [ $(grep -c flaky ran) -lt 3 ]; then echo 'overloaded' >&2; exit 1; fi; answer done;;
        broken) echo 'overloaded' >&2; exit 1;;
        locked) echo 'not logged in' >&2; exit 1;;
        esac";
    let bench = Bench::new(body).await;
    bench
        .listening(async {
            for text in ["flaky", "broken", "locked"] {
                bench.publish(prompt(text)).await;
            }
            bench.until_told("agent.response.completed", 1).await;
            until("two are dead", async || (bench.dead().await.len() == 2).then_some(())).await;
        })
        .await;
    let count = |text: &str| bench.ran().iter().filter(|line| line.ends_with(text)).count();
    assert_eq!((count("flaky"), count("broken"), count("locked")), (3, 3, 1));
    let dead = bench.dead().await;
    let has =
        |start: &str, end: &str| dead.iter().any(|reason| reason.starts_with(start) && reason.ends_with(end));
    assert!(has("overloaded: ", "(after 3 attempts)") && has("auth: ", "(after 1 attempts)"), "{dead:?}");
    let failed = bench.told("agent.prompt.failed").await;
    let broken = failed.iter().find(|event| event.payload["class"] == "overloaded").unwrap();
    assert_eq!(broken.payload["history"].as_array().unwrap().len(), 3);
    assert_eq!(broken.payload["event"]["payload"]["prompt"], "broken");
    let errors = bench.told("agent.error").await;
    assert_eq!(errors.len(), 2, "told once each, at the end");
}

#[tokio::test]
async fn a_dead_letter_that_is_put_back_is_worked_on_again_with_its_correlation() {
    let bench =
        Bench::new("if [ -e mended ]; then answer two; else echo 'not logged in' >&2; exit 1; fi").await;
    bench
        .listening(async {
            let asked = bench.publish(prompt("count")).await;
            until("it is dead", async || (!bench.dead().await.is_empty()).then_some(())).await;
            fs::write(bench.path("mended"), "").unwrap();
            bench.listener.bus.requeue("agent.prompt", &Selection::All).await.unwrap();
            let answers = bench.until_told("agent.response.completed", 1).await;
            assert!(answers[0].correlation_ids.contains(&asked.event_id));
        })
        .await;
    assert_eq!(bench.ran().len(), 2);
    assert_eq!(bench.dead().await, Vec::<String>::new());
}

/// A job that somebody worked on who is dead, in a session whose agent had told its conversation.
async fn orphan(bench: &Bench, name: &str) {
    let request = Request {
        key: format!("key:{name}"),
        hash: "h".to_owned(),
        provider: "shell".to_owned(),
        prompt: format!("do {name}"),
        wanted: Wanted::Named(testkit::id(name)),
        directory: None,
        model: None,
        access: Access::Plan,
        timeout_s: None,
        tags: Vec::new(),
        wishes: Vec::new(),
        correlation_ids: vec![Uuid::now_v7()],
    };
    let message = Message { event: json!({}), request, history: Vec::new(), was_broken_off: false };
    let (key, hash) = (message.request.key.clone(), message.request.hash.clone());
    let job = NewJob { key: &key, hash: &hash, session: name, message: &message };
    assert_eq!(bench.listener.journal.accept(&job).await.unwrap(), Accepted::New);
    let dead = Holder { started_ticks: Some(1), ..Holder::here() }.to_text();
    let job = bench.listener.journal.claim(&dead, &Open).await.unwrap().job.unwrap();
    let directory = bench.folder.path().canonicalize().unwrap().display().to_string();
    let now = bench.listener.orchestrator.clock.now();
    let mut session = Session::new(testkit::id(name), "shell", &directory, now);
    let begin =
        Begin { run: job.run, prompt: "x", thread: &Thread::New(None), correlation_ids: &[], attempt: 1 };
    session.step(Input::Begin(begin), now).unwrap();
    session.native_id = Some(crate::agents::NativeId::parse("t-9").unwrap());
    bench.store.create(&session).await.unwrap();
}

#[tokio::test]
async fn a_turn_that_was_broken_off_is_gone_on_with_begun_again_or_given_up_as_it_was_asked_for() {
    for (policy, ran) in [
        (OnOrphan::Resume, &["t-9 You were interrupted."][..]),
        (OnOrphan::Rerun, &["t-9 do it"]),
        (OnOrphan::Fail, &[]),
    ] {
        let mut bench = Bench::new("answer two").await;
        bench.listener.settings.on_orphan = policy;
        orphan(&bench, "it").await;
        bench
            .listening(until("it is over", async || {
                let counts = bench.counts().await;
                (counts.done + counts.dead == 1 && counts.unsent == 0).then_some(())
            }))
            .await;
        let got = bench.ran();
        assert_eq!(got.len(), ran.len(), "{policy:?}: {got:?}");
        assert!(got.iter().zip(ran).all(|(got, wanted)| got.starts_with(wanted)), "{policy:?}: {got:?}");
        let told = bench.told("agent.error").await;
        assert_eq!(told.len(), usize::from(policy == OnOrphan::Fail));
        assert!(told.iter().all(|event| event.payload["class"] == "orphaned"));
    }
}

#[tokio::test]
async fn a_stop_lets_turns_end_and_what_takes_too_long_is_gone_on_with_at_the_next_start() {
    let mut bench = Bench::new("if [ -e go ]; then answer two; else sleep 600; fi").await;
    bench.listener.settings.drain = Duration::from_millis(50);
    bench
        .listening(async {
            bench.publish(prompt("count")).await;
            bench.until_told("agent.session.started", 1).await;
        })
        .await;
    assert_eq!(bench.counts().await, Counts { ready: 1, ..Counts::default() });
    let session = bench.store.list(&crate::agents::store::Filter::default()).await.unwrap().remove(0).session;
    assert_eq!(session.state, State::Interrupted);
    assert_eq!(bench.told("agent.error").await.len(), 0, "it is not over");
    fs::write(bench.path("go"), "").unwrap();
    bench.listening(bench.until_told("agent.response.completed", 1)).await;
    let ran = bench.ran();
    assert!(ran.len() == 2 && ran[1].starts_with("t-1 You were interrupted."), "{ran:?}");
}

#[tokio::test]
async fn what_was_not_published_before_a_crash_is_at_the_next_start_and_nothing_runs_twice() {
    let bench = Bench::new("answer two").await;
    let stamp = Stamp::now();
    let event = Event::new(stamp, "test.left".parse().unwrap(), Source::new("h", "a", "service"), json!({}));
    bench.listener.journal.append("key:x", std::slice::from_ref(&event)).await.unwrap();
    let told = bench.listening(bench.until_told("test.left", 1)).await;
    assert_eq!(told[0].event_id, stamp.id);
    assert_eq!(bench.ran(), Vec::<String>::new());
}

#[tokio::test]
async fn with_sessions_in_redis_a_turn_whose_end_the_journal_missed_is_concluded_and_not_run_again() {
    let Some(server) = Server::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let options = RedisOptions {
        url: server.url().parse().unwrap(),
        password: None,
        prefix: "test:".to_owned(),
        patience: Duration::from_secs(60),
    };
    let store: SharedStore = Arc::new(RedisStore::open(options, Vault::new(testkit::ring())).await.unwrap());
    let journal = Journal::alone(file(folder.path()).await);
    let bench = Bench::with(folder, "answer two", (store, journal));
    bench
        .listening(async {
            bench.publish(prompt("count")).await;
            bench.until_told("agent.response.completed", 1).await;
        })
        .await;
    assert_eq!(bench.ran(), ["new count"]);

    // The session's turn was stored, and then whoever worked on it died.
    orphan(&bench, "it").await;
    let id = testkit::id("it");
    let mut stored = bench.store.get(&id).await.unwrap().unwrap();
    let outcome = crate::agents::Outcome {
        native_id: None,
        text: "it is done".to_owned(),
        usage: crate::agents::Usage::default(),
        verdict: Ok(()),
        warning: None,
    };
    let now = bench.listener.orchestrator.clock.now();
    let effects = stored.session.step(Input::Ended { outcome: &outcome, prompt: "x" }, now).unwrap();
    let [crate::agents::session::Effect::Record(record)] = &effects[..] else { panic!("{effects:?}") };
    let change = crate::agents::store::Change {
        turn: Some((&record.0, &record.1)),
        ..testkit::change(&stored.session, stored.version, None)
    };
    bench.store.update(&change).await.unwrap();
    let answers = bench.listening(bench.until_told("agent.response.completed", 2)).await;
    assert_eq!(answers[1].payload["response"], "it is done");
    assert_eq!(bench.ran(), ["new count"], "its agent is not run again");
}
