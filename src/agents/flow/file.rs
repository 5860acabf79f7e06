//! Reads a flow from TOML. Pure but for the files of prompts, which are read by whoever asks.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use super::{
    super::Access,
    AGGREGATE,
    plan::{Draft, Ending, Format, Input, Plan, PlanError, Step, WhenFailed},
    template::Template,
};

/// Longest file of a flow, and of a prompt, in bytes.
pub const MAX_FILE: usize = 1 << 20;
/// Longest file of a prompt.
const MAX_PROMPT: usize = 4 << 20;
/// A step is tried again at most so often.
const MAX_RETRIES: u32 = 20;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Flow {
    name: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    inputs: BTreeMap<String, Asked>,
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    step: Vec<Work>,
    aggregate: Option<Aggregate>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    description: String,
    default: Option<String>,
}

/// What holds for steps that do not say it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Defaults {
    provider: Option<String>,
    model: Option<String>,
    access: Option<Access>,
    cwd: Option<PathBuf>,
    worktree: Option<bool>,
    shared_dir: Option<bool>,
    timeout_s: Option<u64>,
    retries: Option<u32>,
    when_failed: Option<WhenFailed>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Work {
    name: String,
    provider: Option<String>,
    prompt: Option<String>,
    prompt_file: Option<PathBuf>,
    #[serde(default)]
    needs: Vec<String>,
    model: Option<String>,
    access: Option<Access>,
    cwd: Option<PathBuf>,
    worktree: Option<bool>,
    shared_dir: Option<bool>,
    timeout_s: Option<u64>,
    retries: Option<u32>,
    when_failed: Option<WhenFailed>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Aggregate {
    needs: Option<Vec<String>>,
    format: Option<Format>,
    provider: Option<String>,
    prompt: Option<String>,
    prompt_file: Option<PathBuf>,
    model: Option<String>,
    access: Option<Access>,
    cwd: Option<PathBuf>,
    worktree: Option<bool>,
    shared_dir: Option<bool>,
    timeout_s: Option<u64>,
    retries: Option<u32>,
}

impl Plan {
    /// Reads a flow. `name` is what it is called if it does not say, `providers` are those that there are, and `read`
    /// reads the file of a prompt, whose path is as the flow has it.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn read(
        text: &str,
        name: &str,
        providers: &[String],
        read: impl Fn(&Path) -> io::Result<String>,
    ) -> Result<Self, PlanError> {
        let one = |message: String| PlanError(vec![message]);
        if text.len() > MAX_FILE {
            return Err(one(format!(
                "it is longer than {MAX_FILE} bytes; move prompts to files of their own"
            )));
        }
        let flow: Flow =
            toml::from_str(text).map_err(|error| one(error.to_string().trim_end().replace('\n', "\n  ")))?;
        let draft = flow.draft(name, &read)?;
        Self::new(draft, providers)
    }
}

impl Flow {
    fn draft(self, name: &str, read: &impl Fn(&Path) -> io::Result<String>) -> Result<Draft, PlanError> {
        let Self { name: said, description, inputs, defaults, step: works, aggregate } = self;
        let mut wrong = Vec::new();
        let names: Vec<String> = works.iter().map(|work| work.name.clone()).collect();
        let find = |needs: &[String], who: &str, wrong: &mut Vec<String>| -> Vec<usize> {
            let mut found = Vec::new();
            for need in needs {
                match names.iter().position(|name| name == need) {
                    Some(at) if found.contains(&at) => {}
                    Some(at) => found.push(at),
                    None => wrong.push(format!(
                        "{who} needs '{}', which there is not; there is {}",
                        need.escape_debug(),
                        names.join(", ")
                    )),
                }
            }
            found
        };
        let mut steps = Vec::with_capacity(works.len() + 1);
        for work in works {
            if work.name == AGGREGATE {
                wrong.push(format!(
                    "step {AGGREGATE}: the name is taken; write [{AGGREGATE}], or another name"
                ));
            }
            let needs = find(&work.needs, &format!("step {}", work.name.escape_debug()), &mut wrong);
            steps.push(work.step(needs, &defaults, read, &mut wrong));
        }
        let leaves: Vec<usize> =
            (0..steps.len()).filter(|at| !steps.iter().any(|step| step.needs.contains(at))).collect();
        let (parts, ending) = match aggregate {
            None => (leaves, Ending::Format(Format::default())),
            Some(mut aggregate) => {
                let parts = match aggregate.needs.take() {
                    Some(needs) => find(&needs, AGGREGATE, &mut wrong),
                    None => leaves,
                };
                let asks = aggregate.prompt.is_some() || aggregate.prompt_file.is_some();
                let ending = match (aggregate.format, asks) {
                    (Some(_), true) => {
                        wrong.push(format!(
                            "{AGGREGATE} has a format and a prompt; with a format no agent is asked, so leave one out"
                        ));
                        Ending::Format(Format::default())
                    }
                    (format, false) => {
                        if aggregate.names_an_agent() {
                            wrong.push(format!(
                                "{AGGREGATE} has no prompt, so no agent is asked; add one, or leave out what is for the agent"
                            ));
                        }
                        Ending::Format(format.unwrap_or_default())
                    }
                    (None, true) => {
                        let ending = Ending::Step(steps.len());
                        steps.push(aggregate.work().step(parts.clone(), &defaults, read, &mut wrong));
                        ending
                    }
                };
                (parts, ending)
            }
        };
        if !wrong.is_empty() {
            return Err(PlanError(wrong));
        }
        let inputs = inputs
            .into_iter()
            .map(|(name, Asked { description, default })| Input { name, description, default })
            .collect();
        Ok(Draft { name: said.unwrap_or_else(|| name.to_owned()), description, inputs, steps, parts, ending })
    }
}

impl Aggregate {
    const fn names_an_agent(&self) -> bool {
        self.provider.is_some()
            || self.model.is_some()
            || self.access.is_some()
            || self.cwd.is_some()
            || self.worktree.is_some()
            || self.shared_dir.is_some()
            || self.timeout_s.is_some()
            || self.retries.is_some()
    }

    fn work(self) -> Work {
        Work {
            name: AGGREGATE.to_owned(),
            provider: self.provider,
            prompt: self.prompt,
            prompt_file: self.prompt_file,
            needs: Vec::new(),
            model: self.model,
            access: self.access,
            cwd: self.cwd,
            worktree: self.worktree,
            shared_dir: self.shared_dir,
            timeout_s: self.timeout_s,
            retries: self.retries,
            // Nothing comes after it.
            when_failed: Some(WhenFailed::Stop),
        }
    }
}

impl Work {
    fn step(
        self,
        needs: Vec<usize>,
        defaults: &Defaults,
        read: &impl Fn(&Path) -> io::Result<String>,
        wrong: &mut Vec<String>,
    ) -> Step {
        let who = format!("step {}", self.name.escape_debug());
        let provider = self.provider.or_else(|| defaults.provider.clone()).unwrap_or_else(|| {
            wrong.push(format!("{who} has no provider; add one, or one to [defaults]"));
            String::new()
        });
        let prompt = match (self.prompt, self.prompt_file) {
            (Some(prompt), None) => prompt,
            (None, Some(path)) => match read(&path) {
                Ok(text) if text.len() <= MAX_PROMPT => text,
                Ok(_) => {
                    wrong.push(format!("{who}: {} is longer than {MAX_PROMPT} bytes", path.display()));
                    String::new()
                }
                Err(error) => {
                    wrong.push(format!("{who}: cannot read prompt_file {}: {error}", path.display()));
                    String::new()
                }
            },
            (Some(_), Some(_)) => {
                wrong.push(format!("{who} has a prompt and a prompt_file; leave one out"));
                String::new()
            }
            (None, None) => {
                wrong.push(format!("{who} has no prompt; add prompt = \"…\" or prompt_file"));
                String::new()
            }
        };
        let prompt = Template::parse(&prompt).or_else(|error| {
            wrong.push(format!("{who}: prompt, {error}"));
            Template::parse("")
        });
        let retries = self.retries.or(defaults.retries).unwrap_or(0);
        if retries > MAX_RETRIES {
            wrong.push(format!("{who}: {retries} retries are too many; {MAX_RETRIES} is the most"));
        }
        Step {
            name: self.name,
            provider,
            prompt: prompt.unwrap_or_else(|error| unreachable!("nothing is wrong with no text: {error}")),
            needs,
            model: self.model.or_else(|| defaults.model.clone()),
            access: self.access.or(defaults.access).unwrap_or_default(),
            directory: self.cwd.or_else(|| defaults.cwd.clone()),
            has_worktree: self.worktree.or(defaults.worktree).unwrap_or(false),
            shares_directory: self.shared_dir.or(defaults.shared_dir).unwrap_or(false),
            timeout: self.timeout_s.or(defaults.timeout_s).map(Duration::from_secs),
            retries,
            when_failed: self.when_failed.or(defaults.when_failed).unwrap_or_default(),
        }
    }
}
