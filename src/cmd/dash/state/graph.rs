//! The events of one chain and what led to what, as lines that run from cause to effect. Pure.
//!
//! Each event hangs on one other: the nearest of its causes that is known, which is the last one in `correlation_ids`.
//! The oldest stands on top, one event on a line. An event goes on in the column of its cause when nothing else will;
//! otherwise it begins a column of its own. So a chain stays a straight line, however long it is.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::{buffer::Buffer, row::Row};

/// Events that are drawn; more than these nobody follows from line to line.
const NODES: usize = 500;

/// Columns of lines. Where more branches are open at once, the last column stands for all of them.
const LANES: usize = 16;

/// Whether lines go from the middle of a cell up, down, left and right.
pub(in crate::cmd::dash) type Strokes = [bool; 4];

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cmd::dash) struct Node {
    /// Its row in the buffer.
    pub(in crate::cmd::dash) seq: u64,
    /// It has causes, and none of them is known.
    pub(in crate::cmd::dash) is_orphan: bool,
    /// The column that it stands in.
    pub(in crate::cmd::dash) lane: usize,
    /// The lines of all columns.
    pub(in crate::cmd::dash) lanes: Vec<Strokes>,
}

/// All of them, each below its cause.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct Graph {
    pub(in crate::cmd::dash) nodes: Vec<Node>,
    /// Events that hang on others.
    pub(in crate::cmd::dash) links: usize,
    /// Events there was no room for.
    pub(in crate::cmd::dash) hidden: usize,
    /// By the clocks of their producers.
    pub(in crate::cmd::dash) first: Timestamp,
    pub(in crate::cmd::dash) span: SignedDuration,
}

impl Graph {
    /// The graph of these rows, from oldest to newest; where they are too many, those up to the one that was asked for
    /// stay.
    pub(in crate::cmd::dash) fn of(seqs: &[u64], asked: Option<u64>, buffer: &Buffer) -> Self {
        let end = seqs.iter().position(|seq| Some(*seq) == asked).map_or(0, |index| index + 1).max(NODES);
        let kept = seqs.get(end.saturating_sub(NODES)..end.min(seqs.len())).unwrap_or(seqs);
        let rows: Vec<&Row> = kept.iter().filter_map(|seq| buffer.row(*seq)).collect();
        let causes = causes(&rows);
        let (Some(first), Some(last)) =
            (rows.iter().map(|row| row.at).min(), rows.iter().map(|row| row.at).max())
        else {
            return Self::default();
        };
        Self {
            nodes: lay(&rows, &causes),
            links: causes.iter().flatten().count(),
            hidden: seqs.len() - kept.len(),
            first,
            span: last.duration_since(first),
        }
    }

    /// Columns that are needed for the lines.
    pub(in crate::cmd::dash) fn lanes(&self) -> usize {
        self.nodes.iter().map(|node| node.lanes.len()).max().unwrap_or(0)
    }
}

/// The nearest known cause of each row. No event is its own cause, whatever two producers say about each other.
fn causes(rows: &[&Row]) -> Vec<Option<usize>> {
    let places: HashMap<_, _> = rows.iter().enumerate().map(|(index, row)| (row.id, index)).collect();
    let mut causes: Vec<Option<usize>> = vec![None; rows.len()];
    for (index, row) in rows.iter().enumerate() {
        let leads_here = |place: usize| {
            let mut cause = Some(place);
            while let Some(place) = cause.filter(|place| *place != index) {
                cause = causes.get(place).copied().flatten();
            }
            cause.is_some()
        };
        let known = row.correlations.iter().rev().filter_map(|id| places.get(id).copied());
        let nearest = known.into_iter().find(|place| !leads_here(*place));
        if let Some(cause) = causes.get_mut(index) {
            *cause = nearest;
        }
    }
    causes
}

/// The order of the lines: by time, but never above a cause, whatever the clocks say.
fn order(rows: &[&Row], causes: &[Option<usize>]) -> Vec<usize> {
    let key = |index: usize| {
        let (mut latest, mut depth, mut place) = (None, 0, Some(index));
        while let Some(at) = place {
            latest = latest.max(rows.get(at).map(|row| row.at));
            depth += 1;
            place = causes.get(at).copied().flatten();
        }
        (latest, depth, index)
    };
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_cached_key(|index| key(*index));
    order
}

/// Gives each row its column and the lines around it.
fn lay(rows: &[&Row], causes: &[Option<usize>]) -> Vec<Node> {
    let mut waiting = vec![0_usize; rows.len()];
    for cause in causes.iter().flatten() {
        if let Some(waiting) = waiting.get_mut(*cause) {
            *waiting += 1;
        }
    }
    let mut lane_of = vec![0_usize; rows.len()];
    // What each column waits for an effect of.
    let mut open: Vec<Option<usize>> = Vec::new();
    let mut nodes = Vec::with_capacity(rows.len());
    for index in order(rows, causes) {
        let Some(row) = rows.get(index) else { continue };
        let before: Vec<bool> = open.iter().map(Option::is_some).collect();
        let cause = causes.get(index).copied().flatten();
        let from = cause.and_then(|cause| {
            let left = waiting.get_mut(cause)?;
            *left -= 1;
            Some((*lane_of.get(cause)?, *left == 0))
        });
        let lane = match from {
            Some((lane, true)) => lane,
            Some((lane, false)) => free(&open, lane + 1),
            None => free(&open, 0),
        };
        if open.len() <= lane {
            open.resize(lane + 1, None);
        }
        let goes_on = waiting.get(index).is_some_and(|waiting| *waiting > 0);
        if let Some(slot) = open.get_mut(lane) {
            *slot = goes_on.then_some(index);
        }
        if let Some(slot) = lane_of.get_mut(index) {
            *slot = lane;
        }
        // The branch, from the column of the cause to this one.
        let branch = from.map_or(lane, |(from, _)| from)..lane;
        let lanes = open.iter().enumerate().map(|(at, slot)| {
            let up = before.get(at).copied().unwrap_or(false);
            let right = branch.contains(&at);
            [up, slot.is_some(), right && at > branch.start || at == lane && !branch.is_empty(), right]
        });
        let lanes: Vec<Strokes> = lanes.collect();
        while open.last().is_some_and(Option::is_none) {
            open.pop();
        }
        let is_orphan = cause.is_none() && !row.correlations.is_empty();
        nodes.push(Node { seq: row.seq, is_orphan, lane, lanes });
    }
    nodes
}

/// The first free column from this one on.
fn free(open: &[Option<usize>], from: usize) -> usize {
    let free = open.iter().enumerate().skip(from).find(|(_, slot)| slot.is_none());
    free.map_or(open.len().max(from), |(lane, _)| lane).min(LANES - 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::{
        super::testing::{ROOMY, at, buffer_of, draft, event_at},
        *,
    };
    use crate::bus::Event;

    /// Events by their numbers, each with the numbers that it names as causes.
    fn events(causes: &[&[usize]]) -> Vec<Event> {
        let id = |n: usize| Uuid::from_u128(n as u128 + 1);
        let of = |(n, causes): (usize, &&[usize])| {
            let mut event = event_at(n as i64, "a.b", json!({}));
            event.event_id = id(n);
            event.correlation_ids = causes.iter().map(|cause| id(*cause)).collect();
            event
        };
        causes.iter().enumerate().map(of).collect()
    }

    fn graph(events: Vec<Event>) -> Graph {
        let buffer = buffer_of(events);
        let seqs: Vec<u64> = buffer.rows().map(|row| row.seq).collect();
        Graph::of(&seqs, None, &buffer)
    }

    /// The lines as text, with the number of each event.
    fn drawn(graph: &Graph) -> String {
        let line = |node: &Node| {
            let sign = |(lane, strokes): (usize, &Strokes)| match strokes {
                _ if lane == node.lane => format!("{}", node.seq % 10),
                [true, true, false, true] => "├".to_owned(),
                [true, true, true, true] => "┼".to_owned(),
                [false, false, true, true] => "─".to_owned(),
                [true, true, false, false] => "│".to_owned(),
                [false, false, false, false] => " ".to_owned(),
                other => format!("{other:?}"),
            };
            node.lanes.iter().enumerate().map(sign).collect::<String>()
        };
        graph.nodes.iter().map(line).collect::<Vec<_>>().join("/")
    }

    #[test]
    fn a_chain_is_a_straight_line() {
        let chain = graph(events(&[&[], &[0], &[0, 1]]));
        assert_eq!((drawn(&chain).as_str(), chain.links), ("0/1/2", 2));
        assert_eq!((chain.first, chain.span), (at(0), SignedDuration::from_secs(2)));
    }

    #[test]
    fn branches_have_columns_of_their_own() {
        for (causes, expected) in [
            // 1 and 2 come from 0; 3 from 1.
            (&[&[][..], &[0], &[0], &[1]][..], "0/├1/2│/ 3"),
            // 0 has three effects, the first of which has one too.
            (&[&[], &[0], &[0], &[0, 1], &[0]], "0/├1/├┼2/│3/4"),
            // Two chains beside each other: the second one fills a free column.
            (&[&[], &[], &[1], &[0]], "0/│1/│2/3"),
        ] {
            assert_eq!(drawn(&graph(events(causes))), expected, "{causes:?}");
        }
    }

    #[test]
    fn causes_that_nobody_knows_and_circles_do_no_harm() {
        let orphan = graph(events(&[&[], &[77], &[2, 0]]));
        assert_eq!(orphan.nodes.iter().map(|node| node.is_orphan).collect::<Vec<_>>(), [false, true, false]);
        assert_eq!(orphan.links, 1);
        let circle = graph(events(&[&[2], &[0], &[1]]));
        assert_eq!((circle.nodes.len(), circle.links), (3, 2));
    }

    #[test]
    fn an_effect_stands_below_its_cause_whatever_the_clocks_say() {
        let mut early = events(&[&[], &[0], &[]]);
        early[0].timestamp = at(60);
        let order: Vec<u64> = graph(early).nodes.iter().map(|node| node.seq).collect();
        assert_eq!(order, [2, 0, 1]);
    }

    #[test]
    fn of_many_those_up_to_the_one_that_was_asked_for_are_shown() {
        let mut buffer = Buffer::new(ROOMY);
        let all: Vec<Vec<usize>> = (0..700).map(|n| vec![0; usize::from(n > 0)]).collect();
        let all: Vec<&[usize]> = all.iter().map(Vec::as_slice).collect();
        for event in events(&all) {
            buffer.push(draft(event));
        }
        let seqs: Vec<u64> = (0..700).collect();
        for (asked, first) in [(None, 0), (Some(3), 0), (Some(499), 0), (Some(600), 101)] {
            let graph = Graph::of(&seqs, asked, &buffer);
            let least = graph.nodes.iter().map(|node| node.seq).min();
            assert_eq!((graph.nodes.len(), graph.hidden, least), (NODES, 200, Some(first)), "{asked:?}");
            assert!(graph.lanes() <= LANES);
        }
    }

    #[test]
    fn more_branches_than_columns_share_the_last_one() {
        // All come from the first one, and each has an effect much later.
        let fan: Vec<Vec<usize>> =
            (0..60_usize).map(|n| if n == 0 { vec![] } else { vec![n.saturating_sub(30)] }).collect();
        let fan: Vec<&[usize]> = fan.iter().map(Vec::as_slice).collect();
        let graph = graph(events(&fan));
        assert_eq!((graph.nodes.len(), graph.links, graph.lanes()), (60, 59, LANES));
    }
}
