//! An upload on its way to disk, as both protocols for recordings take it: a temporary file under a size limit, deleted
//! when it is dropped; and what is done with the rest of an upload that is refused.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use axum::{
    body::Bytes,
    http::{HeaderMap, StatusCode, header},
};
use futures_util::{Stream, StreamExt as _};
use tempfile::NamedTempFile;
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, timeout},
};
use tracing::{debug, error};

use super::ServerOptions;
use crate::shutdown::Shutdown;

/// What the rest of a refused upload may take, so that its sender gets to read why.
const REST: Duration = Duration::from_secs(10);

/// Why an upload is not kept. The texts are for clients.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolError {
    #[error(
        "the recording is larger than {limit} bytes; send it in parts, or as FLAC or MP3, or raise the server's limit"
    )]
    TooLarge { limit: u64 },
    #[error("nothing arrived for {} s in the middle of the upload; send it again", .patience.as_secs())]
    Stalled { patience: Duration },
    /// There is no room, or no quota.
    #[error("the server has no room left for the upload; try again later")]
    Full,
    /// The disk said something else, which is for the log.
    #[error("the server cannot keep the upload on disk; its operator finds the reason in its log")]
    Broken,
}

impl SpoolError {
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Stalled { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Full => StatusCode::INSUFFICIENT_STORAGE,
            Self::Broken => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<io::Error> for SpoolError {
    fn from(error: io::Error) -> Self {
        error!(%error, "cannot keep an upload on disk");
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Broken,
        }
    }
}

/// A recording that is being written to disk.
#[derive(Debug)]
pub(super) struct Spool {
    file: NamedTempFile,
    writer: tokio::fs::File,
    /// Bytes taken from the client.
    written: u64,
    limit: u64,
}

impl Spool {
    /// An empty file where the server keeps its uploads, with an ending that may matter to the decoder, and `header` at its
    /// beginning, which does not count.
    ///
    /// # Errors
    /// [`SpoolError::Full`] and [`SpoolError::Broken`].
    pub(super) fn create(options: &ServerOptions, ending: &str, header: &[u8]) -> Result<Self, SpoolError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("godctl-upload-").suffix(ending);
        let mut file = match &options.upload_dir {
            Some(dir) => builder.tempfile_in(dir),
            None => builder.tempfile(),
        }?;
        file.write_all(header)?;
        let writer = tokio::fs::File::from_std(file.as_file().try_clone()?);
        Ok(Self { file, writer, written: 0, limit: options.max_upload_bytes })
    }

    /// Takes the next piece. Not cancel safe: drop the spool then.
    ///
    /// # Errors
    /// [`SpoolError::TooLarge`], [`SpoolError::Full`] and [`SpoolError::Broken`]; also about the pieces before.
    pub(super) async fn write(&mut self, piece: &[u8]) -> Result<(), SpoolError> {
        self.written += piece.len() as u64;
        if self.written > self.limit {
            return Err(SpoolError::TooLarge { limit: self.limit });
        }
        Ok(self.writer.write_all(piece).await?)
    }

    /// The file, with everything in it, and how many bytes the client sent.
    ///
    /// # Errors
    /// [`SpoolError::Full`] and [`SpoolError::Broken`].
    pub(super) async fn finish(mut self) -> Result<(NamedTempFile, u64), SpoolError> {
        self.writer.flush().await?;
        Ok((self.file, self.written))
    }
}

/// How long a body says it is.
pub(super) fn declared_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads what is left of a refused upload and forgets it, for a while: a sender that is cut off in the middle may never get
/// to read the answer.
pub(super) fn discard<B, E>(rest: B, options: &ServerOptions, shutdown: &Shutdown)
where
    B: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
    E: Send,
{
    let (mut rest, mut left) = (rest, options.max_upload_bytes);
    let until = Instant::now() + REST;
    let reading = async move {
        while let Some(Ok(piece)) = rest.next().await {
            left = left.saturating_sub(piece.len() as u64);
            if left == 0 || Instant::now() > until {
                return;
            }
        }
    };
    let stop = shutdown.clone();
    shutdown.spawn("upload-rest", async move {
        tokio::select! {
            () = stop.cancelled() => {}
            read = timeout(REST, reading) => debug!(whole = read.is_ok(), "read the rest of a refused upload"),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_from_a_broken_one() {
        let status = |kind: io::ErrorKind| SpoolError::from(io::Error::from(kind)).status();
        assert_eq!(status(io::ErrorKind::StorageFull), StatusCode::INSUFFICIENT_STORAGE);
        assert_eq!(status(io::ErrorKind::QuotaExceeded), StatusCode::INSUFFICIENT_STORAGE);
        assert_eq!(status(io::ErrorKind::PermissionDenied), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[tokio::test]
    async fn a_spool_keeps_what_it_was_given_up_to_its_limit_and_vanishes() {
        let dir = tempfile::tempdir().unwrap();
        let upload_dir = Some(dir.path().to_owned());
        let options = ServerOptions { upload_dir, max_upload_bytes: 8, ..ServerOptions::default() };
        let mut spool = Spool::create(&options, ".mp3", b"head").unwrap();
        spool.write(b"body").await.unwrap();
        spool.write(b"body").await.unwrap();
        let (file, bytes) = spool.finish().await.unwrap();
        assert_eq!((std::fs::read(file.path()).unwrap(), bytes), (b"headbodybody".to_vec(), 8));
        assert!(file.path().to_str().is_some_and(|path| path.ends_with(".mp3")));
        let mut spool = Spool::create(&options, "", b"").unwrap();
        assert!(matches!(spool.write(&[0; 9]).await, Err(SpoolError::TooLarge { limit: 8 })));
        drop((file, spool));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
