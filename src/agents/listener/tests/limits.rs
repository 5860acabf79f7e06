//! What agents are allowed, and what becomes of prompts beyond that: they wait.

use jiff::SignedDuration;
use testkit::Hand;

use super::*;
use crate::{
    agents::{budgets::Budgets, hooks::Hooks, limits::bucket::Rate},
    config::Agents,
};

const OVERLOADED: &str =
    r#"echo '{"type":"turn.failed","error":{"message":"Selected model is at capacity."}}'; exit 1"#;

fn configured(text: &str) -> Agents {
    toml::from_str(text).unwrap()
}

impl Bench {
    /// With a clock that is set by hand, and one worker that tries again at once.
    async fn by_hand(body: &str) -> (Self, Hand) {
        let folder = tempfile::tempdir().unwrap();
        let clock = Hand::at(1_795_255_200);
        let file = file_with(folder.path(), Arc::new(clock.clone())).await;
        let mut bench = Self::with(folder, body, (file.clone(), Journal::beside_sessions(file)));
        bench.listener.orchestrator.clock = Arc::new(clock.clone());
        bench.listener.settings.workers = 1;
        bench.listener.settings.backoff = Backoff { base: Duration::ZERO, cap: Duration::ZERO };
        (bench, clock)
    }

    async fn until_ran(&self, count: usize) {
        until(&format!("{count} ran"), async || (self.ran().len() >= count).then_some(())).await;
    }

    async fn until_over(&self, count: u64) {
        until(&format!("{count} are over"), async || {
            let counts = self.counts().await;
            (counts.done + counts.dead >= count && counts.unsent == 0).then_some(())
        })
        .await;
    }
}

fn pass(clock: &Hand, seconds: i64) {
    let mut now = clock.0.lock();
    *now = now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
}

#[tokio::test]
async fn an_agent_that_keeps_failing_is_left_alone_tried_once_and_taken_up_again() {
    let body = format!("if [ ! -e well ]; then {OVERLOADED}; fi; answer two");
    let (bench, clock) = Bench::by_hand(&body).await;
    bench
        .listening(async {
            for text in ["one", "two", "three"] {
                bench.publish(prompt(text)).await;
            }
            let opened = bench.until_told("agent.provider.circuit.opened", 1).await;
            assert_eq!(opened[0].payload["class"], "overloaded");
            assert_eq!(bench.ran().len(), 5, "five of the last ten are enough");
            pass(&clock, 31);
            bench.until_ran(6).await;
            // The one that tried has failed; it stays open for twice as long.
            until("it is open again", async || {
                let gates = bench.listener.journal.gates().await.unwrap();
                (gates["shell"].circuit() == "open").then_some(())
            })
            .await;
            assert_eq!(bench.ran().len(), 6);
            fs::write(bench.path("well"), "").unwrap();
            pass(&clock, 61);
            bench.until_over(3).await;
            bench.until_told("agent.provider.circuit.closed", 1).await;
        })
        .await;
    for event in bench.told("agent.provider.#").await {
        assert_eq!(registry::validate(&event.to_json()), [], "{}", event.event_type);
    }
    assert_eq!(bench.told("agent.provider.circuit.opened").await.len(), 1);
}

#[tokio::test]
async fn a_limit_of_the_service_is_waited_for_also_by_the_next_process() {
    let limited =
        r#"echo '{"type":"turn.failed","error":{"message":"usage limit: 429 Too Many Requests"}}'; exit 1"#;
    let (bench, clock) = Bench::by_hand(&format!("if [ ! -e well ]; then {limited}; fi; answer two")).await;
    bench
        .listening(async {
            bench.publish(prompt("one")).await;
            let paused = bench.until_told("agent.provider.paused", 1).await;
            assert_eq!(paused[0].payload["reason"], "rate_limited");
            until("it waits", async || (bench.counts().await.ready == 1).then_some(())).await;
        })
        .await;
    fs::write(bench.path("well"), "").unwrap();
    // Another process with the same file.
    let file = file_with(bench.folder.path(), Arc::new(clock.clone())).await;
    let mut bench = bench;
    bench.listener.journal = Journal::beside_sessions(file.clone());
    bench.listener.orchestrator.store = file;
    bench
        .listening(async {
            bench.publish(prompt("two")).await;
            until("both wait", async || (bench.counts().await.ready == 2).then_some(())).await;
            assert_eq!(bench.ran().len(), 1);
            pass(&clock, 31);
            bench.until_over(2).await;
        })
        .await;
    assert_eq!(bench.ran().len(), 3);
}

#[tokio::test]
async fn no_more_turns_at_once_than_an_agent_is_allowed() {
    let body = "mkdir lock || echo twice >> overlap; sleep 0.05; rmdir lock; answer two";
    let mut bench = Bench::new(body).await;
    let bounds = Bounds { at_once: Some(1), rate: None };
    bench.listener.settings.bounds.insert("shell".to_owned(), bounds);
    bench
        .listening(async {
            for at in 0..6 {
                bench.publish(prompt(&format!("p{at}"))).await;
            }
            bench.until_over(6).await;
        })
        .await;
    assert_eq!(bench.ran().len(), 6);
    assert!(!bench.path("overlap").exists(), "two at once");
}

#[tokio::test]
async fn no_more_turns_in_a_minute_than_an_agent_is_allowed() {
    let (mut bench, clock) = Bench::by_hand("answer two").await;
    let rate = Rate { per_minute: 6, burst: 2 };
    bench.listener.settings.bounds.insert("shell".to_owned(), Bounds { at_once: None, rate: Some(rate) });
    bench
        .listening(async {
            for at in 0..4 {
                bench.publish(prompt(&format!("p{at}"))).await;
            }
            bench.until_over(2).await;
            until("one waits", async || (bench.counts().await.ready > 0).then_some(())).await;
            pass(&clock, 10);
            bench.until_over(3).await;
            assert_eq!(bench.ran().len(), 3);
            pass(&clock, 10);
            bench.until_over(4).await;
        })
        .await;
}

#[tokio::test]
async fn a_day_whose_budget_is_used_up_lets_prompts_wait_for_the_next() {
    let (mut bench, clock) = Bench::by_hand("answer two").await;
    // Five tokens read and two written: 27 millionths of a dollar.
    bench.listener.customs.budgets = Budgets::new(&configured("[limits.shell]\nday_usd = 0.00005"));
    let asked =
        |text: &str| json!({ "provider": "shell", "prompt": text, "access": "plan", "model": "gpt-5" });
    bench
        .listening(async {
            for at in 0..3 {
                bench.publish(asked(&format!("p{at}"))).await;
            }
            let paused = bench.until_told("agent.provider.paused", 1).await;
            let message = paused[0].payload["message"].as_str().unwrap();
            assert!(message.contains("for shell is used up: $0.000054 of $0.00005;"), "{message}");
            assert_eq!(bench.ran().len(), 2, "one may begin with the last of it");
            until("it waits", async || (bench.counts().await.ready == 1).then_some(())).await;
            pass(&clock, 24 * 3600);
            bench.until_over(3).await;
        })
        .await;
    assert_eq!(bench.dead().await, Vec::<String>::new());
    assert_eq!(bench.told("agent.provider.paused").await.len(), 1, "told once");
}

#[tokio::test]
async fn a_session_whose_budget_is_used_up_takes_no_more_prompts() {
    let mut bench = Bench::new("answer two").await;
    bench.listener.customs.budgets = Budgets::new(&configured("session_usd = 0.00002"));
    bench
        .listening(async {
            for text in ["one", "two"] {
                let mut payload = prompt(text);
                payload["model"] = json!("gpt-5");
                payload["session_id"] = json!("s-1");
                bench.publish(payload).await;
            }
            bench.until_over(2).await;
            until("it is dead", async || (bench.dead().await.len() == 1).then_some(())).await;
        })
        .await;
    assert_eq!(bench.ran().len(), 1);
    let dead = bench.dead().await;
    assert!(dead[0].starts_with("budget: the budget of this session is used up: $0.000027"), "{dead:?}");
}

#[tokio::test]
async fn what_nobody_works_on_stays_in_the_queue_for_others() {
    let mut bench = Bench::new("while [ ! -e go ]; do sleep 0.02; done; answer two").await;
    bench.listener.settings.workers = 1;
    bench
        .listening(async {
            for at in 0..4 {
                bench.publish(prompt(&format!("p{at}"))).await;
            }
            bench.until_ran(1).await;
            assert_eq!(bench.counts().await, Counts { running: 1, ..bench.counts().await });
            assert_eq!(bench.counts().await.ready, 0);
            fs::write(bench.path("go"), "").unwrap();
            bench.until_over(4).await;
        })
        .await;
    assert_eq!(bench.ran().len(), 4);
}

#[tokio::test]
async fn a_message_switches_hooks_that_are_there_for_it_and_no_others() {
    let mut bench = Bench::new("answer two").await;
    let hooks = "[hooks.fit]\nkind = 'validate'\nforbid = ['secret']\noptional = true\nenabled = false\n\
                 [hooks.firm]\nkind = 'validate'\nforbid = ['forbidden']";
    bench.listener.customs.hooks = Hooks::new(&configured(hooks).hooks);
    let with = |text: &str, hooks: Value| {
        let mut payload = prompt(text);
        payload["hooks"] = hooks;
        payload
    };
    bench
        .listening(async {
            bench.publish(with("a secret", json!([]))).await;
            bench.publish(with("a secret", json!([{ "name": "fit" }]))).await;
            bench.publish(with("forbidden", json!([{ "name": "firm", "enabled": false }]))).await;
            bench.publish(with("x", json!([{ "name": "unknown" }]))).await;
            until("three are dead", async || (bench.dead().await.len() == 3).then_some(())).await;
            bench.until_over(2).await;
        })
        .await;
    assert_eq!(bench.ran(), ["new a secret"], "the hook was off where nobody wished for it");
    let mut dead = bench.dead().await;
    dead.sort();
    assert!(dead[0].starts_with("bad_request: hook 'firm' is not for messages to switch"), "{dead:?}");
    assert!(dead[1].starts_with("bad_request: hook 'unknown' is not among"), "{dead:?}");
    assert!(dead[2].contains("secret"), "{dead:?}");
}
