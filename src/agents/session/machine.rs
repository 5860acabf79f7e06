//! How a session changes. Pure: an [`Input`] and the time go in, [`Effect`]s come out; whoever drives it carries them
//! out in this order.
//!
//! What always holds: a session runs if and only if it has a [`Run`]; the agent's id of the conversation, once learnt,
//! is changed only by [`Input::Forget`]; the totals are the sums of all recorded turns; time does not go back.

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    super::{Class, Failure, NativeId, Outcome, Output, Thread, lines::shortened},
    Amounts, CostSource, Leader, MAX_CORRELATIONS, MAX_FILES, MAX_PREVIEW, Run, Session, State, TurnRecord,
    TurnWords, UsageRow,
};

/// What happens to a session.
#[derive(Debug)]
pub enum Input<'a> {
    /// A turn begins.
    Begin(Begin<'a>),
    /// Its process is there.
    Launched(Leader),
    /// The agent says something.
    Said(&'a Output),
    /// The turn is over. `prompt` is the whole of what was asked.
    Ended {
        /// What became of it.
        outcome: &'a Outcome,
        /// What was asked.
        prompt: &'a str,
    },
    /// Whoever worked on the turn is gone.
    Orphaned,
    /// The agent has lost the conversation; the next turn begins a new one.
    Forget,
}

/// How a turn begins.
#[derive(Debug)]
pub struct Begin<'a> {
    /// Its id.
    pub run: Uuid,
    /// What is asked.
    pub prompt: &'a str,
    /// The conversation that it goes on with.
    pub thread: &'a Thread,
    /// Ties it to what caused it, the root first.
    pub correlation_ids: &'a [Uuid],
    /// How often it was tried, this time included.
    pub attempt: u32,
}

/// What must be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Store the session as it is now.
    Save,
    /// Store the session as it is now, with this turn and what it used, all in one step.
    Record(Box<(TurnRecord, UsageRow)>),
    /// Stop the agent: it does what it must not.
    Stop(Failure),
}

/// Why an input makes no sense now. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// One turn at a time.
    #[error("session {0} is being worked on")]
    Running(super::SessionId),
    /// The service would refuse the conversation again.
    #[error("session {id} cannot be gone on with ({class}); start a new one")]
    Ended {
        /// The session.
        id: super::SessionId,
        /// Why it has ended.
        class: String,
    },
    /// No turn is worked on.
    #[error("session {0} is not being worked on")]
    NotRunning(super::SessionId),
}

impl Session {
    /// Takes an input; says what must be done.
    ///
    /// # Errors
    /// [`Refusal`]; the session is as before.
    pub fn step(&mut self, input: Input<'_>, now: Timestamp) -> Result<Vec<Effect>, Refusal> {
        if !matches!(input, Input::Begin(_) | Input::Forget) && self.run.is_none() {
            return Err(Refusal::NotRunning(self.id.clone()));
        }
        let effects = match input {
            Input::Begin(begin) => self.begin(&begin, now)?,
            Input::Launched(leader) => {
                if let Some(run) = &mut self.run {
                    run.leader = Some(leader);
                }
                vec![Effect::Save]
            }
            Input::Said(output) => self.said(output),
            Input::Ended { outcome, prompt } => self.ended(outcome, prompt, now),
            Input::Orphaned => {
                self.rest(State::Interrupted);
                self.failure_class = Some(Class::Orphaned.name().to_owned());
                self.words.failure = Some("whoever worked on the last turn is gone".to_owned());
                vec![Effect::Save]
            }
            Input::Forget if self.run.is_some() => return Err(Refusal::Running(self.id.clone())),
            Input::Forget => {
                self.native_id = None;
                self.baseline = Amounts::default();
                self.state = State::Idle;
                vec![Effect::Save]
            }
        };
        self.updated_at = self.updated_at.max(now);
        Ok(effects)
    }

    fn begin(&mut self, begin: &Begin<'_>, now: Timestamp) -> Result<Vec<Effect>, Refusal> {
        if self.run.is_some() {
            return Err(Refusal::Running(self.id.clone()));
        }
        if self.state == State::Ended {
            let class = self.failure_class.clone().unwrap_or_default();
            return Err(Refusal::Ended { id: self.id.clone(), class });
        }
        let resumes = match begin.thread {
            Thread::Resume(id) => Some(id.clone()),
            Thread::New(_) => None,
        };
        self.state = State::Running;
        self.run = Some(Run {
            id: begin.run,
            began_at: now.max(self.updated_at),
            attempt: begin.attempt,
            resumes,
            leader: None,
        });
        self.prompt_count = self.prompt_count.saturating_add(1);
        self.words.last_prompt = Some(shortened(begin.prompt, MAX_PREVIEW));
        self.words.failure = None;
        self.failure_class = None;
        for id in begin.correlation_ids {
            if !self.correlation_ids.contains(id) {
                self.correlation_ids.push(*id);
            }
        }
        let surplus = self.correlation_ids.len().saturating_sub(MAX_CORRELATIONS);
        self.correlation_ids.drain(..surplus);
        Ok(vec![Effect::Save])
    }

    fn said(&mut self, output: &Output) -> Vec<Effect> {
        match output {
            Output::Started { native_id, model, .. } => {
                let wanted = self.run.as_ref().and_then(|run| run.resumes.as_ref());
                if let Some(wanted) = wanted.filter(|wanted| *wanted != native_id) {
                    let message = format!("asked for session {wanted}, the agent went on in {native_id}");
                    return vec![Effect::Stop(Failure::new(Class::SessionMismatch, message))];
                }
                let is_news = self.learn(native_id) | (model.is_some() && self.model != *model);
                if model.is_some() {
                    self.model.clone_from(model);
                }
                if is_news { vec![Effect::Save] } else { Vec::new() }
            }
            Output::ToolInvoked { name, input, .. } => {
                self.note_files(name, input);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// Remembers the agent's id of the conversation. True if it was not known.
    fn learn(&mut self, native_id: &NativeId) -> bool {
        let is_news = self.native_id.is_none();
        if is_news {
            self.native_id = Some(native_id.clone());
        }
        is_news
    }

    /// Files that a tool writes, in the words of the agents' own tools.
    fn note_files(&mut self, tool: &str, input: &serde_json::Value) {
        const WRITERS: [&str; 8] =
            ["Edit", "MultiEdit", "Write", "NotebookEdit", "edit", "write_file", "replace", "write"];
        if !WRITERS.contains(&tool) {
            return;
        }
        let one = ["file_path", "notebook_path", "path"].iter().find_map(|name| input.get(name)?.as_str());
        let many = input.get("changes").and_then(|changes| changes.as_array()).into_iter().flatten();
        let paths = one.into_iter().chain(many.filter_map(|change| change.get("path")?.as_str()));
        for path in paths {
            self.words.files.retain(|known| known != path);
            self.words.files.push(path.to_owned());
        }
        let surplus = self.words.files.len().saturating_sub(MAX_FILES);
        self.words.files.drain(..surplus);
    }

    fn ended(&mut self, outcome: &Outcome, prompt: &str, now: Timestamp) -> Vec<Effect> {
        let Some(run) = self.run.take() else { return Vec::new() };
        let failure = outcome.verdict.as_ref().err();
        let class = failure.map(|failure| failure.class);
        // A conversation that nobody asked for is not ours, and what it used counts from a beginning of its own.
        let is_ours = class != Some(Class::SessionMismatch);
        if let Some(id) = outcome.native_id.as_ref().filter(|_| is_ours) {
            self.learn(id);
        }
        let raw = Amounts::of(&outcome.usage);
        let amounts = match (outcome.usage.is_cumulative, is_ours) {
            (true, true) => {
                let since = raw.since(self.baseline);
                self.baseline = raw.over(self.baseline);
                since
            }
            _ => raw,
        };
        self.totals = self.totals.and(amounts);
        self.words.last_response = Some(shortened(&outcome.text, MAX_PREVIEW));
        self.words.failure = failure.map(|failure| failure.message.clone());
        self.failure_class = class.map(|class| class.name().to_owned());
        self.rest(match class {
            None => State::Idle,
            Some(Class::Cancelled | Class::Timeout | Class::Stalled | Class::Orphaned) => State::Interrupted,
            // Refused as it is, it would be refused for ever; what was lost or mixed up can be begun anew.
            Some(Class::InvalidRequest | Class::ContextOverflow) if self.native_id.is_some() => State::Ended,
            Some(_) => State::Failed,
        });
        let ended_at = now.max(self.updated_at);
        let turn = TurnRecord {
            run: run.id,
            number: self.prompt_count,
            began_at: run.began_at,
            ended_at,
            model: self.model.clone(),
            failure_class: self.failure_class.clone(),
            words: TurnWords {
                prompt: prompt.to_owned(),
                response: outcome.text.clone(),
                failure: self.words.failure.clone(),
            },
        };
        let usage = UsageRow {
            run: run.id,
            session: self.id.clone(),
            provider: self.provider.clone(),
            model: self.model.clone(),
            directory: self.directory.clone(),
            at: ended_at,
            took_ms: u64::try_from(ended_at.duration_since(run.began_at).as_millis()).ok(),
            failure_class: self.failure_class.clone(),
            amounts,
            cost_source: match amounts.cost_micro_usd {
                Some(_) => CostSource::Reported,
                None => CostSource::Unknown,
            },
            raw,
            is_cumulative: outcome.usage.is_cumulative,
        };
        vec![Effect::Record(Box::new((turn, usage)))]
    }

    fn rest(&mut self, state: State) {
        self.run = None;
        self.state = state;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::{super::SessionId, *};
    use crate::agents::Usage;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn id(text: &str) -> NativeId {
        NativeId::parse(text).unwrap()
    }

    fn session() -> Session {
        Session::new(SessionId::parse("s-1").unwrap(), "claude", "/w", at(0))
    }

    fn begin(session: &mut Session, run: u128) -> Result<Vec<Effect>, Refusal> {
        let thread = match &session.native_id {
            Some(id) => Thread::Resume(id.clone()),
            None => Thread::New(None),
        };
        let begin = Begin {
            run: Uuid::from_u128(run),
            prompt: "count",
            thread: &thread,
            correlation_ids: &[Uuid::from_u128(run)],
            attempt: 1,
        };
        session.step(Input::Begin(begin), at(1))
    }

    fn started(native: &str) -> Output {
        Output::Started { native_id: id(native), model: Some("m".to_owned()), version: None }
    }

    fn outcome(verdict: Result<(), Failure>, cost: Option<f64>) -> Outcome {
        Outcome {
            native_id: None,
            text: "two".to_owned(),
            usage: Usage { cost_usd: cost, is_cumulative: true, ..Usage::default() },
            verdict,
            warning: None,
        }
    }

    fn end(session: &mut Session, outcome: &Outcome) -> (TurnRecord, UsageRow) {
        let effects = session.step(Input::Ended { outcome, prompt: "count" }, at(2)).unwrap();
        let [Effect::Record(record)] = &effects[..] else { panic!("{effects:?}") };
        (**record).clone()
    }

    #[test]
    fn the_latest_session_is_one_that_a_person_may_mean() {
        let session = session();
        assert!(session.can_be_continued());
        let ended = Session { state: State::Ended, ..session.clone() };
        let mut step = session;
        step.extra.insert(super::super::FLOW_STEP.to_owned(), "review".to_owned());
        assert!(!ended.can_be_continued() && !step.can_be_continued());
    }

    #[test]
    fn a_turn_is_begun_named_and_recorded_and_the_next_one_goes_on_in_it() {
        let mut session = session();
        assert_eq!(begin(&mut session, 1), Ok(vec![Effect::Save]));
        let effects = session.step(Input::Said(&started("n-1")), at(1)).unwrap();
        assert_eq!(effects, [Effect::Save], "the agent's id is kept before anything else happens");
        assert_eq!(session.step(Input::Said(&started("n-1")), at(1)).unwrap(), [], "once is enough");
        let (turn, usage) = end(&mut session, &outcome(Ok(()), Some(0.10)));
        assert_eq!((turn.number, turn.words.response.as_str()), (1, "two"));
        assert_eq!(usage.amounts.cost_micro_usd, Some(100_000));
        assert_eq!((session.state, session.prompt_count), (State::Idle, 1));

        begin(&mut session, 2).unwrap();
        assert_eq!(session.run.as_ref().unwrap().resumes, Some(id("n-1")));
        let (turn, usage) = end(&mut session, &outcome(Ok(()), Some(0.25)));
        assert_eq!((turn.number, usage.amounts.cost_micro_usd), (2, Some(150_000)));
        assert_eq!(session.totals.known_cost_micro_usd(), Some(250_000));
        assert_eq!(session.correlation_ids, [Uuid::from_u128(1), Uuid::from_u128(2)]);
    }

    #[test]
    fn another_conversation_than_the_one_asked_for_is_stopped_and_leaves_no_trace() {
        let mut session = session();
        session.native_id = Some(id("n-1"));
        begin(&mut session, 1).unwrap();
        let before = session.clone();
        let effects = session.step(Input::Said(&started("n-2")), at(1)).unwrap();
        assert!(matches!(&effects[..], [Effect::Stop(failure)] if failure.class == Class::SessionMismatch));
        assert_eq!(session, before);
        let mismatch = Outcome {
            native_id: Some(id("n-2")),
            ..outcome(Err(Failure::new(Class::SessionMismatch, "no")), Some(9.0))
        };
        end(&mut session, &mismatch);
        assert_eq!((session.native_id, session.baseline), (Some(id("n-1")), Amounts::default()));
        assert_eq!(session.state, State::Failed);
    }

    #[test]
    fn how_a_turn_ended_says_whether_the_next_one_may_begin() {
        for (class, state, goes_on) in [
            (Class::Cancelled, State::Interrupted, true),
            (Class::Timeout, State::Interrupted, true),
            (Class::RateLimited, State::Failed, true),
            (Class::SessionNotFound, State::Failed, true),
            (Class::ContextOverflow, State::Ended, false),
        ] {
            let mut session = session();
            session.native_id = Some(id("n-1"));
            begin(&mut session, 1).unwrap();
            end(&mut session, &outcome(Err(Failure::new(class, "no")), None));
            assert_eq!(session.state, state, "{class}");
            assert_eq!(begin(&mut session, 2).is_ok(), goes_on, "{class}");
        }
    }

    #[test]
    fn files_that_tools_write_are_remembered_once_latest_last() {
        let mut session = session();
        begin(&mut session, 1).unwrap();
        for (name, input) in [
            ("Write", json!({"file_path": "a"})),
            ("edit", json!({"changes": [{"path": "b"}, {"path": "c"}]})),
            ("Read", json!({"file_path": "d"})),
            ("Edit", json!({"file_path": "a"})),
        ] {
            let output = Output::ToolInvoked { id: "t".to_owned(), name: name.to_owned(), input };
            assert_eq!(session.step(Input::Said(&output), at(1)).unwrap(), []);
        }
        assert_eq!(session.words.files, ["b", "c", "a"]);
    }

    #[test]
    fn an_orphan_is_interrupted_and_a_lost_conversation_can_be_begun_anew() {
        let mut session = session();
        assert!(session.step(Input::Orphaned, at(1)).is_err(), "nobody worked on it");
        begin(&mut session, 1).unwrap();
        session.step(Input::Said(&started("n-1")), at(1)).unwrap();
        assert!(session.step(Input::Forget, at(1)).is_err(), "not while it runs");
        session.step(Input::Orphaned, at(1)).unwrap();
        assert_eq!((session.state, session.native_id.clone()), (State::Interrupted, Some(id("n-1"))));
        session.step(Input::Forget, at(1)).unwrap();
        begin(&mut session, 2).unwrap();
        session.step(Input::Said(&started("n-2")), at(1)).unwrap();
        assert_eq!(session.native_id, Some(id("n-2")));
    }

    #[derive(Debug, Clone)]
    enum Happening {
        Begin,
        Started(u8),
        Ended(Option<usize>, Option<u16>),
        Orphaned,
        Forget,
    }

    fn happening() -> impl Strategy<Value = Happening> {
        prop_oneof![
            4 => Just(Happening::Begin),
            2 => (0_u8..3).prop_map(Happening::Started),
            4 => (prop::option::of(0..Class::ALL.len()), any::<Option<u16>>())
                .prop_map(|(class, cost)| Happening::Ended(class, cost)),
            1 => Just(Happening::Orphaned),
            1 => Just(Happening::Forget),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_the_promises_hold(
            happenings in prop::collection::vec((happening(), -5_i64..50), 0..60)
        ) {
            let mut session = session();
            let (mut begun, mut costs, mut turns) = (0, 0, 0);
            for (happening, second) in happenings {
                let before = session.clone();
                let now = at(second);
                let result = match &happening {
                    Happening::Begin => begin(&mut session, begun.into()),
                    Happening::Started(native) => session.step(Input::Said(&started(&format!("n-{native}"))), now),
                    Happening::Ended(class, cost) => {
                        let verdict = class.map_or(Ok(()), |at| Err(Failure::new(Class::ALL[at], "no")));
                        let outcome = outcome(verdict, cost.map(f64::from));
                        session.step(Input::Ended { outcome: &outcome, prompt: "count" }, now)
                    }
                    Happening::Orphaned => session.step(Input::Orphaned, now),
                    Happening::Forget => session.step(Input::Forget, now),
                };
                match result {
                    Err(_) => prop_assert_eq!(&session, &before, "a refusal changes nothing"),
                    Ok(effects) => {
                        begun += u32::from(matches!(happening, Happening::Begin));
                        for effect in effects {
                            if let Effect::Record(record) = effect {
                                costs += record.1.amounts.cost_micro_usd.unwrap_or(0);
                                turns += 1;
                            }
                        }
                        let forgot = matches!(happening, Happening::Forget);
                        if before.native_id.is_some() && !forgot {
                            prop_assert_eq!(&session.native_id, &before.native_id, "an id that is known stays");
                        }
                    }
                }
                prop_assert_eq!(session.state == State::Running, session.run.is_some());
                prop_assert!(session.updated_at >= before.updated_at);
                prop_assert_eq!(session.prompt_count, u64::from(begun));
                prop_assert_eq!((session.totals.cost_micro_usd, session.totals.turns), (costs, turns));
                prop_assert!(session.correlation_ids.len() <= MAX_CORRELATIONS);
            }
        }
    }
}
