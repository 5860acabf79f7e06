//! `godctl bus doctor`, and the line about the bus in `godctl doctor`: what is well with the bus, and how to mend the
//! rest. Leaves no trace in files; a broker is asked as every other command asks it, which makes its exchange if need be.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::connection::with_bus;
use crate::{
    bus::{
        BusError, LinkStats, QueueInfo, Stats, connect,
        sqlite::{Inspection, SqliteBus},
    },
    cmd::{
        Context, Exit, Threads,
        findings::{Finding, Named, Report, Status},
        models::size,
        probe,
    },
    config,
};

/// Flags of `godctl bus doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus doctor
  godctl bus doctor --json | jq '.checks[] | select(.status != \"ok\")'
  godctl bus doctor --bus amqp://broker.example

The check of a SQLite file reads all of it: about a second for each GB. Exits with 1 if something
essential fails.")]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A write-ahead log larger than this says that something keeps it from being written back.
const LARGE_WAL: u64 = 256_000_000;

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let config = &context.config.bus;
    let checks = match config.url.scheme() {
        "sqlite" => {
            let path = connect::sqlite_file(config, &context.paths.data_dir);
            sqlite(&path, context)?
        }
        "file" => vec![
            Named { name: "file", finding: plain_file(Path::new(config.url.path())) },
            Named { name: "permissions", finding: permissions(Path::new(config.url.path())) },
        ],
        "mem" => vec![Named { name: "memory", finding: memory() }],
        _ => broker(context)?,
    };
    Report::new(checks).print(args.json, context.terminal.stdout.color, Exit::Failed)
}

/// The line in `godctl doctor`: quick, and on a thread of the doctor's.
pub(in crate::cmd) fn quick(config: &config::Bus, data_dir: &Path, patience: Duration) -> Finding {
    match config.url.scheme() {
        "sqlite" => quick_file(&connect::sqlite_file(config, data_dir)),
        "file" => plain_file(Path::new(config.url.path())),
        "mem" => memory(),
        _ => quick_broker(config, patience),
    }
}

fn memory() -> Finding {
    Finding::new(
        Status::Warn,
        "mem: ends with each process, and no other process sees it",
        "good for trying things out; unset bus.url for a bus in a file",
    )
}

/// Whether lines can be appended.
fn plain_file(path: &Path) -> Finding {
    if path.exists() {
        // Opened as the bus would open it, and left alone.
        return match std::fs::OpenOptions::new().append(true).open(path) {
            Ok(_) => Finding::ok(format!("{} ({})", path.display(), size(length(path)))),
            Err(error) => Finding::new(
                Status::Failed,
                format!("{}: {error}", path.display()),
                "make it writable, or change bus.url",
            ),
        };
    }
    will_be_made(path)
}

/// A file that does not exist: whether it could be made.
fn will_be_made(path: &Path) -> Finding {
    let above =
        path.ancestors().skip(1).map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir });
    let Some(existing) = above.into_iter().find(|dir| dir.exists()) else {
        return Finding::new(Status::Failed, format!("{} has no parent", path.display()), "change bus.url");
    };
    // Unlinked at once: nothing stays behind, whatever happens.
    match tempfile::tempfile_in(existing) {
        Ok(_) => Finding::ok(format!("{} (will be made)", path.display())),
        Err(error) => {
            let detail = format!("{}: {error}", existing.display());
            Finding::new(Status::Failed, detail, "make it writable, or choose another place with bus.url")
        }
    }
}

fn quick_file(path: &Path) -> Finding {
    if !path.exists() {
        return will_be_made(path);
    }
    let bytes = length(path);
    let mut head = [0; 16];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head));
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Finding::new(
            Status::Failed,
            format!("{}: {error}", path.display()),
            "make it yours, or change bus.url",
        ),
        // The first 16 bytes of every SQLite file, see https://www.sqlite.org/fileformat.html.
        Ok(()) if head == *b"SQLite format 3\0" => match permissions(path) {
            Finding { status: Status::Ok, .. } => {
                Finding::ok(format!("{} ({})", path.display(), size(bytes)))
            }
            found => found,
        },
        _ if bytes == 0 => Finding::ok(format!("{} (empty)", path.display())),
        _ => Finding::new(
            Status::Failed,
            format!("{} is not a bus of godctl", path.display()),
            "move it away, or choose another place with bus.url",
        ),
    }
}

fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |found| found.len())
}

/// Events may hold what was said in a room, so the file is its owner's.
#[cfg(unix)]
fn permissions(path: &Path) -> Finding {
    use std::os::unix::fs::PermissionsExt as _;
    let Ok(found) = path.metadata() else { return Finding::ok("no file yet") };
    match found.permissions().mode() & 0o777 {
        mode if mode & 0o077 == 0 => Finding::ok(format!("{mode:o}, yours alone")),
        mode => Finding::new(
            Status::Warn,
            format!("{} is open to other users ({mode:o})", path.display()),
            format!("chmod 600 {}", path.display()),
        ),
    }
}

#[cfg(not(unix))]
fn permissions(_path: &Path) -> Finding {
    Finding::ok("as the system sets them")
}

fn sqlite(path: &Path, context: &Context) -> anyhow::Result<Vec<Named>> {
    let named = |name, finding| Named { name, finding };
    if !path.exists() {
        return Ok(vec![named("file", will_be_made(path))]);
    }
    let inspected = context.block_on(Threads::Current, async { Ok(SqliteBus::inspect(path).await) })?;
    let inspection = match inspected {
        Ok(inspection) => inspection,
        Err(error) => return Ok(vec![named("file", unreadable(&error))]),
    };
    Ok(vec![
        named("file", Finding::ok(format!("{} ({})", path.display(), size(inspection.file_bytes)))),
        named("permissions", permissions(path)),
        named("integrity", integrity(&inspection)),
        named("version", version(&inspection)),
        named("journal", journal(&inspection)),
        named("contents", Finding::ok(contents(&inspection))),
    ])
}

/// Why a file can't be looked into.
fn unreadable(error: &BusError) -> Finding {
    let fix = match error {
        BusError::Foreign { .. } => "move it away, or choose another place with bus.url",
        BusError::Corrupt { .. } => {
            "keep a copy; sqlite3 FILE .recover | sqlite3 NEW saves what is left, and bus.url can name the new file"
        }
        BusError::Unreachable { .. } => "see which program keeps it locked: fuser FILE",
        _ => "make it readable to you, or choose another place with bus.url",
    };
    Finding::new(Status::Failed, error.to_string(), fix)
}

fn integrity(inspection: &Inspection) -> Finding {
    match inspection.problems.as_slice() {
        [] => Finding::ok("every page was read, and is well"),
        [first, rest @ ..] => Finding::new(
            Status::Failed,
            format!(
                "{first}{}",
                if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) }
            ),
            "keep a copy; godctl bus export saves what can be read, godctl bus import puts it into a new file",
        ),
    }
}

fn version(inspection: &Inspection) -> Finding {
    let Inspection { sqlite_version, schema_version, newest_schema_version, .. } = inspection;
    let detail = format!("tables {schema_version}, SQLite {sqlite_version}");
    if schema_version > newest_schema_version {
        return Finding::new(Status::Failed, detail, "a newer godctl has made this file; update this one");
    }
    Finding::ok(detail)
}

fn journal(inspection: &Inspection) -> Finding {
    let detail = format!("{}, {} of it", inspection.journal_mode, size(inspection.wal_bytes));
    match inspection.journal_mode.as_str() {
        "wal" if inspection.wal_bytes > LARGE_WAL => Finding::new(
            Status::Warn,
            detail,
            "a program that reads without end keeps it from being written back; stop subscribers one by one",
        ),
        "wal" => Finding::ok(detail),
        _ => {
            Finding::new(Status::Warn, detail, "stop all users of the file; the next one puts it back to wal")
        }
    }
}

fn contents(inspection: &Inspection) -> String {
    let free = inspection.free_pages.saturating_mul(inspection.page_size);
    let pruned = inspection.pruned_at.map_or_else(|| "never".to_owned(), |at| format!("{at:.0}"));
    format!(
        "{} events, {} queues, {} free inside, last pruned {pruned}",
        inspection.events,
        inspection.queues,
        size(free)
    )
}

/// Whether something answers where the broker should be.
fn quick_broker(config: &config::Bus, patience: Duration) -> Finding {
    let started = Instant::now();
    match probe::connect(&authority(&config.url), patience) {
        Ok(_) => Finding::ok(format!("{} answers ({} ms)", config.url, started.elapsed().as_millis())),
        Err(error) => Finding::new(
            Status::Missing,
            format!("{}: {error}", config.url),
            "start the broker, or correct bus.url; events wait in the outbox meanwhile",
        ),
    }
}

/// `host:port` of a broker, taken from the address as it is shown.
fn authority(url: &config::BusUrl) -> String {
    let shown = url.to_string();
    let rest = shown.split_once("://").map_or(shown.as_str(), |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let host = rest.split('/').next().unwrap_or_default();
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let port = if url.scheme() == "amqps" { 5671 } else { 5672 };
    if has_port { host.to_owned() } else { format!("{host}:{port}") }
}

/// How long to wait for a broker's first answer.
const PATIENCE: Duration = Duration::from_secs(5);

fn broker(context: &Context) -> anyhow::Result<Vec<Named>> {
    let config = &context.config.bus;
    let named = |name, finding| Named { name, finding };
    let mut checks = vec![named("network", quick_broker(config, PATIENCE))];
    let opened = context.block_on(Threads::Current, async {
        let opened = with_bus(context, async |bus| {
            // The first answer to a question also says whether we are let in, and whether the exchange is ours.
            Ok(Look {
                queues: bus.queues().await,
                stats: bus.stats().await?,
                history: bus.capabilities().history,
            })
        });
        Ok(opened.await)
    })?;
    let look = match opened {
        Ok(look) => look,
        Err(error) => {
            checks.push(named("access", refused(&error)));
            return Ok(checks);
        }
    };
    match &look.queues {
        Err(error) => checks.push(named("access", refused(&anyhow::Error::new(error.clone())))),
        Ok(queues) => {
            checks.push(named("access", Finding::ok(format!("exchange {} is ready", config.exchange))));
            let dead: u64 = queues.iter().map(|queue| queue.dead).sum();
            let detail = format!("{} queues, {dead} dead letters", queues.len());
            checks.push(named(
                "queues",
                match dead {
                    0 => Finding::ok(detail),
                    _ => Finding::new(Status::Warn, detail, "see godctl bus dead list"),
                },
            ));
            checks.push(named(
                "history",
                match look.history {
                    true => Finding::ok("kept in a stream queue"),
                    false => Finding::new(
                        Status::Missing,
                        "events from the past cannot be seen",
                        "-c bus.history=true, on a RabbitMQ 3.9 or newer",
                    ),
                },
            ));
        }
    }
    if let Some(link) = &look.stats.link {
        checks.push(named("outbox", outbox(link, config)));
    }
    Ok(checks)
}

struct Look {
    queues: Result<Vec<QueueInfo>, BusError>,
    stats: Stats,
    history: bool,
}

/// Why a broker does not do what we ask.
fn refused(error: &anyhow::Error) -> Finding {
    let fix = match error.chain().find_map(|cause| cause.downcast_ref::<BusError>()) {
        Some(BusError::Access { .. }) => {
            "correct bus.username and bus.password (or bus.password_file); the user needs configure, write and read"
        }
        Some(BusError::Conflict { .. }) => {
            "choose another name with bus.exchange, or delete the one on the broker if nobody uses it"
        }
        Some(BusError::Unreachable { .. }) => "start the broker, or correct bus.url",
        _ => "correct it and run this again",
    };
    Finding::new(Status::Failed, format!("{error:#}"), fix)
}

fn outbox(link: &LinkStats, config: &config::Bus) -> Finding {
    let LinkStats { outbox, outbox_bytes, outbox_refused, outbox_failed, circuit, .. } = link;
    let detail =
        format!("{outbox} of {} events wait ({}), circuit {circuit}", config.outbox_max, size(*outbox_bytes));
    if *outbox_failed > 0 {
        return Finding::new(
            Status::Warn,
            format!("{detail}; {outbox_failed} events that the broker never takes"),
            "see the log for why; they are kept beside the outbox",
        );
    }
    if *outbox_refused > 0 || *outbox >= u64::from(config.outbox_max) {
        return Finding::new(
            Status::Failed,
            format!("{detail}; {outbox_refused} events were refused"),
            "bring the broker back, or raise bus.outbox_max and bus.outbox_max_mb",
        );
    }
    if *outbox > 0 {
        return Finding::new(
            Status::Warn,
            detail,
            "nothing to do once the broker is back; they are sent then",
        );
    }
    Finding::ok(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_where_its_address_says() {
        let of = |text: &str| authority(&text.parse().unwrap());
        assert_eq!(of("amqp://guest:gu@est/@host/v"), "host:5672");
        assert_eq!(of("amqps://host"), "host:5671");
        assert_eq!(of("amqp://host:5673/%2f?heartbeat=1"), "host:5673");
        assert_eq!(of("amqp://[::1]/"), "[::1]:5672");
    }

    #[test]
    fn a_look_makes_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let config = config::Bus::default();
        let finding = quick(&config, &dir.path().join("data"), Duration::ZERO);
        assert_eq!(finding.status, Status::Ok);
        assert!(finding.detail.ends_with("bus.db (will be made)"), "{finding:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_of_somebody_elses_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.db");
        std::fs::write(&path, "dear diary, this is no database").unwrap();
        assert_eq!(quick_file(&path).status, Status::Failed);
        std::fs::write(&path, b"SQLite format 3\0 and so on").unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            assert!(quick_file(&path).fix.is_some_and(|fix| fix.starts_with("chmod 600")));
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        assert_eq!(quick_file(&path).status, Status::Ok);
    }

    #[test]
    fn what_waits_in_the_outbox_is_judged() {
        let config = config::Bus::default();
        let status = |link: LinkStats| outbox(&link, &config).status;
        let calm = LinkStats { circuit: "closed".to_owned(), ..LinkStats::default() };
        assert_eq!(status(calm.clone()), Status::Ok);
        assert_eq!(status(LinkStats { outbox: 3, ..calm.clone() }), Status::Warn);
        assert_eq!(status(LinkStats { outbox_failed: 1, ..calm.clone() }), Status::Warn);
        assert_eq!(status(LinkStats { outbox_refused: 1, ..calm }), Status::Failed);
    }
}
