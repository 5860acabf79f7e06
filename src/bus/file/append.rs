//! Appends whole lines to a file that other processes append to as well. Blocks; runs on the thread of its caller.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use crate::bus::BusError;

/// How long to wait for the lock. A writer holds it for one write and one flush to the disk.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(2);

/// Appends lines, each with its newline, and flushes them to the disk. Gives the length of the file behind them.
///
/// What a crashed writer left without a newline gets one first, so that no line is ever glued to another's.
///
/// # Errors
/// [`BusError::Full`] when the disk is, [`BusError::Unreachable`] when somebody else holds the lock for too long,
/// [`BusError::Invalid`] when the path is no plain file, otherwise [`BusError::Storage`]. After an error, whole lines
/// may be in the file, but no part of one.
pub(super) fn append(path: &Path, lines: &[u8]) -> Result<u64, BusError> {
    let (mut file, created) = open_locked(path)?;
    let failed = |error| storage("write", path, &error);
    let before = file.metadata().map_err(failed)?.len();
    let torn = before > 0 && {
        let mut last = [0];
        file.seek(SeekFrom::Start(before - 1)).and_then(|_| file.read_exact(&mut last)).map_err(failed)?;
        last != *b"\n"
    };
    let mut bytes = Vec::with_capacity(lines.len() + 1);
    bytes.extend(torn.then_some(b'\n'));
    bytes.extend_from_slice(lines);
    if let Err(error) = file.write_all(&bytes) {
        if let Err(error) = cut_back(&mut file, before) {
            // The next writer puts a newline behind it, and its readers report it.
            tracing::warn!(path = %path.display(), %error, "half a line may be left in the file");
        }
        return Err(failed(error));
    }
    file.sync_data().map_err(failed)?;
    if created {
        // Without this the name of the new file may not survive a power cut.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|directory| directory.sync_all()).map_err(failed)?;
    }
    Ok(before + bytes.len() as u64)
}

/// The length of the file at a moment when nobody writes; `None` if there is no file.
///
/// # Errors
/// As [`append`].
pub(super) fn settled_length(path: &Path) -> Result<Option<u64>, BusError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(storage("read", path, &error)),
    };
    plain(&file, path, "read")?;
    lock(&file, path, File::try_lock_shared)?;
    Ok(Some(file.metadata().map_err(|error| storage("read", path, &error))?.len()))
}

/// Opens the file, or makes it, and locks it against other writers. The lock ends with the handle.
fn open_locked(path: &Path) -> Result<(File, bool), BusError> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        let (file, created) = open(path).map_err(|error| storage("open", path, &error))?;
        plain(&file, path, "write to")?;
        lock(&file, path, File::try_lock)?;
        // Somebody may have moved it away between the opening and the locking.
        if is_still(path, &file) {
            return Ok((file, created));
        }
        if Instant::now() >= until {
            let reason = "it is replaced again and again".to_owned();
            return Err(BusError::Storage { doing: format!("write to {}", path.display()), reason });
        }
    }
}

fn open(path: &Path) -> std::io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).append(true);
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        opened => return Ok((opened?, false)),
    }
    // Events hold what people said; nobody else on this machine need read that.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.clone().create_new(true).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok((options.open(path)?, false)),
        opened => Ok((opened?, true)),
    }
}

fn plain(file: &File, path: &Path, doing: &str) -> Result<(), BusError> {
    let metadata = file.metadata().map_err(|error| storage(doing, path, &error))?;
    if metadata.is_file() {
        return Ok(());
    }
    Err(BusError::Invalid(format!("{} is no plain file; name another one with file:PATH", path.display())))
}

fn lock(
    file: &File,
    path: &Path,
    attempt: impl Fn(&File) -> Result<(), TryLockError>,
) -> Result<(), BusError> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match attempt(file) {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOCK_POLL),
            Err(TryLockError::WouldBlock) => {
                let reason = format!("another program has kept it locked for {} s", LOCK_PATIENCE.as_secs());
                return Err(BusError::Unreachable { bus: format!("file:{}", path.display()), reason });
            }
            Err(TryLockError::Error(error)) => return Err(storage("lock", path, &error)),
        }
    }
}

#[cfg(unix)]
pub(super) fn identity(metadata: &std::fs::Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    Some((metadata.dev(), metadata.ino()))
}

/// Where files have no numbers, a file that was replaced is told by its length only.
#[cfg(not(unix))]
pub(super) fn identity(_metadata: &std::fs::Metadata) -> Option<(u64, u64)> {
    None
}

fn is_still(path: &Path, file: &File) -> bool {
    match (std::fs::metadata(path), file.metadata()) {
        (Ok(there), Ok(here)) => identity(&there) == identity(&here),
        _ => false,
    }
}

/// After a write that failed half-way: keeps the lines that are whole. Readers never take less than a line, so none of
/// them is ahead of what is left.
fn cut_back(file: &mut File, before: u64) -> std::io::Result<()> {
    let mut written = Vec::new();
    file.seek(SeekFrom::Start(before))?;
    file.read_to_end(&mut written)?;
    let whole = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1);
    file.set_len(before + whole)
}

/// What the system said, as the error that tells the caller what to do.
pub(super) fn storage(doing: &str, path: &Path, error: &std::io::Error) -> BusError {
    let path = path.display();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => BusError::Full {
            what: format!("the disk or quota of {path}"),
            reason: format!("{error}; make room, then publish again"),
        },
        _ => BusError::Storage { doing: format!("{doing} {path}"), reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_is_ended_by_the_next_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.jsonl");
        std::fs::write(&path, "{\"a\":1}\n{\"b\":").unwrap();
        assert_eq!(append(&path, b"{\"c\":3}\n").unwrap(), 22);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"b\":\n{\"c\":3}\n");
    }

    #[test]
    fn half_a_write_leaves_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.jsonl");
        for (written, kept) in [("x\ny\nz", "old\nx\ny\n"), ("x", "old\n"), ("", "old\n")] {
            std::fs::write(&path, format!("old\n{written}")).unwrap();
            let mut file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            cut_back(&mut file, 4).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), kept);
        }
    }

    #[test]
    fn a_full_disk_says_so_and_leaves_no_torn_line() {
        // The device that is always full; it is no plain file, so only the error is looked at.
        let Ok(mut full) = OpenOptions::new().write(true).open("/dev/full") else { return };
        let error = full.write_all(b"x").unwrap_err();
        let error = storage("write", Path::new("/data/bus.jsonl"), &error);
        assert!(error.is_retryable());
        assert!(error.to_string().starts_with("the disk or quota of /data/bus.jsonl is full"), "{error}");
    }

    #[test]
    fn a_new_file_is_for_its_owner_only_and_other_things_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.jsonl");
        assert_eq!(settled_length(&path).unwrap(), None);
        append(&path, b"{}\n").unwrap();
        assert_eq!(settled_length(&path).unwrap(), Some(3));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert!(matches!(append(Path::new("/dev/null"), b"{}\n"), Err(BusError::Invalid(_))));
        }
        let missing = append(&dir.path().join("no/such/bus.jsonl"), b"{}\n").unwrap_err();
        assert!(matches!(missing, BusError::Storage { .. }), "{missing}");
    }
}
