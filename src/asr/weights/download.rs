//! One file: fetched into `NAME.part`, gone on with after every interruption, checked, and only then given its name.
//!
//! Dropping the future keeps the part; the next call goes on after its last byte. A content that does not match the
//! hub's metadata is thrown away and fetched once more from the start, then given up.

use std::path::{Path, PathBuf};

use reqwest::{Response, StatusCode, header::CONTENT_RANGE};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::{
    fs::{self, File, OpenOptions},
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, SeekFrom},
};

use super::{
    PullEvent, PullProgress,
    backoff::{Backoff, RetryPolicy},
    error::WeightsError,
    hub::{Checksum, Hub, Listing, RemoteFile, unreachable},
};

/// Read at a time when a part or a file is hashed again.
const HASH_CHUNK: usize = 1 << 18;

/// What every file of one pull shares.
pub(super) struct Download<'a> {
    pub(super) hub: &'a Hub,
    pub(super) listing: &'a Listing,
    pub(super) policy: &'a RetryPolicy,
    pub(super) progress: &'a mut dyn PullProgress,
    /// Bytes of the files that are complete.
    pub(super) done: u64,
    /// Bytes received over the network, those of failed tries too.
    pub(super) received: u64,
}

/// A complete file.
#[derive(Debug)]
pub(super) struct Complete {
    pub(super) sha256: String,
}

/// The running checksums of a file's content.
struct Sums {
    sha256: Sha256,
    git: Sha1,
}

impl Sums {
    /// `size` is the whole file's: git puts it in front of the content.
    fn new(size: u64) -> Self {
        Self { sha256: Sha256::new(), git: Sha1::new().chain_update(format!("blob {size}\0")) }
    }

    fn update(&mut self, bytes: &[u8], checksum: &Checksum) {
        self.sha256.update(bytes);
        if matches!(checksum, Checksum::GitBlob(_)) {
            self.git.update(bytes);
        }
    }

    /// The SHA-256 of the content, if it is the promised content.
    fn finish(self, file: &RemoteFile) -> Result<Complete, WeightsError> {
        let sha256 = hex(&self.sha256.finalize());
        let (expected, found) = match &file.checksum {
            Checksum::Sha256(expected) => (expected, sha256.clone()),
            Checksum::GitBlob(expected) => (expected, hex(&self.git.finalize())),
        };
        if *expected == found {
            Ok(Complete { sha256 })
        } else {
            Err(corrupt(file, format!("its checksum is {found}, the hub says {expected}")))
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|nibble| char::from_digit(nibble.into(), 16))
        .collect()
}

fn corrupt(file: &RemoteFile, reason: String) -> WeightsError {
    WeightsError::Corrupt { file: file.name.clone(), reason }
}

/// The file on its way: content, length and checksums go together.
struct Part<'a> {
    file: &'a RemoteFile,
    path: PathBuf,
    handle: File,
    length: u64,
    sums: Sums,
}

impl<'a> Part<'a> {
    /// Opens what an earlier try left, or an empty one.
    async fn open(
        path: PathBuf,
        file: &'a RemoteFile,
        progress: &mut dyn PullProgress,
    ) -> Result<Self, WeightsError> {
        let handle = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .await
            .map_err(WeightsError::disk("open", &path))?;
        let mut part = Self { file, path, handle, length: 0, sums: Sums::new(file.size) };
        let kept = part.handle.metadata().await.map_err(WeightsError::disk("read", &part.path))?.len();
        if kept > file.size {
            part.reset().await?;
        } else if kept > 0 {
            progress.on(PullEvent::Checking { name: file.name.clone() });
            part.length = hash(&mut part.handle, &mut part.sums, file, &part.path).await?;
        }
        Ok(part)
    }

    async fn reset(&mut self) -> Result<(), WeightsError> {
        let disk = || WeightsError::disk("empty", &self.path);
        self.handle.flush().await.map_err(disk())?;
        self.handle.set_len(0).await.map_err(disk())?;
        self.handle.seek(SeekFrom::Start(0)).await.map_err(disk())?;
        self.length = 0;
        self.sums = Sums::new(self.file.size);
        Ok(())
    }

    async fn append(&mut self, bytes: &[u8]) -> Result<(), WeightsError> {
        if self.length + bytes.len() as u64 > self.file.size {
            return Err(corrupt(
                self.file,
                format!("it is longer than the {} bytes that the hub says", self.file.size),
            ));
        }
        self.handle.write_all(bytes).await.map_err(WeightsError::disk("write", &self.path))?;
        self.sums.update(bytes, &self.file.checksum);
        self.length += bytes.len() as u64;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), WeightsError> {
        self.handle.flush().await.map_err(WeightsError::disk("write", &self.path))
    }

    /// Checks the content, makes it durable and gives it its name.
    async fn finish(mut self, target: &Path) -> Result<Complete, WeightsError> {
        self.flush().await?;
        let complete = self.sums.finish(self.file)?;
        self.handle.sync_all().await.map_err(WeightsError::disk("write", &self.path))?;
        fs::rename(&self.path, target).await.map_err(WeightsError::disk("rename", &self.path))?;
        Ok(complete)
    }
}

/// Hashes from the handle's position to its end; gives the number of bytes.
async fn hash(
    handle: &mut File,
    sums: &mut Sums,
    file: &RemoteFile,
    path: &Path,
) -> Result<u64, WeightsError> {
    let mut buffer = vec![0; HASH_CHUNK];
    let mut length = 0;
    loop {
        let n = handle.read(&mut buffer).await.map_err(WeightsError::disk("read", path))?;
        if n == 0 {
            return Ok(length);
        }
        sums.update(buffer.get(..n).unwrap_or_default(), &file.checksum);
        length += n as u64;
    }
}

impl Download<'_> {
    /// Brings one file into `directory`.
    ///
    /// # Errors
    /// What the network, the hub or the disk refuse; [`WeightsError::Corrupt`] after a second damaged copy.
    ///
    /// # Cancel safety
    /// Dropping the future keeps the part for the next call.
    pub(super) async fn fetch(
        &mut self,
        file: &RemoteFile,
        directory: &Path,
    ) -> Result<Complete, WeightsError> {
        let target = directory.join(&file.name);
        if let Some(complete) = already_complete(&target, file, self.progress).await? {
            self.progress.on(PullEvent::File {
                name: file.name.clone(),
                size: file.size,
                resumed: file.size,
            });
            self.add(file.size);
            return Ok(complete);
        }
        let path = directory.join(format!("{}.part", file.name));
        let mut second_copy = false;
        loop {
            let error = match self.fill(file, path.clone(), &target).await {
                Ok(complete) => {
                    self.add(file.size);
                    return Ok(complete);
                }
                Err(error @ WeightsError::Corrupt { .. }) => error,
                Err(error) => return Err(error),
            };
            fs::remove_file(&path).await.map_err(WeightsError::disk("remove", &path))?;
            if second_copy {
                return Err(error);
            }
            second_copy = true;
            self.restarted(file, error.to_string());
        }
    }

    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        self.progress.on(PullEvent::Progress { done: self.done });
    }

    fn restarted(&mut self, file: &RemoteFile, reason: String) {
        self.progress.on(PullEvent::Restarted { name: file.name.clone(), reason });
        self.progress.on(PullEvent::Progress { done: self.done });
    }

    /// One copy of the file, over as many connections as it takes.
    async fn fill(
        &mut self,
        file: &RemoteFile,
        path: PathBuf,
        target: &Path,
    ) -> Result<Complete, WeightsError> {
        let mut part = Part::open(path, file, self.progress).await?;
        self.progress.on(PullEvent::File { name: file.name.clone(), size: file.size, resumed: part.length });
        let mut backoff = Backoff::new(self.policy);
        while part.length < file.size {
            let before = part.length;
            let result = self.connect(&mut part).await;
            // Also after a failure: what came over the network stays for the next try.
            part.flush().await?;
            let Err(error) = result else { continue };
            if part.length.saturating_sub(before) >= self.policy.progress_bytes {
                backoff.reset();
            }
            retry_or_give_up(error, &mut backoff, self.progress).await?;
        }
        part.finish(target).await
    }

    /// One connection: appends what it brings.
    async fn connect(&mut self, part: &mut Part<'_>) -> Result<(), WeightsError> {
        let file = part.file;
        let mut response = self.hub.open(self.listing, &file.name, part.length).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if continues(&response, part.length, file.size) => {}
            StatusCode::OK => {
                if part.length > 0 {
                    part.reset().await?;
                    self.restarted(file, "the server cannot resume".to_owned());
                }
                if let Some(length) = response.content_length().filter(|length| *length != file.size) {
                    return Err(corrupt(
                        file,
                        format!("the server sends {length} bytes, the hub says {}", file.size),
                    ));
                }
            }
            status => {
                return Err(corrupt(file, format!("the server answered {status} to byte {}", part.length)));
            }
        }
        let doing = || format!("downloading {}", file.name);
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&doing(), error))? {
            self.received += chunk.len() as u64;
            part.append(&chunk).await?;
            self.progress.on(PullEvent::Progress { done: self.done + part.length });
        }
        if part.length < file.size {
            return Err(unreachable(
                &doing(),
                format!("the connection ended after {} of {} bytes", part.length, file.size),
            ));
        }
        Ok(())
    }
}

/// True when a 206 goes on where the part ends, in a file of the same size.
fn continues(response: &Response, offset: u64, size: u64) -> bool {
    response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|range| range.to_str().ok())
        .and_then(|range| range.strip_prefix("bytes "))
        .and_then(|range| range.split_once('-'))
        .is_some_and(|(start, rest)| {
            let total = rest.rsplit('/').next();
            start.parse() == Ok(offset)
                && total.is_some_and(|total| total == "*" || total.parse() == Ok(size))
        })
}

/// Waits as long as the failure deserves.
///
/// # Errors
/// The failure itself when another try is of no use, or enough were made.
pub(super) async fn retry_or_give_up(
    error: WeightsError,
    backoff: &mut Backoff,
    progress: &mut dyn PullProgress,
) -> Result<(), WeightsError> {
    if !error.is_retryable() {
        return Err(error);
    }
    let Some(wait) = backoff.next(error.retry_after()) else { return Err(error) };
    let reason = match &error {
        WeightsError::Unreachable { doing, source } => {
            format!("{doing} failed: {}", innermost(source.as_ref()))
        }
        other => other.to_string(),
    };
    tracing::debug!(wait_ms = wait.as_millis(), reason, "the hub will be asked again");
    progress.on(PullEvent::Retrying { reason, wait });
    tokio::time::sleep(wait).await;
    Ok(())
}

/// The last cause: the transport's own words for what happened.
fn innermost<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error)
}

/// A file that an earlier pull completed; one that fails the check is removed.
async fn already_complete(
    target: &Path,
    file: &RemoteFile,
    progress: &mut dyn PullProgress,
) -> Result<Option<Complete>, WeightsError> {
    let mut handle = match File::open(target).await {
        Ok(handle) => handle,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(WeightsError::disk("open", target)(error)),
    };
    progress.on(PullEvent::Checking { name: file.name.clone() });
    let mut sums = Sums::new(file.size);
    let length = hash(&mut handle, &mut sums, file, target).await?;
    if length == file.size
        && let Ok(complete) = sums.finish(file)
    {
        return Ok(Some(complete));
    }
    fs::remove_file(target).await.map_err(WeightsError::disk("remove", target))?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_checked_by_their_git_name() {
        // `printf 'hello\n' | git hash-object --stdin`
        let checksum = Checksum::GitBlob("ce013625030ba8dba906f756967f9e9ca394464a".to_owned());
        let file = RemoteFile { name: "x".to_owned(), size: 6, checksum };
        let mut sums = Sums::new(6);
        sums.update(b"hel", &file.checksum);
        sums.update(b"lo\n", &file.checksum);
        let complete = sums.finish(&file).unwrap();
        assert_eq!(complete.sha256, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");

        let mut sums = Sums::new(6);
        sums.update(b"hellO\n", &file.checksum);
        assert!(matches!(sums.finish(&file), Err(WeightsError::Corrupt { .. })));
    }
}
