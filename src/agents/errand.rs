//! An errand: a turn with what surrounds it. Hooks before it, which may stop it or change its prompt; a worktree of its own,
//! if it is to have one; the turn; and hooks after it. Whoever starts turns, from the terminal or from the bus, does it
//! through here.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use jiff::{Timestamp, tz::TimeZone};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Class, Failure, Outcome, Output, Provider, Surroundings, Thread, Turn, Usage,
    budgets::Budgets,
    driver,
    hooks::{Around, Hooks, Occasion, Report, Wish},
    prices::{Cost, Prices},
    worktree::{Work, Worktree, WorktreeError},
};
use crate::config::{Agents, Usd};

/// What surrounds turns, whoever works on them.
#[derive(Debug, Default)]
pub struct Customs {
    /// What happens before and after them.
    pub hooks: Hooks,
    /// What they cost, where the agent does not say.
    pub prices: Prices,
    /// What they may cost.
    pub budgets: Budgets,
    /// The directory below which worktrees are made.
    pub worktrees: PathBuf,
}

impl Customs {
    /// Those of a configuration.
    #[must_use]
    pub fn new(config: &Agents, data_dir: &Path) -> Self {
        let worktrees = data_dir.join("worktrees");
        Self {
            hooks: Hooks::new(&config.hooks),
            prices: Prices::new(&config.prices),
            budgets: Budgets::new(config),
            worktrees,
        }
    }
}

/// A turn with what surrounds it.
#[derive(Debug)]
pub struct Errand<'a> {
    /// Who works on it.
    pub provider: &'a dyn Provider,
    /// What surrounds it.
    pub customs: &'a Customs,
    /// Which hooks are switched on and off for it.
    pub wishes: &'a [Wish],
    /// It has a worktree of its own; without one it works where it is told to.
    pub has_worktree: bool,
    /// The conversation, as godctl knows it. It names the worktree.
    pub session_id: &'a str,
    /// Where the prompt came from: `cli` or `bus`.
    pub source: &'static str,
    /// Ties it to what caused it: the root first.
    pub correlation_ids: &'a [Uuid],
    /// How often the turn was tried, this time included.
    pub attempt: u32,
}

/// What became of an errand.
#[derive(Debug)]
pub struct Done {
    /// What became of the turn. Where the agent does not say what it cost, that is reckoned by our prices.
    pub outcome: Outcome,
    /// What the turn cost, and who says so.
    pub cost: Cost,
    /// What was done in its worktree, if it had one.
    pub workspace: Option<Workspace>,
}

/// What was done in a worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// Its branch.
    pub branch: String,
    /// Where it is, if it was kept: that is if something was done in it.
    pub path: Option<PathBuf>,
    /// What.
    pub work: Work,
}

impl Done {
    fn refused(failure: Failure) -> Self {
        Self { outcome: Outcome::refused(failure), cost: Cost::Unknown, workspace: None }
    }
}

impl Errand<'_> {
    /// Does it. What the agent says is given to `say` as it comes, and so is what hooks and git have to warn of.
    ///
    /// # Cancel safety
    /// As for [`driver::run`]; a worktree is then left as it is.
    pub async fn run(
        &self,
        mut turn: Turn,
        surroundings: Surroundings<'_>,
        stop: &CancellationToken,
        mut say: impl FnMut(Output),
    ) -> Done {
        let around = Around {
            variables: surroundings.variables,
            groups: surroundings.groups,
            has_credentials: self
                .provider
                .credentials()
                .is_none_or(|credentials| credentials.are_there(surroundings.variables)),
            stop,
            now: Timestamp::now,
        };
        let mut occasion = self.occasion(&turn);
        if let Err(failure) = self.customs.hooks.before(&mut occasion, self.wishes, around).await {
            return Done::refused(failure);
        }
        turn.prompt.clone_from(&occasion.prompt);
        let tree = match self.open(&turn.directory).await {
            Ok(tree) => tree,
            Err(failure) => return Done::refused(failure),
        };
        if let Some(tree) = &tree {
            tree.directory().clone_into(&mut turn.directory);
        }

        let started = Instant::now();
        let mut model = None;
        let tell = |output: Output| {
            if let Output::Started { model: Some(told), .. } = &output {
                model = Some(told.clone());
            }
            say(output);
        };
        let mut outcome = driver::run(self.provider, &turn, surroundings, stop, tell).await;
        let cost = self.cost(&mut outcome.usage, &turn, model.as_deref());
        let report = report(&outcome, started);
        for message in self.customs.hooks.after(&occasion, &report, self.wishes, around).await {
            say(Output::Warning { message });
        }
        let workspace = match tree {
            None => None,
            Some(tree) => match tree.close().await {
                Ok(work) => Some(Workspace {
                    branch: tree.branch().to_owned(),
                    path: (!work.is_none()).then(|| tree.directory().to_owned()),
                    work,
                }),
                Err(error) => {
                    let place = tree.directory().display();
                    say(Output::Warning {
                        message: format!("the worktree at {place} is left as it is: {error}"),
                    });
                    None
                }
            },
        };
        Done { outcome, cost, workspace }
    }

    /// What the turn cost. Sums of a conversation say nothing of a turn in the middle of it.
    fn cost(&self, usage: &mut Usage, turn: &Turn, model: Option<&str>) -> Cost {
        if usage.is_cumulative && matches!(turn.thread, Thread::Resume(_)) {
            return Cost::Unknown;
        }
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
        let cost = self.customs.prices.cost_of_either(usage, [model, turn.model.as_deref()], today);
        usage.cost_usd = usage.cost_usd.or_else(|| cost.amount().map(Usd::dollars));
        cost
    }

    fn occasion(&self, turn: &Turn) -> Occasion {
        Occasion {
            session_id: self.session_id.to_owned(),
            provider: self.provider.name().to_owned(),
            prompt: turn.prompt.clone(),
            directory: turn.directory.display().to_string(),
            model: turn.model.clone(),
            access: turn.access,
            source: self.source,
            correlation_ids: self.correlation_ids.to_vec(),
            attempt: self.attempt,
        }
    }

    async fn open(&self, directory: &Path) -> Result<Option<Worktree>, Failure> {
        if !self.has_worktree {
            return Ok(None);
        }
        Worktree::open(directory, &self.customs.worktrees, self.session_id).await.map(Some).map_err(|error| {
            let class = match error {
                WorktreeError::NoRepository(_) | WorktreeError::NoCommit(_) => Class::BadRequest,
                WorktreeError::NoGit(_) => Class::MissingExecutable,
                WorktreeError::Git { .. } | WorktreeError::Slow { .. } | WorktreeError::Disk { .. } => {
                    Class::Unknown
                }
            };
            Failure::new(class, error.to_string())
        })
    }
}

fn report(outcome: &Outcome, started: Instant) -> Report {
    let failure = outcome.verdict.as_ref().err();
    Report {
        success: failure.is_none(),
        output: outcome.text.clone(),
        error: failure.map(|failure| failure.message.clone()),
        class: failure.map(|failure| failure.class.name()),
        execution_time_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        input_tokens: outcome.usage.input_tokens,
        output_tokens: outcome.usage.output_tokens,
        cost_usd: outcome.usage.cost_usd,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::agents::{
        Groups, Limits,
        providers::{echo::Echo, template::Template},
    };

    async fn run(hooks: &str, directory: &Path, worktrees: Option<&Path>) -> (Done, Vec<Output>) {
        work(&Echo, hooks, Turn::new("one", directory), worktrees).await
    }

    async fn work(
        provider: &dyn Provider,
        hooks: &str,
        turn: Turn,
        worktrees: Option<&Path>,
    ) -> (Done, Vec<Output>) {
        let customs = Customs {
            hooks: Hooks::new(&toml::from_str(hooks).unwrap()),
            worktrees: worktrees.map(Path::to_owned).unwrap_or_default(),
            ..Customs::default()
        };
        let errand = Errand {
            provider,
            customs: &customs,
            wishes: &[],
            has_worktree: worktrees.is_some(),
            session_id: "s-1",
            source: "cli",
            correlation_ids: &[],
            attempt: 1,
        };
        let variables = BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
        let groups = Groups::default();
        let surroundings =
            Surroundings { groups: &groups, variables: &variables, limits: Limits::default(), mark: None };
        let mut outputs = Vec::new();
        let stop = CancellationToken::new();
        let done = errand.run(turn, surroundings, &stop, |output| outputs.push(output)).await;
        (done, outputs)
    }

    #[tokio::test]
    async fn hooks_stand_around_the_turn() {
        let hooks = "[more]\nkind = 'command'\ncommand = ['echo', '{\"prompt\":\"two\"}']\n\
                     [broken]\nkind = 'command'\nwhen = 'after'\ncommand = ['false']";
        let (done, outputs) = run(hooks, &std::env::temp_dir(), None).await;
        assert_eq!((done.outcome.text.as_str(), &done.outcome.verdict), ("two", &Ok(())));
        let warned =
            |output: &Output| matches!(output, Output::Warning { message } if message.contains("'broken'"));
        assert!(outputs.iter().any(warned), "{outputs:?}");
        let veto = "[guard]\nkind = 'command'\ncommand = ['sh', '-c', 'echo no >&2; exit 2']";
        let (done, outputs) = run(veto, &std::env::temp_dir(), None).await;
        assert_eq!(done.outcome.verdict.unwrap_err().class, Class::Denied);
        assert_eq!(outputs, [], "the agent was never started");
    }

    #[tokio::test]
    async fn what_a_turn_cost_is_reckoned_where_nobody_says_it() {
        let dir = tempfile::tempdir().unwrap();
        let settings = "program = 'sh'\nparser = 'json-lines'\narguments = ['script']\n\
                        resume_arguments = ['script', '{session}']";
        let mine = Template::new("mine", &toml::from_str(settings).unwrap());
        let done = async |usage: &str, turn: Turn| {
            let script = format!(
                "cat <<'END'\n{{\"kind\":\"started\",\"session_id\":\"s\",\"model\":\"ours\"}}\n{usage}\n\
                 {{\"kind\":\"completed\",\"text\":\"two\"}}\nEND\n"
            );
            std::fs::write(dir.path().join("script"), script).unwrap();
            work(&mine, "", turn, None).await.0
        };
        let turn = Turn { model: Some("gpt-5".to_owned()), ..Turn::new("one", dir.path()) };
        let tokens = r#"{"kind":"usage","input_tokens":1000,"output_tokens":100}"#;
        let computed = done(tokens, turn.clone()).await;
        assert_eq!(computed.cost, Cost::Computed(Usd::from_micro(2_250)));
        assert_eq!(computed.outcome.usage.cost_usd, Some(0.002_25));
        let told = r#"{"kind":"usage","input_tokens":1000,"output_tokens":100,"cost_usd":0.5}"#;
        assert_eq!(done(told, turn.clone()).await.cost, Cost::Reported(Usd::from_micro(500_000)));
        let other = Turn { model: Some("nobody-knows".to_owned()), ..turn };
        let unknown = done(tokens, other).await;
        assert_eq!((unknown.cost, unknown.outcome.usage.cost_usd), (Cost::Unknown, None));
    }

    #[tokio::test]
    async fn a_worktree_needs_a_repository() {
        let dir = tempfile::tempdir().unwrap();
        let (done, _) = run("", dir.path(), Some(&dir.path().join("trees"))).await;
        assert_eq!(done.outcome.verdict.unwrap_err().class, Class::BadRequest);
    }
}
