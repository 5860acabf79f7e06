//! Tells the bus of a run: what happens in it as events. Pure; time and ids are passed in.

use std::time::Duration;

use uuid::Uuid;

use super::{
    super::narrator::Narrator,
    AGENT,
    news::{End, News, Settled},
    plan::{Ending, Plan},
    run::{Report, Verdict},
};
use crate::bus::{
    Event,
    event::{
        AgentContext, Source, Stamp, ids,
        payload::{
            Payload,
            flow::{
                AgentAggregateCompleted, AgentFlowStarted, AgentFlowStepCompleted, AggregatePart, FlowStep,
                StepState,
            },
        },
        registry,
    },
};

/// Correlation ids of the last event: the root, and the parts.
const MAX_CORRELATIONS: usize = 64;

/// Makes events of one run.
#[derive(Debug)]
pub struct Teller<'a> {
    plan: &'a Plan,
    run: Uuid,
    directory: String,
    source: Source,
    /// Bytes of answers in one event.
    room: usize,
    turns: Vec<Option<Narrator>>,
    causes: Vec<Vec<Uuid>>,
    completed: u64,
}

impl<'a> Teller<'a> {
    /// Of a run in this directory. The bus takes events of up to `max_event_bytes`.
    #[must_use]
    pub fn new(
        plan: &'a Plan,
        (run, directory): (Uuid, String),
        source: Source,
        max_event_bytes: usize,
    ) -> Self {
        let steps = plan.steps.len();
        Self {
            plan,
            run,
            directory,
            source,
            // Letters may take more bytes in JSON, and there is the rest of the event.
            room: max_event_bytes / 4,
            turns: (0..steps).map(|_| None).collect(),
            causes: vec![vec![run]; steps],
            completed: 0,
        }
    }

    /// The run begins, or goes on with `settled` steps behind it. The event that began it has its id.
    pub fn begin(&mut self, resumed: bool, settled: usize, stamp: impl Fn() -> Stamp) -> Event {
        self.completed = settled as u64;
        let step = |step: &super::Step| FlowStep {
            step: step.name.clone(),
            provider: step.provider.clone(),
            needs: step.needs.iter().map(|need| self.plan.name_of(*need).to_owned()).collect(),
        };
        let payload = AgentFlowStarted {
            flow: self.plan.name.clone(),
            run_id: self.run,
            working_directory: self.directory.clone(),
            resumed,
            steps: self.plan.steps.iter().map(step).collect(),
        };
        let stamp = if resumed { stamp() } else { Stamp { id: self.run, ..stamp() } };
        let causes = if resumed { vec![self.run] } else { Vec::new() };
        self.event(stamp, &payload, causes)
    }

    /// The events that follow from what happens.
    pub fn hear(&mut self, news: &News<'_>, stamp: impl Fn() -> Stamp) -> Vec<Event> {
        match news {
            News::Started { step, subject, .. } => {
                if let Some(causes) = self.causes.get_mut(*step) {
                    causes.clone_from(&subject.correlation_ids);
                }
                if let Some(turn) = self.turns.get_mut(*step) {
                    *turn = Some(Narrator::new(subject.clone(), self.source.clone()));
                }
                Vec::new()
            }
            News::Said { step, output } => {
                self.turn(*step).map(|turn| turn.output(output, stamp)).unwrap_or_default()
            }
            News::Ended { step, outcome, workspace, took } => {
                let Some(turn) = self.turn(*step) else { return Vec::new() };
                if let Some(workspace) = workspace {
                    turn.worked(workspace);
                }
                turn.end(outcome, *took, stamp)
            }
            // The next attempt begins with a narrator of its own.
            News::Waiting { .. } | News::Retrying { .. } | News::Interrupted { .. } => Vec::new(),
            News::Settled { step, settled } => vec![self.settled(*step, settled, stamp())],
            News::Skipped { step, because } => vec![self.skipped(*step, *because, stamp())],
        }
    }

    fn turn(&mut self, step: usize) -> Option<&mut Narrator> {
        self.turns.get_mut(step)?.as_mut()
    }

    fn settled(&mut self, step: usize, settled: &Settled, stamp: Stamp) -> Event {
        let failure = settled.answer.as_ref().err();
        let payload = AgentFlowStepCompleted {
            state: if failure.is_none() { StepState::Done } else { StepState::Failed },
            session_id: Some(settled.session.to_string()),
            duration_ms: milliseconds(settled.took),
            attempts: settled.attempts,
            cost_usd: settled.cost_micro_usd.map(dollars),
            class: failure.map(|failure| failure.class.name().to_owned()),
            error: failure.map(|failure| failure.message.clone()),
            ..self.over(step)
        };
        let causes = self.causes.get(step).cloned().unwrap_or_default();
        self.event(Stamp { id: settled.event_id(), ..stamp }, &payload, causes)
    }

    fn skipped(&mut self, step: usize, because: usize, stamp: Stamp) -> Event {
        let error = format!("skipped, as {} failed", self.plan.name_of(because));
        let payload = AgentFlowStepCompleted { error: Some(error), ..self.over(step) };
        self.event(stamp, &payload, vec![self.run])
    }

    /// One more step is over; it was skipped, unless more is said.
    fn over(&mut self, step: usize) -> AgentFlowStepCompleted {
        self.completed = self.completed.saturating_add(1);
        AgentFlowStepCompleted {
            flow: self.plan.name.clone(),
            run_id: self.run,
            step: self.plan.name_of(step).to_owned(),
            provider: self.provider(step),
            state: StepState::Skipped,
            session_id: None,
            duration_ms: 0,
            attempts: 0,
            cost_usd: None,
            class: None,
            error: None,
            completed: self.completed,
            total: self.plan.steps.len() as u64,
        }
    }

    fn provider(&self, step: usize) -> String {
        self.plan.step(step).map(|step| step.provider.clone()).unwrap_or_default()
    }

    /// The run is over; `None` if it was stopped.
    #[must_use]
    pub fn end(&self, report: &Report, took: Duration, stamp: Stamp) -> Option<Event> {
        if report.verdict == Verdict::Interrupted {
            return None;
        }
        let all = report.ends.iter().filter_map(End::settled);
        let costs: Vec<u64> = all.filter_map(|settled| settled.cost_micro_usd).collect();
        let mut payload = AgentAggregateCompleted {
            flow: self.plan.name.clone(),
            run_id: self.run,
            success: report.verdict == Verdict::Done,
            parts: self.plan.parts.iter().map(|at| self.part(*at, report.ends.get(*at))).collect(),
            failed: report.combined.failed as u64,
            response: report.combined.text.clone(),
            is_shortened: false,
            duration_ms: milliseconds(took),
            cost_usd: (!costs.is_empty()).then(|| dollars(costs.iter().sum())),
            correlation_id: self.run.to_string(),
        };
        payload.is_shortened = shorten(&mut payload, self.room);
        let last = match self.plan.ending {
            Ending::Step(at) => Some(at),
            Ending::Format(_) => None,
        };
        let sources = self.plan.parts.iter().copied().chain(last);
        let settled: Vec<&Settled> =
            sources.filter_map(|at| report.ends.get(at).and_then(End::settled)).collect();
        // The same answers put together again are the same event.
        let turns: Vec<String> = settled.iter().map(|settled| settled.turn.to_string()).collect();
        let key = format!("{}/{}", self.run, turns.join("/"));
        let id = ids::deterministic(AgentAggregateCompleted::TYPE, &key);
        let causes = std::iter::once(self.run).chain(settled.iter().map(|settled| settled.event_id()));
        Some(self.event(Stamp { id, ..stamp }, &payload, causes.take(MAX_CORRELATIONS).collect()))
    }

    fn part(&self, at: usize, end: Option<&End>) -> AggregatePart {
        let empty = AggregatePart {
            step: self.plan.name_of(at).to_owned(),
            provider: self.provider(at),
            success: false,
            session_id: None,
            response: None,
            class: None,
            error: None,
        };
        match end {
            Some(End::Settled(settled)) => {
                let session_id = Some(settled.session.to_string());
                match &settled.answer {
                    Ok(answer) => {
                        AggregatePart { success: true, session_id, response: Some(answer.clone()), ..empty }
                    }
                    Err(failure) => AggregatePart {
                        session_id,
                        class: Some(failure.class.name().to_owned()),
                        error: Some(failure.message.clone()),
                        ..empty
                    },
                }
            }
            Some(End::Skipped(because)) => {
                let error = format!("skipped, as {} failed", self.plan.name_of(*because));
                AggregatePart { error: Some(error), ..empty }
            }
            Some(End::Open) | None => empty,
        }
    }

    fn event<P: Payload>(&self, stamp: Stamp, payload: &P, causes: Vec<Uuid>) -> Event {
        let mut event = registry::event(stamp, self.source.clone(), payload);
        event.correlation_ids = causes;
        let context = AgentContext::new("custom", AGENT, &self.run.to_string(), &self.directory);
        event.agent_context = Some(context);
        event
    }
}

/// Cuts answers so that together they have at most `room` bytes; tells whether any was cut.
fn shorten(payload: &mut AgentAggregateCompleted, room: usize) -> bool {
    let parts = payload.parts.iter_mut().flat_map(|part| [&mut part.response, &mut part.error]);
    let mut texts: Vec<&mut String> = parts.chain([&mut payload.response]).flatten().collect();
    let total: usize = texts.iter().map(|text| text.len()).sum();
    if total <= room {
        return false;
    }
    let share = room / texts.len().max(1);
    let mut was_cut = false;
    for text in &mut texts {
        if text.len() > share {
            text.truncate(text.floor_char_boundary(share));
            text.push('…');
            was_cut = true;
        }
    }
    was_cut
}

fn milliseconds(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

#[allow(clippy::cast_precision_loss, reason = "a sum that is too large for it nobody has")]
fn dollars(micro: u64) -> f64 {
    micro as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_too_long_for_one_event_are_cut_and_it_is_said() {
        let mut payload = AgentAggregateCompleted::example();
        let whole = payload.clone();
        assert!(!shorten(&mut payload, 1_000) && payload == whole);
        payload.parts[0].response = Some("ü".repeat(10_000));
        assert!(shorten(&mut payload, 1_001));
        let cut = payload.parts[0].response.as_deref().unwrap();
        assert!(cut.len() < 400 && cut.ends_with("ü…"), "{}", cut.len());
        assert_eq!(payload.response, whole.response, "what is short stays whole");
    }
}
