//! Turns with real processes: shells in the place of agents.

mod stopping;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::agents::{
    Class, Groups, Limits, Output, Surroundings,
    errand::Customs,
    session::{CostSource, Source, State},
    store::{
        Acquired, Request,
        redis::{RedisOptions, RedisStore, testing::Server},
        sqlite::{SqliteOptions, SqliteStore},
        testkit::{self, Hand},
        vault::Vault,
    },
    testing::Shell,
};

/// A shell that is told what to do by the prompt.
fn shell() -> Shell {
    Shell::new(|turn| (vec!["-c".to_owned(), turn.prompt.clone()], Vec::new()))
}

const STARTED: &str = r#"echo '{"type":"thread.started","thread_id":"t-1"}';"#;
const DONE: &str = r#"echo '{"type":"item.completed","item":{"type":"agent_message","text":"done"}}';
    echo '{"type":"turn.completed","usage":{"input_tokens":5,"output_tokens":2}}'"#;

struct Bench {
    shell: Shell,
    folder: tempfile::TempDir,
    clock: Hand,
    groups: Groups,
    customs: Customs,
    variables: BTreeMap<String, String>,
}

impl Bench {
    fn new() -> Self {
        let path = ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned());
        Self {
            shell: shell(),
            folder: tempfile::tempdir().unwrap(),
            clock: Hand::at(1_000),
            groups: Groups::default(),
            customs: Customs::default(),
            variables: BTreeMap::from([path]),
        }
    }

    async fn sqlite(&self) -> SharedStore {
        let options = SqliteOptions {
            path: self.folder.path().join("sessions.db"),
            patience: Duration::from_secs(60),
            clock: Arc::new(self.clock.clone()),
        };
        Arc::new(SqliteStore::open(options, Vault::new(testkit::ring())).await.unwrap())
    }

    fn orchestrator(&self, store: &SharedStore, lease: Duration) -> Orchestrator {
        Orchestrator {
            store: Arc::clone(store),
            clock: Arc::new(self.clock.clone()),
            lease,
            patience: Duration::from_secs(60),
            holder: Holder::here(),
        }
    }

    fn scene(&self) -> Scene<'_> {
        let limits = Limits { grace: Duration::from_millis(100), ..Limits::default() };
        let surroundings =
            Surroundings { groups: &self.groups, variables: &self.variables, limits, mark: None };
        Scene {
            provider: &self.shell,
            customs: &self.customs,
            source: Source::Cli,
            surroundings,
            recorder: &Plain,
        }
    }

    async fn session(&self, store: &SharedStore, name: &str) -> SessionId {
        let directory = self.folder.path().display().to_string();
        let session = Session::new(testkit::id(name), "shell", &directory, testkit::at(1_000));
        store.create(&session).await.unwrap();
        session.id
    }

    fn order(&self, session: &SessionId, script: &str) -> Order {
        Order {
            session: session.clone(),
            turn: Turn::new(script, self.folder.path()),
            run: Uuid::now_v7(),
            correlation_ids: vec![Uuid::now_v7()],
            attempt: 1,
            key: None,
            wishes: Vec::new(),
            when_busy: WhenBusy::Fail,
            when_lost: WhenLost::Fail,
            shares_directory: false,
        }
    }

    /// A script that goes on when there is a file of this name.
    fn until(&self, name: &str) -> String {
        format!("while [ ! -e {}/{name} ]; do sleep 0.02; done;", self.folder.path().display())
    }

    fn touch(&self, name: &str) {
        std::fs::write(self.folder.path().join(name), "").unwrap();
    }
}

/// A run of the session `s-1` that nobody looks after any more: its agent, which lives, the run, and who held the lease,
/// which is dead.
async fn left_open(store: &SharedStore, session: &SessionId) -> (std::process::Child, Uuid, Holder) {
    let mut command = std::process::Command::new("sleep");
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let left = command.arg("600").spawn().unwrap();
    let mut open = store.get(session).await.unwrap().unwrap();
    let run = Uuid::new_v4();
    let begin = crate::agents::session::Begin {
        run,
        prompt: "lost",
        thread: &crate::agents::Thread::New(None),
        correlation_ids: &[],
        attempt: 1,
    };
    open.session.step(crate::agents::session::Input::Begin(begin), testkit::at(1_000)).unwrap();
    let leader = crate::agents::session::Leader::of(i32::try_from(left.id()).unwrap()).unwrap();
    open.session.step(crate::agents::session::Input::Launched(leader), testkit::at(1_000)).unwrap();
    store.update(&testkit::change(&open.session, open.version, None)).await.unwrap();
    let dead = Holder { started_ticks: Some(1), ..Holder::here() };
    let text = dead.to_text();
    let request = Request { holder: &text, ..testkit::request("session:s-1", Uuid::new_v4()) };
    assert!(matches!(store.acquire(&request).await.unwrap(), Acquired::Lease(_)));
    (left, run, dead)
}

/// The store of a Redis.
async fn redis(server: &Server) -> SharedStore {
    let options = RedisOptions {
        url: server.url().parse().unwrap(),
        password: None,
        prefix: "test:".to_owned(),
        patience: Duration::from_secs(60),
    };
    Arc::new(RedisStore::open(options, Vault::new(testkit::ring())).await.unwrap())
}

/// Waits until something holds.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

const LONG: Duration = Duration::from_secs(3600);

fn deaf(_: Output) {}

#[tokio::test]
async fn a_turn_is_stored_and_the_next_one_goes_on_in_it() {
    let bench = Bench::new();
    let store = bench.sqlite().await;
    let works = bench.orchestrator(&store, LONG);
    let session = bench.session(&store, "s-1").await;
    let stop = CancellationToken::new();
    for number in 1..=2 {
        let order = bench.order(&session, &format!("{STARTED}{DONE}"));
        let done = works.work(bench.scene(), &order, &stop, deaf).await.unwrap();
        assert!(done.outcome.verdict.is_ok() && done.stored.is_ok(), "{:?}", done.outcome);
        assert_eq!((done.session.state, done.session.prompt_count), (State::Idle, number));
        let stored = store.get(&session).await.unwrap().unwrap();
        assert_eq!(stored.session, done.session);
    }
    let turns = store.turns(&session, 0, 10).await.unwrap();
    assert_eq!(turns.iter().map(|turn| turn.words.response.as_str()).collect::<Vec<_>>(), ["done", "done"]);
    // Codex counts from the beginning of the conversation, and has said the same twice.
    let totals = store.get(&session).await.unwrap().unwrap().session.totals;
    assert_eq!((totals.input_tokens, totals.output_tokens), (5, 2));
}

#[tokio::test]
async fn the_agents_id_and_its_process_are_stored_while_it_works_and_nobody_else_may_begin() {
    let bench = Bench::new();
    let store = bench.sqlite().await;
    let works = bench.orchestrator(&store, LONG);
    let (session, other) = (bench.session(&store, "s-1").await, bench.session(&store, "s-2").await);
    let stop = CancellationToken::new();
    let order = bench.order(&session, &format!("{STARTED}{}{DONE}", bench.until("go")));
    let working = works.work(bench.scene(), &order, &stop, deaf);
    let looking = async {
        let running = until("it runs", async || {
            let session = store.get(&session).await.unwrap().unwrap().session;
            let run = session.run.clone()?;
            (session.native_id.is_some() && run.leader.is_some()).then_some(session)
        })
        .await;
        assert_eq!((running.state, running.native_id.unwrap().as_str()), (State::Running, "t-1"));

        let second = bench.order(&session, DONE);
        let error = works.work(bench.scene(), &second, &stop, deaf).await.unwrap_err();
        let told = error.to_string();
        assert!(told.starts_with("session s-1 is being worked on by process "), "{told}");
        let same_directory = bench.order(&other, DONE);
        let error = works.work(bench.scene(), &same_directory, &stop, deaf).await.unwrap_err();
        assert!(error.to_string().starts_with("the directory "), "{error}");
        let sharing = Order { shares_directory: true, ..bench.order(&other, DONE) };
        works.work(bench.scene(), &sharing, &stop, deaf).await.unwrap();
        let reading = Order {
            turn: Turn { access: crate::agents::Access::Plan, ..same_directory.turn.clone() },
            ..bench.order(&other, DONE)
        };
        works.work(bench.scene(), &reading, &stop, deaf).await.unwrap();

        let waiting = Order { when_busy: WhenBusy::Wait, ..second };
        let waits = works.work(bench.scene(), &waiting, &stop, deaf);
        bench.touch("go");
        waits.await.unwrap()
    };
    let (first, second) = tokio::join!(working, looking);
    assert_eq!((first.unwrap().session.prompt_count, second.session.prompt_count), (1, 2));
}

#[tokio::test]
async fn whoever_loses_its_lease_stops_its_agent_and_writes_nothing() {
    let bench = Bench::new();
    let store = bench.sqlite().await;
    let works = bench.orchestrator(&store, Duration::from_millis(300));
    let session = bench.session(&store, "s-1").await;
    let stop = CancellationToken::new();
    let order = bench.order(&session, &format!("{STARTED}{}{DONE}", bench.until("never")));
    let working = works.work(bench.scene(), &order, &stop, deaf);
    let stealing = async {
        let open = until("it runs", async || {
            let session = store.get(&session).await.unwrap().unwrap().session;
            session.run.filter(|run| run.leader.is_some())
        })
        .await;
        // It slept for so long that its time was over, and somebody else took the session.
        let later = bench.clock.now().checked_add(SignedDuration::from_hours(1)).unwrap();
        *bench.clock.0.lock() = later;
        let request = Request { ttl: LONG, ..testkit::request("session:s-1", Uuid::new_v4()) };
        // A renewal may have come between the two.
        until("it is taken", async || {
            let taken = store.acquire(&request).await.unwrap();
            *bench.clock.0.lock() = bench.clock.now().checked_add(SignedDuration::from_hours(1)).unwrap();
            matches!(taken, Acquired::Lease(_)).then_some(())
        })
        .await;
        (open, store.get(&session).await.unwrap().unwrap())
    };
    let (result, (open, at_the_theft)) = tokio::join!(working, stealing);
    assert!(matches!(result, Err(OrderError::Lost(_))), "{result:?}");
    let leader = open.leader.unwrap();
    assert_ne!(crate::agents::session::Leader::of(leader.pid), Some(leader), "its agent is gone");
    let stored = store.get(&session).await.unwrap().unwrap();
    assert_eq!((stored.version, stored.session.run.unwrap().id), (at_the_theft.version, order.run));
    assert_eq!(store.turns(&session, 0, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_turn_that_was_left_open_is_closed_and_what_is_left_of_it_killed() {
    let bench = Bench::new();
    let store = bench.sqlite().await;
    let works = bench.orchestrator(&store, LONG);
    let session = bench.session(&store, "s-1").await;
    let (mut left, ..) = left_open(&store, &session).await;

    let order = bench.order(&session, &format!("{STARTED}{DONE}"));
    let done = works.work(bench.scene(), &order, &CancellationToken::new(), deaf).await.unwrap();
    assert_eq!((done.session.state, done.session.prompt_count), (State::Idle, 2));
    assert!(!left.wait().unwrap().success(), "it was killed");
}

#[tokio::test]
async fn a_lost_conversation_fails_or_begins_anew_as_it_was_asked_for() {
    let bench = Bench::new();
    let store = bench.sqlite().await;
    let works = bench.orchestrator(&store, LONG);
    let session = bench.session(&store, "s-1").await;
    let stop = CancellationToken::new();
    let first = bench.order(&session, &format!("{STARTED}{DONE}"));
    works.work(bench.scene(), &first, &stop, deaf).await.unwrap();
    // The first time it does not know the conversation; when it is asked again it begins one.
    let script = format!(
        "if [ ! -e {0}/lost ]; then touch {0}/lost; echo 'Error: no rollout found for thread id t-1' >&2; exit 1; fi;
         echo '{{\"type\":\"thread.started\",\"thread_id\":\"t-2\"}}'; {DONE}",
        bench.folder.path().display()
    );
    let order = bench.order(&session, &script);
    let failed = works.work(bench.scene(), &order, &stop, deaf).await.unwrap();
    assert_eq!(failed.outcome.verdict.unwrap_err().class, Class::SessionNotFound);
    assert_eq!(failed.session.native_id.unwrap().as_str(), "t-1", "it may come back");

    std::fs::remove_file(bench.folder.path().join("lost")).unwrap();
    let mut said = Vec::new();
    let order = Order { when_lost: WhenLost::New, run: Uuid::now_v7(), ..order };
    let done = works.work(bench.scene(), &order, &stop, |output| said.push(output)).await.unwrap();
    assert!(done.outcome.verdict.is_ok(), "{:?}", done.outcome);
    assert_eq!(done.session.native_id.unwrap().as_str(), "t-2");
    assert!(
        said.iter()
            .any(|output| matches!(output, Output::Warning { message } if message.contains("new one")))
    );
}

#[tokio::test]
async fn a_redis_that_restarts_empty_in_the_middle_of_a_turn_loses_nothing_of_it() {
    let Some(mut server) = Server::start() else { return };
    let bench = Bench::new();
    let store = redis(&server).await;
    let works = bench.orchestrator(&store, LONG);
    let session = bench.session(&store, "s-1").await;
    let order = bench.order(&session, &format!("{STARTED}{}{DONE}", bench.until("go")));
    let stop = CancellationToken::new();
    let working = works.work(bench.scene(), &order, &stop, deaf);
    let breaking = async {
        until("it runs", async || {
            let session = store.get(&session).await.unwrap().unwrap().session;
            session.native_id.zip(session.run.and_then(|run| run.leader))
        })
        .await;
        server.restart_empty();
        bench.touch("go");
    };
    let (done, ()) = tokio::join!(working, breaking);
    let done = done.unwrap();
    assert!(done.stored.is_ok(), "{:?}", done.stored);
    let stored = store.get(&session).await.unwrap().unwrap();
    assert_eq!(stored.session, done.session);
    assert_eq!((stored.session.prompt_count, stored.session.native_id.unwrap().as_str()), (1, "t-1"));
    assert_eq!(store.turns(&session, 0, 10).await.unwrap().len(), 1);
    let lease = store.acquire(&testkit::request("session:s-1", Uuid::new_v4())).await.unwrap();
    assert!(matches!(lease, Acquired::Lease(lease) if lease.fence > stored.fence), "numbers only grow");
}

#[tokio::test]
async fn a_turn_of_an_agent_that_tells_sums_costs_its_share_of_them() {
    let bench = Bench::new();
    *bench.clock.0.lock() = testkit::at(1_795_255_200);
    let store = bench.sqlite().await;
    let works = bench.orchestrator(&store, LONG);
    let session = bench.session(&store, "s-1").await;
    let stop = CancellationToken::new();
    for (input, output) in [(5_000, 2_000), (15_000, 4_000)] {
        let done = DONE.replace("\"input_tokens\":5", &format!("\"input_tokens\":{input}"));
        let done = done.replace("\"output_tokens\":2", &format!("\"output_tokens\":{output}"));
        let mut order = bench.order(&session, &format!("{STARTED}{done}"));
        order.turn.model = Some("gpt-5".to_owned());
        works.work(bench.scene(), &order, &stop, deaf).await.unwrap();
    }
    // At 1.25 dollars for a million tokens read and 10 for a million written.
    let rows = store.usage(None).await.unwrap();
    let costs: Vec<_> =
        rows.iter().map(|row| (row.amounts.cost_micro_usd.unwrap(), row.cost_source)).collect();
    assert_eq!(costs, [(6_250 + 20_000, CostSource::Computed), (12_500 + 20_000, CostSource::Computed)]);
    let totals = store.get(&session).await.unwrap().unwrap().session.totals;
    assert_eq!((totals.cost_micro_usd, totals.turns_without_cost), (58_750, 0));
}

#[tokio::test]
async fn a_prompt_that_was_answered_is_not_worked_on_again() {
    let bench = Bench::new();
    let store = bench.sqlite().await;
    let works = bench.orchestrator(&store, LONG);
    let session = bench.session(&store, "s-1").await;
    let stop = CancellationToken::new();
    let failing = r#"echo '{"type":"turn.failed","error":{"message":"no"}}'; exit 1"#;
    let with = |key: &str, script: &str| Order {
        key: Some(key.to_owned()),
        ..bench.order(&session, &format!("{STARTED}{script}"))
    };
    // What failed was not answered.
    works.work(bench.scene(), &with("k-1", failing), &stop, deaf).await.unwrap();
    works.work(bench.scene(), &with("k-1", DONE), &stop, deaf).await.unwrap();
    let again = works.work(bench.scene(), &with("k-1", DONE), &stop, deaf).await.unwrap_err();
    assert!(matches!(again, OrderError::Answered(2)), "{again}");
    assert!(works.work(bench.scene(), &with("k-2", DONE), &stop, deaf).await.is_ok());
    assert_eq!(store.turns(&session, 0, 10).await.unwrap().len(), 3);
}
