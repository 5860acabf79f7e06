//! Flows: what a file may say, and runs with shells in the place of agents, in both stores.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    plan::{Draft, Ending, Format, Plan, Step, WhenFailed},
    template::Template,
    *,
};
use crate::{
    agents::{
        Access, Class, Failure, Groups, Limits, Thread,
        errand::Customs,
        listener::Backoff,
        orchestrator::{Holder, Orchestrator},
        providers::Roster,
        session::{Session, SessionId, State as SessionState},
        store::{
            Filter, SharedStore,
            redis::{RedisOptions, RedisStore, testing::Server},
            sqlite::{SqliteOptions, SqliteStore},
            testkit,
            vault::Vault,
        },
        testing::Shell,
    },
    bus::{
        Event, SystemClock,
        event::{Source, Stamp, registry},
    },
};

/// A plan of steps that need these; those in `lenient` may fail.
pub(super) fn plan_of(needs: &[Vec<usize>], lenient: &[usize]) -> Plan {
    let step = |(at, needs): (usize, &Vec<usize>)| Step {
        name: format!("s{at}"),
        provider: "shell".to_owned(),
        prompt: Template::parse("x").unwrap(),
        needs: needs.clone(),
        model: None,
        access: Access::Plan,
        directory: None,
        has_worktree: false,
        shares_directory: false,
        timeout: None,
        retries: 0,
        when_failed: if lenient.contains(&at) { WhenFailed::Continue } else { WhenFailed::Stop },
    };
    let draft = Draft {
        name: "test".to_owned(),
        description: String::new(),
        inputs: Vec::new(),
        steps: needs.iter().enumerate().map(step).collect(),
        parts: (0..needs.len()).collect(),
        ending: Ending::Format(Format::default()),
    };
    Plan::new(draft, &["shell".to_owned()]).unwrap()
}

/// What is wrong with a file, or nothing.
fn wrong(text: &str) -> String {
    let providers = ["shell", "echo"].map(str::to_owned);
    let read = |path: &Path| match path.to_str() {
        Some("there.md") => Ok("{{ inputs.a }}".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    Plan::read(text, "file", &providers, read).map_or_else(|error| error.to_string(), |_| String::new())
}

const STEP: &str = "[[step]]\nname = 'a'\nprovider = 'echo'\nprompt = 'x'\n";

#[test]
fn a_file_says_what_is_needed_and_what_is_put_together() {
    let text = "
        name = 'review'
        [inputs.topic]
        [inputs.tone]
        default = 'kind'
        [defaults]
        provider = 'echo'
        access = 'plan'
        timeout_s = 60
        [[step]]
        name = 'draft'
        prompt = 'about {{ inputs.topic }}'
        [[step]]
        name = 'check'
        needs = ['draft', 'draft']
        provider = 'shell'
        access = 'edit'
        when_failed = 'continue'
        prompt_file = 'check.md'
        [[step]]
        name = 'other'
        prompt = 'x'
        [aggregate]
        prompt = '{{ steps.draft.text }} {{ steps.check.error }}'
        ";
    let read = |path: &Path| Ok(format!("{} {{{{ steps.draft.text }}}}", path.display()));
    let providers = ["shell", "echo"].map(str::to_owned);
    let plan = Plan::read(text, "file", &providers, read).unwrap();
    let names = |steps: &[usize]| steps.iter().map(|at| plan.name_of(*at)).collect::<Vec<_>>().join(" ");
    assert_eq!((plan.name.as_str(), plan.steps.len(), plan.ending), ("review", 4, Ending::Step(3)));
    assert_eq!(names(&plan.parts), "check other", "those that nobody needs");
    assert_eq!(
        plan.waves().iter().map(|wave| names(wave)).collect::<Vec<_>>(),
        ["draft other", "check", "aggregate"]
    );
    let check = &plan.steps[1];
    assert_eq!((check.access, check.when_failed), (Access::Edit, WhenFailed::Continue));
    assert_eq!((check.needs.as_slice(), check.timeout), (&[0][..], Some(Duration::from_secs(60))));
    assert_eq!(
        plan.inputs.iter().map(|input| input.default.as_deref()).collect::<Vec<_>>(),
        [Some("kind"), None]
    );

    let same =
        format!("# a remark\ndescription = 'new'\n{}", text.replace("name = 'review'", "name='review'"));
    assert_eq!(Plan::read(&same, "file", &providers, read).unwrap().hash(), plan.hash());
    for (old, new) in [("kind", "rude"), ("about", "on"), ("60", "61"), ("'edit'", "'full'")] {
        let other = Plan::read(&text.replace(old, new), "file", &providers, read).unwrap();
        assert_ne!(other.hash(), plan.hash(), "{old} -> {new}");
    }
    let elsewhere = Plan::read(text, "file", &providers, |_| Ok("another prompt".to_owned())).unwrap();
    assert_ne!(elsewhere.hash(), plan.hash(), "the files of prompts count");
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let more = |text: &str| format!("{STEP}{text}");
    let step = |name: &str, needs: &str| {
        format!("[[step]]\nname = '{name}'\nprovider = 'echo'\nprompt = 'x'\nneeds = [{needs}]\n")
    };
    let cases = [
        String::new(),
        "steps = 1".to_owned(),
        more("need = ['a']"),
        more("access = 'root'"),
        more("[[step]]\nname = 'a b'\nprompt = 'x'\nprompt_file = 'y'"),
        more("[[step]]\nname = 'b'\nprovider = 'siri'\nprompt = ' '"),
        more(STEP),
        more("needs = ['b']"),
        more("retries = 99"),
        more("timeout_s = 0"),
        more("[[step]]\nname = 'aggregate'\nprovider = 'echo'\nprompt_file = 'gone.md'"),
        more("[[step]]\nname = 'b'\nprovider = 'echo'\nprompt_file = 'there.md'"),
        more(
            "[[step]]\nname = 'b'\nprovider = 'echo'\nprompt = '''\n{{ inputs.x }}\n{{ steps.a.text }} {{ steps.c.ok }}'''",
        ),
        more("[[step]]\nname = 'b'\nprovider = 'echo'\nprompt = '{{ steps.a'"),
        more("[aggregate]\nformat = 'json'\nprompt = 'x'"),
        more("[aggregate]\nformat = 'yaml'"),
        more("[aggregate]\nmodel = 'm'\nneeds = ['z']"),
        format!("name = 'no spaces'\n{STEP}"),
        format!("{}{}{}{}", step("a", ""), step("b", "'a', 'd'"), step("c", "'b'"), step("d", "'c'")),
        step("a", "'a'"),
        (0..257).map(|at| step(&format!("s{at}"), "")).collect(),
        format!("{}{STEP}", (0..65).map(|at| format!("[inputs.i{at}]\n")).collect::<String>()),
    ];
    let said: Vec<String> = cases.iter().map(|text| wrong(text)).collect();
    assert!(said.iter().all(|said| !said.is_empty()), "{said:#?}");
    insta::assert_snapshot!("bad_files", said.join("\n--\n"));
    assert_eq!(wrong(STEP), "");
}

proptest! {
    #[test]
    fn circles_are_found_and_named_and_nothing_else_is_one(
        needs in prop::collection::vec(prop::collection::vec(0_usize..8, 0..3), 1..8),
    ) {
        let count = needs.len();
        let needs: Vec<Vec<usize>> =
            needs.into_iter().map(|needs| needs.into_iter().filter(|need| *need < count).collect()).collect();
        let text: String = needs.iter().enumerate().map(|(at, needs)| {
            let needs: Vec<String> = needs.iter().map(|need| format!("'s{need}'")).collect();
            format!("[[step]]\nname = 's{at}'\nprovider = 'echo'\nprompt = 'x'\nneeds = [{}]\n", needs.join(", "))
        }).collect();
        // By the definition: take away what needs nothing, until nothing is left or nothing can be.
        let mut left: BTreeSet<usize> = (0..count).collect();
        while let Some(free) =
            left.iter().copied().find(|at| !needs[*at].iter().any(|need| left.contains(need)))
        {
            left.remove(&free);
        }
        let plan = Plan::read(&text, "file", &["echo".to_owned()], |_| Err(io::ErrorKind::NotFound.into()));
        match plan {
            Ok(plan) => {
                prop_assert!(left.is_empty());
                let order = plan.order();
                prop_assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), count);
                for (place, at) in order.iter().enumerate() {
                    prop_assert!(needs[*at].iter().all(|need| order[..place].contains(need)));
                }
            }
            Err(error) => {
                prop_assert!(!left.is_empty(), "{}", error);
                let text = error.to_string();
                let circle = text.split("circle: ").nth(1).and_then(|text| text.split(';').next()).unwrap();
                let steps: Vec<usize> =
                    circle.split(" -> ").map(|name| name.trim_start_matches('s').parse().unwrap()).collect();
                prop_assert_eq!(steps.first(), steps.last());
                prop_assert!(steps.windows(2).all(|pair| needs[pair[0]].contains(&pair[1])), "{}", text);
            }
        }
    }
}

#[test]
fn a_heading_for_each_part_and_failures_are_marked() {
    let plan = plan_of(&[vec![], vec![], vec![1]], &[]);
    let settled = |answer| {
        End::Settled(Settled {
            session: SessionId::parse("s").unwrap(),
            turn: Uuid::from_u128(1),
            answer,
            took: Duration::ZERO,
            cost_micro_usd: None,
            attempts: 1,
        })
    };
    let failure = Failure::new(Class::RateLimited, "slow down");
    let ends = [settled(Ok("one\n".to_owned())), settled(Err(failure)), End::Skipped(1)];
    let combined = combine(&plan, &ends);
    assert_eq!(combined.failed, 2);
    insta::assert_snapshot!(combined.text.unwrap(), @"
    ## s0

    one

    ## s1

    **failed** (rate_limited): slow down

    ## s2

    **skipped**, as s1 failed
    ");
    let json = Plan { ending: Ending::Format(Format::Json), ..plan.clone() };
    let value: Value = serde_json::from_str(&combine(&json, &ends).text.unwrap()).unwrap();
    assert_eq!((&value["failed"], &value["parts"][0]["response"]), (&json!(2), &json!("one\n")));
    assert_eq!(
        (&value["parts"][1]["class"], &value["parts"][1]["success"]),
        (&json!("rate_limited"), &json!(false))
    );
    let one = Plan { parts: vec![0], ..plan.clone() };
    assert_eq!(combine(&one, &ends).text.as_deref(), Some("one\n"), "one alone needs no heading");
    let nobody = Plan { parts: vec![1, 2], ..plan };
    assert_eq!(combine(&nobody, &ends), Combined { text: None, failed: 2 });
}

/// `sh ./agent THREAD` with the prompt on standard input, read as Codex is.
fn shell() -> Shell {
    Shell::new(|turn| {
        let thread = match &turn.thread {
            Thread::Resume(id) => id.to_string(),
            Thread::New(_) => "new".to_owned(),
        };
        (vec!["./agent".to_owned(), thread], turn.prompt.clone().into_bytes())
    })
}

/// Notes each turn in `ran`, tells its conversation, and answers with its prompt in brackets, unless the prompt has
/// another idea: `fail` does so until there is a file `mended`, `wait` waits for a file `go`.
const SCRIPT: &str = r#"prompt=$(cat); echo "$1 $prompt" >> ran
    thread=$1; if [ "$1" = new ]; then thread="t-$$"; fi
    echo "{\"type\":\"thread.started\",\"thread_id\":\"$thread\"}"
    case "$prompt" in
        *fail*) if [ ! -e mended ]; then
            echo '{"type":"turn.failed","error":{"message":"overloaded"}}'; exit 1; fi;;
        *wait*) : > begun; while [ ! -e go ]; do sleep 0.02; done;;
    esac
    echo "{\"type\":\"item.completed\",\"item\":{\"type\":\"agent_message\",\"text\":\"[$prompt]\"}}"
    echo '{"type":"turn.completed","usage":{"input_tokens":5,"output_tokens":2}}'
"#;

/// A folder with an agent and a store, and whoever works in it.
struct Bench {
    folder: tempfile::TempDir,
    works: Orchestrator,
    roster: Roster,
    customs: Customs,
    variables: BTreeMap<String, String>,
    groups: Groups,
    /// Before a step is tried again.
    pause: Duration,
    _server: Option<Server>,
}

/// What was seen of a run.
#[derive(Debug, Default)]
struct Seen {
    events: Vec<Event>,
}

impl Bench {
    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions {
            path: folder.path().join("sessions.db"),
            patience: Duration::from_secs(60),
            clock: Arc::new(SystemClock),
        };
        let store = SqliteStore::open(options, Vault::new(testkit::ring())).await.unwrap();
        Self::with(folder, Arc::new(store), None)
    }

    /// `None` where Redis is not installed, as is said then.
    async fn redis() -> Option<Self> {
        let server = Server::start()?;
        let options = RedisOptions {
            url: server.url().parse().unwrap(),
            password: None,
            prefix: "test:".to_owned(),
            patience: Duration::from_secs(60),
        };
        let store = RedisStore::open(options, Vault::new(testkit::ring())).await.unwrap();
        Some(Self::with(tempfile::tempdir().unwrap(), Arc::new(store), Some(server)))
    }

    fn with(folder: tempfile::TempDir, store: SharedStore, server: Option<Server>) -> Self {
        fs::write(folder.path().join("agent"), SCRIPT).unwrap();
        let path = ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned());
        let works = Orchestrator {
            store,
            clock: Arc::new(SystemClock),
            lease: Duration::from_secs(3600),
            patience: Duration::from_secs(60),
            holder: Holder::here(),
        };
        Self {
            folder,
            works,
            roster: Roster::of(vec![Box::new(shell())]),
            customs: Customs::default(),
            variables: BTreeMap::from([path]),
            groups: Groups::default(),
            pause: Duration::from_millis(1),
            _server: server,
        }
    }

    fn crew<'a>(&'a self, orchestrator: &'a Orchestrator, jobs: usize) -> Crew<'a> {
        Crew {
            orchestrator,
            roster: &self.roster,
            customs: &self.customs,
            variables: &self.variables,
            groups: &self.groups,
            limits: Limits { grace: Duration::from_millis(100), ..Limits::default() },
            jobs,
            backoff: Backoff { base: self.pause, cap: self.pause },
            chance: || 0.5,
        }
    }

    fn book<'a>(&'a self, orchestrator: &'a Orchestrator, plan: &'a Plan) -> Book<'a> {
        Book { orchestrator, plan, file: Path::new("/flow.toml"), directory: self.folder.path() }
    }

    async fn open(&self, plan: &Plan, wish: Wish, inputs: &[(&str, &str)]) -> Result<Run, RunError> {
        let given = inputs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.book(&self.works, plan).open(wish, &given, &CancellationToken::new()).await
    }

    /// Opens a run and works on it to its end.
    async fn run(&self, plan: &Plan, wish: Wish, inputs: &[(&str, &str)]) -> (Report, Seen) {
        let run = self.open(plan, wish, inputs).await.unwrap();
        self.work(&self.works, plan, (&run, 4), &CancellationToken::new()).await.unwrap()
    }

    async fn work(
        &self,
        orchestrator: &Orchestrator,
        plan: &Plan,
        (run, jobs): (&Run, usize),
        stop: &CancellationToken,
    ) -> Result<(Report, Seen), FlowError> {
        let source = Source::new("desk", "godctl", "agent");
        let mut teller = Teller::new(plan, (run.id, "/w".to_owned()), source, 1 << 20);
        let seen = Mutex::new(Seen { events: vec![teller.begin(run.began_at.is_some(), 0, Stamp::now)] });
        let teller = Mutex::new(teller);
        let tell = |news: News<'_>| seen.lock().events.extend(teller.lock().hear(&news, Stamp::now));
        let book = self.book(orchestrator, plan);
        let report = Box::pin(self.crew(orchestrator, jobs).work(&book, run, stop, &tell)).await?;
        let mut seen = seen.into_inner();
        seen.events.extend(teller.into_inner().end(&report, Duration::ZERO, Stamp::now()));
        for event in &seen.events {
            assert_eq!(registry::validate(&event.to_json()), [], "{}", event.event_type);
            let root = event.correlation_ids.first().copied().unwrap_or(event.event_id);
            assert_eq!(root, run.id, "one root: {}", event.event_type);
        }
        Ok((report, seen))
    }

    /// What ran, without its conversation, in the order of the alphabet.
    fn ran(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("ran")).unwrap_or_default();
        let mut lines: Vec<String> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(_, prompt)| prompt.to_owned())
            .collect();
        lines.sort();
        lines
    }

    fn touch(&self, name: &str) {
        fs::write(self.folder.path().join(name), "").unwrap();
    }

    /// Until something holds of the session of a step.
    async fn until_session(&self, run: &Run, step: &Step, holds: impl Fn(&Session) -> bool) {
        let id = book::session_of(run.id, step).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.works.store.get(&id).await.unwrap().is_some_and(|stored| holds(&stored.session)) {
            assert!(Instant::now() < deadline, "it never was so");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until(&self, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.folder.path().join(name).exists() {
            assert!(Instant::now() < deadline, "no {name}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Seen {
    fn told(&self, event_type: &str) -> Vec<&Event> {
        self.events.iter().filter(|event| event.event_type.as_str() == event_type).collect()
    }
}

fn flow(steps: &str) -> Plan {
    let text =
        format!("[inputs.who]\ndefault = 'ada'\n[defaults]\nprovider = 'shell'\naccess = 'plan'\n{steps}");
    Plan::read(&text, "flow", &["shell".to_owned()], |_| Err(io::ErrorKind::NotFound.into())).unwrap()
}

fn step(name: &str, needs: &str, prompt: &str) -> String {
    format!("[[step]]\nname = '{name}'\nneeds = [{needs}]\nprompt = '{prompt}'\n")
}

/// Runs a test in both stores.
macro_rules! in_both_stores {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test] async fn $name() { super::$name(super::Bench::sqlite().await).await; })*
        }
        mod redis {
            $(#[tokio::test] async fn $name() {
                if let Some(bench) = super::Bench::redis().await { super::$name(bench).await; }
            })*
        }
    };
}

in_both_stores! {
    answers_are_handed_on_and_everything_goes_back_to_one_root
    what_failed_is_tried_again_and_what_was_done_is_not
    a_run_whose_process_died_goes_on_where_it_was
    a_run_is_worked_on_by_one_process
    what_may_fail_stays_failed_and_its_reason_is_handed_on
    what_was_stopped_before_it_was_tried_again_is_asked_in_all_its_words
}

async fn answers_are_handed_on_and_everything_goes_back_to_one_root(bench: Bench) {
    let plan = flow(
        &[
            step("a", "", "{{ inputs.who }}"),
            step("b", "'a'", "b {{ steps.a.text }}"),
            step("c", "'a'", "c {{ steps.a.ok }}"),
            "[aggregate]\nprompt = '{{ steps.b.text }} {{ steps.c.text }}'\n".to_owned(),
        ]
        .concat(),
    );
    let (report, seen) = bench.run(&plan, Wish::Auto, &[("who", "bob")]).await;
    assert_eq!(report.verdict, Verdict::Done);
    assert_eq!(report.combined.text.as_deref(), Some("[[b [bob]] [c true]]"));
    let done = seen.told("agent.flow.step.completed");
    let of = |name: &str| *done.iter().find(|event| event.payload["step"] == name).unwrap();
    let root = seen.events[0].event_id;
    assert_eq!(of("b").correlation_ids, [root, of("a").event_id]);
    assert_eq!(of("aggregate").correlation_ids, [root, of("b").event_id, of("c").event_id]);
    let last = seen.told("agent.aggregate.completed");
    assert_eq!(last.len(), 1);
    let answers = seen.told("agent.response.completed");
    assert_eq!((answers.len(), &answers[1].correlation_ids), (4, &of("b").correlation_ids));
    // Each step has a session of its own, found by the run.
    let tags = vec![format!("flow-run:{root}")];
    let sessions = bench.works.store.list(&Filter { tags, ..Filter::default() }).await.unwrap();
    assert_eq!(sessions.len(), 5);
    assert!(sessions.iter().all(|stored| stored.session.state == SessionState::Idle));
    // What is finished is not gone on with.
    let error = bench.open(&plan, Wish::Resume(Some(root.to_string())), &[]).await.unwrap_err();
    assert!(matches!(error, RunError::Finished(_)), "{error}");
    let (again, _) = bench.run(&plan, Wish::Auto, &[]).await;
    assert_eq!(again.combined.text.as_deref(), Some("[[b [ada]] [c true]]"));
}

async fn what_failed_is_tried_again_and_what_was_done_is_not(bench: Bench) {
    let plan = flow(
        &[
            step("a", "", "one"),
            step("b", "'a'", "fail") + "retries = 2\n",
            step("c", "'b'", "three"),
            step("d", "'a'", "four"),
        ]
        .concat(),
    );
    let (report, seen) = bench.run(&plan, Wish::Auto, &[]).await;
    let Verdict::Failed { step: 1, failure } = &report.verdict else { panic!("{:?}", report.verdict) };
    assert_eq!(failure.class, Class::Overloaded);
    assert_eq!(report.ends[2], End::Skipped(1));
    assert_eq!(bench.ran(), ["fail", "fail", "fail", "four", "one"], "twice again");
    assert_eq!(seen.told("agent.error").len(), 1, "what is tried again is not told as the end");
    let aggregate = &seen.told("agent.aggregate.completed")[0].payload;
    assert_eq!((&aggregate["failed"], &aggregate["success"]), (&json!(1), &json!(false)));
    assert_eq!(aggregate["parts"][0]["error"], "skipped, as b failed");
    assert_eq!(aggregate["parts"][1]["response"], "[four]");

    bench.touch("mended");
    let (report, seen) = bench.run(&plan, Wish::Resume(None), &[]).await;
    assert_eq!(report.verdict, Verdict::Done);
    assert_eq!(bench.ran(), ["fail", "fail", "fail", "fail", "four", "one", "three"]);
    assert_eq!(seen.told("agent.aggregate.completed")[0].payload["parts"][1]["response"], "[four]");
    assert!(matches!(bench.open(&plan, Wish::Resume(None), &[]).await, Err(RunError::NoRun(_))));
}

async fn a_run_whose_process_died_goes_on_where_it_was(bench: Bench) {
    let steps = [
        step("a", "", "one"),
        step("b", "'a'", "wait"),
        step("c", "'b', 'a'", "{{ steps.a.text }} {{ steps.b.text }}"),
    ]
    .concat();
    let plan = flow(&steps);
    // Whoever holds its leases is known to be gone.
    let dead =
        Orchestrator { holder: Holder { started_ticks: Some(1), ..Holder::here() }, ..bench.works.clone() };
    let stop = CancellationToken::new();
    let run = bench.book(&dead, &plan).open(Wish::Auto, &BTreeMap::new(), &stop).await.unwrap();
    tokio::select! {
        ended = bench.work(&dead, &plan, (&run, 4), &stop) => panic!("{ended:?}"),
        () = bench.until_session(&run, &plan.steps[1], |session| session.native_id.is_some()) => {}
    }
    bench.touch("go");
    let changed = flow(&steps.replace("'one'", "'two'"));
    let error = bench.open(&changed, Wish::Auto, &[]).await.unwrap_err();
    assert!(matches!(error, RunError::Changed { .. }), "{error}");
    let error = bench.open(&plan, Wish::Resume(None), &[("who", "bob")]).await.unwrap_err();
    assert!(matches!(error, RunError::OtherInputs(_)), "{error}");
    let other = bench.open(&plan, Wish::Auto, &[("who", "bob")]).await.unwrap();
    assert!(other.began_at.is_none() && other.id != run.id, "another task");

    let again = bench.open(&plan, Wish::Auto, &[]).await.unwrap();
    assert!(again.id == run.id && again.began_at.is_some());
    let (report, seen) = bench.work(&bench.works, &plan, (&again, 4), &stop).await.unwrap();
    assert_eq!(report.verdict, Verdict::Done);
    let text = report.combined.text.unwrap();
    assert!(text.starts_with("[[one] [You were interrupted."), "{text}");
    let ran = bench.ran();
    assert_eq!(ran.iter().filter(|line| *line == "one").count(), 1, "{ran:?}");
    let raw = fs::read_to_string(bench.folder.path().join("ran")).unwrap();
    let resumed = raw.lines().find(|line| line.contains("You were interrupted")).unwrap();
    assert!(resumed.starts_with("t-"), "in its own conversation: {resumed}");
    assert_eq!(seen.told("agent.flow.started")[0].payload["resumed"], true);
}

async fn a_run_is_worked_on_by_one_process(bench: Bench) {
    let plan = flow(&step("a", "", "wait"));
    let run = bench.open(&plan, Wish::Auto, &[]).await.unwrap();
    let error = bench.open(&plan, Wish::Auto, &[]).await.unwrap_err();
    assert!(matches!(error, RunError::Busy { .. }), "{error}");
    let stop = CancellationToken::new();
    let working = bench.work(&bench.works, &plan, (&run, 4), &stop);
    let (ended, ()) = tokio::join!(working, async {
        bench.until("begun").await;
        stop.cancel();
    });
    let (report, seen) = ended.unwrap();
    assert_eq!((report.verdict, report.ends), (Verdict::Interrupted, vec![End::Open]));
    assert_eq!(seen.told("agent.aggregate.completed").len(), 0, "it is not over");
    bench.touch("go");
    let (report, _) = bench.run(&plan, Wish::Auto, &[]).await;
    assert_eq!(report.verdict, Verdict::Done);
}

async fn what_may_fail_stays_failed_and_its_reason_is_handed_on(bench: Bench) {
    let plan = flow(
        &[
            step("a", "", "fail") + "when_failed = 'continue'\n",
            step("b", "'a'", "{{ steps.a.ok }}: {{ steps.a.error }}"),
        ]
        .concat(),
    );
    let (report, _) = bench.run(&plan, Wish::Auto, &[]).await;
    assert_eq!(report.verdict, Verdict::Done);
    let text = report.combined.text.unwrap();
    assert!(text.starts_with("[false: ") && text.contains("overloaded"), "{text}");
}

async fn what_was_stopped_before_it_was_tried_again_is_asked_in_all_its_words(bench: Bench) {
    let bench = Bench { pause: Duration::from_secs(3_600), ..bench };
    let plan = flow(&(step("a", "", "fail") + "retries = 1\n"));
    let run = bench.open(&plan, Wish::Auto, &[]).await.unwrap();
    let stop = CancellationToken::new();
    let (ended, ()) = tokio::join!(bench.work(&bench.works, &plan, (&run, 4), &stop), async {
        bench.until_session(&run, &plan.steps[0], |session| session.state == SessionState::Failed).await;
        stop.cancel();
    });
    assert_eq!(ended.unwrap().0.verdict, Verdict::Interrupted);
    bench.touch("mended");
    let (report, _) = bench.run(&plan, Wish::Auto, &[]).await;
    assert_eq!(report.verdict, Verdict::Done);
    assert_eq!(bench.ran(), ["fail", "fail"]);
}
