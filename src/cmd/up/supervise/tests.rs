//! Laws of the supervisor: order, waits, giving up, stopping; some by example, all by made-up histories.

use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy {
    ready: Duration::from_secs(60),
    stop: Duration::from_secs(20),
    watchdog: Duration::from_secs(30),
    max_restarts: 3,
    window: Duration::from_secs(300),
};

const fn s(seconds: u64) -> Time {
    Duration::from_secs(seconds)
}

const fn said(part: usize, notice: Notice) -> Input {
    Input::Said { part, notice }
}

const fn ended(part: usize, code: i32) -> Input {
    Input::Ended { part, ending: Ending::Code(code) }
}

/// What was done, without what was told.
fn deeds(effects: Vec<Effect>) -> Vec<Effect> {
    effects.into_iter().filter(|effect| !matches!(effect, Effect::Tell(..))).collect()
}

/// So many parts, all of them ready at time 0.
fn running(parts: usize) -> Supervisor {
    let mut supervisor = Supervisor::new(parts, POLICY, 7);
    assert_eq!(deeds(supervisor.step(Input::Tick, s(0))), [Effect::Spawn(0)]);
    for part in 0..parts {
        supervisor.step(said(part, Notice::Ready), s(0));
    }
    assert!(supervisor.is_up());
    supervisor
}

/// Lets the pause of the only part that pauses pass; tells when it was over.
fn resume(supervisor: &mut Supervisor) -> Time {
    let now = supervisor.deadline().unwrap();
    assert!(matches!(deeds(supervisor.step(Input::Tick, now))[..], [Effect::Spawn(_)]));
    now
}

#[test]
fn a_part_starts_when_the_one_before_it_is_ready() {
    let mut supervisor = Supervisor::new(3, POLICY, 7);
    assert_eq!(deeds(supervisor.step(Input::Tick, s(0))), [Effect::Spawn(0)]);
    assert_eq!(deeds(supervisor.step(Input::Tick, s(1))), []);
    assert_eq!(deeds(supervisor.step(said(0, Notice::Alive), s(1))), []);
    let effects = supervisor.step(said(0, Notice::Ready), s(2));
    assert_eq!(effects[0], Effect::Tell(0, Change::Ready { after: s(2) }));
    assert_eq!(deeds(effects), [Effect::Spawn(1)]);
    assert!(!supervisor.is_up());
    assert_eq!(deeds(supervisor.step(said(1, Notice::Ready), s(3))), [Effect::Spawn(2)]);
}

#[test]
fn the_others_keep_running_while_one_starts_again() {
    let mut supervisor = running(3);
    let effects = supervisor.step(ended(0, 1), s(5));
    let [Effect::Tell(0, Change::Exited { reason, retry_in: Some(retry_in), .. })] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(reason, "ended with exit code 1");
    assert!((Duration::from_millis(750)..=s(1)).contains(retry_in), "{retry_in:?}");
    assert_eq!(supervisor.deadline(), Some(s(5) + *retry_in));
    assert_eq!(deeds(supervisor.step(Input::Tick, s(5))), []);
    resume(&mut supervisor);
    assert!(!supervisor.is_up());
    supervisor.step(said(0, Notice::Ready), s(7));
    assert!(supervisor.is_up());
}

#[test]
fn a_part_that_fails_before_its_successor_began_still_holds_it_back() {
    let mut supervisor = Supervisor::new(2, POLICY, 7);
    supervisor.step(Input::Tick, s(0));
    supervisor.step(ended(0, 1), s(0));
    let now = resume(&mut supervisor);
    assert_eq!(deeds(supervisor.step(said(0, Notice::Ready), now)), [Effect::Spawn(1)]);
}

#[test]
fn waits_double_up_to_a_minute() {
    let waits: Vec<u64> = (0..9).map(|n| wait(n, 0.0).as_secs()).collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(wait(u32::MAX, 1.0), s(45));
    assert_eq!(wait(0, f64::MAX), Duration::from_millis(750));
}

#[test]
fn a_part_that_was_stable_starts_again_with_the_shortest_wait() {
    let mut supervisor = running(1);
    let mut now = s(0);
    for _ in 0..3 {
        supervisor.step(ended(0, 1), now);
        now = resume(&mut supervisor);
        supervisor.step(said(0, Notice::Ready), now);
    }
    for _ in 0..12 {
        now += s(25);
        supervisor.step(said(0, Notice::Alive), now);
    }
    let effects = supervisor.step(ended(0, 1), now);
    assert!(
        matches!(&effects[..], [Effect::Tell(0, Change::Exited { retry_in, .. })] if *retry_in <= Some(s(1))),
        "{effects:?}"
    );
}

#[test]
fn a_part_that_fails_too_often_stops_everything_with_its_reason() {
    let mut supervisor = running(3);
    for _ in 0..3 {
        let now = supervisor.promised.unwrap_or_default().min(s(20));
        supervisor.step(ended(1, 1), now);
        resume(&mut supervisor);
    }
    let effects = supervisor.step(ended(1, 1), s(21));
    let reason = "ended with exit code 1".to_owned();
    let failed = Change::Failed { ending: Ending::Code(1), reason: reason.clone() };
    assert!(effects.contains(&Effect::Tell(1, failed)));
    assert_eq!(deeds(effects), [Effect::Terminate(2)], "the last part stops first");
    assert_eq!(deeds(supervisor.step(ended(2, 0), s(22))), [Effect::Terminate(0)]);
    let verdict = Verdict::Broken { part: 1, reason };
    assert_eq!(deeds(supervisor.step(ended(0, 0), s(23))), [Effect::Finish(verdict)]);
}

#[test]
fn wrong_usage_and_configuration_are_not_tried_again() {
    for code in [2, 78] {
        let mut supervisor = Supervisor::new(2, POLICY, 7);
        supervisor.step(Input::Tick, s(0));
        let effects = deeds(supervisor.step(ended(0, code), s(0)));
        assert!(matches!(effects[..], [Effect::Finish(Verdict::Broken { part: 0, .. })]), "{effects:?}");
    }
}

#[test]
fn a_part_that_somebody_else_stopped_in_order_stays_down() {
    let mut supervisor = running(2);
    assert_eq!(supervisor.step(said(1, Notice::Stopping), s(1)), []);
    assert_eq!(deeds(supervisor.step(Input::Tick, s(20))), [], "no watchdog while it stops");
    assert_eq!(deeds(supervisor.step(ended(1, 0), s(20))), []);
    assert_eq!(deeds(supervisor.step(ended(0, 0), s(20))), [Effect::Finish(Verdict::AllEnded)]);
    // Without having been ready it can't have been what anybody wanted.
    let mut supervisor = Supervisor::new(1, POLICY, 7);
    supervisor.step(Input::Tick, s(0));
    let effects = supervisor.step(ended(0, 0), s(1));
    assert!(
        matches!(&effects[..], [Effect::Tell(0, Change::Exited { reason, .. })] if reason == "ended before it was ready")
    );
}

#[test]
fn a_part_that_is_never_ready_is_asked_then_killed_then_started_again() {
    let mut supervisor = Supervisor::new(1, POLICY, 7);
    supervisor.step(Input::Tick, s(0));
    assert_eq!(supervisor.deadline(), Some(s(60)));
    assert_eq!(supervisor.step(Input::Tick, s(60)), [Effect::Terminate(0)]);
    assert_eq!(supervisor.step(said(0, Notice::Ready), s(61)), [], "too late");
    assert_eq!(supervisor.step(Input::Tick, s(80)), [Effect::Kill(0)]);
    assert_eq!(supervisor.deadline(), None);
    let effects = supervisor.step(Input::Ended { part: 0, ending: Ending::Signal(9) }, s(80));
    let [Effect::Tell(0, Change::Exited { reason, .. })] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(reason, "was not ready within 60 s");
}

#[test]
fn a_part_that_says_nothing_is_killed() {
    let mut supervisor = running(1);
    supervisor.step(said(0, Notice::Alive), s(29));
    assert_eq!(supervisor.step(Input::Tick, s(58)), []);
    assert_eq!(supervisor.step(Input::Tick, s(59)), [Effect::Kill(0)]);
    let effects = supervisor.step(Input::Ended { part: 0, ending: Ending::Signal(9) }, s(59));
    let [Effect::Tell(0, Change::Exited { reason, .. })] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(reason, "said nothing for 30 s and was killed");
}

#[test]
fn a_supervisor_that_stood_still_blames_nobody() {
    let mut supervisor = running(2);
    assert_eq!(supervisor.deadline(), Some(s(30)));
    assert_eq!(supervisor.step(Input::Tick, s(500)), [], "it heard nobody for so long");
    assert_eq!(supervisor.deadline(), Some(s(530)));
}

#[test]
fn a_stop_goes_backwards_and_kills_what_does_not_end() {
    let mut supervisor = running(3);
    assert_eq!(supervisor.step(Input::Stop, s(1)), [Effect::Terminate(2)]);
    assert_eq!(supervisor.step(Input::Tick, s(20)), []);
    assert_eq!(supervisor.step(Input::Tick, s(21)), [Effect::Kill(2)]);
    assert_eq!(supervisor.step(Input::Stop, s(21)), [], "a second wish changes nothing");
    let effects = supervisor.step(Input::Ended { part: 2, ending: Ending::Signal(9) }, s(21));
    assert_eq!(deeds(effects), [Effect::Terminate(1)]);
    // The first part happens to fail before its turn: it is not started again.
    assert_eq!(deeds(supervisor.step(ended(0, 1), s(22))), []);
    assert_eq!(deeds(supervisor.step(ended(1, 0), s(22))), [Effect::Finish(Verdict::Asked)]);
}

#[test]
fn a_stop_before_everything_runs_starts_nothing_more() {
    let mut supervisor = Supervisor::new(3, POLICY, 7);
    supervisor.step(Input::Tick, s(0));
    assert_eq!(supervisor.step(Input::Stop, s(1)), [Effect::Terminate(0)]);
    assert_eq!(deeds(supervisor.step(ended(0, 0), s(2))), [Effect::Finish(Verdict::Asked)]);
    let mut supervisor = Supervisor::new(2, POLICY, 7);
    supervisor.step(Input::Tick, s(0));
    supervisor.step(ended(0, 1), s(1));
    assert_eq!(deeds(supervisor.step(Input::Stop, s(1))), [Effect::Finish(Verdict::Asked)]);
}

/// A process as the world has it.
#[derive(Debug, Clone, Default)]
struct World {
    alive: Vec<bool>,
    asked: Vec<bool>,
    killed: Vec<bool>,
    was_ready: Vec<bool>,
    is_ready: Vec<bool>,
    spawned: Vec<Vec<Time>>,
    ended_at: Vec<Time>,
    stop_wished: bool,
    finished: Option<Verdict>,
}

impl World {
    fn new(parts: usize) -> Self {
        Self {
            alive: vec![false; parts],
            asked: vec![false; parts],
            killed: vec![false; parts],
            was_ready: vec![false; parts],
            is_ready: vec![false; parts],
            spawned: vec![Vec::new(); parts],
            ended_at: vec![s(0); parts],
            ..Self::default()
        }
    }

    /// Carries out what the supervisor says, and holds it to its laws.
    fn carry_out(&mut self, effects: Vec<Effect>, now: Time) -> Result<(), TestCaseError> {
        for effect in effects {
            prop_assert!(self.finished.is_none(), "nothing comes after the end: {effect:?}");
            match effect {
                Effect::Spawn(at) => {
                    prop_assert!(!self.alive[at], "two processes for part {at}");
                    prop_assert!(!self.stop_wished, "a start after the stop");
                    prop_assert!(self.was_ready[..at].iter().all(|ready| *ready), "part {at} out of order");
                    let spawned = &mut self.spawned[at];
                    if !spawned.is_empty() {
                        let waited = now - self.ended_at[at];
                        prop_assert!(waited >= Duration::from_millis(750), "waited {waited:?}");
                    }
                    spawned.push(now);
                    let recent = spawned.iter().skip(1).filter(|at| now - **at < POLICY.window).count();
                    prop_assert!(recent <= POLICY.max_restarts, "{recent} restarts in a window");
                    (self.alive[at], self.asked[at], self.killed[at]) = (true, false, false);
                }
                Effect::Terminate(at) => {
                    prop_assert!(self.alive[at], "part {at} is not there to be asked");
                    prop_assert!(!self.asked[at], "part {at} was asked already");
                    (self.asked[at], self.is_ready[at]) = (true, false);
                }
                Effect::Kill(at) => {
                    prop_assert!(self.alive[at] && !self.killed[at], "part {at} is dead already");
                    (self.killed[at], self.is_ready[at]) = (true, false);
                }
                Effect::Tell(at, Change::Failed { .. }) => {
                    self.stop_wished = true;
                    prop_assert!(!self.alive[at]);
                }
                Effect::Tell(..) => {}
                Effect::Finish(verdict) => {
                    prop_assert!(self.alive.iter().all(|alive| !alive), "something still runs");
                    self.finished = Some(verdict);
                }
            }
        }
        // While everything stops, whoever was asked has nobody alive after it.
        if self.stop_wished
            && let Some(last) = self.alive.iter().rposition(|alive| *alive)
        {
            prop_assert!(self.asked[last] || self.killed[last], "nobody is being stopped");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_laws_hold_and_a_stop_ends_everything(
        parts in 1_usize..5,
        seed in any::<u64>(),
        history in prop::collection::vec((0_u8..12, 0_usize..5, 0_u64..40_000), 0..200),
    ) {
        let mut supervisor = Supervisor::new(parts, POLICY, seed);
        let mut world = World::new(parts);
        let mut now = s(0);
        world.carry_out(supervisor.step(Input::Tick, now), now)?;
        for (what, at, millis) in history {
            let at = at % parts;
            // Time goes on, but the supervisor is called at each of its deadlines on the way.
            let until = now + Duration::from_millis(millis);
            while let Some(deadline) = supervisor.deadline().filter(|deadline| *deadline <= until) {
                now = now.max(deadline);
                world.carry_out(supervisor.step(Input::Tick, now), now)?;
                prop_assert!(supervisor.deadline().is_none_or(|next| next > now), "it would ask again and again");
            }
            now = until;
            let input = match what {
                0..=3 if world.alive[at] => {
                    if !world.asked[at] && !world.killed[at] {
                        (world.was_ready[at], world.is_ready[at]) = (true, true);
                    }
                    said(at, Notice::Ready)
                }
                4..=6 if world.alive[at] => said(at, Notice::Alive),
                7 if world.is_ready[at] => {
                    // Somebody else asked it already, and to ask it again would end it at once.
                    (world.asked[at], world.is_ready[at]) = (true, false);
                    said(at, Notice::Stopping)
                }
                8..=10 if world.alive[at] => {
                    (world.alive[at], world.is_ready[at]) = (false, false);
                    world.ended_at[at] = now;
                    ended(at, if what == 10 { 0 } else { 1 })
                }
                11 if millis > 39_000 => {
                    world.stop_wished = true;
                    Input::Stop
                }
                _ => Input::Tick,
            };
            let effects = supervisor.step(input, now);
            world.carry_out(effects, now)?;
        }
        // In the end everything is asked to stop, and nothing dies unless it is killed.
        world.stop_wished = true;
        if world.finished.is_none() {
            let effects = supervisor.step(Input::Stop, now);
            world.carry_out(effects, now)?;
        }
        for _ in 0..1000 {
            if world.finished.is_some() {
                break;
            }
            let effects = if let Some(at) = (0..parts).find(|at| world.alive[*at] && world.killed[*at]) {
                world.alive[at] = false;
                supervisor.step(Input::Ended { part: at, ending: Ending::Signal(9) }, now)
            } else {
                let deadline = supervisor.deadline();
                prop_assert!(deadline.is_some(), "nothing will ever happen again");
                now = now.max(deadline.unwrap_or_default());
                supervisor.step(Input::Tick, now)
            };
            world.carry_out(effects, now)?;
        }
        prop_assert!(world.finished.is_some());
    }
}
