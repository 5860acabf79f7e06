//! The view `flow`: who sends what to whom; what a person does in it. Pure.

use super::{
    super::state::{
        Name,
        flow::{Path, Stage},
    },
    App, Effect,
    keys::Action,
};

/// Paths that are listed.
pub(in crate::cmd::dash) const TOP: usize = 10;

/// Rows that a page key moves.
const PAGE: usize = 10;

/// An entry's number says its list: rows of the three columns, then the paths.
pub(in crate::cmd::dash) const LIST: usize = 100_000;

/// Where the person is in it.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct FlowView {
    /// The source, type or target that is chosen.
    pub(in crate::cmd::dash) chosen: Option<(Stage, Name)>,
    /// The paths have the keys, and the screen where it is small.
    pub(in crate::cmd::dash) in_paths: bool,
    /// The path that is chosen; the first one without.
    path: Option<Path>,
}

impl App {
    /// The path that is chosen, by its rank.
    pub(in crate::cmd::dash) fn path(&self) -> usize {
        let chosen = self.flow.path.as_ref();
        self.tallies.flow.top(TOP).iter().position(|(path, _)| Some(*path) == chosen).unwrap_or(0)
    }

    /// Takes a key; `None` where it means nothing here.
    pub(super) fn act_on_flow(&mut self, action: Action) -> Option<Vec<Effect>> {
        match action {
            Action::NextFocus => self.flow.in_paths = !self.flow.in_paths,
            Action::Back if self.flow.in_paths => self.flow.in_paths = false,
            // With nothing chosen it means nothing here.
            Action::Back => drop(self.flow.chosen.take()?),
            Action::Open => self.list_flow(),
            Action::Left if !self.flow.in_paths => self.choose_beside(Action::Left),
            Action::Right if !self.flow.in_paths => self.choose_beside(Action::Right),
            action if self.flow.in_paths => self.choose_path(step(action, self.path())?),
            action => {
                let to = match &self.flow.chosen {
                    Some((stage, name)) => (*stage, step(action, self.rank(*stage, name))?),
                    None => (Stage::Source, step(action, 0).map(|_| 0)?),
                };
                self.choose_rank(to.0, to.1);
            }
        }
        Some(Vec::new())
    }

    fn rank(&self, stage: Stage, name: &Name) -> usize {
        self.tallies.flow.ranked(stage).iter().position(|(other, _)| *other == name).unwrap_or(0)
    }

    fn choose_rank(&mut self, stage: Stage, rank: usize) {
        let ranked = self.tallies.flow.ranked(stage);
        let name = ranked.get(rank.min(ranked.len().saturating_sub(1))).map(|(name, _)| (*name).clone());
        self.flow.chosen = name.map(|name| (stage, name));
    }

    fn choose_path(&mut self, rank: usize) {
        let top = self.tallies.flow.top(TOP);
        self.flow.path = top.get(rank.min(top.len().saturating_sub(1))).map(|(path, _)| (*path).clone());
    }

    /// Follows the flow to the next column: to where most of it goes, or comes from.
    fn choose_beside(&mut self, action: Action) {
        let Some((stage, name)) = &self.flow.chosen else { return self.choose_rank(Stage::Source, 0) };
        let beside = match (stage, action) {
            (Stage::Source, Action::Right) | (Stage::Target, Action::Left) => Stage::Event,
            (Stage::Event, Action::Right) => Stage::Target,
            (Stage::Event, Action::Left) => Stage::Source,
            _ => return,
        };
        let linked = self.tallies.flow.linked(*stage, name);
        let counts = linked.get(beside.index()).into_iter().flatten();
        // Of two with the same count the first one in the column, which is sorted by name then.
        let most = counts.max_by(|a, b| a.1.cmp(b.1).then_with(|| b.0.cmp(a.0)));
        let most = most.map(|(name, _)| (beside, Name::clone(name)));
        self.flow.chosen = most;
    }

    /// Lists the events of what is chosen.
    fn list_flow(&mut self) {
        if self.flow.in_paths {
            let top = self.tallies.flow.top(TOP);
            let path = top.get(self.path()).map(|(path, _)| (*path).clone());
            if let Some(Path([app, event_type, _])) = path {
                self.list_only(Some(&app), Some(&event_type));
            }
            return;
        }
        match self.flow.chosen.clone() {
            None => self.tell("choose a source, a type or a target first".to_owned()),
            Some((Stage::Source, app)) => self.list_only(Some(&app), None),
            Some((Stage::Event, event_type)) => self.list_only(None, Some(&event_type)),
            // An agent is no part of a filter: it has many sessions, and a list of all events would be none of them.
            Some((Stage::Target, _)) => {
                self.tell(
                    "no filter knows targets; choose a source or a type, or a session in the list".to_owned(),
                );
            }
        }
    }

    /// Chooses what was clicked at; a second click lists it.
    pub(super) fn click_flow(&mut self, entry: usize) {
        let rank = entry % LIST;
        let before = (self.flow.in_paths, self.flow.chosen.clone(), self.flow.path.clone());
        match Stage::EACH.get(entry / LIST) {
            Some(stage) => {
                self.flow.in_paths = false;
                self.choose_rank(*stage, rank);
            }
            None => {
                self.flow.in_paths = true;
                self.choose_path(rank);
            }
        }
        if before == (self.flow.in_paths, self.flow.chosen.clone(), self.flow.path.clone()) {
            self.list_flow();
        }
    }
}

/// Where a key leads from a rank; `None` where it doesn't move.
fn step(action: Action, rank: usize) -> Option<usize> {
    Some(match action {
        Action::Up => rank.saturating_sub(1),
        Action::Down => rank + 1,
        Action::PageUp => rank.saturating_sub(PAGE),
        Action::PageDown => rank + PAGE,
        Action::Newest => 0,
        Action::Oldest => usize::MAX,
        _ => return None,
    })
}
