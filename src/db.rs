//! SQLite files: opening one that is ours, refusing all others, and saying what went wrong.
//!
//! Nothing runs here in the background; each open connection has a thread of sqlx's own that ends with it.
//!
//! Two rules keep files whole. The library must be at least [`MIN_LIBRARY`]. And once SQLite has a file open, this
//! process must not open it in any other way: closing any descriptor of a file drops all POSIX locks that the process
//! holds on it (<https://sqlite.org/howtocorrupt.html>, 2.2), so files are looked into before SQLite opens them, once.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Row,
    sqlite::{SqliteConnectOptions, SqliteConnection},
};

/// The oldest SQLite that is safe: before it, connections that wrote while a checkpoint reset the write-ahead log
/// could damage the file (<https://sqlite.org/wal.html>, "The WAL-Reset Bug").
pub const MIN_LIBRARY: [u32; 3] = [3, 51, 3];

/// The write-ahead log is cut to this size when it starts again.
const JOURNAL_SIZE_LIMIT: u64 = 64 << 20;

/// How long to wait before trying again to switch to the write-ahead log, for which SQLite does not wait by itself.
const SWITCH_PAUSE: Duration = Duration::from_millis(20);

/// The byte of the `-shm` file that is locked by whoever writes (WAL_WRITE_LOCK in SQLite's `os_unix.c` and `wal.c`).
const WRITE_LOCK_BYTE: &str = "120";

/// What a kind of file looks like.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// What we call it, for messages.
    pub name: &'static str,
    /// The mark in the file's header that tells whose it is.
    pub application_id: i32,
    /// The scripts that lead from an empty file to the newest version, one for each version. A script that was ever
    /// released is never changed.
    pub migrations: &'static [&'static str],
}

/// How to open a file for writing.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file. It is made, with its folder, if it does not exist; for the owner only.
    pub path: PathBuf,
    /// A commit waits until the disk has it, so that it survives a power cut.
    pub sync: bool,
    /// How long to wait for other processes.
    pub patience: Duration,
    /// Writing fails, as on a full disk, when the file would have more pages than this.
    pub max_pages: Option<u32>,
}

/// Why a file can't be used; each variant is something else to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DbError {
    /// The file belongs to something else. It was not touched.
    #[error("{path} is not a {format}: {reason}")]
    Foreign {
        /// The file.
        path: String,
        /// What it should have been.
        format: &'static str,
        /// How we know.
        reason: String,
    },
    /// A newer program made the file. Update this one.
    #[error("{path} has version {found} and this program knows versions up to {known}; update it")]
    Newer {
        /// The file.
        path: String,
        /// The file's version.
        found: i64,
        /// Ours.
        known: usize,
    },
    /// The file is damaged. It was not touched.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: String,
        /// What SQLite said.
        reason: String,
    },
    /// There is no room on the disk, or the file has reached a limit on its size.
    #[error("no room to write {path}: {reason}")]
    Full {
        /// The file.
        path: String,
        /// What SQLite said.
        reason: String,
    },
    /// Another process has kept the file locked.
    #[error("{path} is locked: {reason}")]
    Busy {
        /// The file.
        path: String,
        /// By whom, if known, and for how long.
        reason: String,
    },
    /// The SQLite library is too old to be safe.
    #[error("SQLite {0} can damage files; build with 3.51.3 or newer")]
    Library(String),
    /// Something else failed.
    #[error("cannot {doing}: {reason}")]
    Failed {
        /// What was being done.
        doing: String,
        /// What the system or SQLite said.
        reason: String,
    },
}

/// What kind of failure SQLite reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Somebody else holds a lock.
    Busy,
    /// No room.
    Full,
    /// The file is damaged.
    Damaged,
    /// The file is no database.
    NotADatabase,
    /// The file may not be written.
    ReadOnly,
    /// The disk failed.
    Io,
    /// Anything else.
    Other,
}

/// What kind of failure this is. The numbers are SQLite's result codes (<https://sqlite.org/rescode.html>).
#[must_use]
pub fn fault(error: &sqlx::Error) -> Fault {
    const IOERR_SHMSIZE: i32 = 4874;
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let Some(code) = code.and_then(|code| code.parse::<i32>().ok()) else {
        return Fault::Other;
    };
    match code & 0xff {
        // The shared index of the write-ahead log could not grow.
        _ if code == IOERR_SHMSIZE => Fault::Full,
        5 | 6 => Fault::Busy,
        8 => Fault::ReadOnly,
        10 => Fault::Io,
        11 => Fault::Damaged,
        13 => Fault::Full,
        26 => Fault::NotADatabase,
        _ => Fault::Other,
    }
}

/// Says what a failure means for this file. `doing` completes "cannot …".
#[must_use]
pub fn explain(path: &Path, doing: &str, error: &sqlx::Error) -> DbError {
    let shown = path.display().to_string();
    let reason =
        error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
    match fault(error) {
        Fault::Busy => DbError::Busy { path: shown, reason: busy_reason(path, None) },
        Fault::Full => DbError::Full { path: shown, reason: format!("{reason}; make room on its disk") },
        Fault::Damaged | Fault::NotADatabase => DbError::Damaged { path: shown, reason },
        Fault::ReadOnly => DbError::Failed {
            doing: doing.to_owned(),
            reason: format!("{reason}; check the file's permissions"),
        },
        Fault::Io | Fault::Other => DbError::Failed { doing: doing.to_owned(), reason },
    }
}

/// Who holds the lock for writing, and for how long this process has waited, in words.
#[must_use]
pub fn busy_reason(path: &Path, waited: Option<Duration>) -> String {
    let holder = match writer_of(path) {
        Some(pid) => format!("process {pid}{} is writing to it", command_of(pid)),
        None => "another process is writing to it".to_owned(),
    };
    match waited {
        Some(waited) => format!("{holder}, and did so for {} s; try again, or end it", waited.as_secs()),
        None => format!("{holder}; try again, or end it"),
    }
}

/// The process that holds the lock for writing, from the kernel's list of locks (Linux; see `proc(5)`). The file
/// itself must not be opened for this.
fn writer_of(path: &Path) -> Option<u32> {
    let mut shared = path.as_os_str().to_owned();
    shared.push("-shm");
    let inode = inode_of(Path::new(&shared))?.1.to_string();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "POSIX", _, "WRITE", pid, file, first, ..] = words[..] else { return None };
        let ours = file.rsplit(':').next() == Some(inode.as_str()) && first == WRITE_LOCK_BYTE;
        ours.then(|| pid.parse().ok()).flatten()
    })
}

fn command_of(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.trim().is_empty() { String::new() } else { format!(" ({})", name.trim()) }
}

/// Device and inode: what a path leads to. None where the system has no such thing, or nothing is there.
#[must_use]
pub fn inode_of(path: &Path) -> Option<(u64, u64)> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
    }
    #[cfg(not(unix))]
    {
        let _unused = path;
        None
    }
}

/// Opens a file for writing, in WAL mode and at the newest version, and makes it first if there is none.
///
/// # Errors
/// [`DbError`]; a file that is not ours, or damaged, is left as it is.
pub async fn open(format: &Format, options: &Options) -> Result<SqliteConnection, DbError> {
    let path = &options.path;
    prepare_file(format, path)?;
    let doing = format!("open {}", path.display());
    let failed = |error: sqlx::Error| explain(path, &doing, &error);

    let mut connect = plain(path)
        .busy_timeout(options.patience)
        .pragma("synchronous", if options.sync { "FULL" } else { "NORMAL" })
        .pragma("journal_size_limit", JOURNAL_SIZE_LIMIT.to_string());
    if let Some(pages) = options.max_pages {
        connect = connect.pragma("max_page_count", pages.to_string());
    }
    // A header that looks right was looked at before; behind it anything may be.
    let refused = |error: sqlx::Error| match fault(&error) {
        Fault::NotADatabase => DbError::Foreign {
            path: path.display().to_string(),
            format: format.name,
            reason: "it is no SQLite file; choose another path, or move it away".to_owned(),
        },
        _ => failed(error),
    };
    let mut connection = connect.connect().await.map_err(refused)?;
    match settle(&mut connection, format, options, refused).await {
        Ok(()) => Ok(connection),
        Err(error) => {
            // Closed here and now, so that nothing is left beside a file that is not ours.
            connection.close().await.map_err(failed)?;
            Err(error)
        }
    }
}

/// Checks whose file this is, and brings it to WAL mode and the newest version.
async fn settle(
    connection: &mut SqliteConnection,
    format: &Format,
    options: &Options,
    failed: impl Fn(sqlx::Error) -> DbError + Copy,
) -> Result<(), DbError> {
    let path = &options.path;
    check_library(connection).await.map_err(failed)??;
    let row = sqlx::query("SELECT application_id, page_count FROM pragma_application_id, pragma_page_count")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    let (id, pages): (i32, i64) = (row.get(0), row.get(1));
    if pages == 0 {
        // In one transaction, as the first of them makes the file's first page: whoever looks at a header finds the
        // id in it. There is no write-ahead log yet, so the header alone always tells whose file it is.
        let claim = AssertSqlSafe(format!(
            "BEGIN; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA application_id = {}; COMMIT",
            format.application_id
        ));
        sqlx::raw_sql(claim).execute(&mut *connection).await.map_err(failed)?;
    } else if id != format.application_id {
        return Err(foreign(format, path, id));
    }
    switch_to_wal(connection, options, failed).await?;
    migrate(connection, format, path, failed).await
}

/// Opens a file that [`open`] has opened before, for reading only.
///
/// # Errors
/// [`DbError`].
pub async fn open_reader(path: &Path, patience: Duration) -> Result<SqliteConnection, DbError> {
    plain(path)
        .read_only(true)
        .busy_timeout(patience)
        .connect()
        .await
        .map_err(|error| explain(path, &format!("read {}", path.display()), &error))
}

/// Looks at a file without opening it for writing: it must exist and be of this format.
///
/// # Errors
/// [`DbError`].
pub async fn open_existing(
    format: &Format,
    path: &Path,
    patience: Duration,
) -> Result<SqliteConnection, DbError> {
    let doing = format!("open {}", path.display());
    if let Err(error) = fs::metadata(path) {
        return Err(DbError::Failed { doing, reason: error.to_string() });
    }
    prepare_file(format, path)?;
    let failed = |error: sqlx::Error| explain(path, &doing, &error);
    let mut connection = open_reader(path, patience).await?;
    check_library(&mut connection).await.map_err(failed)??;
    let id: i32 =
        sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut connection).await.map_err(failed)?;
    if id == format.application_id { Ok(connection) } else { Err(foreign(format, path, id)) }
}

/// What all connections have in common.
fn plain(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(false)
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        .pragma("temp_store", "MEMORY")
        .row_buffer_size(16)
        .disable_statement_logging()
}

async fn check_library(connection: &mut SqliteConnection) -> Result<Result<(), DbError>, sqlx::Error> {
    let version: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(connection).await?;
    Ok(check_version(version))
}

fn check_version(version: String) -> Result<(), DbError> {
    let numbers: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    if numbers.as_slice() >= MIN_LIBRARY.as_slice() { Ok(()) } else { Err(DbError::Library(version)) }
}

async fn switch_to_wal(
    connection: &mut SqliteConnection,
    options: &Options,
    failed: impl Fn(sqlx::Error) -> DbError,
) -> Result<(), DbError> {
    let deadline = Instant::now() + options.patience;
    loop {
        let switched =
            sqlx::query_scalar::<_, String>("PRAGMA journal_mode = WAL").fetch_one(&mut *connection).await;
        match switched {
            Ok(mode) if mode.eq_ignore_ascii_case("wal") => return Ok(()),
            Ok(mode) => {
                return Err(DbError::Failed {
                    doing: format!("keep a write-ahead log for {}", options.path.display()),
                    reason: format!("SQLite stays with '{mode}'; put the file on a local disk"),
                });
            }
            Err(error) if fault(&error) == Fault::Busy && Instant::now() < deadline => {
                tokio::time::sleep(SWITCH_PAUSE).await;
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

async fn migrate(
    connection: &mut SqliteConnection,
    format: &Format,
    path: &Path,
    failed: impl Fn(sqlx::Error) -> DbError,
) -> Result<(), DbError> {
    loop {
        let found = user_version(connection).await.map_err(&failed)?;
        let newer =
            || DbError::Newer { path: path.display().to_string(), found, known: format.migrations.len() };
        let version = usize::try_from(found).map_err(|_| newer())?;
        match format.migrations.get(version) {
            Some(script) => step(connection, found, script).await.map_err(&failed)?,
            None if version == format.migrations.len() => return Ok(()),
            None => return Err(newer()),
        }
    }
}

/// Goes from version `found` to the next one, unless another process did so in the meantime.
async fn step(
    connection: &mut SqliteConnection,
    found: i64,
    script: &'static str,
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    if user_version(&mut transaction).await? == found {
        sqlx::raw_sql(script).execute(&mut *transaction).await?;
        let version = AssertSqlSafe(format!("PRAGMA user_version = {}", found + 1));
        sqlx::raw_sql(version).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

async fn user_version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("PRAGMA user_version").fetch_one(connection).await
}

/// Files that this process has looked into, and may have open since. The path is there because a new file may get the
/// inode of one that was removed.
static LOOKED_INTO: Mutex<BTreeSet<(PathBuf, u64, u64)>> = Mutex::new(BTreeSet::new());

fn identity(path: &Path) -> Option<(PathBuf, u64, u64)> {
    let (device, inode) = inode_of(path)?;
    Some((fs::canonicalize(path).ok()?, device, inode))
}

/// Makes the file if there is none; otherwise checks its header, unless SQLite may have it open in this process.
fn prepare_file(format: &Format, path: &Path) -> Result<(), DbError> {
    let failed = |error: io::Error| DbError::Failed {
        doing: format!("open {}", path.display()),
        reason: error.to_string(),
    };
    let mut looked_into = LOOKED_INTO.lock();
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(path).map_err(failed)?;
        }
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.is_file() => {
            return Err(DbError::Foreign {
                path: path.display().to_string(),
                format: format.name,
                reason: "it is not a file".to_owned(),
            });
        }
        Ok(_) if identity(path).is_some_and(|file| looked_into.contains(&file)) => return Ok(()),
        Ok(_) => check_header(format, path).map_err(failed)??,
    }
    looked_into.extend(identity(path));
    Ok(())
}

/// Makes an empty file that only its owner may read, and its folders. It is made under another name and closed before
/// it gets its own, so that nobody's SQLite can have it open by then.
fn create(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    let closed = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?.into_temp_path();
    match closed.persist_noclobber(path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
        // Somebody was quicker, which is as good.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Reads the header (<https://sqlite.org/fileformat.html>, 1.3) of a file that SQLite does not have open.
fn check_header(format: &Format, path: &Path) -> io::Result<Result<(), DbError>> {
    let mut header = Vec::with_capacity(100);
    fs::File::open(path)?.take(100).read_to_end(&mut header)?;
    let shown = || path.display().to_string();
    if header.is_empty() {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let lost = fs::metadata(log).is_ok_and(|log| log.len() > 0);
        return Ok(if lost {
            let reason = "it is empty, but its write-ahead log is not; restore it from a backup".to_owned();
            Err(DbError::Damaged { path: shown(), reason })
        } else {
            Ok(())
        });
    }
    let id = header.get(68..72).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
    match id {
        Some(id) if header.starts_with(b"SQLite format 3\0") => {
            Ok(if id == format.application_id { Ok(()) } else { Err(foreign(format, path, id)) })
        }
        _ => Ok(Err(DbError::Foreign {
            path: shown(),
            format: format.name,
            reason: "it does not begin like a SQLite file; choose another path, or move it away".to_owned(),
        })),
    }
}

fn foreign(format: &Format, path: &Path, id: i32) -> DbError {
    DbError::Foreign {
        path: path.display().to_string(),
        format: format.name,
        reason: format!(
            "it is a SQLite file of another program (application id {id:#010x}); choose another path"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: Format = Format {
        name: "test file",
        application_id: 0x7e57_0001,
        migrations: &["CREATE TABLE one(x); INSERT INTO one VALUES (1);"],
    };

    fn options(path: &Path) -> Options {
        Options { path: path.to_owned(), sync: false, patience: Duration::from_secs(10), max_pages: None }
    }

    async fn ones(connection: &mut SqliteConnection) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM one").fetch_one(connection).await.unwrap()
    }

    #[test]
    fn a_library_that_can_damage_files_is_refused() {
        for (version, is_safe) in [
            ("3.40.1", false),
            ("3.51.2", false),
            ("3.51.3", true),
            ("3.51.10", true),
            ("3.52", true),
            ("4.0.0", true),
        ] {
            assert_eq!(check_version(version.to_owned()).is_ok(), is_safe, "{version}");
        }
        let told = check_version("3.51.2".to_owned()).unwrap_err().to_string();
        assert!(told.contains("3.51.2") && told.contains("build with 3.51.3"), "{told}");
    }

    #[tokio::test]
    async fn a_new_file_is_private_and_incremental() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep").join("er").join("x.db");
        let mut connection = open(&FORMAT, &options(&path)).await.unwrap();
        assert_eq!(ones(&mut connection).await, 1);
        let vacuum: i64 = sqlx::query_scalar("PRAGMA auto_vacuum").fetch_one(&mut connection).await.unwrap();
        assert_eq!(vacuum, 2);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&path), 0o600);
            assert_eq!(mode(&folder.path().join("deep/er/x.db-wal")), 0o600);
            assert_eq!(mode(path.parent().unwrap()), 0o700);
            assert_eq!(mode(&folder.path().join("deep")), 0o700);
        }
        connection.close().await.unwrap();
        let left: Vec<_> =
            fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["x.db"]);
    }

    #[tokio::test]
    async fn many_may_open_a_new_file_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let opened = options(&path);
        let all = futures_util::future::join_all((0..8).map(|_| open(&FORMAT, &opened))).await;
        for connection in all {
            assert_eq!(ones(&mut connection.unwrap()).await, 1, "migrated once");
        }
    }

    #[tokio::test]
    async fn files_of_others_are_left_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let other = Format { application_id: 0x0bad_cafe, ..FORMAT };
        let database = folder.path().join("other.db");
        open(&other, &options(&database)).await.unwrap().close().await.unwrap();
        let text = folder.path().join("notes.txt");
        fs::write(&text, "just notes\n").unwrap();
        let long = folder.path().join("long.bin");
        fs::write(&long, vec![7; 100_000]).unwrap();
        for path in [database, text, long] {
            let before = fs::read(&path).unwrap();
            // The second time SQLite itself has to notice, or the header again.
            for _ in 0..2 {
                let refused = open(&FORMAT, &options(&path)).await;
                assert!(matches!(refused, Err(DbError::Foreign { .. })), "{refused:?}");
            }
            assert_eq!(fs::read(&path).unwrap(), before);
        }
        let refused = open(&FORMAT, &options(folder.path())).await;
        assert!(matches!(refused, Err(DbError::Foreign { .. })), "{refused:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing was made beside them");
    }

    #[tokio::test]
    async fn a_newer_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let newer = Format { migrations: &["CREATE TABLE one(x);", "CREATE TABLE two(x);"], ..FORMAT };
        open(&newer, &options(&path)).await.unwrap().close().await.unwrap();
        let refused = open(&FORMAT, &options(&path)).await;
        assert!(matches!(refused, Err(DbError::Newer { found: 2, known: 1, .. })), "{refused:?}");
        open(&newer, &options(&path)).await.unwrap();
    }

    #[tokio::test]
    async fn an_empty_file_is_taken_unless_its_log_is_orphaned() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        fs::write(&path, "").unwrap();
        assert_eq!(ones(&mut open(&FORMAT, &options(&path)).await.unwrap()).await, 1);
        let path = folder.path().join("y.db");
        fs::write(&path, "").unwrap();
        fs::write(folder.path().join("y.db-wal"), "frames").unwrap();
        let refused = open(&FORMAT, &options(&path)).await;
        assert!(matches!(refused, Err(DbError::Damaged { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn a_writer_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let mut one = open(&FORMAT, &options(&path)).await.unwrap();
        let impatient = Options { patience: Duration::ZERO, ..options(&path) };
        let mut two = open(&FORMAT, &impatient).await.unwrap();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut one).await.unwrap();
        let error = sqlx::query("BEGIN IMMEDIATE").execute(&mut two).await.unwrap_err();
        assert_eq!(fault(&error), Fault::Busy);
        let told = explain(&path, "write", &error).to_string();
        if cfg!(target_os = "linux") {
            assert!(told.contains(&format!("process {}", std::process::id())), "{told}");
        }
    }
}
