//! Logs: tracing to stderr, or to a file when one is configured, as text or JSON.
//!
//! Started once by the command line, before any thread that logs. Writing happens on the thread that logs; nothing
//! is buffered, so there is nothing to stop or flush. Standard output is never written to: it belongs to results.

use std::{
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    fmt::{self, MakeWriter, format::FmtSpan},
    layer::SubscriberExt as _,
    util::{SubscriberInitExt as _, TryInitError},
};

use crate::config::{LEVELS, Log, LogFormat};

/// Who reads the logs, which decides what is worth a line and whether it carries the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Somebody waits at a terminal for a result: from `warn` on, without the time.
    Person,
    /// A service's log: from `info` on, with the time.
    Operator,
}

impl Audience {
    const fn level(self) -> &'static str {
        match self {
            Self::Person => "warn",
            Self::Operator => "info",
        }
    }
}

/// What the command line adds to the `log` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Who reads the logs.
    pub audience: Audience,
    /// How many more (`-v`) or fewer (`-q`) levels to show.
    pub verbosity: i8,
    /// Colour codes on stderr.
    pub color: bool,
}

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The file can't be opened.
    #[error("cannot open the log file {}; change log.file", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The filter doesn't parse.
    #[error("log.level is not a filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Logs were started before, in this process.
    #[error("logs are already being written")]
    Started(#[source] TryInitError),
}

/// Sends all logs of this process where `log` says.
///
/// # Errors
/// When the log file can't be opened, or when called twice.
pub fn start(log: &Log, options: Options) -> Result<(), TelemetryError> {
    let filter = EnvFilter::builder().parse(without_lapin(directives(log.level.as_deref(), options)))?;
    let layer = match &log.file {
        Some(path) => {
            let file = open(path).map_err(|source| TelemetryError::File { path: path.clone(), source })?;
            let options = Options { color: false, audience: Audience::Operator, ..options };
            formatted(log.format, options, Arc::new(file))
        }
        None => formatted(log.format, options, io::stderr),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init().map_err(TelemetryError::Started)
}

type BoxedLayer = Box<dyn tracing_subscriber::Layer<Registry> + Send + Sync>;

fn formatted<W>(format: LogFormat, options: Options, writer: W) -> BoxedLayer
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer).with_ansi(options.color).with_span_events(FmtSpan::NONE);
    match (format, options.audience) {
        (LogFormat::Json, _) => layer.json().flatten_event(true).with_ansi(false).boxed(),
        (LogFormat::Text, Audience::Person) => layer.compact().without_time().with_target(false).boxed(),
        (LogFormat::Text, Audience::Operator) => layer.boxed(),
    }
}

/// Appends; a new file is readable by its owner only, because logs name files, hosts and people.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// The AMQP library logs messages that came back with all they hold, and as errors what the bus deals with; it speaks
/// only where a directive names it.
fn without_lapin(directives: String) -> String {
    if directives.contains("lapin") { directives } else { format!("{directives},lapin=off") }
}

/// The filter: what is configured, moved by `-v` and `-q`. Those speak of godctl; its libraries join one step later,
/// because their debug lines would drown ours.
fn directives(configured: Option<&str>, options: Options) -> String {
    let name = |rank: usize| LEVELS.get(rank).copied().unwrap_or("trace");
    let rank_of = |level: &str| LEVELS.iter().position(|name| level.trim().eq_ignore_ascii_case(name));
    let base = configured.unwrap_or_else(|| options.audience.level());
    if options.verbosity == 0 && configured.is_some() {
        return base.to_owned();
    }
    // Directives for single targets have no level to move; the flag then starts from the command's own.
    let from = rank_of(base).or_else(|| rank_of(options.audience.level())).unwrap_or_default();
    let most = isize::try_from(LEVELS.len()).unwrap_or(isize::MAX);
    let wanted = isize::try_from(from).unwrap_or_default() + isize::from(options.verbosity);
    let rank = usize::try_from(wanted.clamp(0, most)).unwrap_or_default();
    let (ours, theirs) = match rank {
        0..=2 => return name(rank).to_owned(),
        3 | 4 => (name(rank), "warn"),
        5 => ("trace", "info"),
        _ => ("trace", "trace"),
    };
    format!("{theirs},godctl={ours}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(configured: Option<&str>, audience: Audience, verbosity: i8) -> String {
        directives(configured, Options { audience, verbosity, color: false })
    }

    #[test]
    fn flags_move_the_level() {
        use Audience::{Operator, Person};
        let cases = [
            (None, Person, 0, "warn"),
            (None, Operator, 0, "warn,godctl=info"),
            (None, Person, 1, "warn,godctl=info"),
            (None, Person, 2, "warn,godctl=debug"),
            (None, Person, 3, "info,godctl=trace"),
            (None, Person, 4, "trace,godctl=trace"),
            (None, Person, 100, "trace,godctl=trace"),
            (None, Person, -1, "error"),
            (None, Operator, -1, "warn"),
            (None, Operator, -128, "off"),
            (Some("debug"), Person, 0, "debug"),
            (Some("ERROR"), Operator, 1, "warn"),
            (Some("warn,godctl::asr=debug"), Operator, 0, "warn,godctl::asr=debug"),
            (Some("warn,godctl::asr=debug"), Operator, 1, "warn,godctl=debug"),
        ];
        for (configured, audience, verbosity, expected) in cases {
            let found = of(configured, audience, verbosity);
            assert_eq!(found, expected, "{configured:?} {audience:?} {verbosity}");
            assert!(EnvFilter::builder().parse(&found).is_ok(), "{found}");
            assert!(EnvFilter::builder().parse(without_lapin(found)).is_ok());
        }
    }

    #[test]
    fn what_events_hold_is_not_logged_by_the_library_that_carries_them() {
        assert_eq!(without_lapin("trace".to_owned()), "trace,lapin=off");
        assert_eq!(without_lapin("warn,lapin=debug".to_owned()), "warn,lapin=debug");
    }

    #[cfg(unix)]
    #[test]
    fn a_log_file_belongs_to_its_owner_and_is_appended_to() {
        use std::{io::Write as _, os::unix::fs::PermissionsExt as _};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("godctl.log");
        open(&path).unwrap().write_all(b"one\n").unwrap();
        open(&path).unwrap().write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn json_lines_are_json_and_text_for_people_has_no_time() {
        #[derive(Clone, Default)]
        struct Buffer(Arc<parking_lot::Mutex<Vec<u8>>>);
        impl io::Write for Buffer {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let logged = |format| {
            let buffer = Buffer::default();
            let writer = buffer.clone();
            let options = Options { audience: Audience::Person, verbosity: 0, color: false };
            let layer = formatted(format, options, move || writer.clone());
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                tracing::warn!(port = 8000, "busy");
            });
            String::from_utf8(buffer.0.lock().clone()).unwrap()
        };
        assert_eq!(logged(LogFormat::Text).trim(), "WARN busy port=8000");
        let line: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json)).unwrap();
        assert_eq!(
            (&line["level"], &line["message"], &line["port"]),
            (&"WARN".into(), &"busy".into(), &8000.into())
        );
    }
}
