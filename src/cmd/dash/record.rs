//! A recording of what comes, as JSON lines that `--replay` and `godctl bus import` read. Called from the loop.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::app::Arrived;
use crate::bus::{Body, Item};

/// A recording that is being written.
#[derive(Debug)]
pub(super) struct Recorder {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Recorder {
    /// Begins one, or goes on with one that is there.
    ///
    /// # Errors
    /// A file that can't be written.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        #[cfg(unix)]
        {
            // Payloads are nobody else's business.
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        let file = options.open(path).with_context(|| format!("cannot record to {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file) })
    }

    /// # Errors
    /// A full disk; the recording ends, and so does the dashboard, rather than leaving something out in silence.
    pub(super) fn write(&mut self, batch: &[Arrived]) -> anyhow::Result<()> {
        let mut write = || -> std::io::Result<()> {
            for arrived in batch {
                let Item::Event(received) = &arrived.item else { continue };
                match &received.body {
                    Body::Event(event) => self.file.write_all(&event.to_json())?,
                    // On one line, whatever it was.
                    Body::Unparsed(unparsed) => {
                        let line: Vec<u8> =
                            unparsed.raw.iter().map(|b| if *b == b'\n' { b' ' } else { *b }).collect();
                        self.file.write_all(&line)?;
                    }
                }
                self.file.write_all(b"\n")?;
            }
            self.file.flush()
        };
        write().with_context(|| {
            format!("cannot record to {}; free some space and start again", self.path.display())
        })
    }

    /// # Errors
    /// As [`Recorder::write`].
    pub(super) fn close(&mut self) -> anyhow::Result<()> {
        self.file.flush().with_context(|| format!("cannot record to {}", self.path.display()))
    }
}
