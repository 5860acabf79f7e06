//! Turns and prompts that a person cancels: told from those that a drain stops, and from those that a crash broke off.

use std::{collections::BTreeMap, fs, time::Duration};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Bench, orphan, prompt, until};
use crate::agents::{
    listener::{Queues, listen, withdraw},
    session::State,
    store::{
        Filter,
        journal::{Counts, OpenCounts},
        testkit,
    },
};
use crate::bus::{Pattern, QueueSpec, Selection};

/// The session whose turn runs, and the run.
async fn running(bench: &Bench) -> (crate::agents::session::SessionId, Uuid) {
    until("it runs", async || {
        let session = bench.store.list(&Filter::default()).await.unwrap().pop()?.session;
        let run = session.run?;
        run.leader.map(|_| (session.id, run.id))
    })
    .await
}

#[tokio::test]
async fn a_turn_that_a_person_cancels_is_given_up_and_can_be_put_back() {
    let bench = Bench::new("if [ -e go ]; then answer two; else sleep 600; fi").await;
    bench
        .listening(async {
            let asked = bench.publish(prompt("count")).await;
            let (session, run) = running(&bench).await;
            bench.store.ask_to_stop(&session, run).await.unwrap();
            until("it is dead", async || (!bench.dead().await.is_empty()).then_some(())).await;
            let stored = bench.store.get(&session).await.unwrap().unwrap().session;
            assert_eq!(stored.state, State::Interrupted);
            assert_eq!(stored.failure_class.as_deref(), Some("cancelled"));
            assert!(!bench.store.is_asked_to_stop(&session, run).await.unwrap(), "it is gone with its turn");
            let errors = bench.told("agent.error").await;
            assert_eq!((errors.len(), &errors[0].payload["class"]), (1, &json!("cancelled")));
            fs::write(bench.path("go"), "").unwrap();
            bench.listener.bus.requeue("agent.prompt", &Selection::All).await.unwrap();
            let answers = bench.until_told("agent.response.completed", 1).await;
            assert!(answers[0].correlation_ids.contains(&asked.event_id));
        })
        .await;
    assert_eq!(bench.ran().len(), 2, "it was not tried again by itself");
    assert_eq!(bench.counts().await, Counts { done: 1, dead: 1, ..Counts::default() });
}

#[tokio::test]
async fn a_person_who_cancels_is_heard_even_while_a_drain_stops_the_turn() {
    // It is told to stop by the drain, notes that, and ends only when it may.
    let mut bench =
        Bench::new("trap 'touch told' TERM; while [ ! -e go ]; do sleep 0.02; done; exit 1").await;
    bench.listener.settings.drain = Duration::from_millis(1);
    bench.listener.limits.grace = Duration::from_secs(600);
    let patterns = ["agent.prompt", "agent.prompt.failed"].map(|name| name.parse::<Pattern>().unwrap());
    let queue = bench.listener.bus.queue(QueueSpec::new("agent.prompt", patterns.to_vec())).await.unwrap();
    let stop = CancellationToken::new();
    let listening = Box::pin(listen(&bench.listener, Queues { prompts: &*queue, voice: None }, &stop));
    let (result, ()) = tokio::join!(listening, async {
        bench.publish(prompt("count")).await;
        let (session, run) = running(&bench).await;
        stop.cancel();
        until("the drain has stopped it", async || bench.path("told").exists().then_some(())).await;
        bench.store.ask_to_stop(&session, run).await.unwrap();
        fs::write(bench.path("go"), "").unwrap();
    });
    result.unwrap();
    assert_eq!(
        bench.counts().await.dead,
        1,
        "not one that goes on at the next start: {:?}",
        bench.counts().await
    );
    let failed = bench.told("agent.prompt.failed").await;
    assert_eq!(failed[0].payload["class"], "cancelled");
}

#[tokio::test]
async fn a_turn_whose_worker_died_after_it_was_cancelled_is_not_gone_on_with() {
    let bench = Bench::new("answer two").await;
    orphan(&bench, "it").await;
    let id = testkit::id("it");
    let run = bench.store.get(&id).await.unwrap().unwrap().session.run.unwrap().id;
    bench.store.ask_to_stop(&id, run).await.unwrap();
    bench.listening(until("it is dead", async || (!bench.dead().await.is_empty()).then_some(()))).await;
    assert_eq!(bench.ran(), Vec::<String>::new());
    let dead = bench.dead().await;
    assert!(dead[0].starts_with("cancelled: "), "{dead:?}");
}

#[tokio::test]
async fn a_prompt_that_waits_is_given_up_once_and_told_and_others_go_on() {
    let body = "while [ ! -e go ]; do sleep 0.02; done; answer \"$prompt\"";
    let bench = Bench::new(body).await;
    let of = |text: &str| {
        let mut payload = prompt(text);
        payload["session_id"] = json!("mine");
        payload["idempotency_key"] = json!(text);
        payload
    };
    bench
        .listening(async {
            for text in ["one", "two", "three"] {
                bench.publish(of(text)).await;
            }
            until("the first one runs", async || {
                let counts = bench.counts().await;
                (counts.running == 1 && counts.ready == 2).then_some(())
            })
            .await;
            let journal = &bench.listener.journal;
            let queued = journal.queued(10).await.unwrap();
            let prompts: Vec<_> =
                queued.iter().map(|queued| (queued.key.as_str(), queued.prompt.as_str())).collect();
            assert_eq!(prompts, [("key:two", "two"), ("key:three", "three")]);
            assert_eq!(journal.queued(1).await.unwrap().len(), 1);
            let all = journal.find_open("mine").await.unwrap();
            let keys: Vec<_> = all.iter().map(|one| (one.key.as_str(), one.run.is_some())).collect();
            assert_eq!(keys, [("key:one", true), ("key:two", false), ("key:three", false)]);
            for text in ["one", "key:one"] {
                assert_eq!(journal.find_open(text).await.unwrap(), all[..1]);
            }
            assert_eq!(journal.find_open("nobody").await.unwrap(), []);
            let census = journal.census().await.unwrap();
            let counts = OpenCounts { ready: 2, running: 1, waiting: 0 };
            assert_eq!(census.providers, BTreeMap::from([("shell".to_owned(), counts)]));
            assert_eq!(census.holders, BTreeMap::from([(bench.listener.orchestrator.holder.to_text(), 1)]));
            assert_eq!(census.next_at, None);
            let works = &bench.listener.orchestrator;
            let listeners = bench.listener.journal.listeners().await.unwrap();
            let told = (listeners[0].holder.clone(), listeners[0].queue.as_str(), listeners[0].workers);
            assert_eq!((listeners.len(), told), (1, (works.holder.to_text(), "agent.prompt", 3)));
            let give_up = async |key: &str| {
                let by = (&works.holder, &*works.clock);
                let voice = (&bench.listener.source, "agent.prompt");
                withdraw(&bench.listener.journal, key, by, voice).await.unwrap()
            };
            assert_eq!(give_up("key:one").await, None, "somebody works on it");
            assert_eq!(give_up("key:nobody").await, None);
            let gone = give_up("key:two").await.unwrap();
            assert_eq!((gone.message.request.prompt.as_str(), gone.attempt), ("two", 0));
            assert_eq!(give_up("key:two").await, None, "once");
            fs::write(bench.path("go"), "").unwrap();
            bench.until_told("agent.response.completed", 2).await;
            until("it is dead", async || (!bench.dead().await.is_empty()).then_some(())).await;
        })
        .await;
    assert_eq!(bench.listener.journal.listeners().await.unwrap(), [], "it has ended");
    let ran = bench.ran();
    assert!(ran.len() == 2 && ran[0].ends_with("one") && ran[1].ends_with("three"), "{ran:?}");
    assert_eq!(bench.counts().await, Counts { done: 2, dead: 1, ..Counts::default() });
    let failed = bench.told("agent.prompt.failed").await;
    let payload = &failed[0].payload;
    assert_eq!((failed.len(), &payload["class"], &payload["attempts"]), (1, &json!("cancelled"), &json!(0)));
    assert_eq!(payload["event"]["payload"]["prompt"], "two");
}
