//! What a flow is, and what must be true of it: names, needs without circles, templates that name only what is there
//! by then. Pure.

use std::{collections::BTreeSet, fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    super::Access,
    template::{Hole, Template, is_name},
};

/// Steps of a flow, the one that puts the results together included.
pub(super) const MAX_STEPS: usize = 256;
/// Inputs of a flow.
pub(super) const MAX_INPUTS: usize = 64;

/// A flow that makes sense.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// What it is called; fit for a tag.
    pub name: String,
    /// What it is for, in words.
    #[serde(skip)]
    pub description: String,
    /// What it asks its user for.
    pub inputs: Vec<Input>,
    /// Its steps, as the file has them; the one that puts the results together last.
    pub steps: Vec<Step>,
    /// Whose results are put together, as the file has them.
    pub parts: Vec<usize>,
    /// How.
    pub ending: Ending,
    /// All steps, each after those that it needs.
    #[serde(skip)]
    pub(super) order: Vec<usize>,
}

/// Something that a flow asks its user for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// What it is, in words.
    #[serde(skip)]
    pub description: String,
    /// What it is if nobody says; without it somebody has to.
    pub default: Option<String>,
}

/// One prompt for one agent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// Who works on it.
    pub provider: String,
    /// What is to be done.
    pub prompt: Template,
    /// Steps that must be over before.
    pub needs: Vec<usize>,
    /// Which model; `None` is the agent's own choice.
    pub model: Option<String>,
    /// What it may do without being asked.
    pub access: Access,
    /// Where it works; `None` is where the flow does.
    pub directory: Option<PathBuf>,
    /// It has a git worktree of its own.
    pub has_worktree: bool,
    /// Others may write in its directory at the same time.
    pub shares_directory: bool,
    /// How long it may take; `None` is what the configuration says.
    pub timeout: Option<Duration>,
    /// How often it is tried again after failures that time may mend.
    pub retries: u32,
    /// What its failure means for the steps that need it.
    pub when_failed: WhenFailed,
}

/// What the failure of a step means for those that need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenFailed {
    /// They are skipped, and the flow has failed.
    #[default]
    Stop,
    /// They go on without it.
    Continue,
}

/// How results are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// One under the other.
    Format(Format),
    /// By the last step.
    Step(usize),
}

/// How results are put together where no agent does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A heading for each; of one alone nothing but its text.
    #[default]
    Markdown,
    /// One object.
    Json,
}

/// Everything that is wrong with a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanError(pub Vec<String>);

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n  "))
    }
}

impl std::error::Error for PlanError {}

impl Plan {
    /// Checks a flow. `providers` are those that there are.
    ///
    /// # Errors
    /// [`PlanError`] with all that is wrong, not only the first.
    pub fn new(parts: Draft, providers: &[String]) -> Result<Self, PlanError> {
        let Draft { name, description, inputs, steps, parts, ending } = parts;
        let mut wrong = Vec::new();
        if !is_tag(&name) {
            wrong.push(format!(
                "name: '{}' is no name of a flow; write letters, digits, '.', '_' and '-', at most 40",
                name.escape_debug()
            ));
        }
        if steps.is_empty() {
            wrong.push("there is no step; write a [[step]] with name, provider and prompt".to_owned());
        }
        if steps.len() > MAX_STEPS {
            wrong.push(format!("{} steps are too many; {MAX_STEPS} is the most", steps.len()));
            return Err(PlanError(wrong));
        }
        if inputs.len() > MAX_INPUTS {
            wrong.push(format!("{} inputs are too many; {MAX_INPUTS} is the most", inputs.len()));
        }
        for input in inputs.iter().filter(|input| !is_name(&input.name)) {
            wrong.push(format!("inputs: {}", no_name(&input.name)));
        }
        let mut names = BTreeSet::new();
        for step in &steps {
            let who = step.name.escape_debug();
            if !is_name(&step.name) {
                wrong.push(format!("step: {}", no_name(&step.name)));
            } else if !names.insert(step.name.as_str()) {
                wrong.push(format!("step {who}: there are two of this name; name one of them anew"));
            }
            if !providers.contains(&step.provider) {
                wrong.push(format!(
                    "step {who}: there is no provider '{}'; choose one of {}",
                    step.provider.escape_debug(),
                    providers.join(", ")
                ));
            }
            if step.prompt.is_empty() {
                wrong.push(format!("step {who}: the prompt is empty; write what is to be done"));
            }
            if step.timeout.is_some_and(|timeout| timeout.is_zero()) {
                wrong.push(format!("step {who}: timeout_s is 0; write how many seconds it may take"));
            }
        }
        let order = match order(&steps) {
            Ok(order) => order,
            Err(circle) => {
                let names: Vec<&str> =
                    circle.iter().filter_map(|at| steps.get(*at)).map(|step| step.name.as_str()).collect();
                wrong.push(format!(
                    "steps need each other in a circle: {}; take one of these needs out",
                    names.join(" -> ")
                ));
                return Err(PlanError(wrong));
            }
        };
        let before = ancestors(&steps, &order);
        for (at, step) in steps.iter().enumerate() {
            for hole in step.prompt.holes() {
                wrong.extend(
                    misnamed(hole, (&inputs, &steps), before.get(at))
                        .map(|what| format!("step {}: {what}", step.name)),
                );
            }
        }
        if wrong.is_empty() {
            Ok(Self { name, description, inputs, steps, parts, ending, order })
        } else {
            Err(PlanError(wrong))
        }
    }

    /// All steps, each after those that it needs; otherwise as the file has them.
    #[must_use]
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// The step of this number.
    #[must_use]
    pub fn step(&self, at: usize) -> Option<&Step> {
        self.steps.get(at)
    }

    /// Its name; empty for a number that no step has.
    #[must_use]
    pub fn name_of(&self, at: usize) -> &str {
        self.steps.get(at).map_or("", |step| step.name.as_str())
    }

    /// Steps in waves: what is in one needs something in the one before.
    #[must_use]
    pub fn waves(&self) -> Vec<Vec<usize>> {
        let mut depth = vec![0_usize; self.steps.len()];
        for &at in &self.order {
            let needs = self.steps.get(at).map(|step| step.needs.as_slice()).unwrap_or_default();
            let deepest = needs.iter().filter_map(|need| depth.get(*need)).max().map_or(0, |depth| depth + 1);
            if let Some(place) = depth.get_mut(at) {
                *place = deepest;
            }
        }
        let count = depth.iter().max().map_or(0, |depth| depth + 1);
        (0..count)
            .map(|wave| {
                depth.iter().enumerate().filter(|(_, depth)| **depth == wave).map(|(at, _)| at).collect()
            })
            .collect()
    }

    /// Tells whether two flows would do the same. Words for people do not count, nor how the file is laid out.
    #[must_use]
    pub fn hash(&self) -> String {
        let text =
            serde_json::to_vec(self).unwrap_or_else(|error| unreachable!("a plan is plain data: {error}"));
        Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A flow as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) inputs: Vec<Input>,
    pub(super) steps: Vec<Step>,
    pub(super) parts: Vec<usize>,
    pub(super) ending: Ending,
}

fn is_tag(text: &str) -> bool {
    is_name(&text.replace('.', "_"))
}

pub(super) fn no_name(text: &str) -> String {
    let text: String = text.chars().take(60).collect();
    format!("'{}' is no name; write letters, digits, '_' and '-', at most 40", text.escape_debug())
}

/// All steps, each after those that it needs; or a circle, which begins and ends with the same step.
fn order(steps: &[Step]) -> Result<Vec<usize>, Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; steps.len()];
    let mut order = Vec::with_capacity(steps.len());
    for start in 0..steps.len() {
        // Depth first, with a stack of our own: the step, and how many of its needs were looked at.
        let mut stack = vec![(start, 0)];
        while let Some((at, looked)) = stack.pop() {
            let Some(mark) = marks.get_mut(at) else { continue };
            if *mark == Mark::Done {
                continue;
            }
            *mark = Mark::Open;
            let need = steps.get(at).and_then(|step| step.needs.get(looked)).copied();
            let Some(need) = need else {
                *mark = Mark::Done;
                order.push(at);
                continue;
            };
            stack.push((at, looked + 1));
            if marks.get(need) == Some(&Mark::Open) {
                let path = stack.iter().map(|(at, _)| *at).skip_while(|at| *at != need);
                return Err(path.chain([need]).collect());
            }
            stack.push((need, 0));
        }
    }
    Ok(order)
}

/// Of each step all that it needs, over however many others.
fn ancestors(steps: &[Step], order: &[usize]) -> Vec<BTreeSet<usize>> {
    let mut all = vec![BTreeSet::new(); steps.len()];
    for &at in order {
        let needs = steps.get(at).map(|step| step.needs.as_slice()).unwrap_or_default();
        let mut before: BTreeSet<usize> = needs.iter().copied().collect();
        for need in needs {
            before.extend(all.get(*need).into_iter().flatten().copied());
        }
        if let Some(place) = all.get_mut(at) {
            *place = before;
        }
    }
    all
}

/// What is wrong with a hole, if something is.
fn misnamed(
    hole: &Hole,
    (inputs, steps): (&[Input], &[Step]),
    before: Option<&BTreeSet<usize>>,
) -> Option<String> {
    let list = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    match hole {
        Hole::Input(name) => (!inputs.iter().any(|input| input.name == *name)).then(|| {
            let there = list(inputs.iter().map(|input| input.name.as_str()).collect());
            format!("there is no input '{name}' (there is {there}); add [inputs.{name}]")
        }),
        Hole::Step { name, .. } => match steps.iter().position(|step| step.name == *name) {
            None => Some(format!("the prompt names step '{name}', which there is not")),
            Some(at) if before.is_some_and(|before| before.contains(&at)) => None,
            Some(_) => Some(format!(
                "the prompt names step '{name}', which may not be over by then; add it to needs"
            )),
        },
    }
}
