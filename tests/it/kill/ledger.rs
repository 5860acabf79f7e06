//! What was sent, reported, delivered and acknowledged during a run, and the laws that must hold of it. Pure; the
//! actors write into it behind a lock.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use uuid::Uuid;

/// Which event: the `n`th of a producer. Its id can be read back into it, so that no table is needed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    pub(crate) producer: u8,
    pub(crate) n: u32,
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}#{}", self.producer, self.n)
    }
}

impl Name {
    pub(crate) fn id(self, seed: u64) -> Uuid {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&seed.to_le_bytes()[..6]);
        bytes[11] = self.producer;
        bytes[12..].copy_from_slice(&self.n.to_be_bytes());
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    pub(crate) fn of(id: Uuid, seed: u64) -> Option<Self> {
        let bytes = id.as_bytes();
        let name = Self { producer: bytes[11], n: u32::from_be_bytes(bytes[12..].try_into().unwrap()) };
        (name.id(seed) == id).then_some(name)
    }
}

/// One consumer process, from its start to its death.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Life {
    pub(crate) consumer: u8,
    pub(crate) number: u32,
}

/// Milliseconds of the system's clock, which the processes share.
pub(crate) type Ms = u64;

/// What a broker may take to confirm (`bus.publish_timeout_s`).
const CONFIRMATION: Ms = 5_000;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Handed {
    /// When the consumer process handed it out, as it says itself.
    pub(crate) at: Ms,
    pub(crate) life: Life,
    pub(crate) attempt: u32,
}

/// From just before the broker was told to die until it answered again. What it and its clients did in between is only
/// known to have happened in between: killing a process of this size takes a busy machine a tenth of a second and more,
/// and its clients go on with what they had been given until they notice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outage {
    pub(crate) from: Ms,
    pub(crate) to: Ms,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// When an event was given to a producer process; again each time that a new one resumed before it.
    pub(crate) sent: HashMap<Name, Vec<Ms>>,
    /// When it was first reported as durable.
    pub(crate) reported: HashMap<Name, Ms>,
    /// Those that were reported as waiting in the outbox.
    pub(crate) deferred: HashSet<Name>,
    /// How often each outcome was reported.
    pub(crate) outcomes: BTreeMap<String, usize>,
    pub(crate) handed: HashMap<Name, Vec<Handed>>,
    /// Who was told to acknowledge it.
    pub(crate) ack_sent: HashMap<Name, Vec<Life>>,
    /// When the acknowledgement was first reported as durable.
    pub(crate) acked: HashMap<Name, Ms>,
    /// How often acknowledgements were refused, and why.
    pub(crate) refusals: BTreeMap<String, usize>,
    /// When consumer processes were killed.
    pub(crate) deaths: HashMap<Life, Ms>,
    /// When the broker was away; the last one may not have ended.
    pub(crate) outages: Vec<Outage>,
    /// How often each event is on the broker, where it is there more than once: whoever published it did not live to
    /// hear that it was there.
    pub(crate) copies: HashMap<Name, usize>,
    /// What was wrong at once, such as a process that ended by itself.
    pub(crate) wrong: Vec<String>,
}

impl Ledger {
    /// Everything that breaks a law, in words. Leases last for `visibility`. Where several messages about an event can
    /// be under way at once, a consumer looks up whether its work is done and then hands it out; the two may be so far
    /// apart as `look_up` on a busy machine.
    pub(crate) fn violations(&self, visibility: Ms, look_up: Ms) -> Vec<String> {
        let mut found = self.wrong.clone();
        for name in self.reported.keys().filter(|name| !self.is_settled(**name)) {
            found
                .push(format!("{name:?} was reported durable and never acknowledged: {}", self.story(*name)));
        }
        for (name, handed) in &self.handed {
            if !self.sent.contains_key(name) {
                found.push(format!("{name:?} was delivered and never sent"));
            }
            let mut handed = handed.clone();
            handed.sort_by_key(|handed| handed.at);
            if let Some(acked) = self.acked.get(name)
                && handed.iter().any(|handed| handed.at > *acked + look_up)
            {
                found
                    .push(format!("{name:?} was delivered after its acknowledgement: {}", self.story(*name)));
            }
            for pair in handed.windows(2) {
                if !self.may_repeat(*name, &pair[0], &pair[1], visibility) {
                    found.push(format!("{name:?} was delivered again without need: {}", self.story(*name)));
                }
            }
        }
        for name in self.acked.keys().filter(|name| !self.handed.contains_key(name)) {
            found.push(format!("{name:?} was acknowledged and never delivered"));
        }
        found.sort();
        found
    }

    /// Whether it was acknowledged, as far as anybody can know: a consumer that was killed while it acknowledged may
    /// have done so. Then the event either comes again or is done.
    pub(crate) fn is_settled(&self, name: Name) -> bool {
        let last = || self.handed.get(&name)?.iter().max_by_key(|handed| handed.at).map(|handed| handed.life);
        let in_doubt = |life| {
            self.deaths.contains_key(&life)
                && self.ack_sent.get(&name).is_some_and(|lives| lives.contains(&life))
        };
        self.acked.contains_key(&name) || last().is_some_and(in_doubt)
    }

    /// Acknowledgements whose outcome died with the consumer.
    pub(crate) fn in_doubt(&self) -> usize {
        self.ack_sent.keys().filter(|name| !self.acked.contains_key(name)).count()
    }

    /// Whether at-least-once allows the second delivery: whoever had the first one was killed or lost its lease or its
    /// connection, or there is a second message because nobody knew whether the first had been published. A broker that
    /// dies meanwhile may have put it into one queue and not into another, so the copies in the log don't tell all.
    fn may_repeat(&self, name: Name, first: &Handed, second: &Handed, visibility: Ms) -> bool {
        let died = self.deaths.get(&first.life).is_some_and(|at| *at <= second.at);
        let lease_ended = second.at >= first.at + visibility;
        let disconnected = self.was_away(first.at, second.at);
        let sent = self.sent.get(&name).and_then(|sent| sent.iter().min()).copied().unwrap_or_default();
        // What waits in the outbox is published some time later.
        let published = self.reported.get(&name).filter(|_| !self.deferred.contains(&name));
        let in_doubt = self.was_away(sent, published.copied().unwrap_or(second.at));
        died || lease_ended || disconnected || in_doubt || self.copies.contains_key(&name)
    }

    /// Whether the broker was away at any time between these two.
    fn was_away(&self, from: Ms, to: Ms) -> bool {
        self.outages.iter().any(|outage| outage.from <= to && from <= outage.to)
    }

    /// The broker is about to be killed.
    pub(crate) fn broker_dies(&mut self, now: Ms) {
        self.outages.push(Outage { from: now, to: Ms::MAX });
    }

    /// The broker answers again.
    pub(crate) fn broker_is_back(&mut self, now: Ms) {
        if let Some(outage) = self.outages.last_mut() {
            outage.to = now;
        }
    }

    /// Events of which there is more than one message although everybody must have known that the first was published:
    /// no producer was killed before it heard so, no broker, no confirmation was late, and no outbox sent it on (whose
    /// sender may have been killed as well).
    pub(crate) fn needless_copies(&self) -> Vec<String> {
        let needed = |name: &Name| {
            let sent = self.sent.get(name).map_or(&[][..], Vec::as_slice);
            let (first, reported) =
                (sent.first().copied().unwrap_or_default(), self.reported.get(name).copied());
            let until = reported.unwrap_or(Ms::MAX);
            sent.len() > 1
                || self.deferred.contains(name)
                || self.was_away(first, until)
                || until - first >= CONFIRMATION
        };
        let needless = self.copies.keys().filter(|name| !needed(name));
        needless
            .map(|name| format!("{name:?} was published again without need: {}", self.story(*name)))
            .collect()
    }

    /// What happened to one event, with times relative to its sending.
    fn story(&self, name: Name) -> String {
        let start = self.sent.get(&name).and_then(|sent| sent.first()).copied().unwrap_or_default();
        let since = |at: &Ms| (*at as i64).wrapping_sub(start as i64);
        let sent: Vec<_> = self.sent.get(&name).into_iter().flatten().map(since).collect();
        let mut handed: Vec<_> = self.handed.get(&name).into_iter().flatten().collect();
        handed.sort_by_key(|handed| handed.at);
        let handed: Vec<_> = handed
            .iter()
            .map(|handed| {
                let Life { consumer, number } = handed.life;
                let death = self.deaths.get(&handed.life).map(since);
                format!(
                    "{} to c{consumer}.{number} (attempt {}, died {death:?})",
                    since(&handed.at),
                    handed.attempt
                )
            })
            .collect();
        format!(
            "sent {sent:?}, reported {:?}, handed {handed:?}, acked {:?}, broker away {:?} ms, {} copies",
            self.reported.get(&name).map(since),
            self.acked.get(&name).map(since),
            self.outages.iter().map(|outage| (since(&outage.from), since(&outage.to))).collect::<Vec<_>>(),
            self.copies.get(&name).copied().unwrap_or(1),
        )
    }

    /// What breaks a law in the order in which events reached the bus: of each producer, first occurrences ascend and
    /// everything reported is there.
    pub(crate) fn order_violations(&self, log: &[Name]) -> Vec<String> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut last: HashMap<u8, Name> = HashMap::new();
        for name in log {
            if !seen.insert(*name) {
                continue;
            }
            if let Some(before) = last.insert(name.producer, *name)
                && before.n >= name.n
            {
                found.push(format!("{before:?} reached the bus before {name:?}"));
            }
        }
        for name in self.reported.keys().filter(|name| !seen.contains(name)) {
            found.push(format!("{name:?} was reported durable and is not on the bus"));
        }
        found.sort();
        found
    }

    /// Deliveries beyond the first of each event.
    pub(crate) fn repeats(&self) -> usize {
        self.handed.values().map(|handed| handed.len() - 1).sum()
    }
}

/// Fails with the first few of them.
pub(crate) fn none(violations: &[String]) {
    let shown: Vec<_> = violations.iter().take(20).map(String::as_str).collect();
    assert!(violations.is_empty(), "{} violations, such as\n{}", violations.len(), shown.join("\n"));
}

mod tests {
    use super::*;

    const A: Name = Name { producer: 1, n: 7 };
    const FIRST: Life = Life { consumer: 0, number: 1 };
    const SECOND: Life = Life { consumer: 1, number: 1 };

    /// One event, sent at 0, reported at 10, handed out at these times, acknowledged at 100.
    fn run(handed: &[(Ms, Life)]) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.sent.insert(A, vec![0]);
        ledger.reported.insert(A, 10);
        let handed = handed.iter().map(|(at, life)| Handed { at: *at, life: *life, attempt: 1 });
        ledger.handed.insert(A, handed.collect());
        ledger.acked.insert(A, 100);
        ledger
    }

    #[test]
    fn ids_name_their_events() {
        for (seed, producer, n) in [(0, 0, 0), (u64::MAX, 3, u32::MAX), (77, 2, 24_999)] {
            let name = Name { producer, n };
            assert_eq!(Name::of(name.id(seed), seed), Some(name));
        }
        assert_eq!(Name::of(A.id(1), 2), None);
        assert_eq!(Name::of(Uuid::new_v4(), 1), None);
    }

    #[test]
    fn losses_are_noticed() {
        assert_eq!(run(&[(50, FIRST)]).violations(1_000, 0), Vec::<String>::new());
        let mut ledger = run(&[(50, FIRST)]);
        ledger.acked.clear();
        assert!(ledger.violations(1_000, 0)[0].contains("never acknowledged"));
        ledger.ack_sent.insert(A, vec![FIRST]);
        assert_eq!(ledger.violations(1_000, 0).len(), 1, "whoever was to acknowledge it is still alive");
        ledger.deaths.insert(FIRST, 60);
        assert_eq!(ledger.violations(1_000, 0), Vec::<String>::new());
        assert!(ledger.order_violations(&[])[0].contains("not on the bus"));
    }

    #[test]
    fn deliveries_after_the_acknowledgement_are_noticed() {
        let mut ledger = run(&[(50, FIRST), (101, SECOND)]);
        ledger.deaths.insert(FIRST, 60);
        assert!(ledger.violations(1_000, 0)[0].contains("after its acknowledgement"));
        assert_eq!(ledger.violations(1_000, 1), Vec::<String>::new());
    }

    #[test]
    fn repeats_need_a_reason() {
        let twice = [(50, FIRST), (90, SECOND)];
        assert!(run(&twice).violations(1_000, 0)[0].contains("without need"));
        assert_eq!(run(&twice).violations(40, 0), Vec::<String>::new(), "the lease had ended");

        let mut ledger = run(&twice);
        ledger.deaths.insert(FIRST, 95);
        assert_eq!(ledger.violations(1_000, 0).len(), 1, "died only later");
        ledger.deaths.insert(FIRST, 80);
        assert_eq!(ledger.violations(1_000, 0), Vec::<String>::new());

        let mut ledger = run(&twice);
        ledger.outages = vec![Outage { from: 20, to: 40 }];
        assert_eq!(ledger.violations(1_000, 0).len(), 1, "the broker was away before the first delivery");
        ledger.outages = vec![Outage { from: 95, to: 99 }];
        assert_eq!(ledger.violations(1_000, 0).len(), 1, "and after the second");
        for outage in [Outage { from: 60, to: 80 }, Outage { from: 20, to: 60 }] {
            ledger.outages = vec![outage];
            assert_eq!(
                ledger.violations(1_000, 0),
                Vec::<String>::new(),
                "what was fetched is handed out still"
            );
        }

        let mut ledger = run(&twice);
        ledger.outages = vec![Outage { from: 20, to: 40 }];
        ledger.deferred.insert(A);
        assert_eq!(
            ledger.violations(1_000, 0),
            Vec::<String>::new(),
            "the outbox may have published it twice"
        );

        let mut ledger = run(&twice);
        ledger.copies.insert(A, 2);
        assert_eq!(ledger.violations(1_000, 0), Vec::<String>::new());
    }

    #[test]
    fn copies_need_a_reason() {
        let copied = || {
            let mut ledger = run(&[(50, FIRST)]);
            ledger.copies.insert(A, 2);
            ledger
        };
        assert_eq!(copied().needless_copies().len(), 1);
        let mut ledger = copied();
        ledger.sent.insert(A, vec![0, 30]);
        assert_eq!(ledger.needless_copies(), Vec::<String>::new());
        let mut ledger = copied();
        ledger.outages = vec![Outage { from: 20, to: 40 }];
        assert_eq!(ledger.needless_copies().len(), 1, "it had been confirmed");
        ledger.outages = vec![Outage { from: 5, to: 40 }];
        assert_eq!(ledger.needless_copies(), Vec::<String>::new());
        let mut ledger = copied();
        ledger.deferred.insert(A);
        assert_eq!(ledger.needless_copies(), Vec::<String>::new());
    }

    #[test]
    fn only_the_first_time_counts_for_the_order() {
        let names = |numbers: &[(u8, u32)]| -> Vec<Name> {
            numbers.iter().map(|(producer, n)| Name { producer: *producer, n: *n }).collect()
        };
        let ledger = Ledger::default();
        assert_eq!(
            ledger.order_violations(&names(&[(0, 0), (1, 0), (0, 1), (0, 0), (0, 1), (0, 2)])).len(),
            0
        );
        assert_eq!(ledger.order_violations(&names(&[(0, 0), (0, 2), (0, 1)])).len(), 1);
    }
}
