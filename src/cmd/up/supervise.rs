//! What the supervisor decides: a pure state machine. Something happened at some time; out comes what to do.
//!
//! Time is what passed since the supervisor started, and chance comes from a seed, so that every run can be repeated.
//! Nothing here starts, stops or waits; `runner` does.

use std::{collections::VecDeque, time::Duration};

use super::Policy;

/// What passed since the supervisor started.
pub(super) type Time = Duration;

/// The wait before the first restart; each further one in a row doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// No wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The share of a wait that chance may take away, so that parts that failed together do not come back together.
const JITTER: f64 = 0.25;
/// Being asked later than wished by more than this means that the supervisor itself stood still.
const STALL: Duration = Duration::from_secs(1);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    /// A part said something.
    Said { part: usize, notice: Notice },
    /// A part's process ended, or never began.
    Ended { part: usize, ending: Ending },
    /// Everything shall stop.
    Stop,
    /// Time passed.
    Tick,
}

/// What a part says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// It does its work.
    Ready,
    /// It is alive.
    Alive,
    /// It ends, because somebody else asked it to.
    Stopping,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It could not be started.
    Unstartable(String),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Start the part's process.
    Spawn(usize),
    /// Ask the part's process group to end. Never twice for one process: a second signal would end it at once.
    Terminate(usize),
    /// End the part's process group.
    Kill(usize),
    /// Tell the user and the bus.
    Tell(usize, Change),
    /// Nothing runs any more and nothing shall.
    Finish(Verdict),
}

/// What became of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Its process was started (if it could be), after so many restarts.
    Started { restarts: u32 },
    /// It does its work, so long after its start.
    Ready { after: Duration },
    /// It ended although nobody asked it to, and starts again after a wait, or not at all.
    Exited { ending: Ending, reason: String, retry_in: Option<Duration> },
    /// It is given up.
    Failed { ending: Ending, reason: String },
    /// It ended because it was asked to, by us or by somebody else; no process was there where `ending` is `None`.
    Stopped { ending: Option<Ending>, reason: String },
}

/// Why everything has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was asked for.
    Asked,
    /// Every part had ended by itself, in order.
    AllEnded,
    /// A part is broken.
    Broken { part: usize, reason: String },
}

/// Where a part is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Its turn has not come.
    Waiting,
    /// Its process runs and must be ready by this time.
    Starting { since: Time, until: Time },
    /// It does its work and must say something by this time.
    Ready { since: Time, alive_by: Time },
    /// It ends, because somebody else asked it to, and is killed at this time.
    Leaving { since: Time, kill_at: Time },
    /// It is being ended because it failed; if it was asked to end, it is killed at this time.
    Failing { reason: String, kill_at: Option<Time> },
    /// It starts again at this time.
    Pausing { until: Time },
    /// It is being ended because everything stops; if it was asked to end, it is killed at this time.
    Stopping { kill_at: Option<Time> },
    /// It does not run any more.
    Down,
}

/// Why a part ended although nobody asked it to.
struct Failure {
    ending: Ending,
    reason: String,
    /// It had done its work for a window or longer.
    was_stable: bool,
}

#[derive(Debug)]
struct Part {
    phase: Phase,
    was_ready: bool,
    /// Restarts since it was last stable; sets the wait.
    in_a_row: u32,
    /// When it was restarted, within the window.
    restarts: VecDeque<Time>,
    total: u32,
}

/// All parts, in the order of their start.
#[derive(Debug)]
pub(super) struct Supervisor {
    parts: Vec<Part>,
    policy: Policy,
    chance: fastrand::Rng,
    stopping: Option<Verdict>,
    finished: bool,
    /// When [`Supervisor::step`] last asked to be called again.
    promised: Option<Time>,
}

impl Supervisor {
    /// Parts of which none runs; the first [`Input::Tick`] starts the first of them.
    pub(super) fn new(parts: usize, policy: Policy, seed: u64) -> Self {
        let part = || Part {
            phase: Phase::Waiting,
            was_ready: false,
            in_a_row: 0,
            restarts: VecDeque::new(),
            total: 0,
        };
        Self {
            parts: std::iter::repeat_with(part).take(parts).collect(),
            policy,
            chance: fastrand::Rng::with_seed(seed),
            stopping: None,
            finished: false,
            promised: None,
        }
    }

    /// True while every part is ready or has ended in order.
    pub(super) fn is_up(&self) -> bool {
        self.parts.iter().all(|part| part.was_ready)
            && self.parts.iter().all(|part| matches!(part.phase, Phase::Ready { .. } | Phase::Down))
    }

    /// True from the moment when everything is to stop.
    pub(super) const fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// When to call [`Supervisor::step`] with a [`Input::Tick`] if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.parts.iter().filter_map(|part| deadline(&part.phase)).min()
    }

    /// Takes what happened and says what to do, in this order. `now` never goes back.
    pub(super) fn step(&mut self, input: Input, now: Time) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.forgive_own_absence(now);
        match input {
            Input::Said { part, notice } => self.hear(part, notice, now, &mut effects),
            Input::Ended { part, ending } => self.bury(part, ending, now, &mut effects),
            Input::Stop => drop(self.stopping.get_or_insert(Verdict::Asked)),
            Input::Tick => {}
        }
        for part in 0..self.parts.len() {
            self.enforce(part, now, &mut effects);
        }
        match &self.stopping {
            Some(_) => self.stop_next(now, &mut effects),
            None => self.start_next(now, &mut effects),
        }
        self.promised = self.deadline();
        effects
    }

    /// While the supervisor stood still (a laptop's lid, Ctrl-Z) it could hear nobody, so that time does not count
    /// against anybody.
    fn forgive_own_absence(&mut self, now: Time) {
        let late = self.promised.map_or(Duration::ZERO, |promised| now.saturating_sub(promised));
        if late < STALL {
            return;
        }
        for part in &mut self.parts {
            match &mut part.phase {
                Phase::Ready { alive_by, .. } => *alive_by = now + self.policy.watchdog,
                // The part may have stood still as well, so it gets a moment.
                Phase::Starting { until: by, .. }
                | Phase::Leaving { kill_at: by, .. }
                | Phase::Failing { kill_at: Some(by), .. }
                | Phase::Stopping { kill_at: Some(by) } => *by = (*by + late).max(now + STALL),
                // A pause is our own, and nothing else is being waited for.
                _ => {}
            }
        }
    }

    fn hear(&mut self, at: usize, notice: Notice, now: Time, effects: &mut Vec<Effect>) {
        let Policy { watchdog, stop, .. } = self.policy;
        let Some(part) = self.parts.get_mut(at) else { return };
        match (&mut part.phase, notice) {
            (Phase::Starting { since, .. }, Notice::Ready) => {
                effects.push(Effect::Tell(at, Change::Ready { after: now.saturating_sub(*since) }));
                part.phase = Phase::Ready { since: now, alive_by: now + watchdog };
                part.was_ready = true;
            }
            (Phase::Ready { alive_by, .. }, Notice::Ready | Notice::Alive) => *alive_by = now + watchdog,
            (Phase::Ready { since, .. }, Notice::Stopping) => {
                part.phase = Phase::Leaving { since: *since, kill_at: now + stop };
            }
            // Before it is ready, only its readiness counts; after that, nothing does.
            _ => {}
        }
    }

    fn bury(&mut self, at: usize, ending: Ending, now: Time, effects: &mut Vec<Effect>) {
        let Policy { window, stop, .. } = self.policy;
        let Some(part) = self.parts.get_mut(at) else { return };
        let in_order = ending == Ending::Code(0);
        let (reason, was_stable, was_asked) = match std::mem::replace(&mut part.phase, Phase::Down) {
            Phase::Starting { .. } if in_order => ("ended before it was ready".to_owned(), false, false),
            Phase::Starting { .. } => (describe(&ending), false, false),
            // Somebody stopped this one part, or its work is done: either way that is what was wanted.
            Phase::Leaving { .. } if in_order => ("was stopped by somebody else".to_owned(), false, true),
            Phase::Ready { .. } if in_order => ("came to its end in order".to_owned(), false, true),
            Phase::Ready { since, .. } | Phase::Leaving { since, .. } => {
                (describe(&ending), now.saturating_sub(since) >= window, false)
            }
            Phase::Failing { reason, .. } => (reason, false, false),
            Phase::Stopping { kill_at: None } => {
                (format!("did not end within {} s and was killed", stop.as_secs()), false, true)
            }
            Phase::Stopping { .. } if in_order => ("was asked to stop".to_owned(), false, true),
            Phase::Stopping { .. } => (format!("was asked to stop and {}", describe(&ending)), false, true),
            before @ (Phase::Waiting | Phase::Pausing { .. } | Phase::Down) => {
                part.phase = before;
                return;
            }
        };
        if was_asked || self.stopping.is_some() {
            effects.push(Effect::Tell(at, Change::Stopped { ending: Some(ending), reason }));
        } else {
            self.fail(at, Failure { ending, reason, was_stable }, now, effects);
        }
    }

    fn fail(&mut self, at: usize, failure: Failure, now: Time, effects: &mut Vec<Effect>) {
        let Policy { window, max_restarts, .. } = self.policy;
        let Failure { ending, reason, was_stable } = failure;
        let Some(part) = self.parts.get_mut(at) else { return };
        if was_stable {
            part.in_a_row = 0;
        }
        part.restarts.retain(|restart| now.saturating_sub(*restart) < window);
        // Wrong usage and wrong configuration do not mend themselves.
        let is_hopeless = matches!(ending, Ending::Code(2 | 78));
        if is_hopeless || part.restarts.len() >= max_restarts {
            let (exited, retry_in) = (reason.clone(), None);
            effects
                .push(Effect::Tell(at, Change::Exited { ending: ending.clone(), reason: exited, retry_in }));
            effects.push(Effect::Tell(at, Change::Failed { ending, reason: reason.clone() }));
            self.stopping = Some(Verdict::Broken { part: at, reason });
            return;
        }
        let retry_in = wait(part.in_a_row, self.chance.f64());
        part.in_a_row = part.in_a_row.saturating_add(1);
        part.phase = Phase::Pausing { until: now + retry_in };
        effects.push(Effect::Tell(at, Change::Exited { ending, reason, retry_in: Some(retry_in) }));
    }

    /// Acts on a deadline that has passed.
    fn enforce(&mut self, at: usize, now: Time, effects: &mut Vec<Effect>) {
        let Policy { ready, stop, watchdog, .. } = self.policy;
        let Some(part) = self.parts.get_mut(at) else { return };
        if deadline(&part.phase).is_none_or(|deadline| now < deadline) {
            return;
        }
        match &mut part.phase {
            Phase::Starting { .. } => {
                effects.push(Effect::Terminate(at));
                let reason = format!("was not ready within {} s", ready.as_secs());
                part.phase = Phase::Failing { reason, kill_at: Some(now + stop) };
            }
            Phase::Ready { .. } => {
                // It does not run its own loop, so it would not hear a polite word either.
                effects.push(Effect::Kill(at));
                let reason = format!("said nothing for {} s and was killed", watchdog.as_secs());
                part.phase = Phase::Failing { reason, kill_at: None };
            }
            Phase::Leaving { .. } => {
                effects.push(Effect::Kill(at));
                let reason = format!("did not end within {} s of saying so and was killed", stop.as_secs());
                part.phase = Phase::Failing { reason, kill_at: None };
            }
            Phase::Failing { kill_at, .. } | Phase::Stopping { kill_at } => {
                effects.push(Effect::Kill(at));
                *kill_at = None;
            }
            Phase::Waiting | Phase::Pausing { .. } | Phase::Down => {}
        }
    }

    /// Starts again what has waited, and the next part if all before it have been ready.
    fn start_next(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let mut all_before_were_ready = true;
        for (at, part) in self.parts.iter_mut().enumerate() {
            match part.phase {
                Phase::Pausing { until } if until <= now => {
                    part.restarts.push_back(now);
                    part.total = part.total.saturating_add(1);
                }
                Phase::Waiting if all_before_were_ready => {}
                _ => {
                    all_before_were_ready &= part.was_ready;
                    continue;
                }
            }
            part.phase = Phase::Starting { since: now, until: now + self.policy.ready };
            effects.push(Effect::Spawn(at));
            effects.push(Effect::Tell(at, Change::Started { restarts: part.total }));
            all_before_were_ready &= part.was_ready;
        }
        if self.parts.iter().all(|part| part.phase == Phase::Down) {
            self.stopping = Some(Verdict::AllEnded);
            self.finish(effects);
        }
    }

    /// Gives up on restarts, and stops the last part that still runs; the one before it has its turn when that has
    /// ended.
    fn stop_next(&mut self, now: Time, effects: &mut Vec<Effect>) {
        for (at, part) in self.parts.iter_mut().enumerate().rev() {
            match part.phase {
                Phase::Waiting => part.phase = Phase::Down,
                Phase::Pausing { .. } => {
                    part.phase = Phase::Down;
                    let reason = "was waiting for its restart".to_owned();
                    effects.push(Effect::Tell(at, Change::Stopped { ending: None, reason }));
                }
                _ => {}
            }
        }
        let last = self.parts.iter_mut().enumerate().rfind(|(_, part)| part.phase != Phase::Down);
        let Some((at, part)) = last else { return self.finish(effects) };
        match part.phase {
            Phase::Starting { .. } | Phase::Ready { .. } => {
                effects.push(Effect::Terminate(at));
                part.phase = Phase::Stopping { kill_at: Some(now + self.policy.stop) };
            }
            // Somebody asked it to end already, and a second time would end it at once.
            Phase::Leaving { kill_at, .. } => part.phase = Phase::Stopping { kill_at: Some(kill_at) },
            Phase::Waiting
            | Phase::Failing { .. }
            | Phase::Pausing { .. }
            | Phase::Stopping { .. }
            | Phase::Down => {}
        }
    }

    fn finish(&mut self, effects: &mut Vec<Effect>) {
        if let (Some(verdict), false) = (&self.stopping, self.finished) {
            effects.push(Effect::Finish(verdict.clone()));
            self.finished = true;
        }
    }
}

fn deadline(phase: &Phase) -> Option<Time> {
    match phase {
        Phase::Starting { until, .. } | Phase::Pausing { until } => Some(*until),
        Phase::Ready { alive_by, .. } => Some(*alive_by),
        Phase::Leaving { kill_at, .. } => Some(*kill_at),
        Phase::Failing { kill_at, .. } | Phase::Stopping { kill_at } => *kill_at,
        Phase::Waiting | Phase::Down => None,
    }
}

/// The wait before the restart that follows `in_a_row` others; `chance` is between 0 and 1.
fn wait(in_a_row: u32, chance: f64) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(in_a_row)).min(LONGEST_WAIT);
    doubled.mul_f64(1.0 - JITTER * chance.clamp(0.0, 1.0))
}

/// How a process ended, in words that follow the part's name.
pub(super) fn describe(ending: &Ending) -> String {
    match ending {
        Ending::Code(code) => format!("ended with exit code {code}"),
        Ending::Signal(signal) => format!("was ended by signal {signal}"),
        Ending::Unstartable(reason) => format!("could not be started: {reason}"),
    }
}

#[cfg(test)]
mod tests;
