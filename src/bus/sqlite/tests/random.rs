//! Whatever two consumers, two publishers and the clock do, in any order: what is acknowledged never comes again, what
//! was accepted is never lost, and new work comes in the order in which it was published.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use tokio::time::timeout;

use super::{Folder, Hand};
use crate::bus::{
    BusError, Delivery, EventBus, Lane, QueueSpec, Selection, Settled, WorkQueue,
    sqlite::{SqliteBus, SqliteOptions},
    testkit::*,
};

#[derive(Debug, Clone)]
enum Action {
    Publish { by: usize, count: u64 },
    PublishAgain { by: usize },
    Take { by: usize },
    Ack { which: usize },
    Retry { which: usize, delay: u64 },
    Dead { which: usize },
    Release { which: usize },
    Extend { which: usize },
    Forget { which: usize },
    Requeue { by: usize },
    Restart { who: usize },
    Rejoin { who: usize },
    Wait { seconds: i64 },
}

fn action() -> impl Strategy<Value = Action> {
    let who = 0_usize..2;
    let which = 0_usize..6;
    prop_oneof![
        4 => (who.clone(), 1_u64..6).prop_map(|(by, count)| Action::Publish { by, count }),
        1 => who.clone().prop_map(|by| Action::PublishAgain { by }),
        8 => who.clone().prop_map(|by| Action::Take { by }),
        6 => which.clone().prop_map(|which| Action::Ack { which }),
        2 => (which.clone(), 0_u64..90).prop_map(|(which, delay)| Action::Retry { which, delay }),
        1 => which.clone().prop_map(|which| Action::Dead { which }),
        1 => which.clone().prop_map(|which| Action::Release { which }),
        1 => which.clone().prop_map(|which| Action::Extend { which }),
        1 => which.prop_map(|which| Action::Forget { which }),
        1 => who.clone().prop_map(|by| Action::Requeue { by }),
        1 => who.clone().prop_map(|who| Action::Restart { who }),
        1 => who.prop_map(|who| Action::Rejoin { who }),
        3 => (-50_i64..120).prop_map(|seconds| Action::Wait { seconds }),
    ]
}

struct Side {
    bus: SqliteBus,
    queue: Box<dyn WorkQueue>,
}

struct Play {
    folder: Folder,
    clock: Arc<Hand>,
    prefetch: u16,
    sides: Vec<Side>,
    published: Vec<crate::bus::Event>,
    held: Vec<Delivery>,
    acked: BTreeSet<u64>,
    /// Deliveries that were counted, by event.
    seen: BTreeMap<u64, u32>,
}

impl Play {
    async fn new(prefetch: u16) -> Self {
        let mut play = Self {
            folder: Folder::new(),
            clock: Hand::new(),
            prefetch,
            sides: Vec::new(),
            published: Vec::new(),
            held: Vec::new(),
            acked: BTreeSet::new(),
            seen: BTreeMap::new(),
        };
        for _ in 0..2 {
            let side = play.side().await;
            play.sides.push(side);
        }
        play
    }

    async fn side(&self) -> Side {
        let clock = Arc::clone(&self.clock) as _;
        let bus = self.folder.with(SqliteOptions { clock, ..self.folder.options() }).await;
        let queue = bus.queue(self.spec()).await.unwrap();
        Side { bus, queue }
    }

    fn spec(&self) -> QueueSpec {
        QueueSpec {
            visibility: Duration::from_secs(60),
            max_attempts: 4.try_into().unwrap(),
            prefetch: self.prefetch,
            ..QueueSpec::new("work", vec![pattern("#")])
        }
    }

    fn pick(&mut self, which: usize) -> Option<Delivery> {
        (which < self.held.len()).then(|| self.held.remove(which))
    }

    async fn take(&mut self, by: usize, wait: Duration) -> bool {
        let Ok(taken) = timeout(wait, self.sides[by].queue.next()).await else { return false };
        let delivery = taken.unwrap().unwrap();
        let number = numbers([parsed(&delivery.received)])[0];
        assert!(!self.acked.contains(&number), "{number} comes again after its acknowledgement");
        let new = self.seen.insert(number, delivery.attempt).is_none();
        if new && self.prefetch == 1 {
            let newest = self.seen.keys().next_back();
            assert_eq!(newest, Some(&number), "new work comes in order");
        }
        assert!(delivery.attempt <= 4, "{} attempts", delivery.attempt);
        self.held.push(delivery);
        true
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Publish { by, count } => {
                let first = self.published.len() as u64;
                let batch: Vec<_> = (first..first + count).map(|n| event("a", n)).collect();
                assert_eq!(publish(&self.sides[by].bus, &batch).await.accepted, count);
                self.published.extend(batch);
            }
            Action::PublishAgain { by } => {
                let again = publish(&self.sides[by].bus, &self.published).await;
                assert_eq!(again.duplicates, self.published.len() as u64);
            }
            Action::Take { by } => drop(self.take(by, Duration::from_millis(60)).await),
            Action::Ack { which } => {
                let Some(delivery) = self.pick(which) else { return };
                if settled(delivery.lease.ack().await) {
                    let number = numbers([parsed(&delivery.received)])[0];
                    assert!(self.acked.insert(number), "{number} was acknowledged twice");
                }
            }
            Action::Retry { which, delay } => {
                let Some(delivery) = self.pick(which) else { return };
                match delivery.lease.retry(Duration::from_secs(delay), "again").await {
                    Ok(Settled::Dead) => assert_eq!(delivery.attempt, 4),
                    Ok(Settled::Retrying) => assert!(delivery.attempt < 4),
                    Err(error) => assert!(!settled(Err(error))),
                }
            }
            Action::Dead { which } => {
                let Some(delivery) = self.pick(which) else { return };
                settled(delivery.lease.dead("no").await);
            }
            Action::Release { which } => {
                let Some(delivery) = self.pick(which) else { return };
                settled(delivery.lease.release().await);
            }
            Action::Extend { which } => {
                let Some(delivery) = self.held.get(which) else { return };
                settled(delivery.lease.extend(Duration::from_secs(60)).await);
            }
            Action::Forget { which } => drop(self.pick(which)),
            Action::Requeue { by } => {
                self.sides[by].bus.requeue("work", &Selection::All).await.unwrap();
            }
            Action::Restart { who } => {
                self.sides[who].bus.close().await;
                self.sides[who] = self.side().await;
            }
            Action::Rejoin { who } => {
                self.sides[who].queue.drain().await;
                self.sides[who].queue = self.sides[who].bus.queue(self.spec()).await.unwrap();
            }
            Action::Wait { seconds } => self.clock.turn(jiff::SignedDuration::from_secs(seconds)),
        }
    }

    /// Works off all that is left, and checks that it is all there is.
    async fn end(mut self) {
        self.held.clear();
        let bus = self.sides[0].bus.clone();
        self.sides[1].queue.drain().await;
        loop {
            self.clock.forward(Duration::from_secs(1000));
            bus.requeue("work", &Selection::All).await.unwrap();
            let info = bus.queues().await.unwrap().remove(0);
            if (info.ready, info.leased, info.delayed, info.dead) == (0, Some(0), 0, 0) {
                break;
            }
            assert!(self.take(0, PATIENCE).await, "something is stuck: {info:?}");
            self.act(Action::Ack { which: 0 }).await;
        }
        let all: BTreeSet<u64> = (0..self.published.len() as u64).collect();
        assert_eq!(self.acked, all, "what was accepted was worked off");
        assert!(bus.peek("work", Lane::Ready, 10).await.unwrap().is_empty());
        for side in self.sides {
            side.bus.close().await;
        }
    }
}

/// True if it was; a lease that was lost is no failure here.
fn settled(result: Result<(), BusError>) -> bool {
    match result {
        Ok(()) => true,
        // Closing a bus takes its leases, too.
        Err(BusError::LeaseLost | BusError::Closed) => false,
        Err(error) => panic!("{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_nothing_comes_again(
        actions in prop::collection::vec(action(), 1..50),
        prefetch in prop_oneof![Just(1_u16), Just(4)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut play = Play::new(prefetch).await;
            for action in actions {
                play.act(action).await;
            }
            play.end().await;
        });
    }
}
