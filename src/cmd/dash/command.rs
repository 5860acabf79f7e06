//! Flags of `godctl dash`, and which of its ways they lead to: the screen, lines, one frame, or a file.

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::Subcommand;
use jiff::{Timestamp, tz::TimeZone};
use tokio::sync::mpsc;

use super::{
    alarm::{Via, via},
    app::{App, Link, Msg, Options, Theme, keys},
    export::{Exporter, Format},
    feed::{Batching, Begin, Feed, News, Source},
    frame,
    plain::Plain,
    prefs::Prefs,
    record::Recorder,
    replay::{Player, Recording},
    run::{Clock, Dashboard},
    schemas,
    state::{
        buffer::{Buffer, Limits, Pushed},
        filter::{Errors, Filter},
        registry::{self as services, Service},
        row::Draft,
        rule::Rule,
        search::Search,
        types::Flag,
    },
    view::look::Depth,
};
use crate::{
    bus::{Item, Pattern},
    cmd::{
        Context, Exit, Failure, Stdout, Threads,
        bus::{Moment, moment, other_bus},
    },
    config,
};

/// Batches that wait for the dashboard; then the bus waits.
const WAITING: usize = 16;

/// Orders that wait for the connection.
const ORDERS: usize = 8;

/// Longer than any key waits for the next one.
const SETTLED: Duration = Duration::from_millis(500);

/// How long a frame waits for events of a bus that keeps no history.
const FRAME_WAIT: Duration = Duration::from_secs(1);

/// Flags of `godctl dash`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  godctl dash                                     everything on the configured bus
  godctl dash --bind 'agent.#' --errors           only what agents do, and only what went wrong
  godctl dash --url amqp://broker --record day.jsonl
  godctl dash --replay day.jsonl --speed 10       ten times as fast as it happened
  godctl dash --plain --bind 'voice.#'            lines instead of a screen
  godctl dash --json | jq .payload                one event a line
  godctl dash --replay day.jsonl --frame 100x30 --keys '/door<Enter>'
  godctl dash export --replay day.jsonl --format csv -o day.csv

Keys: 1-7 views, / search, F filters, x chain, Space freeze, e export, y copy, ? all of them, q quit.
Nothing is written unless you ask for it (--record, exports, a theme that you change)."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    filters: Filters,
    /// Do not connect before c is pressed
    #[arg(long)]
    paused: bool,
    /// Begin with the newest N events that the bus has
    #[arg(short = 'n', value_name = "N", default_value_t = 1000, conflicts_with = "since")]
    last: usize,
    /// Begin so long ago, at a time, or at the beginning
    #[arg(long, value_name = "10m|TIME|beginning", value_parser = moment)]
    since: Option<Moment>,
    /// How fast a recording is played: a factor, or max [default: 1, for --frame and --json max]
    #[arg(long, value_name = "FACTOR", value_parser = speed, requires = "replay")]
    speed: Option<Speed>,
    /// Append every event that comes to this file, one a line
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Print lines instead of taking over the terminal
    #[arg(long)]
    plain: bool,
    /// Print each event as one JSON line
    #[arg(long, conflicts_with = "plain")]
    json: bool,
    /// With --plain or --json: end when everything was printed that had happened before
    #[arg(long)]
    no_follow: bool,
    /// Print one frame of this size as text and end
    #[arg(long, value_name = "WxH", value_parser = size, conflicts_with_all = ["plain", "json"])]
    frame: Option<(u16, u16)>,
    /// Press these keys before the frame is drawn; names stand in angle brackets, as in the examples
    #[arg(long, value_name = "KEYS", requires = "frame")]
    keys: Option<String>,
    /// Draw the frame with colours
    #[arg(long, requires = "frame")]
    ansi: bool,
    /// Colours [default: dark, or what t chose last]
    #[arg(long, value_name = "THEME")]
    theme: Option<Theme>,
    /// Tell me when this is so: 'errors > 5/min', 'error-rate > 10%', 'agent.error > 3/min', 'silence > 5min' (may be
    /// repeated)
    #[arg(long = "alert", value_name = "RULE")]
    alerts: Vec<Rule>,
    /// The services that there are, for the view of services: a TOML or JSON file
    #[arg(long, value_name = "FILE")]
    registry: Option<PathBuf>,
    /// How alerts are told: bell, desktop, webhook=URL or command=LINE (may be repeated)
    #[arg(long, value_name = "HOW", value_parser = via)]
    notify: Vec<Via>,
    /// Ring the terminal's bell for events of this type and below (may be repeated)
    #[arg(long, value_name = "PREFIX")]
    bell: Vec<String>,
    /// But not for these (may be repeated)
    #[arg(long, value_name = "PREFIX")]
    mute: Vec<String>,
    /// Know the types of the schemas in this folder before they come
    #[arg(long, value_name = "DIR")]
    schema_root: Option<PathBuf>,
    /// Use only letters that every terminal has
    #[arg(long)]
    ascii: bool,
    /// Keep so many events
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    max_events: usize,
    /// Keep so many MB of events
    #[arg(long, value_name = "MB", default_value_t = 256)]
    max_mb: usize,
    /// Hand events over so long after the first of a batch
    #[arg(long, value_name = "MS", default_value_t = 100, hide = true)]
    batch_ms: u64,
    /// Hand events over when there are so many
    #[arg(long, value_name = "N", default_value_t = 50, hide = true)]
    batch_max: usize,
    /// Tell at the end, on stderr, how many events and batches there were
    #[arg(long)]
    stats: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write events to a file, as JSON or CSV
    Export(ExportArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl dash export > events.json                      the whole history of the bus
  godctl dash export --bind 'agent.#' --errors --format csv -o errors.csv
  godctl dash export --replay day.jsonl --search '~door' --since 2h")]
struct ExportArgs {
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    filters: Filters,
    /// Only events of this time and later: so long ago, or a time
    #[arg(long, value_name = "10m|TIME", value_parser = moment)]
    since: Option<Moment>,
    /// What the file looks like: json or csv
    #[arg(long, value_name = "FORMAT", default_value = "json", hide_possible_values = true)]
    format: Format,
    /// Where to write; - is standard output. A file that is there already is left alone
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

/// Where events come from.
#[derive(Debug, clap::Args)]
struct From {
    /// Another bus than the configured one: sqlite:PATH, amqp://…, file:PATH
    #[arg(long, visible_alias = "bus", value_name = "URL", conflicts_with = "replay")]
    url: Option<String>,
    /// Another exchange on a RabbitMQ than the configured one
    #[arg(long, value_name = "NAME", conflicts_with = "replay")]
    exchange: Option<String>,
    /// Only events whose type matches (may be repeated); * is one word, # any number
    #[arg(long = "bind", value_name = "PATTERN")]
    patterns: Vec<Pattern>,
    /// Play a recording: JSON lines, an exported array, or the file of a bus
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
}

/// Which events are shown.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filters")]
struct Filters {
    /// Show only this domain
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Show only this type, or those that match a pattern
    #[arg(long = "type", value_name = "PATTERN")]
    event_type: Option<Pattern>,
    /// Show only what this program sends
    #[arg(long, value_name = "APP")]
    source: Option<String>,
    /// Show only this session
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Show only what went wrong
    #[arg(long)]
    errors: bool,
    /// Show only what is found: text, ~fuzzy or /pattern/
    #[arg(long, value_name = "QUERY")]
    search: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Speed {
    Factor(f64),
    Max,
}

fn speed(text: &str) -> Result<Speed, String> {
    match text {
        "max" => Ok(Speed::Max),
        text => match text.parse::<f64>() {
            Ok(factor) if factor.is_finite() && factor > 0.0 => Ok(Speed::Factor(factor)),
            _ => Err("want a factor such as 1, 10 or 0.5, or max".to_owned()),
        },
    }
}

fn size(text: &str) -> Result<(u16, u16), String> {
    let parts =
        text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    match parts {
        Some((width @ 20..=1000, height @ 6..=1000)) => Ok((width, height)),
        _ => Err("want columns x lines, such as 100x30; at least 20x6, at most 1000x1000".to_owned()),
    }
}

impl Filters {
    fn filter(&self) -> anyhow::Result<Filter> {
        let query = self.search.clone().unwrap_or_default();
        let search = Search::parse(&query)
            .map_err(|error| Failure::new(Exit::Usage, anyhow::anyhow!("--search: {error}")))?;
        Ok(Filter {
            domain: self.domain.clone(),
            event_type: self.event_type.clone(),
            app: self.source.clone(),
            session: self.session.clone(),
            errors: if self.errors { Errors::ByType } else { Errors::Any },
            query,
            search,
            ..Filter::default()
        })
    }

    /// Sets the filters of a dashboard.
    fn apply(&self, app: &mut App) -> anyhow::Result<()> {
        let listed = std::mem::take(&mut app.filter.listed);
        app.filter = Filter { listed, ..self.filter()? };
        Ok(())
    }
}

/// A source that runs, and the way to it.
struct Running {
    news: mpsc::Receiver<News>,
    orders: mpsc::Sender<super::feed::Order>,
}

impl From {
    fn patterns(&self) -> Vec<Pattern> {
        if self.patterns.is_empty() { vec![Pattern::all()] } else { self.patterns.clone() }
    }

    fn config(&self, context: &Context) -> anyhow::Result<config::Bus> {
        let mut config = match &self.url {
            Some(url) => other_bus(url, context)?,
            None => context.config.bus.clone(),
        };
        if let Some(exchange) = &self.exchange {
            config.exchange.clone_from(exchange);
        }
        // So many may be on their way while a slow terminal holds them up.
        config.prefetch = config.prefetch.max(500);
        Ok(config)
    }

    /// Where events come from, fit to be shown.
    fn shown(&self, context: &Context) -> anyhow::Result<String> {
        Ok(match &self.replay {
            Some(path) => path.display().to_string(),
            None => {
                let config = self.config(context)?;
                match config.url.scheme() {
                    "sqlite" => crate::bus::connect::sqlite_file(&config, &context.paths.data_dir)
                        .display()
                        .to_string(),
                    _ => config.url.to_string(),
                }
            }
        })
    }

    /// Starts the task that gives events.
    fn start(
        &self,
        context: &Context,
        begin: Begin,
        speed: Option<f64>,
        batching: Batching,
        starts_connected: bool,
    ) -> anyhow::Result<Running> {
        let (sender, news) = mpsc::channel(WAITING);
        let (orders, receiver) = mpsc::channel(ORDERS);
        let config = self.config(context)?;
        if let Some(path) = &self.replay {
            let player = Player {
                recording: Recording::open(path)?,
                patterns: self.patterns(),
                speed,
                batching,
                config,
                orders: receiver,
                news: sender,
                shutdown: context.shutdown.clone(),
            };
            context.shutdown.spawn_critical("replay", player.run());
        } else {
            let data_dir = context.paths.data_dir.clone();
            let source = Source { config, data_dir, begin, batching };
            let feed = Feed::new(source, self.patterns(), receiver, sender);
            let stop = context.shutdown.child_token();
            context.shutdown.spawn("dash-feed", async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = feed.run(starts_connected) => {}
                }
            });
        }
        Ok(Running { news, orders })
    }
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    match &args.action {
        Some(Action::Export(export)) => {
            context.block_on(Threads::Current, async { write_file(export, context).await })
        }
        None => context.block_on(Threads::Current, async { args.run(context).await }),
    }
}

impl Args {
    fn begin(&self) -> Begin {
        match self.since {
            Some(since) => Begin::At(since.resolve(Timestamp::now())),
            None => Begin::Newest(self.last),
        }
    }

    async fn run(&self, context: &Context) -> anyhow::Result<()> {
        let batching =
            Batching { most: self.batch_max.max(1), longest: Duration::from_millis(self.batch_ms) };
        let is_screen =
            context.terminal.stdout.is_terminal && !self.plain && !self.json && self.frame.is_none();
        let speed = match (self.speed, is_screen || self.plain) {
            (Some(Speed::Factor(factor)), _) => Some(factor),
            (None, true) if is_screen => Some(1.0),
            (Some(Speed::Max) | None, _) => None,
        };
        let recorder = self.record.as_deref().map(Recorder::open).transpose()?;
        let options = self.options(context, is_screen)?;
        let Running { news, orders } =
            self.from.start(context, self.begin(), speed, batching, !self.paused)?;
        if is_screen {
            let depth = depth(context);
            let clock = match self.from.replay {
                // As fast as can be means that time goes from event to event.
                Some(_) => Clock::Recording { newest: None, speed: speed.unwrap_or(0.0) },
                None => Clock::System,
            };
            let dashboard = Dashboard {
                options,
                depth,
                clock,
                news,
                orders,
                recorder,
                data_dir: context.paths.data_dir.clone(),
                vias: self.notify.clone(),
                shutdown: context.shutdown.clone(),
            };
            let app = dashboard.run(|app| self.filters.apply(app)).await?;
            if self.stats {
                tell(&app);
            }
            return Ok(());
        }
        if self.frame.is_some() {
            return self.one_frame(options, news, context).await;
        }
        let plain = Plain {
            json: self.json,
            zone: TimeZone::system(),
            ends_at_now: self.no_follow,
            stats: self.stats,
            filter: self.filters.filter()?,
        };
        let result = plain.run(news, recorder, &context.shutdown).await;
        drop(orders);
        result
    }

    fn options(&self, context: &Context, is_screen: bool) -> anyhow::Result<Options> {
        let prefs = Prefs::read(&context.paths.data_dir);
        let now = Timestamp::now();
        let mut flags = prefs.flags.clone();
        for (flag, prefixes) in [(Flag::Bell, &self.bell), (Flag::Muted, &self.mute)] {
            prefixes.iter().for_each(|prefix| flags.set(flag, prefix, true));
        }
        let size = match self.frame {
            Some(size) => size,
            None if is_screen => match crossterm::terminal::size() {
                // Some terminals don't know themselves.
                Ok((0, _) | (_, 0)) => (80, 24),
                size => size.context("cannot tell how large the terminal is")?,
            },
            None => (80, 24),
        };
        Ok(Options {
            limits: Limits { rows: self.max_events, bytes: self.max_mb.saturating_mul(1 << 20) },
            theme: self.theme.or(prefs.theme).unwrap_or_default(),
            ascii: self.ascii,
            zone: TimeZone::system(),
            bus: self.from.shown(context)?,
            patterns: self.from.patterns(),
            size,
            now,
            services: self.registry.as_deref().map(registry).transpose()?.unwrap_or_default(),
            alerts: self.alerts.clone(),
            is_recording: self.from.replay.is_some(),
            flags,
            marks: prefs.marks,
            presets: prefs.presets,
            expected: self.schema_root.as_deref().map(schemas::types).transpose()?.unwrap_or_default(),
        })
    }

    /// Draws one frame of what there is.
    async fn one_frame(
        &self,
        options: Options,
        mut news: mpsc::Receiver<News>,
        context: &Context,
    ) -> anyhow::Result<()> {
        let keys = keys::parse(self.keys.as_deref().unwrap_or_default())
            .map_err(|error| Failure::new(Exit::Usage, anyhow::anyhow!("--keys: {error}")))?;
        let mut clock = match self.from.replay {
            // A frame of a recording is always the same: its time stands still.
            Some(_) => Clock::Recording { newest: None, speed: 0.0 },
            None => Clock::System,
        };
        let mut app = App::new(options);
        self.filters.apply(&mut app)?;
        let (mut batches, mut full) = (0_u64, 0_u64);
        let (mut due, mut is_caught_up) = (None, false);
        loop {
            let waited = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                biased;
                () = context.shutdown.cancelled() => return Err(Failure::reported(Exit::Interrupted).into()),
                next = news.recv() => next,
                () = waited => break,
            };
            match next {
                Some(News::Batch(batch)) => {
                    batches += 1;
                    full += u64::from(batch.len() >= self.batch_max);
                    clock.see(&batch);
                    app.update(Msg::Batch(batch), clock.now());
                }
                Some(News::Link(link)) => {
                    let is_over = matches!(
                        link,
                        Link::Ended | Link::Failed(_) | Link::Reconnecting { .. } | Link::Disconnected
                    );
                    // A recording says itself when it is over.
                    if link == Link::Connected && !is_caught_up && self.from.replay.is_none() {
                        due = Some(tokio::time::Instant::now() + FRAME_WAIT);
                    }
                    app.update(Msg::Link(link), clock.now());
                    if is_over {
                        break;
                    }
                }
                // What is on its way comes within a batch's time.
                Some(News::CaughtUp) => {
                    let longest = Duration::from_millis(self.batch_ms);
                    is_caught_up = true;
                    due = Some(tokio::time::Instant::now() + longest);
                }
                Some(News::History(has_history)) => drop(app.update(Msg::History(has_history), clock.now())),
                Some(News::Page(..)) => {}
                None => break,
            }
        }
        let now = clock.now();
        while app.search_on() {}
        for key in keys {
            app.update(Msg::Key(key), now);
            while app.search_on() {}
        }
        // A search that was typed, and nothing after it.
        app.update(Msg::Tick(SETTLED), now);
        while app.search_on() {}
        let depth =
            self.ansi.then(|| if context.terminal.stdout.color { depth(context) } else { Depth::True });
        let text = frame::text(&app, depth);
        let mut stdout = Stdout::lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        if self.stats {
            let events = app.metrics.total;
            // There is nowhere left to say that stderr is closed.
            drop(writeln!(io::stderr(), "{events} events, {batches} batches, {full} of them full"));
        }
        Ok(())
    }
}

/// How quick the dashboard was, as one JSON object on stderr.
fn tell(app: &App) {
    let figures = serde_json::json!({
        "events": app.metrics.total,
        "duplicates": app.metrics.duplicates,
        "gaps": app.metrics.gaps,
        "batches": app.speed.batches,
        "frames": app.speed.frames,
        "frames_left_out": app.speed.skipped,
        "draw_p95_us": app.draw_p95(),
        "lag_p95_ms": app.lag_p95(),
        "resident_bytes": app.speed.resident,
    });
    // There is nowhere left to say that stderr is closed.
    drop(writeln!(io::stderr(), "{figures}"));
}

/// The services of a registry.
fn registry(path: &Path) -> anyhow::Result<Vec<Service>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    services::parse(&path.display().to_string(), &text)
        .map_err(|error| Failure::new(Exit::Usage, anyhow::anyhow!("--registry: {error}")).into())
}

/// The colours of this terminal.
fn depth(context: &Context) -> Depth {
    if !context.terminal.stdout.color {
        return Depth::None;
    }
    let variable = |name: &str| context.environment.get(name).unwrap_or_default();
    Depth::of(variable("TERM"), variable("COLORTERM"))
}

/// Writes all events that match, however many there are.
async fn write_file(args: &ExportArgs, context: &Context) -> anyhow::Result<()> {
    let since = args.since.and_then(|since| since.resolve(Timestamp::now()));
    let running = args.from.start(context, Begin::At(since), None, Batching::default(), true)?;
    let Running { mut news, orders } = running;
    let filter = args.filters.filter()?;
    let to_stdout = args.output.as_os_str() == "-";
    let out: Box<dyn io::Write> = if to_stdout {
        Box::new(BufWriter::new(Stdout::lock()))
    } else {
        let file = OpenOptions::new().write(true).create_new(true).open(&args.output);
        Box::new(BufWriter::new(file.with_context(|| format!("cannot write {}", args.output.display()))?))
    };
    let mut exporter = Exporter::begin(out, args.format)?;
    let mut buffer = Buffer::new(Limits { rows: 1, bytes: usize::MAX });
    let mut seen = std::collections::HashSet::new();
    loop {
        let next = tokio::select! {
            biased;
            () = context.shutdown.cancelled() => return Err(Failure::reported(Exit::Interrupted).into()),
            next = news.recv() => next,
        };
        match next {
            Some(News::Batch(batch)) => {
                let now = Timestamp::now();
                for arrived in batch {
                    let Some(draft) = Draft::of(&arrived.item, now) else { continue };
                    if matches!(&arrived.item, Item::Event(received) if since.is_some_and(|since| received.at.is_some_and(|at| at < since)))
                    {
                        continue;
                    }
                    if let Pushed::Row(seq) = buffer.push(draft)
                        && let Some(row) = buffer.row(seq)
                        && filter.sieve(now).lets_through(row, &buffer)
                        && (row.id.is_nil() || seen.insert(row.id))
                    {
                        exporter.add(row, buffer.body(row))?;
                    }
                }
            }
            Some(News::CaughtUp | News::Link(Link::Ended)) | None => break,
            Some(News::Link(Link::Reconnecting { why, .. } | Link::Failed(why))) => {
                return Err(Failure::new(Exit::Unavailable, anyhow::anyhow!("{why}")).into());
            }
            Some(
                News::Link(Link::Connecting | Link::Connected | Link::Disconnected)
                | News::History(_)
                | News::Page(..),
            ) => {}
        }
    }
    drop(orders);
    let written = exporter.end()?;
    if !to_stdout && context.terminal.stderr.is_terminal {
        drop(writeln!(io::stderr(), "wrote {written} events to {}", args.output.display()));
    }
    Ok(())
}
