//! Which step runs when. Pure: an [`Input`] goes in, [`Effect`]s come out.
//!
//! What always holds: a step starts once, after all that it needs is over; never more than `jobs` run at once, nor two in
//! one place; what needs a step that failed and may not fail is skipped, and what needs that, and nothing else is.

use super::plan::{Plan, WhenFailed};

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It waits for what it needs, or for its turn.
    Waiting,
    /// It is being worked on.
    Running,
    /// It has answered.
    Done,
    /// It has failed.
    Failed,
    /// Something that it needs has failed.
    Skipped,
    /// It was stopped, and can be gone on with.
    Interrupted,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The run begins, or goes on.
    Begin,
    /// A step has ended in one of the states in which one can.
    Ended(usize, State),
    /// No further step shall start.
    Stop,
}

/// What must be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Start this step.
    Start(usize),
    /// This step is skipped, as another one that it needs has failed or was skipped itself.
    Skip {
        /// Which.
        step: usize,
        /// The one that failed.
        because: usize,
    },
}

/// The steps of a run.
#[derive(Debug, Clone)]
pub struct Machine {
    steps: Vec<Node>,
    order: Vec<usize>,
    jobs: usize,
    is_stopping: bool,
}

#[derive(Debug, Clone)]
struct Node {
    state: State,
    needs: Vec<usize>,
    may_fail: bool,
    /// Two steps of the same place never run at the same time.
    place: Option<String>,
    /// What failed, of a step that is skipped.
    because: Option<usize>,
}

impl Machine {
    /// The steps of a plan, at most `jobs` of them at once. `place` says where a step wants to be alone.
    #[must_use]
    pub fn new(plan: &Plan, jobs: usize, place: impl Fn(usize) -> Option<String>) -> Self {
        let node = |(at, step): (usize, &super::Step)| Node {
            state: State::Waiting,
            needs: step.needs.clone(),
            may_fail: step.when_failed == WhenFailed::Continue,
            place: place(at),
            because: None,
        };
        Self {
            steps: plan.steps.iter().enumerate().map(node).collect(),
            order: plan.order().to_vec(),
            jobs: jobs.max(1),
            is_stopping: false,
        }
    }

    /// A step that was settled in an earlier process. Before [`Input::Begin`].
    pub fn restore(&mut self, step: usize, state: State) {
        if let Some(node) = self.steps.get_mut(step) {
            node.state = state;
        }
    }

    /// Where a step stands.
    #[must_use]
    pub fn state(&self, step: usize) -> State {
        self.steps.get(step).map_or(State::Waiting, |node| node.state)
    }

    /// Takes an input; says what must be done. When that is nothing and no step is running, the run is over.
    pub fn step(&mut self, input: Input) -> Vec<Effect> {
        match input {
            Input::Begin => {}
            Input::Stop => self.is_stopping = true,
            Input::Ended(step, state) => self.restore(step, state),
        }
        let mut effects = Vec::new();
        // In this order whatever follows from a step is seen after it.
        for at in self.order.clone() {
            if self.state(at) != State::Waiting {
                continue;
            }
            if let Some(because) = self.broken_need(at) {
                if let Some(node) = self.steps.get_mut(at) {
                    node.state = State::Skipped;
                    node.because = Some(because);
                }
                effects.push(Effect::Skip { step: at, because });
            }
        }
        if !self.is_stopping {
            for at in self.order.clone() {
                if self.may_start(at) {
                    self.restore(at, State::Running);
                    effects.push(Effect::Start(at));
                }
            }
        }
        effects
    }

    /// The failure for which a step cannot run any more.
    fn broken_need(&self, at: usize) -> Option<usize> {
        let needs = &self.steps.get(at)?.needs;
        needs.iter().find_map(|need| {
            let node = self.steps.get(*need)?;
            match node.state {
                State::Failed if !node.may_fail => Some(*need),
                State::Skipped => Some(node.because.unwrap_or(*need)),
                _ => None,
            }
        })
    }

    fn may_start(&self, at: usize) -> bool {
        let Some(node) = self.steps.get(at).filter(|node| node.state == State::Waiting) else { return false };
        let is_over = |need: &usize| matches!(self.state(*need), State::Done | State::Failed);
        let mut running = self.steps.iter().filter(|other| other.state == State::Running);
        let has_room = running.clone().count() < self.jobs;
        let is_alone = node.place.is_none() || running.all(|other| other.place != node.place);
        has_room && is_alone && node.needs.iter().all(is_over)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{super::tests::plan_of, *};

    /// Plays a run; steps end in the order that `choices` says. Gives the order in which they started.
    fn play(
        plan: &Plan,
        (jobs, places): (usize, &[u8]),
        failing: &BTreeSet<usize>,
        mut choices: impl Iterator<Item = usize>,
    ) -> (Machine, Vec<usize>, usize) {
        let place = |at: usize| places.get(at).filter(|place| **place > 0).map(ToString::to_string);
        let mut machine = Machine::new(plan, jobs, place);
        let (mut running, mut started, mut most): (Vec<usize>, Vec<usize>, usize) =
            (Vec::new(), Vec::new(), 0);
        let mut effects = machine.step(Input::Begin);
        loop {
            for effect in effects {
                if let Effect::Start(at) = effect {
                    running.push(at);
                    started.push(at);
                }
            }
            most = most.max(running.len());
            let alone: Vec<_> = running.iter().filter_map(|at| place(*at)).collect();
            assert_eq!(alone.len(), alone.iter().collect::<BTreeSet<_>>().len(), "two in one place");
            if running.is_empty() {
                return (machine, started, most);
            }
            let ended = running.remove(choices.next().unwrap_or(0) % running.len());
            let state = if failing.contains(&ended) { State::Failed } else { State::Done };
            effects = machine.step(Input::Ended(ended, state));
        }
    }

    /// A plan whose steps need only such as come before, in a shuffled file.
    fn needs() -> impl Strategy<Value = Vec<Vec<usize>>> {
        (1_usize..12).prop_flat_map(|count| {
            let all = (0..count).map(|at| {
                prop::collection::vec(0..at.max(1), 0..3).prop_map(move |mut needs| {
                    needs.retain(|need| *need < at);
                    needs
                })
            });
            (all.collect::<Vec<_>>(), Just((0..count).collect::<Vec<_>>()).prop_shuffle()).prop_map(
                |(needs, places)| {
                    let mut shuffled = vec![Vec::new(); needs.len()];
                    for (at, of) in needs.into_iter().enumerate() {
                        shuffled[places[at]] = of.into_iter().map(|need| places[need]).collect();
                    }
                    shuffled
                },
            )
        })
    }

    proptest! {
        #[test]
        fn no_step_runs_before_what_it_needs_and_every_one_runs_once(
            needs in needs(),
            jobs in 1_usize..5,
            places in prop::collection::vec(0_u8..3, 12),
            choices in prop::collection::vec(any::<usize>(), 0..24),
        ) {
            let plan = plan_of(&needs, &[]);
            let (machine, started, most) =
                play(&plan, (jobs, &places), &BTreeSet::new(), choices.into_iter());
            prop_assert!(most <= jobs);
            let all: BTreeSet<_> = started.iter().copied().collect();
            prop_assert_eq!((all.len(), started.len()), (needs.len(), needs.len()));
            for (place, at) in started.iter().enumerate() {
                let before = &started[..place];
                prop_assert!(needs[*at].iter().all(|need| before.contains(need)));
            }
            prop_assert!((0..needs.len()).all(|at| machine.state(at) == State::Done));
        }

        #[test]
        fn what_needs_a_failure_is_skipped_and_nothing_else(
            needs in needs(),
            failing in prop::collection::btree_set(0_usize..12, 0..4),
            lenient in prop::collection::btree_set(0_usize..12, 0..4),
            choices in prop::collection::vec(any::<usize>(), 0..24),
        ) {
            let lenient: Vec<usize> = lenient.into_iter().collect();
            let plan = plan_of(&needs, &lenient);
            let (machine, started, _) = play(&plan, (3, &[]), &failing, choices.into_iter());
            // By the definition: over and over until nothing changes.
            let mut skipped: BTreeSet<usize> = BTreeSet::new();
            loop {
                let more: Vec<usize> = (0..needs.len()).filter(|at| {
                    !skipped.contains(at) && needs[*at].iter().any(|need| {
                        skipped.contains(need) || (failing.contains(need) && !lenient.contains(need))
                    })
                }).collect();
                if more.is_empty() { break }
                skipped.extend(more);
            }
            for at in 0..needs.len() {
                let expected = match (skipped.contains(&at), failing.contains(&at)) {
                    (true, _) => State::Skipped,
                    (false, true) => State::Failed,
                    (false, false) => State::Done,
                };
                prop_assert_eq!(machine.state(at), expected, "step {}", at);
                prop_assert_eq!(started.contains(&at), !skipped.contains(&at));
            }
        }
    }

    #[test]
    fn what_was_settled_before_is_not_started_again() {
        let plan = plan_of(&[vec![], vec![0], vec![0], vec![1, 2]], &[]);
        let mut machine = Machine::new(&plan, 4, |_| None);
        machine.restore(0, State::Done);
        machine.restore(1, State::Done);
        assert_eq!(machine.step(Input::Begin), [Effect::Start(2)]);
        assert_eq!(machine.step(Input::Stop), []);
        assert_eq!(machine.step(Input::Ended(2, State::Done)), [], "nothing starts after a stop");
        assert_eq!(machine.state(3), State::Waiting);
    }

    #[test]
    fn a_skip_names_the_failure_that_it_goes_back_to() {
        let plan = plan_of(&[vec![], vec![0], vec![1]], &[]);
        let mut machine = Machine::new(&plan, 4, |_| None);
        machine.step(Input::Begin);
        assert_eq!(
            machine.step(Input::Ended(0, State::Failed)),
            [Effect::Skip { step: 1, because: 0 }, Effect::Skip { step: 2, because: 0 }]
        );
    }
}
