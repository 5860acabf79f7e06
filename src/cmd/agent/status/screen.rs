//! What agents do, as lines for a person: no wider than the screen, and with nothing in them that a terminal would obey.
//! Pure.

use std::time::Duration;

use jiff::Timestamp;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::{
    super::{
        super::bus::{Side, table},
        cost::dollars,
        screen::visible,
    },
    Look, Process, Status,
};

/// The ids of most sessions are UUIDs; this much of one tells those of different milliseconds apart, and may be written
/// in place of the whole.
const SHORT_ID: usize = 13;
/// Where there is room for whole ids.
const WIDE: usize = 150;
/// Columns of a name, of a directory and of a prompt.
const NAME: usize = 24;
const DIRECTORY: usize = 32;
const PROMPT: usize = 120;

/// Columns that the last one of a table gets if it wants them, before others are left out.
const LAST: usize = 30;

/// A column. Where there is no room for all of them, those with the largest number are left out first, and those with 0
/// never.
struct Column {
    heading: &'static str,
    side: Side,
    luxury: u8,
}

const fn left(heading: &'static str, luxury: u8) -> Column {
    Column { heading, side: Side::Left, luxury }
}

const fn right(heading: &'static str, luxury: u8) -> Column {
    Column { heading, side: Side::Right, luxury }
}

/// All of it, from top to bottom.
pub(super) fn lines(status: &Status, look: &Look) -> Vec<String> {
    let mut lines = vec![
        format!("sessions  {}", clean(&status.store)),
        format!("bus       {}  queue {}", clean(&status.bus), clean(&status.queue)),
    ];
    running(&mut lines, status, look);
    ended(&mut lines, status, look);
    budgets(&mut lines, status, look);
    journal(&mut lines, status, look);
    listeners(&mut lines, status, look);
    lines
        .into_iter()
        .map(|line| {
            let is_title = line.starts_with(TITLE);
            let line = cut(line.trim_start_matches(TITLE), look.width);
            if is_title && look.color { format!("\x1b[1m{line}\x1b[0m") } else { line }
        })
        .collect()
}

/// What is shown where nothing could be seen.
pub(super) fn trouble(store: &str, error: &str, look: &Look) -> Vec<String> {
    let lines = [format!("sessions  {}", clean(store)), String::new(), clean(error)];
    lines.iter().map(|line| cut(line, look.width)).collect()
}

/// As many lines as a screen has.
pub(super) fn fitted(mut lines: Vec<String>, height: usize, look: &Look) -> Vec<String> {
    let height = height.max(2);
    if lines.len() > height {
        let more = lines.len() - (height - 1);
        lines.truncate(height - 1);
        lines.push(cut(&format!("and {more} more lines"), look.width));
    }
    lines
}

/// Marks a line as a title; no text that was cleaned holds it.
const TITLE: char = '\u{1}';

fn title(lines: &mut Vec<String>, text: &str) {
    lines.push(String::new());
    lines.push(format!("{TITLE}{text}"));
}

fn rows(lines: &mut Vec<String>, columns: &[Column], look: &Look, rows: &[Vec<String>]) {
    let mut kept: Vec<usize> = (0..columns.len()).collect();
    let width = |index: usize| {
        let heading = columns.get(index).map_or(0, |column| column.heading.width());
        let cells = rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.width());
        cells.chain([heading]).max().unwrap_or_default()
    };
    let last = columns.len().saturating_sub(1);
    let wanted = |index: usize| if index == last { width(index).min(LAST) } else { width(index) };
    let luxury = |index: usize| columns.get(index).map_or(0, |column| column.luxury);
    // Two columns of space between two of them.
    while kept.iter().map(|index| wanted(*index) + 2).sum::<usize>() > look.width + 2 {
        let Some(most) = kept.iter().copied().max_by_key(|index| luxury(*index)) else { break };
        if luxury(most) == 0 {
            break;
        }
        kept.retain(|index| *index != most);
    }
    let headings: Vec<_> = kept
        .iter()
        .filter_map(|index| columns.get(*index))
        .map(|column| (column.heading, column.side))
        .collect();
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| kept.iter().filter_map(|index| row.get(*index).cloned()).collect()).collect();
    lines.extend(table(&headings, &rows).lines().map(str::to_owned));
}

fn running(lines: &mut Vec<String>, status: &Status, look: &Look) {
    title(lines, &format!("RUNNING {}", status.running.len()));
    if status.running.is_empty() {
        lines.push("no turn runs".to_owned());
        return;
    }
    let columns = [
        left("SESSION", 0),
        left("AGENT", 0),
        right("TURN", 0),
        right("FOR", 0),
        right("COST", 1),
        left("MODEL", 3),
        left("WORKED ON BY", 2),
        left("DIRECTORY", 4),
        left("PROMPT", 0),
    ];
    let row = |turn: &super::Running| {
        let by = match (&turn.holder, turn.state) {
            (Some(process), _) => worker(process),
            (None, "left_open") => "nobody; it was left".to_owned(),
            (None, _) => "?".to_owned(),
        };
        vec![
            id(&turn.session, look),
            cell(&turn.provider, NAME),
            turn.turn.to_string(),
            span(turn.since, status.at),
            cost(turn.cost_micro_usd),
            cell(turn.model.as_deref().unwrap_or_default(), NAME),
            cell(&by, NAME + NAME),
            tail(&turn.directory, DIRECTORY),
            match turn.state {
                "left_open" => cell(&format!("(left open) {}", turn.prompt), PROMPT),
                _ => cell(&turn.prompt, PROMPT),
            },
        ]
    };
    let cells: Vec<_> = status.running.iter().map(row).collect();
    rows(lines, &columns, look, &cells);
}

fn ended(lines: &mut Vec<String>, status: &Status, look: &Look) {
    if status.ended.is_empty() {
        return;
    }
    title(lines, "ENDED");
    let columns = [
        left("SESSION", 0),
        left("AGENT", 0),
        left("AS", 0),
        right("AGO", 0),
        right("TURN", 2),
        right("COST", 1),
        left("DIRECTORY", 3),
        left("PROMPT", 0),
    ];
    let row = |session: &super::Ended| {
        // The class tells more than the state.
        let state = session.class.as_deref().unwrap_or(match session.state {
            "idle" => "answered",
            state => state,
        });
        vec![
            id(&session.session, look),
            cell(&session.provider, NAME),
            cell(state, NAME),
            span(session.at, status.at),
            session.turn.to_string(),
            cost(session.cost_micro_usd),
            tail(&session.directory, DIRECTORY),
            cell(&session.prompt, PROMPT),
        ]
    };
    let cells: Vec<_> = status.ended.iter().map(row).collect();
    rows(lines, &columns, look, &cells);
}

fn budgets(lines: &mut Vec<String>, status: &Status, look: &Look) {
    if status.budgets.is_empty() {
        return;
    }
    title(lines, "MONEY OF TODAY");
    let columns = [left("AGENT", 0), right("SPENT", 0), right("OF", 0), right("UNKNOWN", 0)];
    let row = |budget: &super::DayBudget| {
        vec![
            budget.provider.as_deref().map_or("all of them".to_owned(), |name| cell(name, NAME)),
            dollars(budget.spent_micro_usd),
            dollars(budget.limit_micro_usd),
            match budget.unknown_turns {
                0 => String::new(),
                turns => format!("{turns} turns"),
            },
        ]
    };
    let cells: Vec<_> = status.budgets.iter().map(row).collect();
    rows(lines, &columns, look, &cells);
}

fn journal(lines: &mut Vec<String>, status: &Status, look: &Look) {
    let journal = &status.journal;
    title(lines, "PROMPTS FROM THE BUS");
    let next =
        journal.next_at.map(|at| format!(" (the first in {})", span(status.at, at))).unwrap_or_default();
    lines.push(format!(
        "{} ready, {} running, {} waiting{next}",
        journal.ready, journal.running, journal.waiting
    ));
    let unsent = match journal.unsent {
        0 => String::new(),
        count => format!("; events not yet published: {count}"),
    };
    lines.push(format!("{} answered, {} given up{unsent}", journal.done, journal.dead));
    if !journal.providers.is_empty() {
        let columns = [
            left("AGENT", 0),
            right("READY", 0),
            right("RUNNING", 0),
            right("WAITING", 0),
            left("CIRCUIT", 0),
            left("PAUSED", 0),
        ];
        let row = |(name, agent): (&String, &super::Agent)| {
            let paused = agent.paused_until.map(|until| format!("for {}", span(status.at, until)));
            vec![
                cell(name, NAME),
                agent.open.ready.to_string(),
                agent.open.running.to_string(),
                agent.open.waiting.to_string(),
                agent.circuit.to_owned(),
                paused.unwrap_or_default(),
            ]
        };
        let cells: Vec<_> = journal.providers.iter().map(row).collect();
        rows(lines, &columns, look, &cells);
    }
    if journal.prompts.is_empty() {
        return;
    }
    title(lines, "WAITING");
    let columns = [
        left("KEY", 0),
        left("AGENT", 1),
        right("TRIED", 2),
        left("LAST", 3),
        left("DUE", 0),
        left("SESSION", 4),
        left("PROMPT", 0),
    ];
    let row = |prompt: &super::Prompt| {
        let due = match prompt.until {
            Some(until) => format!("in {}", span(status.at, until)),
            None => "now".to_owned(),
        };
        vec![
            cell(&prompt.key, 42),
            cell(&prompt.provider, NAME),
            prompt.attempts.to_string(),
            cell(prompt.class.as_deref().unwrap_or_default(), NAME),
            due,
            id(&prompt.session, look),
            cell(&prompt.prompt, PROMPT),
        ]
    };
    let cells: Vec<_> = journal.prompts.iter().map(row).collect();
    rows(lines, &columns, look, &cells);
    let open = journal.ready + journal.waiting;
    let more = open.saturating_sub(journal.prompts.len() as u64);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
}

fn listeners(lines: &mut Vec<String>, status: &Status, look: &Look) {
    title(lines, &format!("LISTENERS {}", status.listeners.len()));
    if status.listeners.is_empty() {
        lines.push("nobody takes prompts here; `godctl agent listen` does".to_owned());
        return;
    }
    let columns = [
        left("LISTENER", 0),
        left("QUEUE", 1),
        right("WORKS ON", 0),
        right("AT MOST", 2),
        left("FOR", 3),
        left("", 0),
    ];
    let row = |listener: &super::Listener| {
        let note = if listener.process.is_gone { "the next listener takes that up" } else { "" };
        vec![
            worker(&listener.process),
            cell(listener.queue.as_deref().unwrap_or_default(), NAME),
            listener.running.to_string(),
            listener.workers.map(|workers| workers.to_string()).unwrap_or_default(),
            listener.since.map(|since| span(since, status.at)).unwrap_or_default(),
            note.to_owned(),
        ]
    };
    let cells: Vec<_> = status.listeners.iter().map(row).collect();
    rows(lines, &columns, look, &cells);
}

fn worker(process: &Process) -> String {
    let gone = if process.is_gone { " (gone)" } else { "" };
    format!("process {} on {}{gone}", process.pid, cell(&process.host, NAME))
}

/// As much of an id as can be written in its place.
fn id(text: &str, look: &Look) -> String {
    let is_uuid = uuid::Uuid::try_parse(text).is_ok();
    match text.get(..SHORT_ID).filter(|_| is_uuid && look.width < WIDE) {
        Some(short) => short.to_owned(),
        None => cell(text, 36),
    }
}

fn cost(micro: Option<u64>) -> String {
    micro.map_or_else(|| "?".to_owned(), dollars)
}

/// The time between two, in two units at most.
fn span(from: Timestamp, to: Timestamp) -> String {
    let seconds = Duration::try_from(to.duration_since(from)).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A text on one line, with nothing in it that a terminal would obey.
fn clean(text: &str) -> String {
    let text = visible(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The same, no wider than so many columns.
fn cell(text: &str, columns: usize) -> String {
    cut(&clean(text), columns)
}

/// As much of the beginning of a text as fits.
fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut used = 1;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= columns
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// As much of the end of a path as fits: that tells more.
fn tail(text: &str, columns: usize) -> String {
    let text = clean(text);
    if text.width() <= columns {
        return text;
    }
    let mut used = 1;
    let mut kept: Vec<char> = text
        .chars()
        .rev()
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= columns
        })
        .collect();
    kept.push('…');
    kept.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::*, *};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_795_255_200 + second).unwrap()
    }

    fn look(width: usize) -> Look {
        Look { width, color: false }
    }

    fn status() -> Status {
        let running = Running {
            session: "0199f0a2-1111-7000-8000-000000000001".to_owned(),
            provider: "claude".to_owned(),
            state: "running",
            since: at(-125),
            turn: 3,
            attempt: 1,
            model: Some("claude-opus".to_owned()),
            source: "cli",
            holder: Some(Process { host: "desk".to_owned(), pid: 4242, is_gone: false }),
            directory: "/home/somebody/code/with/a/very/long/path/engine".to_owned(),
            prompt: "fix the parser\n\x1b[2Jand \u{202e}then 日本語のテストを全部直してください, all of them"
                .to_owned(),
            cost_micro_usd: Some(250_000),
        };
        let left = Running {
            session: "mine".to_owned(),
            provider: "codex".to_owned(),
            state: "left_open",
            since: at(-90_000),
            holder: Some(Process { host: "desk".to_owned(), pid: 7, is_gone: true }),
            prompt: "count".to_owned(),
            model: None,
            cost_micro_usd: None,
            source: "bus",
            ..running.clone()
        };
        let ended = |session: &str, state, class: Option<&str>, ago: i64| Ended {
            session: session.to_owned(),
            provider: "gemini".to_owned(),
            state,
            class: class.map(str::to_owned),
            at: at(-ago),
            turn: 1,
            directory: "/w".to_owned(),
            prompt: "日".repeat(200),
            cost_micro_usd: None,
        };
        let agent = |open| Agent { open, circuit: "closed", paused_until: None };
        let prompt = |key: &str, until| Prompt {
            key: key.to_owned(),
            session: "s-1".to_owned(),
            provider: "claude".to_owned(),
            attempts: 2,
            until,
            class: Some("overloaded".to_owned()),
            prompt: "why does the build fail?".to_owned(),
        };
        Status {
            at: at(0),
            store: "sqlite:/home/somebody/.local/share/godctl/sessions.db".to_owned(),
            bus: "amqp://broker".to_owned(),
            queue: "agent.prompt".to_owned(),
            running: vec![running, left],
            ended: vec![ended("a", "idle", None, 5), ended("b", "interrupted", Some("cancelled"), 4_000)],
            budgets: vec![
                DayBudget {
                    provider: None,
                    spent_micro_usd: 1_250_000,
                    limit_micro_usd: 5_000_000,
                    unknown_turns: 2,
                },
                DayBudget {
                    provider: Some("claude".to_owned()),
                    spent_micro_usd: 1_000_000,
                    limit_micro_usd: 1_000_000,
                    unknown_turns: 0,
                },
            ],
            journal: Journal {
                ready: 30,
                running: 1,
                waiting: 1,
                next_at: Some(at(40)),
                done: 12,
                dead: 2,
                unsent: 1,
                providers: BTreeMap::from([
                    ("claude".to_owned(), agent(OpenCounts { ready: 30, running: 0, waiting: 1 })),
                    ("codex".to_owned(), agent(OpenCounts { running: 1, ..OpenCounts::default() })),
                    (
                        "gemini".to_owned(),
                        Agent {
                            circuit: "open",
                            paused_until: Some(at(125)),
                            ..agent(OpenCounts::default())
                        },
                    ),
                ]),
                prompts: vec![prompt("key:nightly", Some(at(40))), prompt("event:0199f0a2", None)],
            },
            listeners: vec![
                Listener {
                    process: Process { host: "desk".to_owned(), pid: 7, is_gone: true },
                    queue: None,
                    workers: None,
                    since: None,
                    running: 1,
                },
                Listener {
                    process: Process { host: "desk".to_owned(), pid: 99, is_gone: false },
                    queue: Some("agent.prompt".to_owned()),
                    workers: Some(5),
                    since: Some(at(-7_500)),
                    running: 1,
                },
            ],
        }
    }

    #[test]
    fn a_screen_of_any_width_shows_what_fits() {
        for width in [60, 80, 120, 200] {
            insta::assert_snapshot!(format!("status_{width}"), lines(&status(), &look(width)).join("\n"));
        }
    }

    #[test]
    fn no_line_is_wider_than_the_screen_and_none_is_obeyed() {
        for width in 20..220 {
            for line in lines(&status(), &look(width)) {
                assert!(line.width() <= width, "{width}: {line}");
                assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
            }
        }
        let colored = lines(&status(), &Look { color: true, ..look(80) });
        assert!(colored.iter().any(|line| line == "\x1b[1mRUNNING 2\x1b[0m"), "{colored:?}");
    }

    #[test]
    fn nothing_at_all_is_said_in_a_few_lines() {
        let nothing = Status {
            running: Vec::new(),
            ended: Vec::new(),
            budgets: Vec::new(),
            journal: Journal::default(),
            listeners: Vec::new(),
            ..status()
        };
        insta::assert_snapshot!(lines(&nothing, &look(80)).join("\n"), @"
        sessions  sqlite:/home/somebody/.local/share/godctl/sessions.db
        bus       amqp://broker  queue agent.prompt

        RUNNING 0
        no turn runs

        PROMPTS FROM THE BUS
        0 ready, 0 running, 0 waiting
        0 answered, 0 given up

        LISTENERS 0
        nobody takes prompts here; `godctl agent listen` does
        ");
    }

    #[test]
    fn a_low_screen_says_that_there_is_more() {
        let all = lines(&status(), &look(80));
        assert_eq!(fitted(all.clone(), 100, &look(80)), all);
        let some = fitted(all.clone(), 5, &look(80));
        assert_eq!((some.len(), some[4].clone()), (5, format!("and {} more lines", all.len() - 4)));
        assert_eq!(trouble("redis://x", "away\n\x1b[2J", &look(6)), ["sessi…", "", "away …"]);
    }

    #[test]
    fn times_are_told_in_two_units() {
        let cases = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m 00s"),
            (3_599, "59m 59s"),
            (3_600, "1h 00m"),
            (90_000, "1d 01h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(span(at(0), at(seconds)), text);
        }
        assert_eq!(span(at(5), at(0)), "0s", "clocks differ");
    }
}
