//! One turn of a session, from the lease to the record.

use jiff::{Zoned, tz::TimeZone};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{
    super::{
        Class, Failure, Mark, Message, NativeId, Outcome, Output, Provider, Role, Surroundings, Turn, Usage,
        budgets::{Budgets, Spent, Today, day_of},
        errand::{self, Customs, Errand},
        prices::Cost,
        session::{Amounts, Answered, Begin, CostSource, Input, Session, Source, TurnRecord, WORKTREE},
        store::{Change, StoreError, Stored, Version},
    },
    Done, Orchestrator, Order, OrderError, Recorder, WhenLost,
    identity::kill_leftovers,
    leases::Leases,
    saving::{Desk, Ending},
};
use crate::config::Usd;

/// Turns of which an agent that remembers nothing is told again; it takes what fits into its context, from the end.
const HISTORY_TURNS: u64 = 500;

/// What a turn is worked on with.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The agent.
    pub provider: &'a dyn Provider,
    /// Hooks, worktrees and prices.
    pub customs: &'a Customs,
    /// Where the prompt came from.
    pub source: Source,
    /// What its process, or its request, is made with.
    pub surroundings: Surroundings<'a>,
    /// Who stores the end.
    pub recorder: &'a dyn Recorder,
}

impl Orchestrator {
    /// Works on an order until its end is stored. What the agent says is given to `say` as it comes.
    ///
    /// Cancelling `stop` stops the agent politely; the turn is then stored as cancelled.
    ///
    /// # Errors
    /// [`OrderError`]. What an agent fails at is no error but an outcome.
    ///
    /// # Cancel safety
    /// Dropping the future kills the agent. Its turn stays open in the store until somebody takes the session up again.
    pub async fn work(
        &self,
        scene: Scene<'_>,
        order: &Order,
        stop: &CancellationToken,
        mut say: impl FnMut(Output) + Send,
    ) -> Result<Done, OrderError> {
        // Whatever is logged about it can be found by what caused it.
        let correlation_id = order.correlation_ids.first().map(tracing::field::display);
        let span = tracing::info_span!(
            "turn", provider = scene.provider.name(), session = %order.session, run = %order.run, correlation_id
        );
        let working = async {
            let stored = self.look_up(order).await?;
            let mut leases = self.take(order, scene.provider, stored.fence, stop).await?;
            let result = self.work_under(scene, order, &mut leases, (stop, &mut say)).await;
            self.give_back(&leases).await;
            result
        };
        working.instrument(span).await
    }

    async fn look_up(&self, order: &Order) -> Result<Stored, OrderError> {
        let stored = self.store.get(&order.session).await?;
        stored.ok_or_else(|| OrderError::NoSession(order.session.clone()))
    }

    async fn work_under<S: FnMut(Output) + Send>(
        &self,
        scene: Scene<'_>,
        order: &Order,
        leases: &mut Leases,
        (stop, say): (&CancellationToken, &mut S),
    ) -> Result<Done, OrderError> {
        let mut run = order.run;
        let mut may_begin_anew = order.when_lost == WhenLost::New;
        loop {
            let (desk, turn) = self.begin(scene, order, leases, run).await?;
            scene.recorder.opened(&desk.session());
            let model = turn.model.clone();
            let errand::Done { mut outcome, mut cost, workspace } =
                self.watch(scene, order, (&desk, turn, run), leases, (stop, say)).await?;
            if cost == Cost::Unknown && outcome.usage.is_cumulative && outcome.usage.cost_usd.is_none() {
                let today = self.clock.now().to_zoned(TimeZone::UTC).date();
                cost = price(&mut outcome.usage, &desk.session(), |usage, told| {
                    scene.customs.prices.cost_of_either(usage, [told, model.as_deref()], today)
                });
            }
            let Some((turn_record, mut usage)) = desk.end(&outcome, order, self) else {
                return Err(StoreError::Gone(order.session.clone()).into());
            };
            if matches!(cost, Cost::Computed(_)) && usage.cost_source == CostSource::Reported {
                usage.cost_source = CostSource::Computed;
            }
            let is_lost = matches!(&outcome.verdict, Err(failure) if failure.class == Class::SessionNotFound);
            let ending =
                Ending { turn: &turn_record, usage: &usage, outcome: &outcome, recorder: scene.recorder };
            if !(is_lost && may_begin_anew) || desk.is_cancelled() {
                let stored = match self.finish(&desk, leases, &ending).await {
                    Err(error @ (StoreError::Fenced { .. } | StoreError::Gone(_))) => {
                        return Err(OrderError::Lost(error));
                    }
                    stored => stored,
                };
                return Ok(Done { session: desk.session(), outcome, workspace, stored });
            }
            // The recorder hears of the end only once.
            let ending = Ending { recorder: &super::Plain, ..ending };
            self.finish(&desk, leases, &ending).await?;
            self.forget(order, leases).await?;
            may_begin_anew = false;
            run = Uuid::now_v7();
            let message = format!(
                "{} has lost the conversation of this session; it begins a new one",
                scene.provider.name()
            );
            say(Output::Warning { message });
        }
    }

    /// Opens the turn in the store. A turn that somebody left open is closed first, and what is left of it killed.
    async fn begin(
        &self,
        Scene { provider, customs, .. }: Scene<'_>,
        order: &Order,
        leases: &Leases,
        run: Uuid,
    ) -> Result<(Desk, Turn), OrderError> {
        loop {
            let Stored { mut session, version, .. } = self.look_up(order).await?;
            let same = |answered: &&Answered| Some(&answered.key) == order.key.as_ref();
            if let Some(answered) = session.answered.iter().find(same) {
                return Err(OrderError::Answered(answered.turn));
            }
            let most = self.budget(customs, &session).await?;
            if let Some(open) = session.run.clone() {
                let groups = kill_leftovers(&open).await;
                tracing::warn!(session = %session.id, run = %open.id, groups, "closed a turn that was left open");
                session.step(Input::Orphaned, self.clock.now())?;
            }
            let history = self.history(provider, &session).await?;
            let thread = session.thread(provider.abilities(), Uuid::now_v7());
            let begin = Begin {
                run,
                prompt: &order.turn.prompt,
                thread: &thread,
                correlation_ids: &order.correlation_ids,
                attempt: order.attempt,
            };
            session.step(Input::Begin(begin), self.clock.now())?;
            match self.change(&session, version, leases).await {
                Ok(version) => {
                    let budget_usd = order.turn.budget_usd.into_iter().chain(most).min_by(f64::total_cmp);
                    let turn = Turn { thread, history, budget_usd, ..order.turn.clone() };
                    return Ok((Desk::new(session, version), turn));
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error @ StoreError::Fenced { .. }) => return Err(OrderError::Lost(error)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What was spent today, as far as a budget asks for it, and what time it is here.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn today(&self, budgets: &Budgets) -> Result<(Today, Zoned), StoreError> {
        let now = self.clock.now().to_zoned(TimeZone::system());
        let today = match budgets.have_days() {
            true => Today::of(&self.store.usage(Some(day_of(&now).0)).await?),
            false => Today::default(),
        };
        Ok((today, now))
    }

    /// What the next turn of a session may cost, if there is a limit. An error if there is nothing left.
    async fn budget(&self, customs: &Customs, session: &Session) -> Result<Option<f64>, OrderError> {
        let (budgets, provider) = (&customs.budgets, &session.provider);
        let spent = Spent::from(&session.totals);
        budgets.admit_session(provider, spent).map_err(OrderError::Budget)?;
        let (today, now) = self.today(budgets).await?;
        budgets.admit_today(provider, &today, &now).map_err(OrderError::Budget)?;
        Ok(budgets.of_turn(provider, spent, &today).map(Usd::dollars))
    }

    /// What was said before, for an agent that remembers nothing itself. Turns that failed were never answered.
    async fn history(&self, provider: &dyn Provider, session: &Session) -> Result<Vec<Message>, OrderError> {
        if !provider.abilities().needs_history {
            return Ok(Vec::new());
        }
        let from = session.prompt_count.saturating_sub(HISTORY_TURNS) + 1;
        let turns = self.store.turns(&session.id, from, usize::MAX).await?;
        let answered = turns.into_iter().filter(|turn| turn.failure_class.is_none());
        let messages = answered.flat_map(|TurnRecord { words, .. }| {
            [
                Message { role: Role::User, text: words.prompt },
                Message { role: Role::Assistant, text: words.response },
            ]
        });
        Ok(messages.collect())
    }

    async fn forget(&self, order: &Order, leases: &Leases) -> Result<(), OrderError> {
        loop {
            let Stored { mut session, version, .. } = self.look_up(order).await?;
            session.step(Input::Forget, self.clock.now())?;
            match self.change(&session, version, leases).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn change(
        &self,
        session: &Session,
        expected: Version,
        leases: &Leases,
    ) -> Result<Version, StoreError> {
        let change =
            Change { id: Uuid::now_v7(), session, expected, lease: Some(&leases.session), turn: None };
        self.store.update(&change).await
    }

    /// Runs the agent, and keeps the session ours meanwhile.
    async fn watch<S: FnMut(Output) + Send>(
        &self,
        scene: Scene<'_>,
        order: &Order,
        (desk, turn, run): (&Desk, Turn, Uuid),
        leases: &mut Leases,
        (stop, say): (&CancellationToken, &mut S),
    ) -> Result<errand::Done, OrderError> {
        let halt = stop.child_token();
        let (leader, news) = watch::channel(None);
        let surroundings = Surroundings { mark: Some(Mark { run, leader: &leader }), ..scene.surroundings };
        let hear = |output: Output| {
            if desk.hear(&output, self) {
                halt.cancel();
            } else {
                say(output);
            }
        };
        let errand = Errand {
            provider: scene.provider,
            customs: scene.customs,
            wishes: &order.wishes,
            has_worktree: desk.session().extra.contains_key(WORKTREE),
            session_id: order.session.as_str(),
            source: scene.source.name(),
            correlation_ids: &order.correlation_ids,
            attempt: order.attempt,
        };
        let (done, lost) = {
            // Large: all that drives an agent is in it.
            let mut running = Box::pin(errand.run(turn, surroundings, &halt, hear));
            let mut lost = None;
            let done = {
                let keeping = self.keep(desk, leases, news, &halt);
                tokio::pin!(keeping);
                loop {
                    tokio::select! {
                        done = &mut running => break done,
                        error = &mut keeping, if lost.is_none() => {
                            lost = Some(error);
                            halt.cancel();
                        }
                    }
                }
            };
            (done, lost)
        };
        match (lost, desk.objection()) {
            (Some(error), _) => Err(OrderError::Lost(error)),
            (None, Some(failure)) => Ok(errand::Done { outcome: refused(done.outcome, failure), ..done }),
            (None, None) if desk.is_cancelled() => Ok(told_who_stopped_it(done)),
            (None, None) => Ok(done),
        }
    }
}

/// What a turn in the middle of a conversation cost, whose agent tells sums of all of it: its share of the tokens, at our
/// prices. The sum of the costs is then as if the agent had told it.
fn price(usage: &mut Usage, session: &Session, prices: impl Fn(&Usage, Option<&str>) -> Cost) -> Cost {
    let share = Amounts::of(usage).since(session.baseline);
    let of_turn = Usage {
        input_tokens: share.input_tokens,
        cached_tokens: share.cached_tokens,
        output_tokens: share.output_tokens,
        cost_usd: None,
        is_cumulative: false,
    };
    let cost = prices(&of_turn, session.model.as_deref());
    if let Some(amount) = cost.amount() {
        let before = Usd::from_micro(session.baseline.cost_micro_usd.unwrap_or(0));
        usage.cost_usd = Some((before + amount).dollars());
    }
    cost
}

/// A turn that a person has cancelled from elsewhere says so.
fn told_who_stopped_it(mut done: errand::Done) -> errand::Done {
    if let Err(failure) = &mut done.outcome.verdict
        && failure.class == Class::Cancelled
    {
        failure.message = "the turn was cancelled with `godctl agent cancel`".to_owned();
    }
    done
}

/// What becomes of an outcome that we stopped.
fn refused(outcome: Outcome, failure: Failure) -> Outcome {
    let native_id: Option<NativeId> = None;
    Outcome {
        native_id,
        usage: Usage { is_cumulative: false, ..outcome.usage },
        verdict: Err(failure),
        ..outcome
    }
}
