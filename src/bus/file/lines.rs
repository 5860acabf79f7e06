//! Reads a file of lines while it grows. Runs in the task of its caller; the reads themselves happen on the runtime's
//! threads for blocking work. Nothing is left behind when it is dropped.

use std::{io, path::Path};

use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _, SeekFrom},
};

use super::append;

/// Bytes of one read.
const BLOCK: usize = 64 << 10;

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Without its newline; only the beginning of a line that is longer than allowed.
    pub(super) bytes: Vec<u8>,
    /// Its bytes in the file, without the newline.
    pub(super) length: u64,
    /// Where it starts in the file.
    pub(super) start: u64,
    /// Where the next one starts.
    pub(super) end: u64,
}

/// Reads forwards. At the end of the file it can be asked again later.
#[derive(Debug)]
pub(super) struct Lines {
    file: File,
    /// Which file it is, where files have numbers.
    pub(super) identity: Option<(u64, u64)>,
    /// What was read, from `start` on not given out yet.
    buffer: Vec<u8>,
    start: usize,
    /// No newline before this place in the buffer.
    searched: usize,
    /// Where `start` is in the file.
    offset: u64,
    max: usize,
    /// Bytes of the current line that were left out.
    left_out: u64,
    /// The rest of the current line is not wanted.
    discard: bool,
}

impl Lines {
    /// Opens the file at the first line that starts at `from` or behind it. Lines longer than `max` bytes are cut.
    pub(super) async fn open(path: &Path, from: u64, max: usize) -> io::Result<Self> {
        let mut file = File::open(path).await?;
        // One byte earlier: if that is a newline, the line starts right at `from`.
        let offset = from.saturating_sub(1);
        file.seek(SeekFrom::Start(offset)).await?;
        let identity = append::identity(&file.metadata().await?);
        let (buffer, discard) = (Vec::new(), from > 0);
        Ok(Self { file, identity, buffer, start: 0, searched: 0, offset, max, left_out: 0, discard })
    }

    /// Where the next line starts, or one that is not wanted.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Up to where the file was read.
    pub(super) fn read_up_to(&self) -> u64 {
        self.offset + self.left_out + (self.buffer.len() - self.start) as u64
    }

    /// The next whole line; `None` where the file ends for now. Cancel safe.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            while let Some(at) = self.newline() {
                let line = self.take(at, true);
                if !std::mem::replace(&mut self.discard, false) {
                    return Ok(Some(line));
                }
            }
            self.shrink();
            // Cancel safe: bytes are in the buffer or still to come.
            if self.file.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// As [`Lines::next`], of a file that nobody writes to: what stands behind the last newline is a line too.
    pub(super) async fn next_of_whole(&mut self) -> io::Result<Option<Line>> {
        Ok(self.next().await?.or_else(|| self.last()))
    }

    /// What stands behind the last newline.
    fn last(&mut self) -> Option<Line> {
        let line = self.take(self.buffer.len(), false);
        (!self.discard && line.length > 0).then_some(line)
    }

    fn newline(&mut self) -> Option<usize> {
        let fresh = self.buffer.get(self.searched..)?;
        let found = fresh.iter().position(|byte| *byte == b'\n').map(|at| self.searched + at);
        self.searched = found.unwrap_or(self.buffer.len());
        found
    }

    /// Takes what lies before this place of the buffer, and the newline there if it has one.
    fn take(&mut self, at: usize, newline: bool) -> Line {
        let mut bytes = self.buffer.get(self.start..at).unwrap_or_default().to_vec();
        let length = bytes.len() as u64 + std::mem::take(&mut self.left_out);
        bytes.truncate(self.max);
        self.start = at + usize::from(newline);
        self.searched = self.start;
        let start = self.offset;
        self.offset += length + u64::from(newline);
        Line { bytes, length, start, end: self.offset }
    }

    /// Makes room: drops what was given out, and the middle of a line that is longer than allowed.
    fn shrink(&mut self) {
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.len() > self.max {
            self.left_out += (self.buffer.len() - self.max) as u64;
            self.buffer.truncate(self.max);
        }
        self.searched = self.buffer.len();
        self.buffer.reserve(BLOCK);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 10;

    /// Reads a file that grows by these parts, each of which is there when the reader has come to the end.
    fn read(parts: &[Vec<u8>], from: u64) -> (Vec<Line>, Option<Line>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        std::fs::write(&path, "").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut lines = Lines::open(&path, from, MAX).await.unwrap();
            let mut all = Vec::new();
            let mut content = Vec::new();
            for part in parts {
                content.extend_from_slice(part);
                std::fs::write(&path, &content).unwrap();
                while let Some(line) = lines.next().await.unwrap() {
                    all.push(line);
                }
                assert_eq!(
                    lines.read_up_to(),
                    content.len().max(usize::try_from(from - from.min(1)).unwrap()) as u64
                );
            }
            (all, lines.last())
        })
    }

    fn reference(content: &[u8], from: u64) -> (Vec<Line>, Option<Line>) {
        let mut start = 0;
        let mut all = Vec::new();
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            let end = start + line.len() as u64;
            let bare = line.strip_suffix(b"\n").unwrap_or(line);
            let (bytes, length) = (bare[..bare.len().min(MAX)].to_vec(), bare.len() as u64);
            if start >= from {
                all.push(Line { bytes, length, start, end });
            }
            start = end;
        }
        let last = if content.ends_with(b"\n") { None } else { all.pop() };
        (all, last)
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_arrive(
            parts in prop::collection::vec(prop::collection::vec(prop::sample::select(b"ab\n".to_vec()), 0..40), 1..6),
            at in 0.0..1.0,
        ) {
            let content = parts.concat();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
            let from = (at * content.len() as f64) as u64;
            prop_assert_eq!(read(&parts, from), reference(&content, from));
        }
    }

    #[test]
    fn a_line_longer_than_memory_is_cut_and_counted() {
        let mut content = vec![b'x'; 3 * BLOCK];
        content.extend_from_slice(b"\nnext\n");
        let (all, last) = read(&[content.clone()], 0);
        assert_eq!((all[0].bytes.as_slice(), all[0].length), (&content[..MAX], 3 * BLOCK as u64));
        assert_eq!((all[1].bytes.as_slice(), last), (b"next".as_slice(), None));
    }
}
