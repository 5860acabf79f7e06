//! The view `graph`: the events of one chain, and what led to what; what a person does in it. Pure.

use super::{
    super::{
        layout,
        state::{
            filter::Chain,
            graph::Graph,
            row::{Kind, Row},
        },
    },
    App, Effect, Focus, View,
    keys::Action,
};

/// Where the person is in it.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct GraphView {
    /// The chain that is shown. It is the one of the event that was chosen when the view was opened, so that it stands
    /// still while the list goes on.
    chain: Option<Chain>,
    /// Its events, from oldest to newest.
    seqs: Vec<u64>,
    pub(in crate::cmd::dash) graph: Graph,
    /// The event that is chosen.
    cursor: Option<u64>,
}

impl App {
    /// The line of the event that is chosen.
    pub(in crate::cmd::dash) fn node_index(&self) -> usize {
        let nodes = &self.graph.graph.nodes;
        nodes.iter().position(|node| Some(node.seq) == self.graph.cursor).unwrap_or(0)
    }

    /// The event that is chosen.
    pub(in crate::cmd::dash) fn node(&self) -> Option<&Row> {
        self.buffer.row(self.graph.graph.nodes.get(self.node_index())?.seq)
    }

    /// Shows the chain that the list is narrowed to, else that of the event that is chosen in the list.
    pub(super) fn open_graph(&mut self) {
        let chosen = self.chosen().filter(|row| row.kind == Kind::Event);
        let cursor = chosen.map(|row| row.seq);
        let of_chosen = || chosen.map(|row| Chain::of(row, &self.buffer));
        self.graph.chain = self.filter.chain.clone().or_else(of_chosen);
        self.graph.cursor = cursor;
        self.collect_graph();
    }

    /// Looks for all events of the chain.
    fn collect_graph(&mut self) {
        let chain = self.graph.chain.as_ref();
        let rows = self.buffer.rows().filter(|row| chain.is_some_and(|chain| chain.has(row)));
        self.graph.seqs = rows.map(|row| row.seq).collect();
        self.lay_graph();
    }

    fn lay_graph(&mut self) {
        self.graph.graph = Graph::of(&self.graph.seqs, self.graph.cursor, &self.buffer);
    }

    /// Takes what belongs to the chain from what has come. While the view is not shown nothing is done for it: it is
    /// opened anew.
    pub(super) fn grow_graph(&mut self, seqs: &[u64]) {
        if self.view != View::Graph {
            return;
        }
        let Some(chain) = &mut self.graph.chain else { return self.open_graph() };
        let mut has_more = false;
        let mut came = Vec::new();
        for row in seqs.iter().filter_map(|seq| self.buffer.row(*seq)) {
            has_more |= chain.follow(row);
            if chain.has(row) {
                came.push(row.seq);
            }
        }
        if has_more {
            chain.complete(&self.buffer);
            return self.collect_graph();
        }
        let first = self.buffer.first();
        let has_lost = self.graph.seqs.first().is_some_and(|seq| *seq < first);
        if has_lost || !came.is_empty() {
            self.graph.seqs.retain(|seq| *seq >= first);
            self.graph.seqs.extend(came);
            self.lay_graph();
        }
    }

    /// Takes a key; `None` where it means nothing here.
    pub(super) fn act_on_graph(&mut self, action: Action) -> Option<Vec<Effect>> {
        let page = layout::page(self);
        let index = self.node_index();
        let to = match action {
            Action::Up => index.saturating_sub(1),
            Action::Down => index + 1,
            Action::PageUp => index.saturating_sub(page),
            Action::PageDown => index + page,
            Action::Newest => 0,
            Action::Oldest => usize::MAX,
            Action::Open => {
                self.list_node();
                return Some(Vec::new());
            }
            _ => return None,
        };
        self.choose_node(to);
        Some(Vec::new())
    }

    fn choose_node(&mut self, index: usize) {
        let nodes = &self.graph.graph.nodes;
        let node = nodes.get(index.min(nodes.len().saturating_sub(1)));
        self.graph.cursor = node.map(|node| node.seq);
    }

    /// Chooses what was clicked at; a second click lists it.
    pub(super) fn click_graph(&mut self, index: usize) {
        if index == self.node_index() {
            self.list_node();
        } else {
            self.choose_node(index);
        }
    }

    /// Goes to the event in the list. Filters that hide it are cleared.
    fn list_node(&mut self) {
        let Some(seq) = self.node().map(|row| row.seq) else { return };
        self.view = View::List;
        self.focus = Focus::Main;
        self.list.frozen = self.list.frozen.filter(|frozen| seq < *frozen);
        if !self.is_listed(seq) {
            self.filter.clear();
            self.refilter();
            // It may lie further back than one step looks.
            while !self.is_listed(seq) && self.search_on() {}
            self.tell("the filters were cleared, because they hid this event".to_owned());
        }
        self.choose(super::Anchor::Kept(seq));
    }

    fn is_listed(&self, seq: u64) -> bool {
        let index = self.matches.index_of(seq);
        index.and_then(|index| self.matches.nth_newest(index)) == Some(seq)
    }
}
